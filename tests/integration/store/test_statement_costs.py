"""Costs of statements in touched rows, with the members and conversations of a large service.

The numbers of rows come from PostgreSQL's plans of what the store ran. They are the same at any load, so a statement
that is quadratic fails here on every machine.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final

import psycopg
import pytest
import trio

from pulse_trio.database.sessions import STORE_SETTINGS
from pulse_trio.model import Kind, Member
from pulse_trio.store.base import LISTED_MEMBERS, SHOWN_MEMBERS, Head, Memberships, ReadMark, ReadState, User
from pulse_trio.store.postgres import PostgresStore
from pulse_trio.trio_psycopg import Pool
from tests.contract.people import People, messages
from tests.support.cluster import Cluster
from tests.support.commands import add, carry_out, changed_message, edit, leave, post, remove, set_properties
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


# --- searches ---


@pytest.mark.parametrize("prefix", ["", "u", "user1"])
async def test_a_search_costs_its_bounds_and_not_the_users_it_finds(town: str, prefix: str) -> None:
    limit, offset, max_total = 20, 100, 1_000
    async with watched_store(town) as (store, plans):
        page = await store.search_users(prefix, limit=limit, offset=offset, max_total=max_total)
    assert (len(page.users), page.total, page.is_total_exact) == (limit, max_total, False)
    assert page.next_after is not None
    ran = plans.take()
    assert work(*ran) <= 3 * (max_total + offset + limit)
    assert buffers(*ran) <= 2 * (max_total + offset + limit)


# --- resuming ---


@pytest.mark.parametrize("count", [1, 10, MANY])
async def test_memberships_cost_the_requested_ids(town: str, count: int) -> None:
    """Requests `count` of a user's MANY conversations, and as many of other users."""
    own = [conversation_id(MANY + number) for number in range(count)]
    strange = [conversation_id(2 * MANY + number) for number in range(count)]
    async with watched_store(town) as (store, plans):
        found = await store.memberships(user_id(1), own + strange)
    assert found == Memberships(dict.fromkeys(own, Head(0, 0)), user_rev=0)
    ran = plans.take()
    assert work(*ran) <= 14 * count + 10
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
        page = await store.list_conversations(user_id(CROWD), limit=GROUPS)
    assert (len(page.conversations), page.total, page.next_before) == (GROUPS, GROUPS, None)
    for conversation in page.conversations:
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


async def test_a_page_of_each_list_is_one_statement(crowds: str) -> None:
    """So the check of the membership and the page are of one snapshot, and cost one round trip."""
    group, member = conversation_id(1), user_id(CROWD)
    async with watched_store(crowds) as (store, plans):
        for read in (
            store.page_messages(group, member, limit=5),
            store.page_members(group, member, limit=5),
            store.list_conversations(member, limit=5),
            store.search_users("user", limit=5, max_total=9),
        ):
            await read
            assert len(plans.take()) == 1


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


# --- one log of changes ---

LOGGED: Final = 5_000  # messages, members and former members of a busy group
LOG_INDEXES: Final = {
    "messages": (Kind.MESSAGE, "messages_conversation_id_rev_key"),
    "conversation_users": (Kind.MEMBER, "conversation_users_rev"),
    "former_members": (Kind.MEMBER, "former_members_conversation_id_rev_key"),
}


