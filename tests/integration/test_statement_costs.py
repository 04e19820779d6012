"""What statements cost by the rows that they touch, with the members and conversations of a large service.

The numbers of rows come from PostgreSQL's plans of what the store ran. They are the same at any load, so a statement
that is quadratic fails here on every machine.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
import trio

from pulse_trio.store.base import Head
from pulse_trio.store.postgres import SERVER_SETTINGS, PostgresStore
from pulse_trio.trio_psycopg import Pool
from tests.support.cluster import Cluster
from tests.support.plans import Plans, nodes, work

LIMIT = 60  # seconds for a test
MANY = 1_000  # conversations of a busy user
BUSY = 10  # users who have so many
ORDINARY = 20_000  # users with two conversations each, as statistics find them


@asynccontextmanager
async def watched_store(conninfo: str, **options: Any) -> AsyncIterator[tuple[PostgresStore, Plans]]:
    """A store on a database, and the plans of what it runs."""
    plans = Plans()
    with trio.fail_after(LIMIT):
        async with Pool(
            conninfo, autocommit=True, server_settings=SERVER_SETTINGS, configure=plans.configure, **options
        ) as pool:
            yield PostgresStore(pool), plans


def user_id(number: int) -> UUID:
    return UUID(int=number)


def conversation_id(number: int) -> UUID:
    return UUID(int=2**64 + number)


@pytest.fixture(scope="module")
def town(cluster: Cluster) -> str:
    """A database where users have two conversations each, and a few have MANY. To be read only.

    Users 1 to BUSY have MANY, each their own: user n has those from n * MANY on. The others follow, from ORDINARY on.
    """
    database = cluster.new_database()
    uuid = "lpad(to_hex({}), 32, '0')::uuid"
    room = "('00000000-0000-0001-' || regexp_replace(lpad(to_hex({}), 16, '0'), '^(.{{4}})', '\\1-'))::uuid"
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in (
            f"""
            INSERT INTO users (id, username, username_key, created_at, updated_at)
            SELECT {uuid.format("n")}, 'u' || n, 'u' || n, now(), now() FROM generate_series(1, {2 * ORDINARY}) n
            """,
            f"""
            INSERT INTO conversations (id, is_group, owner_id, created_at, updated_at)
            SELECT {room.format("n")}, true, {uuid.format("1")}, now(), now()
            FROM generate_series({MANY}, {2 * ORDINARY}) n
            """,
            f"""
            INSERT INTO conversation_users (conversation_id, user_id, joined_at)
            SELECT {room.format(f"u * {MANY} + n")}, {uuid.format("u")}, now()
            FROM generate_series(1, {BUSY}) u, generate_series(0, {MANY - 1}) n
            """,
            f"""
            INSERT INTO conversation_users (conversation_id, user_id, joined_at)
            SELECT {room.format("n")}, {uuid.format("n + k")}, now()
            FROM generate_series({ORDINARY}, {2 * ORDINARY - 1}) n, generate_series(0, 1) k
            """,
            "VACUUM ANALYZE",
        ):
            connection.execute(statement)
    return database


# --- who shares a conversation with whom ---


@pytest.mark.parametrize(
    ("me", "others", "most"),
    [
        # Both have many, none in common: each list is read, and no entry is compared with every other.
        (1, [2], 7 * MANY),
        (1, list(range(2, BUSY + 1)), 4 * MANY * BUSY),
        # Few of mine, many of theirs, and the mirror: the shorter list decides, beside mine, which is read once.
        (ORDINARY + 100, list(range(1, BUSY + 1)), 20 * BUSY),
        (1, list(range(ORDINARY + 100, ORDINARY + 600)), 3 * MANY + 20 * 500),
        (ORDINARY + 100, list(range(ORDINARY + 99, ORDINARY + 599)), 20 * 500),
    ],
)
async def test_shared_conversations_cost_what_the_shorter_list_has(
    town: str, me: int, others: list[int], most: int
) -> None:
    async with watched_store(town) as (store, plans):
        found = await store.acquaintances(user_id(me), [user_id(other) for other in others])
    assert set(found) == {user_id(other) for other in others if me > ORDINARY and abs(me - other) <= 1}

    assert work(*plans.take()) <= most


# --- resuming ---


@pytest.mark.parametrize("count", [1, 10, MANY])
async def test_memberships_cost_what_is_named(town: str, count: int) -> None:
    """Of a user with MANY conversations: `count` of them are named, and as many of others."""
    own = [conversation_id(MANY + number) for number in range(count)]
    strange = [conversation_id(2 * MANY + number) for number in range(count)]
    async with watched_store(town) as (store, plans):
        found = await store.memberships(user_id(1), own + strange)
    assert found == dict.fromkeys(own, Head(0, 0))
    ran = plans.take()
    assert work(*ran) <= 14 * count
    # To look for each row in an array costs comparisons that no count of rows shows.
    assert not [node for plan in ran for node in nodes(plan) if "ANY" in node.get("Filter", "")]
