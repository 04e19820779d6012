"""`TrioConnection`: psycopg's AsyncConnection with every wait on Trio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeVar, cast

import psycopg
import trio
from psycopg import AsyncConnection, AsyncCursor, AsyncPipeline, AsyncTransaction, errors
from psycopg._capabilities import capabilities  # private: "is libpq >= 17" has no public spelling
from psycopg.abc import AdaptContext, ConnParam, Params, PQGen, Query
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import make_conninfo, timeout_from_conninfo
from psycopg.copy import AsyncCopy, AsyncWriter
from psycopg.pq import ConnStatus, TransactionStatus
from psycopg.rows import AsyncRowFactory, Row, tuple_row

from . import _resolve, _version_guard
from ._waiting import drive, drive_connecting
from .prepared import Prepared, Statement
from .prepared import Row as BinaryRow

T = TypeVar("T")
C = TypeVar("C")

EXIT_SECONDS: Final = 5.0  # for ROLLBACK, pipeline sync or a server-side cancel, after a cancellation

_version_guard.check()


class TrioCursor(AsyncCursor[Row]):
    """A cursor whose `copy()` ends its COPY even when cancelled."""

    @asynccontextmanager
    async def copy(
        self, statement: Query, params: Params | None = None, *, writer: AsyncWriter | None = None
    ) -> AsyncIterator[AsyncCopy]:
        """Run a COPY. Cancelled: COPY IN stores nothing; the connection stays usable or is closed."""
        connection = cast("TrioConnection[Any]", self._conn)
        inner = super().copy(statement, params, writer=writer)
        async with _ShieldedExit(connection, inner) as copy:
            yield copy


class TrioTransaction(AsyncTransaction):
    """A transaction whose COMMIT or ROLLBACK is not cut off by a cancellation."""

    _conn: TrioConnection[Any]  # type: ignore[mutable-override]

    async def __aenter__(self) -> Self:
        """Begin. Cancelled: nothing is begun."""
        async with self._conn.lock:
            self._check_enter()  # private, like _enter_gen and _exit_gen: the sans-I/O halves
            try:
                await self._conn.wait(self._enter_gen())
            except BaseException as error:
                # psycopg also rolls back here, but unshielded: on Trio that would be cancelled again at once.
                # ACTIVE: _enter_gen has started, so there is a nesting level to leave.
                if self.status == self.Status.ACTIVE and self.pgconn.status == ConnStatus.OK:
                    undo = self._exit_gen(type(error), error, None)
                    await self._conn._finish(lambda: self._conn.wait(undo), quiet=True)  # noqa: ASYNC102  # shields
                raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        """Commit or roll back, shielded.

        Raises:
            psycopg.OperationalError: cancelled, and the server did not answer: the outcome is unknown.
        """
        leave = super().__aexit__
        done = await self._conn._finish(lambda: leave(exc_type, exc_val, exc_tb), quiet=exc_val is not None)  # noqa: ASYNC102  # shields
        return bool(done)


class _ShieldedExit(AbstractAsyncContextManager[C, bool | None]):
    """Enter `inner` as usual; leave it shielded, because level-triggered cancellation would cut it off."""

    def __init__(self, connection: TrioConnection[Any], inner: AbstractAsyncContextManager[C, Any]) -> None:
        self._connection = connection
        self._inner = inner

    async def __aenter__(self) -> C:
        return await self._inner.__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        leave = self._inner.__aexit__
        return await self._connection._finish(lambda: leave(exc_type, exc_val, exc_tb), quiet=exc_val is not None)  # noqa: ASYNC102  # shields


class TrioConnection(AsyncConnection[Row]):
    """A PostgreSQL connection for Trio; use it like `psycopg.AsyncConnection`.

    Several tasks may share a connection: a FIFO lock serializes their queries.

    Iterate `notifies()` and `cursor.stream()` only under `contextlib.aclosing(...)`: left unclosed, the
    generator keeps the connection's lock (whose owner is the task), and a pool has to discard the connection. End
    `notifies()` with `trio.move_on_after`, not with its `timeout=`, which uses another clock.

    Cancelled during a query: the query is cancelled on the server and its result read and dropped, for at
    most `EXIT_SECONDS`; then Cancelled propagates. The connection stays usable, or is closed.
    """

    lock: trio.Lock  # type: ignore[assignment]  # psycopg declares its asyncio lock
    _closed: bool

    def __init__(
        self,
        pgconn: Any,
        row_factory: AsyncRowFactory[Row] = cast("AsyncRowFactory[Row]", tuple_row),  # noqa: B008
    ) -> None:
        super().__init__(pgconn, row_factory)
        self.lock = trio.Lock()
        self.cursor_factory = TrioCursor
        self._binary = Prepared(pgconn)

    @classmethod
    async def connect(
        cls,
        conninfo: str = "",
        *,
        autocommit: bool = False,
        prepare_threshold: int | None = 5,
        context: AdaptContext | None = None,
        row_factory: AsyncRowFactory[Row] | None = None,
        cursor_factory: type[AsyncCursor[Row]] | None = None,
        **kwargs: ConnParam,
    ) -> Self:
        """Connect to the first address of the first host that answers.

        Args:
            conninfo: libpq's connection string. `connect_timeout` (whole seconds, at least 2) limits each
                attempt and the resolution of each name, on Trio's clock; default 130.
            autocommit: Do not open a transaction at the first statement.
            prepare_threshold: Uses before a statement is prepared; None: never.
            context: Source of adapters.
            row_factory: Makes rows; default tuples.
            cursor_factory: A subclass of `TrioCursor`.
            **kwargs: Override settings of `conninfo`.

        Raises:
            psycopg.OperationalError: no attempt succeeded (ConnectionTimeout if the last one was too slow).
            psycopg.ProgrammingError: the conninfo is malformed.

        Cancelled: nothing is left open.
        """
        params = await cls._get_connection_params(conninfo, **kwargs)  # private: conninfo_to_dict
        timeout = timeout_from_conninfo(params)
        failures: list[tuple[psycopg.Error, str]] = []
        for attempt in await _resolve.attempts(params, timeout):
            where = ", ".join(f"{k}: {attempt.get(k)!r}" for k in ("host", "port", "hostaddr"))
            try:
                with trio.fail_after(timeout):
                    # private _connect_gen: the sans-I/O half of connecting
                    self = await drive_connecting(cls._connect_gen(make_conninfo("", **attempt)))
            except trio.TooSlowError:
                failures.append((errors.ConnectionTimeout("connection timeout expired"), where))
            except psycopg.Error as error:
                failures.append((error, where))
            else:
                break
        else:
            last = failures[-1][0]
            if len(failures) == 1:
                raise last
            lines = [str(last), "Multiple connection attempts failed. All failures were:"]
            lines += [f"- {where}: {error}" for error, where in failures]
            raise type(last)("\n".join(lines)) from last
        # Private attributes, set as by psycopg's connect(): the public setters would do a round trip.
        self._autocommit = bool(autocommit)
        if row_factory:
            self.row_factory = row_factory
        if cursor_factory:
            self.cursor_factory = cursor_factory
        if context:
            self._adapters = AdaptersMap(context.adapters)
        self.prepare_threshold = prepare_threshold
        return self

    def abort(self) -> None:
        """Close at once, without waiting; a task waiting for the socket gets OperationalError."""
        self._closed = True  # private: `broken` is false after a clean close
        try:
            fd = self.pgconn.socket
        except psycopg.Error:
            pass  # libpq has closed the socket already
        else:
            # Before finish(): afterwards the descriptor may belong to another file.
            trio.lowlevel.notify_closing(fd)
        self.pgconn.finish()

    async def close(self) -> None:
        """Close. Never blocks and is not a checkpoint; closing twice is fine."""
        self.abort()

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:  # noqa: ASYNC109  # psycopg's signature
        """Ask the server to cancel the running query.

        Args:
            timeout: Seconds for the request.

        Raises:
            psycopg.errors.CancellationTimeout: the request took longer.
        """
        if not self._should_cancel():  # private: closed, or a prepared two-phase transaction
            return
        try:
            with trio.fail_after(timeout or float("inf")):
                if capabilities.has_cancel_safe():
                    await drive_connecting(self._cancel_gen())  # private: the sans-I/O half
                else:  # libpq < 17 has only a blocking cancel; the binary wheel is newer
                    await trio.to_thread.run_sync(self.cancel, abandon_on_cancel=True)
        except trio.TooSlowError:
            raise errors.CancellationTimeout("cancellation timeout expired") from None

    async def fetch_prepared(self, statement: Statement, values: Sequence[bytes | None]) -> list[BinaryRow]:
        """Run a prepared statement with values and columns in binary format; return its rows.

        It is prepared at its first use on this connection, unless `prepare_threshold` is None. Like a cursor's
        `execute` it begins a transaction if the connection is not in autocommit.

        Args:
            statement: The statement.
            values: Its parameters, as `binary` encodes them.

        Raises:
            psycopg.NotSupportedError: in a pipeline.
            psycopg.Error: as for a cursor.

        Cancelled: see the class. A statement that is being prepared is not run.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            self.lock.acquire_nowait()  # the lock's own checkpoint would cost a turn of the loop; the answer has one
        except trio.WouldBlock:
            await self.lock.acquire()
        try:
            if self._pipeline is not None:  # private; as in transaction()
                raise psycopg.NotSupportedError("a prepared statement cannot be fetched in a pipeline")
            if not self._autocommit:
                await self.wait(self._start_query())  # private: BEGIN, if there is no transaction
            prepare = self.prepare_threshold is not None
            return await self._binary.fetch(statement, values, self.wait, prepare=prepare)
        finally:
            self.lock.release()

    async def wait(self, gen: PQGen[T], interval: float = 0.0, timeout: float | None = None) -> T:  # noqa: ASYNC109
        """Drive `gen` to its end. Every wait of psycopg on a connection happens here.

        Args:
            gen: A generator of psycopg.
            interval: Ignored: Trio needs no polling to notice a cancellation.
            timeout: Seconds; None: no limit.

        Raises:
            psycopg.Error: from the generator; `errors._WaitTimeout` after `timeout`.

        Cancelled: see the class. Before the start, nothing is sent.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        fd = self.pgconn.socket
        try:
            if timeout is None:
                return await drive(gen, fd)
            with trio.move_on_after(timeout):
                return await drive(gen, fd)
            raise errors._WaitTimeout("wait timeout expired")  # private: notifies() catches it
        except trio.Cancelled:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                await self._cancel_and_drain(gen)  # noqa: ASYNC102  # shields itself, with a deadline
            raise

    async def _cancel_and_drain(self, gen: PQGen[Any]) -> None:
        with trio.move_on_after(EXIT_SECONDS, shield=True) as scope:
            try:
                await self.cancel_safe()
                await drive(gen, self.pgconn.socket)
            except errors.QueryCanceled:
                pass  # the expected result of our cancel
            except psycopg.Error:
                # After an error of the statement itself, before our cancel, the connection is still good.
                if self.pgconn.status != ConnStatus.OK:
                    self.abort()
        stuck = self.pgconn.transaction_status == TransactionStatus.ACTIVE and self._pipeline is None
        # ACTIVE outside a pipeline: a COPY or stream that has just begun. Nothing will read it to its end.
        if scope.cancelled_caught or stuck:
            self.abort()

    async def _finish(self, work: Callable[[], Awaitable[T]], *, quiet: bool) -> T | None:
        """Run `work` shielded; after an outer cancellation it has `EXIT_SECONDS`, else the connection is closed.

        Args:
            work: The end of a block.
            quiet: An exception is propagating: do not replace it when time runs out.

        Raises:
            psycopg.OperationalError: time ran out, unless `quiet`; the outcome is unknown.
        """
        result: T | None = None
        failure: BaseException | None = None
        scope = trio.CancelScope(shield=True)

        async def run() -> None:
            nonlocal result, failure
            with scope:
                try:
                    result = await work()
                except trio.Cancelled:
                    raise
                except BaseException as error:
                    failure = error  # raised below, outside the nursery, which would wrap it in a group

        if trio.current_effective_deadline() == float("-inf"):
            scope.deadline = trio.current_time() + EXIT_SECONDS
            await run()
        else:
            # A slow COMMIT that is not cancelled has no deadline, so the deadline starts with the cancellation.
            async def watch() -> None:
                try:
                    await trio.sleep_forever()
                except trio.Cancelled:  # noqa: ASYNC103  # watch(): see its comment
                    if scope.deadline == float("inf"):
                        scope.deadline = trio.current_time() + EXIT_SECONDS
                    # Swallowed: the nursery waits for the work, and the next checkpoint raises it again.

            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                await run()
                nursery.cancel_scope.cancel()
        if scope.cancelled_caught:
            self.abort()
            if not quiet:
                raise psycopg.OperationalError("cancelled, and no answer in time: the outcome is unknown")
            return None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # no reference loop through the frame
        return result

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[AsyncTransaction]:
        """Open a transaction, or a savepoint in one. Cancelled: rolled back, unless COMMIT was already sent."""
        block = TrioTransaction(self, savepoint_name, force_rollback)
        if self._pipeline:  # private; as in psycopg, so that errors of BEGIN are raised here
            async with self.pipeline(), block, self.pipeline():
                yield block
        else:
            async with block:
                yield block

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[AsyncPipeline]:
        """Send without waiting for results.

        Cancelled in the body: pending queries are cancelled and results dropped. Cancelled while leaving: the
        server has `EXIT_SECONDS` to finish, else the connection is closed and OperationalError raised.
        """
        async with _ShieldedExit(self, super().pipeline()) as pipeline:
            yield pipeline

    @asynccontextmanager
    async def _pipeline_nolock(self) -> AsyncIterator[AsyncPipeline]:
        # Private: executemany() opens its pipeline by this method, and leaves it unshielded.
        async with _ShieldedExit(self, super()._pipeline_nolock()) as pipeline:
            yield pipeline
