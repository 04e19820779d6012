"""Queries, transactions, pipelines, COPY and LISTEN, and their state after a cancellation."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import psycopg
import pytest
import trio
import trio.testing
from psycopg.pq import TransactionStatus

from pulse_trio.trio_psycopg import TrioConnection

Conn = TrioConnection[Any]


async def count(conn: Conn) -> int:
    row = await (await conn.execute("select count(*) from t")).fetchone()
    assert row is not None
    return int(row[0])


async def until_running(conninfo: str, text: str, running: bool = True) -> None:
    async with await TrioConnection.connect(conninfo, autocommit=True) as other:
        query = "select count(*) from pg_stat_activity where state='active' and query like %s and pid<>pg_backend_pid()"
        while True:
            row = await (await other.execute(query, [text + "%"])).fetchone()
            assert row is not None
            if bool(row[0]) == running:
                return


async def test_concurrent_queries_take_turns(conn: Conn) -> None:
    got: list[int] = []

    async def one(n: int) -> None:
        row = await (await conn.execute("select %s::int", [n])).fetchone()
        got.append(row[0])

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for n in range(20):
                nursery.start_soon(one, n)
    assert sorted(got) == list(range(20))


async def test_commit_and_rollback(conn: Conn) -> None:
    with trio.fail_after(30):
        async with conn.transaction():
            await conn.execute("insert into t values (1)")
            async with conn.transaction(force_rollback=True):
                await conn.execute("insert into t values (2)")
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with conn.transaction():
                await conn.execute("insert into t values (3)")
                raise ZeroDivisionError
        assert await count(conn) == 1


@pytest.mark.parametrize(("where", "rows"), [("body", 0), ("query", 0), ("before commit", 1)])
async def test_transaction_cancelled(conn: Conn, where: str, rows: int) -> None:
    with trio.fail_after(30):
        with trio.CancelScope() as scope:
            async with conn.transaction():
                await conn.execute("insert into t values (1)")
                if where == "query":
                    scope.deadline = trio.current_time() + 0.05
                    await conn.execute("select pg_sleep(20)")
                scope.cancel()
                if where == "body":
                    await trio.lowlevel.checkpoint()
        assert conn.pgconn.transaction_status == TransactionStatus.IDLE
        assert conn._num_transactions == 0
        assert await count(conn) == rows


async def test_begin_cancelled(conn: Conn) -> None:
    with trio.fail_after(30):
        for n in range(100):
            with trio.move_on_after(n * 5e-6):
                async with conn.transaction():
                    pass
            assert conn.pgconn.transaction_status == TransactionStatus.IDLE
            assert conn._num_transactions == 0


async def test_cancelled_query_is_cancelled_on_the_server(conn: Conn, conninfo: str) -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(conn.execute, "select pg_sleep(21)")
            await until_running(conninfo, "select pg_sleep(21)")
            nursery.cancel_scope.cancel()
        await until_running(conninfo, "select pg_sleep(21)", False)
        assert await count(conn) == 0


async def test_late_cancel_never_hits_the_next_query(conn: Conn) -> None:
    cancelled = 0
    with trio.fail_after(30):
        for n in range(300):
            with trio.move_on_after(0.001 + (n % 30) * 2e-5) as scope:
                await conn.execute("select pg_sleep(0.001)")
            cancelled += scope.cancelled_caught
            assert await count(conn) == 0
    assert cancelled


async def test_pipeline_large_both_ways_and_cancel(conn: Conn) -> None:
    big = "x" * 2_000_000
    with trio.fail_after(30):
        async with conn.pipeline():
            cursors = [await conn.execute("select %s", [big]) for _ in range(4)]
        for cursor in cursors:
            row = await cursor.fetchone()
            assert row == (big,)
        # Cancelled while leaving: the exit has 5 s, then the outcome is unknown.
        with pytest.raises(psycopg.OperationalError, match="unknown"), trio.move_on_after(0.05):
            async with conn.pipeline():
                await conn.execute("select pg_sleep(20)")
        assert conn.closed


async def test_pipeline_cancelled_in_body(conn: Conn) -> None:
    with trio.fail_after(30):
        with trio.move_on_after(0.05) as scope:
            async with conn.pipeline() as pipeline:
                await conn.execute("select pg_sleep(20)")
                await pipeline.sync()
        assert scope.cancelled_caught
        assert conn._pipeline is None
        assert await count(conn) == 0


async def test_executemany(conn: Conn) -> None:
    with trio.fail_after(30):
        await conn.cursor().executemany("insert into t values (%s)", [(n,) for n in range(1000)])
        assert await count(conn) == 1000


async def test_copy_both_ways_and_cancel(conn: Conn) -> None:
    with trio.fail_after(30):
        async with conn.cursor().copy("copy t from stdin") as copy:
            for n in range(1000):
                await copy.write_row((n, "s"))
        async with conn.cursor().copy("copy t to stdout") as copy:
            assert len([row async for row in copy.rows()]) == 1000
        with trio.move_on_after(0.05):
            async with conn.cursor().copy("copy t from stdin") as copy:
                await copy.write_row((1, "s"))
                await trio.sleep_forever()
        assert await count(conn) == 1000
        with trio.move_on_after(0.05) as scope:
            async with conn.cursor().copy("copy (select generate_series(1,100000000)) to stdout") as copy:
                while await copy.read():
                    pass
        assert scope.cancelled_caught
        assert conn.closed or await count(conn) == 1000


async def test_listen_and_close_wakes_the_listener(conn: Conn, conninfo: str) -> None:
    woken: list[str] = []
    with trio.fail_after(30):
        await conn.execute("listen c")
        async with await TrioConnection.connect(conninfo, autocommit=True) as other:
            await other.execute("notify c, 'hello'")
        async with aclosing(conn.notifies()) as notifies:
            async for notify in notifies:
                assert notify.payload == "hello"
                break

        async def listen() -> None:
            try:
                async with aclosing(conn.notifies()) as notifies:
                    async for _ in notifies:
                        pass
            except psycopg.OperationalError as error:
                woken.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await trio.testing.wait_all_tasks_blocked()
            await conn.close()
    assert woken == ["connection socket closed"]
