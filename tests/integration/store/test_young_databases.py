"""Plans that PostgreSQL makes while the tables of a new service are empty, and keeps while they fill."""

from typing import Final

import psycopg
import pytest
import trio

from pulse_trio.database.sessions import STORE_SETTINGS
from pulse_trio.store.postgres import PostgresStore
from pulse_trio.trio_psycopg import Pool
from tests.contract.people import messages
from tests.support.cluster import Cluster
from tests.support.commands import edit, post
from tests.support.crowds import add_groups, add_users, conversation_id, prepare, user_id
from tests.support.plans import Plans, nodes, work

LIMIT = 60  # seconds
MESSAGES = 5_000
BATCH = 50
YOUNG: Final = 4  # conversations when the plans are made
LOADED: Final = 3_000  # conversations, and messages of one of them, when the plans are used


@pytest.mark.parametrize("rooms", [1, 2])
async def test_plans_of_batches_stay_good(cluster: Cluster, rooms: int) -> None:
    """As below, for the statements that store several messages."""
    database = cluster.new_database()
    with psycopg.connect(database, autocommit=True) as connection:
        prepare(connection)
        add_users(connection, 1, 2)
        add_groups(connection, 1, rooms, [1, 2])
        connection.execute("VACUUM ANALYZE")
    plans = Plans()
    with trio.fail_after(LIMIT):
        async with Pool(
            database, autocommit=True, server_settings=STORE_SETTINGS, configure=plans.configure, max_size=1
        ) as pool:
            store = PostgresStore(pool)
            for number in range(MESSAGES // BATCH):
                plans.take()
                places = [conversation_id(1 + place % rooms) for place in range(BATCH)]
                await store.apply([post(places[n], user_id(1), client_id=f"m-{number}-{n}") for n in range(BATCH)])
    (ran,) = plans.take()
    assert not [node for node in nodes(ran) if node["Node Type"] == "Seq Scan"]
    assert work(ran) <= 60 * BATCH


async def test_a_plan_made_for_empty_tables_stays_good(cluster: Cluster) -> None:
    """Statistics that say "empty" make a sequential scan look cheap; a cached plan would keep it as the table grows."""
    database = cluster.new_database()
    with psycopg.connect(database, autocommit=True) as connection:
        prepare(connection)
        add_users(connection, 1, 2)
        add_groups(connection, 1, 1, [1, 2])
        connection.execute("VACUUM ANALYZE")
    plans = Plans()
    with trio.fail_after(LIMIT):
        async with Pool(
            database, autocommit=True, server_settings=STORE_SETTINGS, configure=plans.configure, max_size=1
        ) as pool:
            store = PostgresStore(pool)
            for number in range(MESSAGES):
                plans.take()
                await store.apply([post(conversation_id(1), user_id(1), client_id=f"m-{number}")])
    ran = plans.take()
    assert not [node for plan in ran for node in nodes(plan) if node["Node Type"] == "Seq Scan"]
    assert work(*ran) <= 50


@pytest.mark.parametrize("has_statistics", [False, True])
@pytest.mark.parametrize(("rooms", "each"), [(1, 1), (1, 4), (4, 1)])
async def test_plans_stay_good_after_a_bulk_load(cluster: Cluster, rooms: int, each: int, has_statistics: bool) -> None:
    """A migration fills the tables at once, and nobody has analyzed them since the statements were prepared.

    The conversations and the sender have the highest ids, so that a walk along a primary key passes all the others.
    """
    database = cluster.new_database()
    places = [conversation_id(LOADED + 1 + room) for room in range(rooms) for _ in range(each)]
    sender = user_id(LOADED + 1)
    plans = Plans()
    with trio.fail_after(LIMIT), psycopg.connect(database, autocommit=True) as connection:
        prepare(connection)
        connection.execute("ALTER TABLE messages SET (autovacuum_enabled = false)")
        add_users(connection, LOADED + 1, LOADED + 2)
        add_groups(connection, LOADED + 1, LOADED + YOUNG, [LOADED + 1, LOADED + 2])
        if has_statistics:
            connection.execute("VACUUM ANALYZE")
        async with Pool(
            database, autocommit=True, server_settings=STORE_SETTINGS, configure=plans.configure, max_size=1
        ) as pool:
            store = PostgresStore(pool)

            async def store_and_edit(suffix: str) -> None:
                batch = [post(place, sender, client_id=f"{suffix}-{number}") for number, place in enumerate(places)]
                stored = messages(await store.apply(batch))
                assert messages(await store.apply(batch)) == stored
                await store.apply([edit(message, sender, "edited") for message in stored])

            await store_and_edit("young")
            add_users(connection, 1, LOADED)
            add_groups(connection, 1, LOADED, [1, 2])
            connection.execute(
                """
                INSERT INTO messages (id, conversation_id, sender_id, content, created_at, updated_at, seq, rev)
                SELECT gen_random_uuid(), room(%(room)s), person(1), 'hello', now(), now(), 1000 + n, 1000 + n
                FROM generate_series(1, %(count)s::bigint) n
                """,
                {"room": LOADED + 1, "count": LOADED},
            )
            plans.take()
            await store_and_edit("loaded")
    assert work(*plans.take()) <= 250 * len(places)
