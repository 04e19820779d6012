"""Opens the store in PostgreSQL for the service: two pools, the service lock and the embedded server's watch."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Final

import psycopg
import trio

from pulse_trio.database.embedded import EmbeddedPostgres
from pulse_trio.database.pool_share import PoolShare
from pulse_trio.database.service_lock import ServiceLock, require_server
from pulse_trio.database.sessions import Sessions
from pulse_trio.errors import LaunchError
from pulse_trio.metrics import Metrics
from pulse_trio.settings import Settings
from pulse_trio.store.postgres import MESSAGE_CONNECTIONS, PostgresStore
from pulse_trio.store.postgres.callers import Caller, shares
from pulse_trio.trio_psycopg import Pool, PoolTimeout

EMBEDDED_POLL: Final = 0.5  # seconds between checks that the embedded PostgreSQL runs
REPLAN_AFTER: Final = 10.0  # seconds; the first plans of a new service are those for empty tables
EPOCH_POLL: Final = 2.0  # seconds between looks at the epoch of the history, in a cluster


def postgres_store(
    settings: Settings,
    sessions: Sessions,
    lock: ServiceLock,
    metrics: Metrics,
    embedded: EmbeddedPostgres | None = None,
    *,
    share: PoolShare | None = None,
) -> Callable[[], AbstractAsyncContextManager[PostgresStore]]:
    """Returns a factory of stores in PostgreSQL, with one pool for messages and one for everything else.

    An open store fails with LaunchError when another process takes the service lock, or when `embedded`, a server
    that this process started, ends. `share` bounds the two pools; without it they are those of a process alone.
    """
    pools = alone(settings) if share is None else share

    @asynccontextmanager
    async def open_store() -> AsyncIterator[PostgresStore]:
        history = lock.history
        new_pool = partial(
            Pool,
            sessions.conninfo,
            configure=partial(require_server, history.server),
            acquire_timeout=settings.statement_timeout,
            server_settings=sessions.settings,
            autocommit=True,
            replan_after=REPLAN_AFTER,
            on_acquired=metrics.checkout_seconds.observe,
        )
        # One of the connections kept open is for messages; more for messages are opened on demand.
        message_min = min(1, settings.pool_min)
        message_pool = new_pool(min_size=message_min, max_size=pools.messages)
        pool = new_pool(
            min_size=min(settings.pool_min - message_min, pools.main), max_size=pools.main, shares=shares(pools.main)
        )
        metrics.pool_statistics = pool.statistics
        metrics.message_pool_statistics = message_pool.statistics
        async with trio.open_nursery() as nursery, pool, message_pool:
            nursery.start_soon(lock.watch, name="service lock")
            if embedded is not None:
                nursery.start_soon(_watch_embedded, embedded, name="embedded PostgreSQL")
            store = PostgresStore(pool, history.epoch, message_pool=message_pool)
            await nursery.start(store.run, name="group commit")
            if lock.is_shared:
                nursery.start_soon(_watch_epoch, pool, lock, name="epoch")
            yield store
            nursery.cancel_scope.cancel()

    return open_store


def alone(settings: Settings) -> PoolShare:
    """Returns the pools of a process that has the database alone."""
    return PoolShare(settings.pool_max, MESSAGE_CONNECTIONS)


async def _watch_epoch(pool: Pool, lock: ServiceLock) -> None:
    """Looks for a new epoch of the history, until cancelled, and makes the lock look again when there is one.

    In a cluster another process finds a failover first, or starts after `pulse-trio restored`. From then on this one
    must not serve the history that it knows.
    """
    while True:
        await trio.sleep(EPOCH_POLL)
        with suppress(psycopg.Error, PoolTimeout, OSError):
            async with pool.connection(Caller.LOOK_UPS, "epoch") as connection:
                row = await (await connection.execute("SELECT epoch FROM history")).fetchone()
            if row is not None and row[0] != lock.history.epoch:
                lock.look_again()


async def _watch_embedded(server: EmbeddedPostgres) -> None:
    """Runs until cancelled.

    A server that ended is not restarted here: that would block the event loop for seconds, and the supervisor restarts
    the whole service anyway.

    Raises:
        LaunchError: the server ended.
    """
    while (status := server.poll()) is None:  # noqa: ASYNC110  # portable, unlike waiting for a child
        await trio.sleep(EMBEDDED_POLL)
    how = f"by signal {-status}" if status < 0 else f"with exit code {status}"
    reason = await trio.to_thread.run_sync(server.end_reason)
    raise LaunchError(f"the embedded PostgreSQL ended {how}: {reason}; start pulse-trio again")
