"""A bounded pool of `TrioConnection`s, refilled in the background."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.rows import AsyncRowFactory
from psycopg.waiting import Wait

from ._waiting import poll_now
from .connection import EXIT_SECONDS, TrioConnection
from .plans import PlanAge, discard_plans
from .slots import Share, Slots

# Sets a session's settings from lists of names and values; returns each name with its new value.
SET_SETTINGS: Final = """
    SELECT name, set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS given (name, value)
"""

FIRST_BACKOFF_SECONDS: Final = 0.1
MAX_BACKOFF_SECONDS: Final = 10.0  # bounds the time to find a restarted server, without flooding it

Connection = TrioConnection[Any]


class PoolTimeout(psycopg.OperationalError):  # named like psycopg_pool's
    """No connection became available within `acquire_timeout`."""


class PoolClosed(psycopg.OperationalError):
    """The pool is closed, or was closed during the wait."""


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """A snapshot of a pool; the last three figures count since the pool was opened."""

    size: int  # connections idle or lent
    idle: int
    waiting: int  # tasks waiting for a connection, idle or new
    opened: int
    discarded: int
    connect_errors: int


@dataclass(slots=True)
class _Idle:
    connection: Connection
    since: float


class Pool:
    """A pool of connections, open inside `async with`.

    The `async with` holds a nursery for the refill task, so an exception of the body propagates in an
    ExceptionGroup.

    Args:
        conninfo: libpq's connection string.
        min_size: Connections kept ready.
        max_size: Maximum number of connections.
        max_idle: Seconds after which an unused connection is closed.
        max_lifetime: Seconds after which a connection is not lent any more.
        replan_after: Age in seconds at which a connection's cached plans are first dropped (see `plans`); None: never.
        connect_timeout: Seconds for each attempt to connect; whole and at least 2, as in libpq.
        acquire_timeout: Seconds to wait for a connection, including connecting.
        statement_timeout: Seconds, enforced by the server; None: no limit.
        server_settings: PostgreSQL settings of each connection. They are set right after connecting, not as startup
            options, which a pooler such as PgBouncer rejects or drops, and win over those of the conninfo.
        configure: Called with each new connection; must leave it IDLE.
        autocommit: Mode of each connection.
        row_factory: Row factory of each connection.
        on_acquired: Called with the seconds that each use waited for its connection; must not raise.
        on_event: Called with "opened", "discarded" or "connect_error" and a reason; must not raise.
        random_source: Returns numbers in [0, 1), for the jitter of the back-off.
        shares: The kinds of callers, each with its share of the connections.
    """

    def __init__(
        self,
        conninfo: str = "",
        *,
        min_size: int = 1,
        max_size: int = 8,
        max_idle: float = 600.0,
        max_lifetime: float = 3600.0,
        replan_after: float | None = None,
        connect_timeout: int = 5,
        acquire_timeout: float = 10.0,
        statement_timeout: float | None = None,
        server_settings: Mapping[str, str] | None = None,
        configure: Callable[[Connection], Awaitable[None]] | None = None,
        autocommit: bool = False,
        row_factory: AsyncRowFactory[Any] | None = None,
        on_acquired: Callable[[float], None] | None = None,
        on_event: Callable[[str, str], None] | None = None,
        random_source: Callable[[], float] = random.random,
        shares: Mapping[Any, Share] | None = None,
    ) -> None:
        if not 0 <= min_size <= max_size or max_size < 1:
            raise ValueError("0 <= min_size <= max_size, and max_size >= 1")
        params = conninfo_to_dict(conninfo)
        params["connect_timeout"] = connect_timeout
        self._settings = dict(server_settings or {})
        if statement_timeout is not None:
            self._settings["statement_timeout"] = str(max(1, round(statement_timeout * 1000)))  # 0 would be no limit
        self._conninfo = make_conninfo("", **params)
        self._min_size = min_size
        self.max_size = max_size
        self._max_idle = max_idle
        self._max_lifetime = max_lifetime
        self._replan_after = replan_after
        self.acquire_timeout = acquire_timeout
        self._configure = configure
        self._autocommit = autocommit
        self._row_factory = row_factory
        self._on_acquired = on_acquired
        self._on_event = on_event
        self._random = random_source
        # A freed slot is handed straight to a waiter. Only the holder of a slot makes a connection, and only while none
        # is idle, so there are never more than max_size.
        self._slots = Slots(max_size, shares)
        self._idle: deque[_Idle] = deque()  # last in, first out, so that unneeded ones reach max_idle
        self._lent: set[Connection] = set()
        self._born: dict[Connection, float] = {}
        self._plan_ages: dict[Connection, PlanAge] = {}
        self._scopes: set[trio.CancelScope] = set()  # of waiting tasks; cancelled by close()
        self._need_refill = trio.Event()
        self._closed = True
        self._opened = self._discarded = self._connect_errors = 0
        self._running: AbstractAsyncContextManager[None] | None = None
        self._nursery: trio.Nursery | None = None

    async def __aenter__(self) -> Self:
        if self._running is not None:
            raise RuntimeError("a Pool can be opened only once")
        self._running = self._run()
        await self._running.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        assert self._running is not None
        return await self._running.__aexit__(exc_type, exc_val, exc_tb)  # noqa: ASYNC102  # leaves a nursery

    @asynccontextmanager
    async def _run(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            self._closed = False
            self._nursery = nursery
            nursery.start_soon(self._keep_filled, name="pool refill")
            try:
                yield
            finally:
                self.close()
                nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Close every connection, lent ones too; waiting tasks get PoolClosed. Does not block."""
        self._closed = True
        for scope in self._scopes:
            scope.cancel()
        for idle in self._idle:
            idle.connection.abort()
        self._idle.clear()
        for connection in self._lent:
            connection.abort()
        self._need_refill.set()

    def _is_closed(self) -> bool:
        return self._closed

    def statistics(self) -> PoolStatistics:
        """Return a snapshot of the pool."""
        return PoolStatistics(
            size=len(self._idle) + len(self._lent),
            idle=len(self._idle),
            waiting=len(self._scopes),
            opened=self._opened,
            discarded=self._discarded,
            connect_errors=self._connect_errors,
        )

    @asynccontextmanager
    async def connection(self, kind: Hashable = None, key: Hashable = None) -> AsyncIterator[Connection]:
        """Lend a connection for a block; uncommitted changes are rolled back at its end.

        Args:
            kind: The kind of caller, whose share it is lent from; None for none of the `shares`.
            key: Callers of one kind with different keys get connections in turn.

        Raises:
            PoolTimeout: none became free, or could be made, within `acquire_timeout`.
            PoolClosed: the pool is closed, or was closed during the wait.
            psycopg.OperationalError: a new connection failed; the pool does not wait for the server.

        Cancelled while waiting: the task leaves the queue, and nothing leaks.
        """
        connection = await self._acquire(kind, key)
        try:
            yield connection
        finally:
            is_lent_on = False
            try:
                await self._roll_back(connection)  # noqa: ASYNC102  # shields itself, with a deadline
                is_lent_on = self._replan_soon(connection, kind)
            finally:
                if not is_lent_on:
                    self._give_back(connection, kind)

    async def _acquire(self, kind: Hashable, key: Hashable) -> Connection:
        if self._closed:
            raise PoolClosed("the pool is closed")
        connection = self._acquire_nowait(kind)
        if connection is not None:
            if self._on_acquired is not None:
                self._on_acquired(0.0)
            return connection
        began = trio.current_time()
        with trio.move_on_after(self.acquire_timeout) as scope:
            self._scopes.add(scope)
            try:
                await self._slots.acquire(kind, key)
                try:
                    connection = self._take_idle() or await self._connect()
                    self._lent.add(connection)
                except BaseException:
                    self._slots.release(kind)
                    self._need_refill.set()
                    raise
            finally:
                self._scopes.discard(scope)
        if self._is_closed():  # a method, because mypy assumes that the attribute cannot have changed
            if connection is not None:
                self._lent.discard(connection)
                self._discard(connection, "pool closed")
                self._slots.release(kind)
            raise PoolClosed("the pool was closed")
        if connection is None:
            raise PoolTimeout(f"no connection within {self.acquire_timeout} s")
        if self._on_acquired is not None:
            self._on_acquired(trio.current_time() - began)
        return connection

    def _acquire_nowait(self, kind: Hashable) -> Connection | None:
        """Take an idle connection without a checkpoint; None if there is none, or others wait."""
        try:
            self._slots.acquire_nowait(kind)
        except trio.WouldBlock:
            return None
        connection = self._take_idle()
        if connection is None:
            self._slots.release(kind)
        else:
            self._lent.add(connection)
        return connection

    def _take_idle(self) -> Connection | None:
        while self._idle:
            idle = self._idle.pop()
            if (why := self._unfit(idle)) is None:
                return idle.connection
            self._discard(idle.connection, why)
        return None

    def _unfit(self, idle: _Idle) -> str | None:
        now = trio.current_time()
        if idle.connection.closed:
            return "closed"
        if now - self._born[idle.connection] > self._max_lifetime:
            return "max_lifetime"
        if now - idle.since > self._max_idle:
            return "max_idle"
        # An idle connection is readable only if the server has closed it, so no round trip is needed.
        if poll_now(idle.connection.pgconn.socket, Wait.R):
            return "readable while idle"
        return None

    async def _connect(self) -> Connection:
        try:
            connection: Connection = await TrioConnection.connect(
                self._conninfo, autocommit=self._autocommit, row_factory=self._row_factory
            )
            try:
                if self._settings:
                    names, values = list(self._settings), list(self._settings.values())
                    await connection.execute(SET_SETTINGS, (names, values), prepare=False)
                    if not self._autocommit:
                        await connection.commit()
                if self._configure is not None:
                    await self._configure(connection)
                    if connection.pgconn.transaction_status != TransactionStatus.IDLE:
                        raise psycopg.ProgrammingError("configure left the connection in a transaction")
            except BaseException:
                connection.abort()
                raise
        except Exception as error:
            self._connect_errors += 1
            self._emit("connect_error", str(error))
            raise
        self._opened += 1
        self._born[connection] = trio.current_time()
        if self._replan_after is not None:
            self._plan_ages[connection] = PlanAge(trio.current_time(), self._replan_after)
        self._emit("opened", "")
        return connection

    async def _roll_back(self, connection: Connection) -> None:
        try:
            if not connection.closed and not connection.lock.locked():
                with trio.move_on_after(EXIT_SECONDS, shield=True):
                    if connection.pgconn.transaction_status != TransactionStatus.IDLE:
                        await connection.rollback()
        except psycopg.Error:
            pass  # `_unclean` detects the broken connection

    def _give_back(self, connection: Connection, kind: Hashable) -> None:
        self._lent.discard(connection)
        if (why := self._unclean(connection)) is None:
            self._idle.append(_Idle(connection, trio.current_time()))
        else:
            self._discard(connection, why)
        self._slots.release(kind)

    def _replan_soon(self, connection: Connection, kind: Hashable) -> bool:
        """Lends a connection with old plans on to a task that drops them, so that nobody waits for it."""
        age = self._plan_ages.get(connection)
        if age is None or self._nursery is None or not age.is_due(trio.current_time()):
            return False
        if self._unclean(connection) is not None:
            return False
        self._nursery.start_soon(self._replan, connection, age, kind, name="new plans")
        return True

    async def _replan(self, connection: Connection, age: PlanAge, kind: Hashable) -> None:
        try:
            with trio.move_on_after(EXIT_SECONDS):
                await discard_plans(connection)
                age.discarded(trio.current_time())
        except psycopg.Error:
            pass  # `_unclean` detects the broken connection; another one tries again after its next use
        finally:
            self._give_back(connection, kind)

    def _unclean(self, connection: Connection) -> str | None:
        if self._closed or connection.closed:
            return "closed"
        if connection.lock.locked():
            return "locked: an unclosed notifies() or stream()"
        if connection.pgconn.transaction_status != TransactionStatus.IDLE:
            return "not idle"
        if connection.pgconn.pipeline_status != PipelineStatus.OFF:
            return "in a pipeline"
        if connection._num_transactions:  # private: number of open transaction blocks
            return "transaction blocks left open"
        return None

    def _discard(self, connection: Connection, why: str) -> None:
        connection.abort()
        self._born.pop(connection, None)
        self._plan_ages.pop(connection, None)
        self._discarded += 1
        self._emit("discarded", why)
        self._need_refill.set()

    def _emit(self, event: str, reason: str) -> None:
        if self._on_event is not None:
            self._on_event(event, reason)

    async def _keep_filled(self) -> None:
        failures = 0
        while not self._closed:
            self._need_refill = trio.Event()
            self._reap()
            try:
                filled = await self._refill_one()
                failures = 0
            except Exception:  # counted and reported in _connect; the next try may succeed
                ceiling = min(MAX_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures, 16))
                failures += 1
                await trio.sleep(ceiling * (0.5 + self._random() / 2))
                continue
            if not filled:
                with trio.move_on_after(max(0.05, min(self._max_idle, self._max_lifetime, 60.0) / 4)):
                    await self._need_refill.wait()

    def _reap(self) -> None:
        for idle in list(self._idle):
            if (why := self._unfit(idle)) is not None:
                self._idle.remove(idle)
                self._discard(idle.connection, why)

    async def _refill_one(self) -> bool:
        """Make one connection if there are fewer than min_size; return False if there is nothing to do."""
        if len(self._idle) + len(self._lent) >= self._min_size:
            return False
        try:
            self._slots.acquire_nowait()  # so that max_size holds while we connect
        except trio.WouldBlock:
            return False  # tasks hold all slots, and make their own connections
        try:
            if len(self._idle) > self._slots.value:
                return False  # a task that found none idle is making one
            connection = await self._connect()
            if self._is_closed():  # by close() during the handshake
                self._discard(connection, "closed")
                return False
            self._idle.appendleft(_Idle(connection, trio.current_time()))
        finally:
            self._slots.release()
        return True
