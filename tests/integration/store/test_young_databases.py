"""Plans that PostgreSQL makes while the tables of a new service are empty, and keeps while they fill."""

import psycopg
import pytest
import trio

from pulse_trio.database.sessions import STORE_SETTINGS
from pulse_trio.store.postgres import PostgresStore
from pulse_trio.trio_psycopg import Pool
from tests.support.cluster import Cluster
from tests.support.commands import post
from tests.support.crowds import add_groups, add_users, conversation_id, prepare, user_id
from tests.support.plans import Plans, nodes, work

LIMIT = 60  # seconds
MESSAGES = 5_000
BATCH = 50


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
