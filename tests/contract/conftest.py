"""The stores under contract: every test with the fixture `store` runs on each of them."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import psycopg
import pytest
import trio

from pulse_trio.database.sessions import STORE_SETTINGS
from pulse_trio.store.base import Store
from pulse_trio.store.memory import MemoryStore
from pulse_trio.store.postgres import PostgresStore
from pulse_trio.trio_psycopg import Pool
from tests.contract.people import People
from tests.support.cluster import Cluster

LIMIT = 60  # seconds for a test


@asynccontextmanager
async def _memory() -> AsyncIterator[Store]:
    store = MemoryStore()
    async with trio.open_nursery() as store.nursery:
        yield store
        store.nursery.cancel_scope.cancel()


@asynccontextmanager
async def _postgres(conninfo: str) -> AsyncIterator[Store]:
    async with (
        Pool(conninfo, autocommit=True, server_settings=STORE_SETTINGS) as pool,
        trio.open_nursery() as nursery,
    ):
        store = PostgresStore(pool)
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()


class StoreKind:
    """A kind of store; `open` opens an empty one."""

    def __init__(self, conninfo: str | None) -> None:
        self._conninfo = conninfo

    def open(self) -> AbstractAsyncContextManager[Store]:
        if self._conninfo is None:
            return _memory()
        with psycopg.connect(self._conninfo) as connection:
            connection.execute("TRUNCATE users, tickets, attempt_buckets, process_leases CASCADE")
        return _postgres(self._conninfo)


@pytest.fixture(scope="session")
def postgres_kind(cluster: Cluster) -> StoreKind:
    """PostgreSQL, on one database for all tests: `open` empties it."""
    return StoreKind(cluster.new_database())


@pytest.fixture(params=["memory", "postgres"])
def store_kind(request: pytest.FixtureRequest) -> StoreKind:
    if request.param == "memory":
        return StoreKind(None)
    kind: StoreKind = request.getfixturevalue("postgres_kind")
    return kind


@pytest.fixture
async def store(store_kind: StoreKind, nursery: trio.Nursery) -> AsyncIterator[Store]:
    """An empty store; the test must end within LIMIT."""

    async def limit() -> None:
        with trio.fail_after(LIMIT):
            await trio.sleep_forever()

    nursery.start_soon(limit)
    async with store_kind.open() as opened:
        yield opened


@pytest.fixture
def people(store: Store) -> People:
    return People(store)
