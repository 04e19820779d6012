"""The pool: bounds, order, time limits, dirty and dead connections, outage."""

from __future__ import annotations

import psycopg
import pytest
import trio
import trio.testing

from pulse_trio.trio_psycopg import Pool, PoolClosed, PoolTimeout
from tests.support.cluster import Cluster


async def pid(pool: Pool) -> int:
    async with pool.connection() as conn:
        return conn.info.backend_pid


async def test_fifo_and_bounded(conninfo: str) -> None:
    order: list[int] = []
    with trio.fail_after(30):
        async with Pool(conninfo, max_size=1) as pool, trio.open_nursery() as nursery:

            async def one(n: int) -> None:
                async with pool.connection() as conn:
                    await conn.execute("select 1")
                    assert pool.statistics().size == 1
                    order.append(n)

            async with pool.connection():
                for n in range(10):
                    nursery.start_soon(one, n)
                    await trio.testing.wait_all_tasks_blocked()
                assert pool.statistics().waiting == 10
    assert order == list(range(10))


async def test_acquire_timeout_and_close_wakes(conninfo: str) -> None:
    with trio.fail_after(30):
        async with Pool(conninfo, max_size=1, acquire_timeout=0.05) as pool, pool.connection():
            with pytest.raises(PoolTimeout):
                await pid(pool)
        async with Pool(conninfo, max_size=1) as pool, pool.connection(), trio.open_nursery() as nursery:

            async def waiter() -> None:
                with pytest.raises(PoolClosed):
                    await pid(pool)

            nursery.start_soon(waiter)
            await trio.testing.wait_all_tasks_blocked()
            pool.close()
        with pytest.raises(PoolClosed):
            await pid(pool)


@pytest.mark.parametrize("setting", ["max_idle", "max_lifetime"])
async def test_old_connections_are_replaced(conninfo: str, setting: str) -> None:
    with trio.fail_after(30):
        async with Pool(conninfo, min_size=0, **{setting: 0.0}) as pool:
            assert await pid(pool) != await pid(pool)


async def test_dirty_and_failed_are_rolled_back(conninfo: str) -> None:
    with trio.fail_after(30):
        async with Pool(conninfo, max_size=1) as pool:
            async with pool.connection() as conn:
                await conn.execute("create table dirty (n int)")
                first = conn.info.backend_pid
            async with pool.connection() as conn:
                with pytest.raises(psycopg.errors.UndefinedTable):
                    await conn.execute("select * from dirty")
            assert await pid(pool) == first


async def test_killed_backend_is_replaced(conninfo: str) -> None:
    with trio.fail_after(30):
        async with Pool(conninfo) as pool, Pool(conninfo) as killer:
            first = await pid(pool)
            async with killer.connection() as conn:
                await conn.execute("select pg_terminate_backend(%s, 5000)", [first])
            assert await pid(pool) != first


async def test_recovers_from_sigkill(own_cluster: Cluster) -> None:
    with trio.fail_after(30):
        async with Pool(own_cluster.conninfo, min_size=2) as pool:
            await pid(pool)
            own_cluster.kill()
            with pytest.raises(psycopg.OperationalError):  # noqa: PT012
                while True:
                    async with pool.connection() as conn:
                        await conn.execute("select 1")
            own_cluster.start()  # on this thread, because the server ends with the thread that started it
            while pool.statistics().idle < 2:  # noqa: ASYNC110
                await trio.sleep(0.01)
            await pid(pool)


async def test_stress_with_cancellations(conninfo: str) -> None:
    with trio.fail_after(30):
        async with Pool(conninfo, max_size=4) as pool:

            async def job(n: int) -> None:
                with trio.move_on_after((n % 50) * 0.001):
                    async with pool.connection() as conn, conn.transaction():
                        await conn.execute("select pg_sleep(0.002)")

            async with trio.open_nursery() as nursery:
                for n in range(300):
                    nursery.start_soon(job, n)
            while pool._slots.value < 4:  # noqa: ASYNC110  # the refill may hold one while it connects
                await trio.sleep(0.01)
            assert pool.statistics().waiting == 0
            assert pool.statistics().size <= 4
            assert not pool._lent


