"""Prepared statements in libpq's binary format: values, errors, lost names, and the connection after a cancellation."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any, Final, LiteralString

import psycopg
import pytest
import trio
import trio.testing
from psycopg.pq import TransactionStatus

from pulse_trio.trio_psycopg import Pool, Statement, TrioConnection, binary
from tests.integration.trio_psycopg.test_connection import until_running

Conn = TrioConnection[Any]

ADD: Final = Statement("insert into t values ($1::bigint, $2) returning n::bigint, s", binary.INT8_OID, binary.TEXT_OID)
COUNT: Final = Statement("select count(*) from t")
ALL: Final = Statement("select * from t")
SLEEP: Final = Statement("select pg_sleep(23)")
PREPARED: Final = Statement("select count(*) from pg_prepared_statements where not from_sql")


async def number(conn: Conn, statement: Statement = COUNT) -> int:
    ((value,),) = await conn.fetch_prepared(statement, [])
    assert value is not None
    return binary.read_int8(value)


async def add(conn: Conn, n: int, s: str | None = None) -> tuple[int, str | None]:
    ((found, text),) = await conn.fetch_prepared(ADD, [binary.int8(n), binary.text(s)])
    assert found is not None
    return binary.read_int8(found), None if text is None else text.decode()


# --- values ---


async def test_values_and_rows(conn: Conn) -> None:
    with trio.fail_after(30):
        assert await conn.fetch_prepared(ALL, []) == []
        assert await add(conn, -(2**40 - 2**40) - 7, "grüße 🙂") == (-7, "grüße 🙂")
        assert await add(conn, 8) == (8, None)
        assert await conn.fetch_prepared(Statement("select s from t order by n desc"), []) == [
            (None,),
            ("grüße 🙂".encode(),),
        ]
        assert await conn.fetch_prepared(Statement("delete from t"), []) == []
        assert await number(conn) == 0


MOMENTS: Final = [
    datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    datetime(1999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(2026, 6, 1, 0, 0, tzinfo=timezone(timedelta(hours=5, minutes=30))),
]
IDS: Final = [uuid.UUID(int=0), uuid.UUID(int=2**128 - 1), uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")]
TYPES: Final[dict[int, LiteralString]] = {
    binary.UUIDS_OID: "uuid[]",
    binary.TEXTS_OID: "text[]",
    binary.TIMESTAMPTZS_OID: "timestamptz[]",
    binary.UUID_OID: "uuid",
    binary.TEXT_OID: "text",
    binary.TIMESTAMPTZ_OID: "timestamptz",
    binary.INT8_OID: "bigint",
}
TEXTS: Final = ["", "a", None, "grüße 🙂", 'quoted " and \\ { , }']


@pytest.mark.parametrize(
    ("sent", "oid", "expected"),
    [
        (binary.uuids(IDS), binary.UUIDS_OID, IDS),
        (binary.uuids([]), binary.UUIDS_OID, []),
        (binary.texts(TEXTS), binary.TEXTS_OID, TEXTS),
        (binary.texts([]), binary.TEXTS_OID, []),
        (binary.timestamptzs(MOMENTS), binary.TIMESTAMPTZS_OID, MOMENTS),
        (binary.timestamptz(MOMENTS[1]), binary.TIMESTAMPTZ_OID, MOMENTS[1]),
        (IDS[2].bytes, binary.UUID_OID, IDS[2]),
        (binary.text(TEXTS[4]), binary.TEXT_OID, TEXTS[4]),
        (binary.int8(-(2**62)), binary.INT8_OID, -(2**62)),
    ],
    ids=["uuids", "no uuids", "texts", "no texts", "times", "time", "uuid", "text", "bigint"],
)
async def test_the_server_reads_what_was_encoded(conn: Conn, sent: bytes, oid: int, expected: object) -> None:
    """The server compares it with the same value, as psycopg sends it."""
    with trio.fail_after(30):
        await conn.execute(f"create temp table one (value {TYPES[oid]})")
        await conn.execute("insert into one values (%s)", [expected])
        same = Statement("select 1::bigint from one where value is not distinct from $1", oid)
        assert await conn.fetch_prepared(same, [sent]) == [(binary.int8(1),)]


async def test_arrays_are_decoded(conn: Conn) -> None:
    numbers, words = [1, -2, 2**62], ["", "grüße 🙂", "a,b"]
    statement = Statement(
        "select '{1,-2,4611686018427387904}'::bigint[], $1, '{}'::bigint[], '{}'::text[]", binary.TEXTS_OID
    )
    with trio.fail_after(30):
        ((first, second, *empty),) = await conn.fetch_prepared(statement, [binary.texts(words)])
    assert first is not None
    assert second is not None
    assert (binary.read_int8s(first), binary.read_texts(second)) == (numbers, words)
    assert empty[0] is not None
    assert empty[1] is not None
    assert (binary.read_int8s(empty[0]), binary.read_texts(empty[1])) == ([], [])


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(TypeError):
        binary.timestamptz(datetime(2026, 1, 1))
    with pytest.raises(UnicodeEncodeError):
        binary.texts(["\ud800"])


async def test_values_larger_than_the_sockets_buffers(conn: Conn) -> None:
    big = "x" * 8_000_000
    with trio.fail_after(30):
        assert await add(conn, 1, big) == (1, big)


# --- names ---


async def test_a_statement_is_prepared_once(conn: Conn) -> None:
    with trio.fail_after(30):
        for n in range(5):
            await add(conn, n)
        assert await number(conn) == 5
        assert await number(conn, PREPARED) == 3


async def test_without_a_threshold_nothing_is_prepared(conninfo: str) -> None:
    """As for a pooler that gives each transaction another session."""
    with trio.fail_after(30):
        async with await TrioConnection.connect(conninfo, autocommit=True, prepare_threshold=None) as conn:
            await conn.execute("create temp table t (n int, s text)")
            assert await add(conn, 1, "a") == (1, "a")
            assert [await number(conn, PREPARED) for _ in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("forget", ["discard all", "deallocate all"])
async def test_a_forgotten_name_is_prepared_again(conn: Conn, forget: LiteralString) -> None:
    with trio.fail_after(30):
        await add(conn, 1)
        await conn.execute(forget)
        await add(conn, 2)
        assert await number(conn) == 2
        await conn.execute(forget)
        with pytest.raises(psycopg.errors.InvalidSqlStatementName):
            async with conn.transaction():
                await add(conn, 3)
        await add(conn, 3)
        assert await number(conn) == 3


async def test_names_forgotten_by_psycopg_itself(conninfo: str) -> None:
    """After a rollback psycopg deallocates all statements, not only its own."""
    with trio.fail_after(30):
        async with Pool(conninfo, autocommit=True, max_size=1) as pool:
            for n in range(3):
                async with pool.connection() as conn:
                    await conn.execute("create temp table if not exists t (n int, s text)")
                    await conn.execute("select 1", prepare=True)
                    await add(conn, n)
                    await conn.execute("begin")  # rolled back as it is given back
            async with pool.connection() as conn:
                assert await number(conn) == 3


async def test_a_changed_table_is_prepared_again(conn: Conn) -> None:
    with trio.fail_after(30):
        await conn.execute("insert into t values (1, 'a')")
        assert [len(row) for row in await conn.fetch_prepared(ALL, [])] == [2]
        await conn.execute("alter table t add column more int")
        assert [len(row) for row in await conn.fetch_prepared(ALL, [])] == [3]


# --- states ---


async def test_concurrent_use(conn: Conn) -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            for n in range(20):
                nursery.start_soon(add, conn, n)
                nursery.start_soon(conn.execute, "insert into t values (0)")
        assert await number(conn) == 40


async def test_a_transaction_begins_as_for_a_cursor(conninfo: str, conn: Conn) -> None:
    with trio.fail_after(30):
        async with await TrioConnection.connect(conninfo) as other:
            await add(other, 1)
            assert other.pgconn.transaction_status == TransactionStatus.INTRANS
            assert await number(conn) == 0
            await other.commit()
            assert await number(conn) == 1
            async with other.transaction(force_rollback=True):
                await add(other, 2)
        assert await number(conn) == 1


async def test_a_pipeline_is_refused(conn: Conn) -> None:
    with trio.fail_after(30):
        async with conn.pipeline():
            with pytest.raises(psycopg.NotSupportedError, match="pipeline"):
                await add(conn, 1)
            cursor = await conn.execute("select 1")
        assert await cursor.fetchone() == (1,)
        assert await number(conn) == 0


# --- errors ---


async def test_errors_are_those_of_a_cursor(conn: Conn) -> None:
    with trio.fail_after(30):
        await conn.execute("create unique index one_n on t (n)")
        await add(conn, 1)
        with pytest.raises(psycopg.errors.UniqueViolation, match="duplicate key") as caught:
            await add(conn, 1)
        assert caught.value.diag.constraint_name == "one_n"
        assert caught.value.sqlstate == "23505"
        with pytest.raises(psycopg.errors.CharacterNotInRepertoire):
            await add(conn, 2, "\0")
        with pytest.raises(psycopg.errors.UndefinedTable):
            await conn.fetch_prepared(Statement("select from nowhere"), [])
        with pytest.raises(psycopg.ProgrammingError, match="COPY_OUT"):
            await conn.fetch_prepared(Statement("copy t to stdout"), [])


@pytest.mark.parametrize("threshold", [5, None], ids=["prepared", "text"])
async def test_an_error_of_the_commit_is_raised(conn: Conn, threshold: int | None) -> None:
    """A statement in autocommit commits after its rows are sent: the error of the commit follows them."""
    with trio.fail_after(30):
        await conn.execute("alter table t add constraint u unique (n) deferrable initially deferred")
        conn.prepare_threshold = threshold
        await add(conn, 1)
        with pytest.raises(psycopg.errors.UniqueViolation):
            await add(conn, 1)
        assert await number(conn) == 1


async def test_an_error_ends_a_transaction(conn: Conn) -> None:
    with trio.fail_after(30):
        with pytest.raises(psycopg.errors.CharacterNotInRepertoire):  # noqa: PT012
            async with conn.transaction():
                await add(conn, 1)
                await add(conn, 2, "\0")
        assert conn.pgconn.transaction_status == TransactionStatus.IDLE
        assert await number(conn) == 0


async def test_notices_and_notifications_are_handed_on(conn: Conn) -> None:
    notices: list[str | None] = []
    notified: list[str] = []
    conn.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary))
    conn.add_notify_handler(lambda notify: notified.append(notify.payload))
    with trio.fail_after(30):
        await conn.execute("listen c")
        await conn.execute(
            "create function pg_temp.speak() returns bigint language plpgsql"
            " as $$ begin raise notice 'hello'; perform pg_notify('c', 'news'); return 1; end $$"
        )
        assert await number(conn, Statement("select pg_temp.speak()")) == 1
        await number(conn)
    assert (notices, notified) == (["hello"], ["news"])


async def test_statement_timeout(conn: Conn) -> None:
    with trio.fail_after(30):
        await conn.execute("set statement_timeout = '50ms'")
        with pytest.raises(psycopg.errors.QueryCanceled, match="statement timeout"):
            await conn.fetch_prepared(SLEEP, [])
        assert await number(conn) == 0


# --- lost connections ---


async def _end_session(conn: Conn, other: Conn) -> None:
    await other.execute("select pg_terminate_backend(%s, 5000)", [conn.info.backend_pid])


async def _abort(conn: Conn, other: Conn) -> None:
    conn.abort()


@pytest.mark.parametrize("end", [_end_session, _abort])
@pytest.mark.parametrize("during", [True, False], ids=["running", "idle"])
async def test_lost_connection(conn: Conn, conninfo: str, during: bool, end: Callable[[Conn, Conn], Any]) -> None:
    caught: list[psycopg.Error] = []

    async def fetch(statement: Statement) -> None:
        try:
            await conn.fetch_prepared(statement, [])
        except psycopg.OperationalError as error:
            caught.append(error)

    with trio.fail_after(30):
        await number(conn)
        async with await TrioConnection.connect(conninfo, autocommit=True) as other:
            if during:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fetch, SLEEP)
                    await until_running(conninfo, "select pg_sleep(23)")
                    await end(conn, other)
            else:
                await end(conn, other)
                await fetch(COUNT)
        await fetch(COUNT)
        assert len(caught) == 2
        assert conn.closed
        assert not conn.lock.locked()


# --- cancellation ---


async def test_cancelled_before_it_starts(conn: Conn) -> None:
    with trio.fail_after(30):
        with trio.CancelScope() as scope:
            scope.cancel()
            await add(conn, 1)
        assert scope.cancelled_caught
        assert not conn.lock.locked()
        assert await number(conn) == 0


async def test_cancelled_while_another_task_has_the_connection(conn: Conn) -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(conn.execute, "select pg_sleep(20)")
            await trio.testing.wait_all_tasks_blocked()
            with trio.move_on_after(0.02) as scope:
                await add(conn, 1)
            nursery.cancel_scope.cancel()
        assert scope.cancelled_caught
        assert await number(conn) == 0


async def test_cancelled_while_it_is_prepared(conn: Conn, conninfo: str) -> None:
    """A lock keeps the server from preparing it. It is cancelled there, and not run."""
    with trio.fail_after(30):
        async with await TrioConnection.connect(conninfo) as other:
            await other.execute("lock table t in access exclusive mode")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(add, conn, 1)
                await until_running(conninfo, "insert into t values ($1::bigint")
                nursery.cancel_scope.cancel()
            assert conn.pgconn.transaction_status == TransactionStatus.IDLE
            await other.rollback()
        assert await number(conn) == 0
        assert await add(conn, 1) == (1, None)


async def test_cancelled_while_it_runs(conn: Conn, conninfo: str) -> None:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(conn.fetch_prepared, SLEEP, []))
            await until_running(conninfo, "select pg_sleep(23)")
            nursery.cancel_scope.cancel()
        await until_running(conninfo, "select pg_sleep(23)", False)
        assert conn.pgconn.transaction_status == TransactionStatus.IDLE
        assert await number(conn) == 0


async def test_cancelled_at_any_moment(conn: Conn) -> None:
    """A late cancel never hits the next statement, and what was not cancelled is stored once."""
    short = Statement("insert into t select 1 from pg_sleep(0.001) returning 1::bigint")
    done = cancelled = 0
    with trio.fail_after(30):
        for n in range(300):
            with trio.move_on_after((n % 40) * 6e-5) as scope:
                done += len(await conn.fetch_prepared(short, []))
            cancelled += scope.cancelled_caught
            assert done <= await number(conn) <= done + cancelled
            assert conn.pgconn.transaction_status == TransactionStatus.IDLE
    assert cancelled
    assert done


async def test_cancelled_at_each_wait(conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts the waits of a first use (BEGIN, preparing, running), and cancels at each of them."""
    wait_readable = trio.lowlevel.wait_readable
    left = [10**6]
    scope = trio.CancelScope()

    async def counting(fd: Any) -> None:
        left[0] -= 1
        if not left[0]:
            scope.cancel()
        await wait_readable(fd)

    await conn.set_autocommit(False)
    with trio.fail_after(30):
        monkeypatch.setattr(trio.lowlevel, "wait_readable", counting)
        before = left[0]
        await add(conn, 0)
        waits = before - left[0]
        assert waits == 3
        await conn.rollback()
        for n in range(1, waits + 1):
            await conn.execute("deallocate all")
            await conn.rollback()
            conn._binary._names.clear()
            scope = trio.CancelScope()
            left[0] = n
            with scope:
                await add(conn, n)
            left[0] = 10**6
            assert scope.cancelled_caught
            assert conn.pgconn.transaction_status != TransactionStatus.ACTIVE
            assert not conn.lock.locked()
            await conn.rollback()
            assert await number(conn) == 0
