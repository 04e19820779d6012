"""Messages are stored on connections of their own, so that no other work on the database delays them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import psycopg
import pytest
import trio
import trio.testing

from pulse_trio.database.service_lock import ServiceLock
from pulse_trio.database.sessions import STORE_SETTINGS, Sessions
from pulse_trio.metrics import Metrics
from pulse_trio.model import Edit
from pulse_trio.settings import Settings
from pulse_trio.store.base import StoreUnavailable
from pulse_trio.store.postgres import MESSAGE_CONNECTIONS, PostgresStore, factory
from pulse_trio.store.postgres.callers import Caller
from pulse_trio.store.postgres.factory import postgres_store
from pulse_trio.trio_psycopg import PoolTimeout
from tests.contract.people import People, messages, seqs
from tests.support.commands import changed_message, edit, post
from tests.support.server import SECRET

LIMIT = 60  # seconds for a test
SESSIONS = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""


@asynccontextmanager
async def open_store(
    conninfo: str, *, pool_max: int, pool_min: int = 0, statement_timeout: float = 2.0
) -> AsyncIterator[PostgresStore]:
    """Opens the store as the service does. `statement_timeout`: also how long an operation waits for a connection."""
    settings = Settings.load(
        database_url=conninfo,
        secret_key=SECRET,
        pool_min=pool_min,
        pool_max=pool_max,
        statement_timeout=statement_timeout,
    )
    lock = ServiceLock(conninfo)
    try:
        with trio.fail_after(LIMIT):
            lock.establish_history()
            sessions = Sessions(conninfo, {**STORE_SETTINGS, "statement_timeout": "2000"})
            async with postgres_store(settings, sessions, lock, Metrics())() as store:
                assert isinstance(store, PostgresStore)
                yield store
    finally:
        lock.close()


def count_sessions(conninfo: str) -> int:
    """Counts the service's sessions, without the one of its lock."""
    with psycopg.connect(conninfo) as connection:
        row = connection.execute(SESSIONS).fetchone()
    assert row is not None
    return int(row[0]) - 1


async def test_messages_are_stored_while_the_main_pool_is_exhausted(database: str) -> None:
    async with open_store(database, pool_max=2) as store:
        people = People(store)
        alice = await people.user("alice")
        groups = [await people.group(alice) for _ in range(20)]
        async with AsyncExitStack() as slow:
            for _ in range(2):
                await slow.enter_async_context(store.connection())
            with pytest.raises(StoreUnavailable) as caught:
                await store.list_conversations(alice.id, limit=1)
            assert isinstance(caught.value.__cause__, PoolTimeout)

            for group in groups:
                stored = await store.apply([post(group, alice)])
                assert seqs(stored) == [1]
                edited = await changed_message(store, edit(messages(stored)[0], alice, "edited"))
                assert edited.rev == 2
            async with trio.open_nursery() as writers:
                for group in groups:
                    writers.start_soon(store.apply, [post(group, alice) for _ in range(3)])
        assert {(await store.head(group)).last_seq for group in groups} == {4}


@pytest.mark.parametrize("pool_min", [0, 2])
async def test_connections_are_bounded_and_made_on_demand(database: str, pool_min: int) -> None:
    async with open_store(database, pool_max=2, pool_min=pool_min, statement_timeout=LIMIT) as store:
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
                await store.apply([post(group, alice)])  # type: ignore[arg-type]
                await store.list_conversations(alice.id, limit=5)
                most = max(most, count_sessions(database))

        async with trio.open_nursery() as nursery:
            for group in groups:
                nursery.start_soon(work, group)
        assert 2 < most <= 2 + MESSAGE_CONNECTIONS


async def test_lists_use_at_most_half_of_the_pool(database: str) -> None:
    async with open_store(database, pool_max=4) as store:
        people = People(store)
        alice = await people.user("alice")
        group = await people.group(alice)
        async with AsyncExitStack() as slow:
            for _ in range(2):
                await slow.enter_async_context(store.connection(Caller.LISTS))
            with pytest.raises(StoreUnavailable):
                await store.list_conversations(alice.id, limit=1)
            with pytest.raises(StoreUnavailable):
                await store.search_users("a", limit=1)
            assert await store.membership(group, alice.id) == 0
        assert (await store.list_conversations(alice.id, limit=1)).total == 1


async def test_edits_waiting_for_a_row_leave_connections_for_messages(database: str) -> None:
    async with open_store(database, pool_max=2) as store:
        people = People(store)
        alice = await people.user("alice")
        busy, free = await people.group(alice), await people.group(alice)
        sent = await people.send(busy, alice, *map(str, range(10)))
        async with AsyncExitStack() as stack:
            other = await stack.enter_async_context(store.connection())
            transaction = other.transaction()
            await stack.enter_async_context(transaction)
            await other.execute("SELECT FROM conversations WHERE id = %s FOR UPDATE", (busy,))
            async with trio.open_nursery() as nursery:
                for message in sent:
                    nursery.start_soon(_try_to_edit, store, edit(message, alice, "edited"))
                await trio.testing.wait_all_tasks_blocked()
                for _ in range(5):
                    assert seqs(await store.apply([post(free, alice)]))
                nursery.cancel_scope.cancel()


async def _try_to_edit(store: PostgresStore, command: Edit) -> None:
    with suppress(StoreUnavailable):
        await store.apply([command])


async def test_connections_of_both_pools_make_their_plans_anew(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "REPLAN_AFTER", 0.0)
    async with open_store(database, pool_max=1) as store:
        people = People(store)
        alice = await people.user("alice")
        await people.send(await people.group(alice), alice, "hello")
        replanned = 0
        with psycopg.connect(database, autocommit=True) as connection:
            while replanned < 2:  # the last use of each connection
                row = connection.execute(SESSIONS + " AND query = 'DISCARD PLANS'").fetchone()
                assert row is not None
                replanned = row[0]
                await trio.lowlevel.checkpoint()