async def test_statement_timeout_merges_options(conninfo: str) -> None:
    with trio.fail_after(30):
        settings = f"{conninfo} options='-c application_name=me'"
        async with Pool(settings, statement_timeout=0.05) as pool, pool.connection() as conn:
            assert await (await conn.execute("show application_name")).fetchone() == ("me",)
            with pytest.raises(psycopg.errors.QueryCanceled):
                await conn.execute("select pg_sleep(20)")


@pytest.mark.parametrize("autocommit", [False, True])
async def test_settings_need_no_startup_options_and_persist(conninfo: str, autocommit: bool) -> None:
    settings = {"work_mem": "5MB"}
    with trio.fail_after(30):
        async with Pool(conninfo, server_settings=settings, autocommit=autocommit) as pool:
            for _ in range(2):
                async with pool.connection() as conn:
                    assert not conn.info.options
                    assert await (await conn.execute("show work_mem")).fetchone() == ("5MB",)
                    await conn.rollback()


async def test_the_wait_for_a_connection_is_reported(conninfo: str) -> None:
    waits: list[float] = []
    with trio.fail_after(20):
        async with Pool(conninfo, min_size=0, max_size=1, on_acquired=waits.append) as pool:
            async with pool.connection():  # makes the connection
                pass
            async with pool.connection():
                pass
            assert len(waits) == 2
            assert waits[0] > waits[1] == 0.0

            async def hold() -> None:
                async with pool.connection() as connection:
                    await connection.execute("SELECT pg_sleep(0.2)")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(hold)
                while pool.statistics().idle:
                    await trio.lowlevel.checkpoint()
                nursery.start_soon(hold)
            assert len(waits) == 4
            assert waits[3] > 0.1


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize(("replan_after", "expected"), [(None, "Seq Scan"), (0.0, "Index Only Scan")])
async def test_plans_are_made_anew(
    cluster: Cluster, replan_after: float | None, expected: str, autocommit: bool
) -> None:
    """A plan that was made for a table of one row is dropped between two uses of its connection."""
    settings = {"plan_cache_mode": "force_generic_plan", "enable_bitmapscan": "off"}
    database = cluster.new_database(migrated=False)
    with trio.fail_after(30), psycopg.connect(database, autocommit=True) as admin:
        admin.execute("create table growing (n int primary key) with (autovacuum_enabled = false)")
        admin.execute("insert into growing values (0)")
        admin.execute("analyze growing")
        async with Pool(
            database, max_size=1, replan_after=replan_after, server_settings=settings, autocommit=autocommit
        ) as pool:

            async def scan() -> str:
                async with pool.connection() as conn:
                    plan = await (await conn.execute("explain (format json) execute find (7)")).fetchone()
                    assert plan is not None
                    return str(plan[0][0]["Plan"]["Node Type"])

            async with pool.connection() as conn:
                await conn.execute("prepare find (int) as select from growing where n = $1")
                await conn.commit()
            assert await scan() == "Seq Scan"
            admin.execute("insert into growing select generate_series(1, 10000)")
            await scan()
            assert await scan() == expected


async def test_a_connection_that_breaks_before_its_plans_are_dropped_is_replaced(conninfo: str) -> None:
    with trio.fail_after(30):
        async with Pool(conninfo, max_size=1, replan_after=0.0) as pool, Pool(conninfo) as killer:
            async with pool.connection() as conn:
                first = conn.info.backend_pid
                async with killer.connection() as other:
                    await other.execute("select pg_terminate_backend(%s, 5000)", [first])
            assert await pid(pool) != first
            assert pool.statistics().size == 1


async def test_pool_closes_while_plans_are_dropped(conninfo: str) -> None:
    with trio.fail_after(30):
        async with Pool(conninfo, max_size=1, replan_after=0.0) as pool:
            await pid(pool)
            assert pool.statistics().idle == 0  # the task has not run yet
        assert pool.statistics().size == 0
