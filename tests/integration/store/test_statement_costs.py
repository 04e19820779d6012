"""Costs of statements in touched rows, with the members and conversations of a large service.

The numbers of rows come from PostgreSQL's plans of what the store ran. They are the same at any load, so a statement
that is quadratic fails here on every machine.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
import trio

from pulse_trio.database.sessions import STORE_SETTINGS
from pulse_trio.store.base import LISTED_MEMBERS, SHOWN_MEMBERS, Head, User
from pulse_trio.store.postgres import PostgresStore
from pulse_trio.trio_psycopg import Pool
from tests.contract.people import People
from tests.support.cluster import Cluster
from tests.support.crowds import add_groups, add_users, conversation_id, prepare, user_id
from tests.support.plans import Plans, buffers, joined_away, nodes, work

LIMIT = 60  # seconds for a test
MANY = 1_000  # conversations of a busy user
BUSY = 10  # users with that many
ORDINARY = 20_000  # users with two conversations each, which dominate the statistics
GROUPS, CROWD = 50, 1_000  # large groups, and the members of each


@asynccontextmanager
async def watched_store(conninfo: str, **options: Any) -> AsyncIterator[tuple[PostgresStore, Plans]]:
    """Opens a store; records the plans of its statements."""
    plans = Plans()
    with trio.fail_after(LIMIT):
        async with Pool(
            conninfo, autocommit=True, server_settings=STORE_SETTINGS, configure=plans.configure, **options
        ) as pool:
            yield PostgresStore(pool), plans


@pytest.fixture(scope="module")
def town(cluster: Cluster) -> str:
    """A database where most users have two conversations, and a few have MANY. Tests only read it.

    Users 1 to BUSY have MANY, each their own: user n has those from n * MANY on. The others follow, from ORDINARY on.
    """
    database = cluster.new_database()
    with psycopg.connect(database, autocommit=True) as connection:
        prepare(connection)
        add_users(connection, 1, 2 * ORDINARY)
        for busy in range(1, BUSY + 1):
            add_groups(connection, busy * MANY, busy * MANY + MANY - 1, [busy])
        add_groups(connection, ORDINARY, 2 * ORDINARY - 1, [ORDINARY, ORDINARY + 1], step=1)
        connection.execute("VACUUM ANALYZE")
    return database


# --- acquaintances ---


@pytest.mark.parametrize(
    ("me", "others", "most"),
    [
        # Both have many, none in common: each list is read once, without comparing all pairs.
        (1, [2], 7 * MANY),
        (1, list(range(2, BUSY + 1)), 4 * MANY * BUSY),
        # Few against many, and the reverse: costs the shorter list and one read of the user's own.
        (ORDINARY + 100, list(range(1, BUSY + 1)), 20 * BUSY),
        (1, list(range(ORDINARY + 100, ORDINARY + 600)), 3 * MANY + 20 * 500),
        (ORDINARY + 100, list(range(ORDINARY + 99, ORDINARY + 599)), 20 * 500),
    ],
)
async def test_acquaintances_cost_the_shorter_list(town: str, me: int, others: list[int], most: int) -> None:
    async with watched_store(town) as (store, plans):
        found = await store.acquaintances(user_id(me), [user_id(other) for other in others])
    assert set(found) == {user_id(other) for other in others if me > ORDINARY and abs(me - other) <= 1}

    assert work(*plans.take()) <= most


# --- resuming ---


@pytest.mark.parametrize("count", [1, 10, MANY])
async def test_memberships_cost_the_requested_ids(town: str, count: int) -> None:
    """Requests `count` of a user's MANY conversations, and as many of other users."""
    own = [conversation_id(MANY + number) for number in range(count)]
    strange = [conversation_id(2 * MANY + number) for number in range(count)]
    async with watched_store(town) as (store, plans):
        found = await store.memberships(user_id(1), own + strange)
    assert found == dict.fromkeys(own, Head(0, 0, 0))
    ran = plans.take()
    assert work(*ran) <= 14 * count
    # Searching an array for each row costs comparisons that row counts do not show.
    assert not [node for plan in ran for node in nodes(plan) if "ANY" in node.get("Filter", "")]


# --- large groups ---