@pytest.fixture(scope="module", params=["no statistics", "statistics of before", "statistics of now"])
def logged(cluster: Cluster, request: pytest.FixtureRequest) -> str:
    """A database with a busy group, among ORDINARY pairs. Tests only read it.

    The group's revs go round: a message, a member, a former member. All of them are in the user's sequence of user 1,
    too, who is a member of LOGGED groups and a former one of as many.
    """
    database = cluster.new_database()
    with psycopg.connect(database, autocommit=True) as connection:
        prepare(connection)
        add_users(connection, 1, 2 * ORDINARY + 1)
        add_groups(connection, ORDINARY, 2 * ORDINARY, [ORDINARY, ORDINARY + 1], step=1)
        if request.param == "statistics of before":
            connection.execute("VACUUM ANALYZE")
        add_groups(connection, 1, 2 * LOGGED + 1, [2 * ORDINARY])
        connection.execute(
            """
            UPDATE conversations SET
                last_seq = %(n)s, last_rev = 3 * %(n)s + 1, message_rev = 3 * %(n)s - 2, members_rev = 3 * %(n)s,
                member_count = %(n)s + 1, properties_rev = 3 * %(n)s + 1
            WHERE id = room(1);
            """,
            {"n": LOGGED},
        )
        connection.execute(
            """
            INSERT INTO messages (id, conversation_id, sender_id, content, created_at, updated_at, seq, rev)
            SELECT gen_random_uuid(), room(1), person(1), 'hello', now(), now(), n, 3 * n - 2
            FROM generate_series(1, %s) n ORDER BY random()
            """,
            (LOGGED,),
        )
        connection.execute(
            """
            INSERT INTO conversation_users (conversation_id, user_id, joined_at, rev, user_rev)
            SELECT room(1), person(n), now(), 3 * n - 1, 1 FROM generate_series(1, %(n)s::bigint) n ORDER BY random()
            """,
            {"n": LOGGED},
        )
        connection.execute(
            """
            INSERT INTO former_members (conversation_id, user_id, rev, user_rev, left_at, removed_by, command_ids)
            SELECT room(1), person(%(n)s + n), 3 * n, 1, now(), person(1), '{}'
            FROM generate_series(1, %(n)s::bigint) n ORDER BY random()
            """,
            {"n": LOGGED},
        )
        connection.execute(
            """
            INSERT INTO conversation_users (conversation_id, user_id, joined_at, rev, user_rev)
            SELECT room(1 + n), person(1), now(), 1, 2 * n FROM generate_series(1, %(n)s::bigint) n
            """,
            {"n": LOGGED},
        )
        connection.execute(
            """
            INSERT INTO former_members (conversation_id, user_id, rev, user_rev, left_at, removed_by, command_ids)
            SELECT room(1 + %(n)s + n), person(1), 2, 2 * n + 1, now(), person(1), '{}'
            FROM generate_series(1, %(n)s::bigint) n
            """,
            {"n": LOGGED},
        )
        if request.param == "statistics of now":
            connection.execute("VACUUM ANALYZE")
    return database


@pytest.mark.parametrize("kinds", range(1, Kind.ALL + 1))
async def test_page_of_changes_walks_one_index_for_each_kind(logged: str, kinds: int) -> None:
    limit = 50
    offered = [kind for kind in (Kind.MESSAGE, Kind.MEMBER, Kind.MEMBER) if kinds & kind]
    async with watched_store(logged) as (store, plans):
        for after in (0, LOGGED, 3 * LOGGED - 30, 3 * LOGGED + 1):
            page = await store.changes(conversation_id(1), after_rev=after, kinds=kinds, limit=limit)
            in_turn = [Kind.MEMBER, Kind.MESSAGE, Kind.MEMBER]
            revs = [rev for rev in range(after + 1, 3 * LOGGED + 1) if in_turn[rev % 3] & kinds]
            if kinds & Kind.CONVERSATION and after <= 3 * LOGGED:
                revs.append(3 * LOGGED + 1)
            assert [change.rev for change in page] == revs[:limit]
            assert {change.kind for change in page} <= {kind for kind in (1, 2, 4) if kinds & kind}

            (plan,) = plans.take()
            scans = {node["Relation Name"]: node for node in nodes(plan) if node.get("Relation Name") in LOG_INDEXES}
            assert set(scans) == {table for table, (kind, _) in LOG_INDEXES.items() if kind & kinds}
            for table, node in scans.items():
                assert node.get("Index Name") == LOG_INDEXES[table][1], plan
                assert node["Actual Rows"] <= limit, plan
            assert work(plan) <= 8 * limit * max(1, len(offered)), plan
            assert buffers(plan) <= 8 * limit * max(1, len(offered))


async def test_page_of_a_users_own_changes_walks_two_indexes(logged: str) -> None:
    limit = 50
    async with watched_store(logged) as (store, plans):
        for after in (0, LOGGED, 2 * LOGGED - 30, 2 * LOGGED + 1):
            page = await store.user_changes(user_id(1), after_rev=after, limit=limit)
            first = max(after, 0) + 1
            expected = list(range(first, min(first + limit, 2 * LOGGED + 2)))
            assert [change.user_rev for change in page] == expected
            (plan,) = plans.take()
            assert work(plan) <= 10 * limit, plan
            assert buffers(plan) <= 10 * limit
            assert {node["Index Name"] for node in nodes(plan) if "Index Name" in node} == {
                "conversation_users_user_rev",
                "former_members_user_rev",
            }


# --- commands ---


