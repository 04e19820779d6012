"""Bus over PostgreSQL alone: schemas, databases, poolers and standbys."""

from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
import trio

from pulse_trio.bus.base import Bus
from pulse_trio.bus.numbered import NumberedBus
from pulse_trio.bus.postgres import PostgresTransport
from tests.support.bus import Recorder
from tests.support.cluster import Cluster
from tests.support.pgbouncer import PgBouncer

SESSIONS = """
    SELECT state, xact_start IS NULL FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'pulse-trio'
"""


@pytest.fixture
def database(cluster: Cluster) -> Iterator[str]:
    conninfo = cluster.new_database(migrated=False)
    yield conninfo
    cluster.drop_database(conninfo)


async def start(nursery: trio.Nursery, conninfo: str) -> tuple[Bus, Recorder]:
    bus, recorder = NumberedBus(PostgresTransport(conninfo), uuid4()), Recorder()
    await nursery.start(bus.run, recorder)
    return bus, recorder


async def test_a_bus_has_one_session_that_is_in_no_transaction(database: str, nursery: trio.Nursery) -> None:
    with trio.fail_after(30):
        a, b = await start(nursery, database), await start(nursery, database)
        a[0].publish(b"1")
        await b[1].wait(lambda: len(b[1].items) == 1)
        with psycopg.connect(database) as connection:
            found = connection.execute(SESSIONS).fetchall()
    assert found == [("idle", True)] * 2


async def test_services_in_other_schemas_and_databases_are_not_heard(
    database: str, cluster: Cluster, nursery: trio.Nursery
) -> None:
    other = cluster.new_database(migrated=False)
    with trio.fail_after(30):
        async with trio.open_nursery() as inner:
            listener = await start(inner, database)
            stranger = await start(inner, other)
            schema = "a" * 63  # the longest name that there is
            with psycopg.connect(database, autocommit=True) as connection:
                path = f'ALTER ROLE CURRENT_USER IN DATABASE "{connection.info.dbname}" SET search_path = "{schema}"'
                for statement in (f'CREATE SCHEMA "{schema}"', path):
                    connection.execute(statement.encode())
            neighbours = await start(inner, database), await start(inner, database)
            for bus, _ in (stranger, *neighbours):
                bus.publish(b"1")
            await neighbours[1][1].wait(lambda: len(neighbours[1][1].items) == 1)
            await trio.sleep(1.2)
            assert listener[1].reasons == ["connected"]
            assert listener[1].items == []
            inner.cancel_scope.cancel()
    cluster.drop_database(other)


async def test_a_pooler_in_session_mode_carries_it(database: str, nursery: trio.Nursery) -> None:
    with PgBouncer(database, "session") as pooler, trio.fail_after(30):
        async with trio.open_nursery() as inner:
            a, b = await start(inner, pooler.conninfo), await start(inner, pooler.conninfo)
            a[0].publish(b"1")
            await b[1].wait(lambda: len(b[1].items) == 1)
            await trio.sleep(5)
            assert b[1].states == [True]
            inner.cancel_scope.cancel()


async def test_a_string_that_is_not_one_is_an_outage(nursery: trio.Nursery) -> None:
    bus, recorder = await start(nursery, "host=127.0.0.1 port=1 user=x password=hunter2")
    assert (bus.is_connected, recorder.states) == (False, [])
