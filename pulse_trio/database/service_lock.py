"""One service process per database: rooms live in one process, and a second one would silently split conversations.

The connection that holds the lock also identifies the history. When the lock must be taken again, the database may be
another server, such as a promoted standby, where this process's knowledge of the history may be wrong.
"""

from functools import partial
from typing import Any, Final

import psycopg
import structlog
import trio

from pulse_trio.database.durability import DURABILITY_SETTINGS, SETTINGS_OFF, reject_lossy_settings
from pulse_trio.database.schema import ESTABLISH_EPOCH, SERVER, SERVICE_LOCK, History, holder_of, new_epoch
from pulse_trio.database.sessions import (
    READ_ONLY,
    Sessions,
    as_lists,
    open_session,
    require_own_sessions,
    with_keepalives,
)
from pulse_trio.errors import LaunchError
from pulse_trio.trio_psycopg import SET_SETTINGS, TrioConnection

RETRY: Final = 0.5  # seconds between attempts to retake the lock

_TAKEN: Final = (
    "another pulse-trio process is using this database ({holder}): rooms live in one process, so stop that one first "
    "(and keep workers = 0)"
)
# `backend_start` distinguishes a session from a later one with the same pid.
_TAKE: Final = f"""
    SELECT pg_try_advisory_lock({SERVICE_LOCK}), ({holder_of(SERVICE_LOCK)}), pid, backend_start
    FROM pg_stat_activity WHERE pid = pg_backend_pid()
"""  # noqa: S608  # our own text
_END_LAST_SESSION: Final = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid = %s AND backend_start = %s
"""

log = structlog.get_logger(__name__)


class DatabaseTaken(LaunchError):
    """Another process has the service lock.

    Attributes:
        holder: its session: pid, application, address.
    """

    def __init__(self, holder: str) -> None:
        self.holder = holder
        super().__init__(_TAKEN.format(holder=holder))


class ServiceLock:
    """A PostgreSQL advisory lock on its own connection; the server releases it when this process dies.

    It is taken before the event loop runs, so that a second process fails before it serves anything. Call
    `require_own_sessions` before: a pooler that shares sessions would share the lock.

    Args:
        conninfo: libpq connection string.
        sessions: the plan of the service's other sessions; checked again on each server found later.
        allow_losing_commits: accept a server that may lose commits.

    Raises:
        DatabaseTaken: another process has the lock.
        psycopg.Error: the database cannot be reached.
    """

    def __init__(self, conninfo: str, *, sessions: Sessions | None = None, allow_losing_commits: bool = True) -> None:
        self._own = with_keepalives(conninfo)
        self._sessions = sessions
        self._allow_losing_commits = allow_losing_commits
        self._history: History | None = None
        self._moved = trio.Event()
        self._last_session: tuple[Any, ...] = ()  # that had the lock: pid and start
        self._connection: psycopg.Connection | TrioConnection = open_session(self._own)
        try:
            self._check_taken(self._connection.execute(_TAKE).fetchone())
        except BaseException:
            self.close()
            raise

    def establish_history(self) -> None:
        """Reads which history this is, before the event loop runs; on another server than before it gets a new epoch.

        Raises:
            psycopg.Error: the database cannot be reached.
        """
        assert isinstance(self._connection, psycopg.Connection)
        row = self._connection.execute(ESTABLISH_EPOCH, (new_epoch(),)).fetchone()
        assert row is not None
        self._history = History(*row)

    @property
    def history(self) -> History:
        """The server and epoch of the history."""
        assert self._history is not None, "call `establish_history` first"
        return self._history

    def close(self) -> None:
        """Releases the lock."""
        self._connection.pgconn.finish()

    async def wait_moved(self) -> None:
        """Returns when `history` has changed, once for each change."""
        await self._moved.wait()
        self._moved = trio.Event()

    async def watch(self) -> None:
        """Retakes the lock whenever its connection breaks; runs until cancelled.

        Raises:
            LaunchError: another process has taken the lock, or the server may lose commits or shares sessions.
        """
        while True:
            await self._wait_lost()
            log.warning("service lock connection lost, reconnecting")
            await self._retake()

    async def _wait_lost(self) -> None:
        pgconn = self._connection.pgconn
        while True:
            try:
                await trio.lowlevel.wait_readable(pgconn.socket)
                pgconn.consume_input()  # raises at the end of the connection; a notice is ignored
            except (psycopg.Error, OSError):
                pgconn.finish()
                return

    async def _retake(self) -> None:
        logged = ""
        while True:
            try:
                # Assigned at once, so that `close` ends it whatever happens next.
                self._connection = connection = await TrioConnection.connect(self._own.conninfo, autocommit=True)
                await connection.execute(SET_SETTINGS, as_lists(self._own.settings))
                reason = await self._retake_on(connection)
            except (psycopg.Error, OSError):
                reason = ""
            if reason is None:
                return
            if reason and reason != logged:
                log.warning("database server rejected, will retry", reason=reason)
                logged = reason
            self.close()
            await trio.sleep(RETRY)

    async def _retake_on(self, connection: TrioConnection[Any]) -> str | None:
        """Takes the lock on a new connection; returns a reason instead if this server must not be used.

        Raises:
            LaunchError: as `watch`.
            psycopg.Error: the connection broke again.
        """
        server = (await _row(connection, SERVER))[0]
        if server is None:
            return "it is a standby"
        if self._history is not None and _is_older(server, self._history.server):
            return "it is on an older timeline: another server was promoted since"
        if (await _row(connection, READ_ONLY))[0]:
            return "it is read-only: default_transaction_read_only is on"
        if self._sessions is not None:
            check = partial(require_own_sessions, self._sessions)
            await trio.to_thread.run_sync(check, abandon_on_cancel=True)
        # After a network failure the server may not have noticed yet that our last session is gone.
        await connection.execute(_END_LAST_SESSION, self._last_session)
        self._check_taken(await _row(connection, _TAKE))
        if self._history is None:
            return None
        if not self._allow_losing_commits:
            off = await (await connection.execute(SETTINGS_OFF, (list(DURABILITY_SETTINGS),))).fetchall()
            reject_lossy_settings([name for (name,) in off])
        epoch = None if server != self._history.server else (await _row(connection, "SELECT epoch FROM history"))[0]
        if epoch != self._history.epoch:
            self._history = History(*await _row(connection, ESTABLISH_EPOCH, new_epoch()))
            self._moved.set()
        return None

    def _check_taken(self, row: tuple[Any, ...] | None) -> None:
        """Checks a row of `_TAKE`.

        Raises:
            DatabaseTaken: another process has the lock.
        """
        if row is None or not row[0]:
            raise DatabaseTaken("its session has ended" if row is None or row[1] is None else row[1])
        self._last_session = row[2:]


async def require_server(server: str, connection: TrioConnection[Any]) -> None:
    """Checks that a new session is on the server whose history this process knows, before it is used.

    Args:
        server: `History.server`.
        connection: the new session.

    Raises:
        psycopg.OperationalError: it is another server, timeline or database, or a standby.
    """
    if (await _row(connection, SERVER))[0] != server:
        raise psycopg.OperationalError("the database is now another server")


def _is_older(server: str, known: str) -> bool:
    """Detects a primary from before a failover that came back: the same cluster on an earlier timeline."""
    cluster, timeline, _ = server.split("/")
    known_cluster, known_timeline, _ = known.split("/")
    return cluster == known_cluster and int(timeline) < int(known_timeline)


async def _row(connection: TrioConnection[Any], query: Any, *values: object) -> tuple[Any, ...]:
    row = await (await connection.execute(query, values)).fetchone()
    assert row is not None
    return tuple(row)
