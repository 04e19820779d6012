"""Storing messages has connections of its own: nothing else that the service asks of the database holds it up."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import psycopg
import pytest
import trio

from pulse_trio.app import postgres_store
from pulse_trio.metrics import Metrics
from pulse_trio.settings import Settings
from pulse_trio.store.base import StoreUnavailable
from pulse_trio.store.lock import ServiceLock
from pulse_trio.store.postgres import APPENDS, SERVER_SETTINGS, PostgresStore
from pulse_trio.store.sessions import Sessions
from pulse_trio.trio_psycopg import PoolTimeout
from tests.contract.people import People, seqs
from tests.support.server import SECRET

LIMIT = 60  # seconds for a test
SESSIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


@asynccontextmanager
async def open_store(conninfo: str, *, pool_max: int, pool_min: int = 0) -> AsyncIterator[PostgresStore]:
    """The store as the service opens it."""
    settings = Settings.load(
        database_url=conninfo, secret_key=SECRET, pool_min=pool_min, pool_max=pool_max, statement_timeout=2.0
    )
    lock = ServiceLock(conninfo)
    try:
        with trio.fail_after(LIMIT):
            lock.establish()
            sessions = Sessions(conninfo, {**SERVER_SETTINGS, "statement_timeout": "2000"})
            async with postgres_store(settings, sessions, lock, Metrics())() as store:
                assert isinstance(store, PostgresStore)
                yield store
    finally:
        lock.close()


def count_sessions(conninfo: str) -> int:
    """The sessions of the service, but for the one of its lock."""
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(SESSIONS).fetchone()
    assert row is not None
    return int(row[0]) - 1


async def test_messages_are_stored_while_all_other_connections_are_taken(database: str) -> None:
    async with open_store(database, pool_max=2) as store:
        people = People(store)
        alice = await people.user("alice")
        groups = [await people.group(alice) for _ in range(20)]
        async with AsyncExitStack() as slow:
            for _ in range(2):
                await slow.enter_async_context(store.connection())
            with pytest.raises(StoreUnavailable) as caught:
                await store.list_conversations(alice.id, limit=1, offset=0)
            assert isinstance(caught.value.__cause__, PoolTimeout)

            for group in groups:
                assert seqs(await store.append([people.message(group, alice)])) == [1]
            async with trio.open_nursery() as writers:
                for group in groups:
                    writers.start_soon(store.append, [people.message(group, alice) for _ in range(3)])
        assert {(await store.head(group)).last_seq for group in groups} == {4}


@pytest.mark.parametrize("pool_min", [0, 2])
async def test_connections_are_bounded_and_made_when_they_are_needed(database: str, pool_min: int) -> None:
    async with open_store(database, pool_max=2, pool_min=pool_min) as store:
        people = People(store)
        while await trio.to_thread.run_sync(count_sessions, database) < pool_min:
            pass  # they are being made
        assert count_sessions(database) == pool_min
        alice = await people.user("alice")
        groups = [await people.group(alice) for _ in range(30)]
        most = 0

        async def work(group: object) -> None:
            nonlocal most
            for _ in range(5):
                await store.append([people.message(group, alice)])  # type: ignore[arg-type]
                await store.list_conversations(alice.id, limit=5, offset=0)
                most = max(most, count_sessions(database))

        async with trio.open_nursery() as nursery:
            for group in groups:
                nursery.start_soon(work, group)
        assert 2 < most <= 2 + APPENDS
