"""One service process per database: the lock is exclusive, ends with its process, and is retaken when lost."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
import pytest
import trio
import trio.testing

from pulse_trio.database.schema import MIGRATION_LOCK, SERVICE_LOCK
from pulse_trio.database.service_lock import ServiceLock
from pulse_trio.errors import LaunchError
from pulse_trio.trio_psycopg import TrioConnection
from tests.support.cluster import Cluster

LIMIT = 60  # seconds

# pg_locks shows the bigint key in two halves.
_HOLDER = f"""
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (classid::bigint << 32 | objid::bigint) = {SERVICE_LOCK}
"""


@contextmanager
def held(conninfo: str) -> Iterator[ServiceLock]:
    lock = ServiceLock(conninfo)
    try:
        yield lock
    finally:
        lock.close()


def holder(conninfo: str) -> int | None:
    """Returns the pid of the backend that holds the lock, or None."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute(_HOLDER).fetchone()
        return None if row is None else int(row[0])


async def wait_holder(conninfo: str, *, other_than: int | None) -> int:
    """Waits until another backend than `other_than` holds the lock; returns its pid."""
    while True:
        try:
            async with open_session(conninfo) as session:
                while True:
                    row = await (await session.execute(_HOLDER)).fetchone()
                    if row is not None and row[0] != other_than:
                        return int(row[0])
        except psycopg.OperationalError:
            await trio.lowlevel.checkpoint()  # the server is still starting


@asynccontextmanager
async def open_session(conninfo: str) -> AsyncIterator[TrioConnection[Any]]:
    session = await TrioConnection.connect(conninfo, autocommit=True)
    try:
        yield session
    finally:
        await session.close()


@asynccontextmanager
async def watched(conninfo: str) -> AsyncIterator[ServiceLock]:
    """Takes the lock and watches it as the service does."""
    with trio.fail_after(LIMIT), held(conninfo) as lock:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lock.watch)
            yield lock
            nursery.cancel_scope.cancel()


async def terminate(conninfo: str, pid: int) -> None:
    async with open_session(conninfo) as session:
        await session.execute("SELECT pg_terminate_backend(%s)", (pid,))


def assert_refused(conninfo: str) -> None:
    with pytest.raises(LaunchError, match=r"^another pulse-trio process is using this database") as caught:
        ServiceLock(conninfo)
    assert "\n" not in str(caught.value)


def test_second_process_is_rejected_until_the_first_releases_it(database: str) -> None:
    with held(database):
        assert_refused(database)
        assert_refused(database)
    # Blocks until the server has noticed the end of the connection.
    wait_free(database)
    with held(database):
        assert_refused(database)


def wait_free(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True, options=f"-c statement_timeout={LIMIT}s") as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (SERVICE_LOCK,))
        connection.execute("SELECT pg_advisory_unlock(%s)", (SERVICE_LOCK,))


def test_other_databases_and_migrations_do_not_conflict(cluster: Cluster, database: str) -> None:
    with held(database), held(cluster.new_database()):
        assert MIGRATION_LOCK != SERVICE_LOCK
        with psycopg.connect(database) as connection:
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (MIGRATION_LOCK,)).fetchone()
            assert row == (True,)


def test_killed_process_releases_it(database: str) -> None:
    code = (
        "import sys; from pulse_trio.database.service_lock import ServiceLock; "
        "lock = ServiceLock(sys.argv[1]); print(1); input()"
    )
    command = [sys.executable, "-u", "-c", code, database]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"1\n"
            assert_refused(database)
        finally:
            process.kill()
    wait_free(database)
    with held(database):
        pass


def test_unreachable_database_is_the_drivers_error(own_cluster: Cluster) -> None:
    conninfo = own_cluster.conninfo
    own_cluster.stop()
    with pytest.raises(psycopg.OperationalError):
        ServiceLock(conninfo)


async def test_lost_lock_is_retaken_every_time(database: str) -> None:
    async with watched(database):
        pid = holder(database)
        assert pid is not None
        for _ in range(3):
            await terminate(database, pid)
            pid = await wait_holder(database, other_than=pid)
            assert_refused(database)


async def test_lock_taken_by_another_process_ends_the_service(database: str) -> None:
    with trio.fail_after(LIMIT), held(database) as lock:
        pid = holder(database)
        assert pid is not None
        async with trio.open_nursery() as nursery, open_session(database) as rival:

            async def take() -> None:
                await rival.execute("SELECT pg_advisory_lock(%s)", (SERVICE_LOCK,))

            nursery.start_soon(take)
            async with open_session(database) as session:
                # The rival has queued before the lock is lost, so it gets the lock at that moment.
                while True:
                    cursor = await session.execute("SELECT pid FROM pg_locks WHERE NOT granted")
                    if await cursor.fetchone() == (rival.info.backend_pid,):
                        break
            await terminate(database, pid)
            with pytest.raises(LaunchError, match=r"^another pulse-trio process is using this database"):
                await lock.watch()
            assert holder(database) == rival.info.backend_pid


async def test_notices_from_the_server_are_no_loss(database: str) -> None:
    with trio.fail_after(LIMIT), held(database) as lock:
        await trio.to_thread.run_sync(lock._connection.execute, "LISTEN news")
        pid = holder(database)
        assert pid is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lock.watch)
            async with open_session(database) as session:
                await session.execute("NOTIFY news")
            while lock._connection.pgconn.notifies() is None:
                await trio.lowlevel.checkpoint()
            assert holder(database) == pid
            await terminate(database, pid)
            assert await wait_holder(database, other_than=pid) != pid
            nursery.cancel_scope.cancel()


async def test_lock_survives_a_restart_of_the_server(own_cluster: Cluster) -> None:
    database = own_cluster.conninfo
    async with watched(database):
        for end in (own_cluster.kill, own_cluster.stop):
            end()
            own_cluster.start()
            await wait_holder(database, other_than=None)
            assert_refused(database)


async def test_watch_can_be_cancelled_while_the_server_is_away(own_cluster: Cluster) -> None:
    database = own_cluster.conninfo
    async with watched(database):
        own_cluster.kill()
        await trio.testing.wait_all_tasks_blocked(0.01)
    own_cluster.start()
    with held(database):
        pass
