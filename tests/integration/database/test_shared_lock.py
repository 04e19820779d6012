"""The service lock of a cluster: shared by its processes, and exclusive towards all others."""

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

import psycopg
import pytest
import trio

from pulse_trio.database.schema import SERVICE_LOCK, establish_epoch, migrate, renew_epoch
from pulse_trio.database.service_lock import DatabaseTaken, ServiceLock
from tests.faults.test_failover import both, two_servers

LIMIT = 60  # seconds


@contextmanager
def held(conninfo: str, *, shared: bool = True) -> Iterator[ServiceLock]:
    lock = ServiceLock(conninfo, shared=shared)
    try:
        yield lock
    finally:
        lock.close()


@asynccontextmanager
async def cluster_of(conninfo: str, count: int) -> AsyncIterator[list[ServiceLock]]:
    """Processes of a cluster that watch their locks and know the history."""
    with trio.fail_after(LIMIT), ExitStack() as stack:
        locks = [stack.enter_context(held(conninfo)) for _ in range(count)]
        for lock in locks:
            lock.establish_history()
        async with trio.open_nursery() as nursery:
            for lock in locks:
                nursery.start_soon(lock.watch)
            yield locks
            nursery.cancel_scope.cancel()


def test_processes_of_a_cluster_share_it_and_refuse_a_process_alone(database: str) -> None:
    with held(database), held(database):
        with pytest.raises(DatabaseTaken, match=r"^another pulse-trio process .* belongs to a cluster") as caught:
            ServiceLock(database)
        assert "PULSE_CLUSTER=true" in str(caught.value)
        assert caught.value.holder.startswith("pid ")
        assert "\n" not in str(caught.value)
        with held(database):
            pass
    wait_free(database)
    with held(database, shared=False):
        pass


def test_a_process_alone_refuses_a_cluster_and_another_process_alone(database: str) -> None:
    with held(database, shared=False):
        with pytest.raises(DatabaseTaken, match=r"^another pulse-trio process .* does not belong to a cluster"):
            ServiceLock(database, shared=True)
        with pytest.raises(DatabaseTaken, match=r"^another pulse-trio process .* rooms live in one process"):
            ServiceLock(database)


def test_the_versions_before_clusters_and_a_cluster_refuse_each_other(database: str) -> None:
    """Covers what those versions run at their start, word by word."""
    take = f"SELECT pg_try_advisory_lock({SERVICE_LOCK})"
    with psycopg.connect(database, autocommit=True) as former:
        with held(database):
            assert former.execute(take).fetchone() == (False,)  # type: ignore[arg-type]  # our own text
        wait_free(database)
        assert former.execute(take).fetchone() == (True,)  # type: ignore[arg-type]  # our own text
        with pytest.raises(DatabaseTaken, match="does not belong to a cluster"):
            ServiceLock(database, shared=True)


def wait_free(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True, options=f"-c statement_timeout={LIMIT}s") as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (SERVICE_LOCK,))
        connection.execute("SELECT pg_advisory_unlock(%s)", (SERVICE_LOCK,))


async def test_a_process_alone_that_takes_a_lost_lock_ends_the_cluster(database: str) -> None:
    """No process of a cluster goes on beside one that knows nothing of it."""
    with trio.fail_after(LIMIT), held(database) as lock, psycopg.connect(database, autocommit=True) as rival:
        lock.establish_history()
        # The rival waits for the lock, and so has it as soon as it is lost.
        took = trio.Event()

        def take() -> None:
            rival.execute("SELECT pg_advisory_lock(%s)", (SERVICE_LOCK,))

        async def take_when_lost() -> None:
            await trio.to_thread.run_sync(take)
            took.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take_when_lost)
            await trio.to_thread.run_sync(wait_queued, database)
            lock.look_again()
            with pytest.raises(DatabaseTaken, match="does not belong to a cluster"):
                await lock.watch()
            await took.wait()


def wait_queued(conninfo: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        while connection.execute("SELECT FROM pg_locks WHERE NOT granted").fetchone() is None:
            pass


async def test_all_processes_move_to_the_promoted_server_and_to_one_epoch() -> None:
    with two_servers() as (primary, standby):
        conninfo = both(primary, standby)
        migrate(conninfo)
        establish_epoch(conninfo)
        async with cluster_of(conninfo, 3) as locks:
            before = {lock.history for lock in locks}
            assert len(before) == 1
            primary.kill()
            standby.promote()
            for lock in locks:
                await lock.wait_moved()
            after = {lock.history for lock in locks}
            assert len(after) == 1
            assert {history.epoch for history in before} != {history.epoch for history in after}


async def test_a_new_epoch_is_found_when_a_process_looks_again(database: str) -> None:
    async with cluster_of(database, 2) as locks:
        before = locks[0].history
        renew_epoch(database)
        for lock in locks:
            lock.look_again()
            await lock.wait_moved()
        assert locks[0].history == locks[1].history
        assert locks[0].history.server == before.server
        assert locks[0].history.epoch != before.epoch


async def test_a_look_that_finds_nothing_new_changes_nothing(database: str) -> None:
    async with cluster_of(database, 1) as (lock,):
        before = lock.history
        session = lock._last_session
        lock.look_again(before.server)
        while lock._last_session == session:  # noqa: ASYNC110  # the lock sends no event
            await trio.sleep(0.01)
        assert lock.history == before
        with trio.move_on_after(0.2) as waiting:
            await lock.wait_moved()
        assert waiting.cancelled_caught


async def test_a_server_that_another_process_has_left_is_used_no_more(database: str) -> None:
    """The former primary still answers here, but others have moved to the one that was promoted."""
    async with cluster_of(database, 1) as (lock,):
        cluster, timeline, oid = lock.history.server.split("/")
        with psycopg.connect(database, autocommit=True) as connection:
            lock.look_again(f"{cluster}/{int(timeline) + 1}/{oid}")
            query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            await trio.sleep(1)  # it would have taken the lock again twice
            assert connection.execute(query).fetchone() == (0,)