@pytest.mark.parametrize("has_statistics", [False, True])
async def test_changes_of_many_members_cost_their_number(database: str, has_statistics: bool) -> None:
    """A group is created with many, others are added, all of them read, and one leaves."""
    with psycopg.connect(database, autocommit=True) as connection:
        prepare(connection)
        add_users(connection, 1, 2 * MANY + 1)
        if has_statistics:
            connection.execute("ANALYZE")
    users = [User(user_id(number), f"user{number}") for number in range(1, 2 * MANY + 2)]
    async with watched_store(database) as (store, plans):
        people = People(store)
        group = await people.group(*users[:MANY])
        spent = {"creation": plans.take()}
        addition = add(group, users[0], *users[MANY:], limit=5 * MANY)
        members = await carry_out(store, addition)
        assert [member.rev for member in members] == list(range(1, MANY + 2))
        spent["addition"] = plans.take()
        # A repeat is read later, when the number in the user's own sequence may have moved on.
        repeated = [replace(member, user_rev=0) for member in members if isinstance(member, Member)]
        assert repeated == list(await carry_out(store, addition))
        spent["repeated addition"] = plans.take()
        await carry_out(store, post(group, users[0]))
        plans.take()
        states = await store.mark_read([ReadMark(group, user.id, 1) for user in users])
        assert states == [ReadState(1, 1, 2)] * len(users)
        spent["marks"] = plans.take()
        for what, ran in spent.items():
            assert joined_away(*ran) == 0, what
            assert work(*ran) <= 100 * MANY, what
        await carry_out(store, leave(group, users[0]))
        message = await changed_message(store, post(group, users[1]))
        plans.take()
        await carry_out(store, edit(message, users[1], "edited"))
        await carry_out(store, remove(group, users[1], users[2]))
        await carry_out(store, set_properties(group, users[1], name="Many"))
        ran = plans.take()
        assert joined_away(*ran) == 0
        assert work(*ran) <= 200


async def test_marks_of_many_conversations_cost_their_number(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        prepare(connection)
        add_users(connection, 1, 2)
        add_groups(connection, 1, MANY, [1, 2])
        connection.execute("UPDATE conversations SET last_seq = 1, last_rev = 1")
    async with watched_store(database) as (store, plans):
        marks = [ReadMark(conversation_id(number), user_id(1), 1) for number in range(1, MANY + 1)]
        states = await store.mark_read(marks)
        ran = plans.take()
    assert states == [ReadState(1, 1, number) for number in range(1, MANY + 1)]
    assert joined_away(*ran) == 0
    assert work(*ran) <= 100 * MANY


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
        senders = [User(user_id(number), f"user{number}") for number in (1, 2)]
        batch = [
            post(conversation_id(1 + number % rooms), senders[number % 2], f"{number}", client_id=f"c{number}")
            for number in range(count)
        ]
        stored = await store.apply(batch)
        appended = plans.take()
        # The other expensive batch: all messages are already stored.
        assert await store.apply(batch) == stored
        resent = plans.take()
    assert [(message.id, message.seq) for message in messages(stored)] == [
        (new.id, 1 + number // rooms) for number, new in enumerate(batch)
    ]
    for ran in (appended, resent):
        assert joined_away(*ran) == 0
        assert work(*ran) <= 60 * count


@pytest.mark.parametrize("has_statistics", [False, True])
@pytest.mark.parametrize(("count", "rooms"), [(MANY, MANY), (MANY, 1)])
async def test_a_batch_of_revisions_costs_its_number(
    database: str, count: int, rooms: int, has_statistics: bool
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        prepare(connection)
        add_users(connection, 1, 2)
        add_groups(connection, 1, rooms, [1, 2])
    async with watched_store(database) as (store, plans):
        alice = User(user_id(1), "user1")
        sent = messages(
            await store.apply([post(conversation_id(1 + number % rooms), alice) for number in range(count)])
        )
        if has_statistics:
            async with store.connection() as connection:
                await connection.execute("ANALYZE users, conversations, conversation_users, messages")
        plans.take()
        batch = [edit(message, alice, f"{number}") for number, message in enumerate(sent)]
        edited = await store.apply(batch)
        revised = plans.take()
        assert await store.apply(batch) == edited
        repeated = plans.take()
    assert [message.content for message in messages(edited)] == [f"{number}" for number in range(count)]
    for ran in (revised, repeated):
        assert joined_away(*ran) == 0
        assert work(*ran) <= 60 * count