@pytest.fixture(scope="module", params=["statistics of before", "no statistics", "statistics of now"])
def crowds(cluster: Cluster, request: pytest.FixtureRequest) -> str:
    """A database with GROUPS groups of the same CROWD users, among ORDINARY pairs. Tests only read it.

    The groups are the conversations from 1 on, the users those from 1 on, each added to all groups at once: so the
    members of a group lie far apart, and reading them all and sorting them looks cheap.
    """
    database = cluster.new_database()
    with psycopg.connect(database, autocommit=True) as connection:
        prepare(connection)
        add_users(connection, 1, 2 * ORDINARY + 1)
        add_groups(connection, ORDINARY, 2 * ORDINARY, [ORDINARY, ORDINARY + 1], step=1)
        if request.param == "statistics of before":
            connection.execute("VACUUM ANALYZE")
        add_groups(connection, 1, GROUPS, range(1, CROWD + 1))
        if request.param == "statistics of now":
            connection.execute("VACUUM ANALYZE")
    return database


async def test_list_of_conversations_costs_the_same_for_groups_of_any_size(crowds: str) -> None:
    async with watched_store(crowds) as (store, plans):
        found, total = await store.list_conversations(user_id(CROWD), limit=GROUPS, offset=0)
    assert (len(found), total) == (GROUPS, GROUPS)
    for conversation in found:
        assert [user.id for user in conversation.members] == [user_id(n) for n in range(1, LISTED_MEMBERS + 1)]
        assert conversation.member_count == CROWD
    ran = plans.take()
    assert work(*ran) <= 10 * LISTED_MEMBERS * GROUPS
    assert buffers(*ran) <= 10 * LISTED_MEMBERS * GROUPS


async def test_a_conversation_costs_the_members_it_shows(crowds: str) -> None:
    async with watched_store(crowds) as (store, plans):
        found = await store.get_conversation(conversation_id(1), user_id(CROWD))
    assert found is not None
    assert [user.id for user in found.members] == [user_id(n) for n in range(1, SHOWN_MEMBERS + 1)]
    ran = plans.take()
    assert work(*ran) <= 10 * SHOWN_MEMBERS
    assert buffers(*ran) <= 10 * SHOWN_MEMBERS


async def test_page_of_members_costs_the_same_at_every_depth(crowds: str) -> None:
    limit, after = 50, 0
    async with watched_store(crowds) as (store, plans):
        for number in range(CROWD // limit):
            page = await store.page_members(conversation_id(1), user_id(CROWD), limit=limit, after=after)
            first = number * limit + 1
            assert [member.user.id for member in page.members] == [user_id(n) for n in range(first, first + limit)]
            ran = plans.take()
            assert work(*ran) <= 10 * limit
            assert buffers(*ran) <= 10 * limit
            after = page.next_after or 0
    assert after == 0


async def test_membership_costs_a_probe_of_each_table(crowds: str) -> None:
    async with watched_store(crowds) as (store, plans):
        assert await store.membership(conversation_id(1), user_id(CROWD)) == 0
    ran = plans.take()
    assert work(*ran) <= 10
    assert buffers(*ran) <= 12


# --- storing messages ---


@pytest.mark.parametrize("has_statistics", [False, True])
@pytest.mark.parametrize(("count", "rooms"), [(MANY, MANY), (MANY, 1)])
async def test_a_batch_costs_its_messages(database: str, count: int, rooms: int, has_statistics: bool) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        prepare(connection)
        add_users(connection, 1, 2)
        add_groups(connection, 1, rooms, [1, 2])
        if has_statistics:
            connection.execute("ANALYZE users, conversations, conversation_users")
    async with watched_store(database) as (store, plans):
        people = People(store)
        senders = [User(user_id(number), f"user{number}") for number in (1, 2)]
        batch = [
            people.message(
                conversation_id(1 + number % rooms), senders[number % 2], f"{number}", client_id=f"c{number}"
            )
            for number in range(count)
        ]
        stored = await store.append(batch)
        appended = plans.take()
        # The other expensive batch: all messages are already stored.
        assert await store.append(batch) == stored
        resent = plans.take()
    assert [message and (message.id, message.seq) for message in stored] == [
        (new.id, 1 + number // rooms) for number, new in enumerate(batch)
    ]
    for ran in (appended, resent):
        assert joined_away(*ran) == 0
        assert work(*ran) <= 60 * count
