"""The service lock: one process uses a database alone, or the processes of a cluster share it.

A process that knows nothing of the others would silently split conversations. So a process alone takes the lock
exclusively, as all versions before clusters did, and a clustered one in shared mode: the two refuse each other.

The connection that holds the lock also identifies the history. When the lock must be taken again, the database may be
another server, such as a promoted standby, where this process's knowledge of the history may be wrong.
"""

import os
import socket
from contextlib import suppress
from typing import Any, Final

import psycopg
import structlog
import trio

from pulse_trio.database.durability import DURABILITY_SETTINGS, SETTINGS_OFF, reject_lossy_settings
from pulse_trio.database.schema import ESTABLISH_EPOCH, SERVER, SERVICE_LOCK, History, holder_of, is_shared, new_epoch
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
    "another pulse-trio process is using this database ({holder}): rooms live in one process, so stop that one first; "
    "several processes share a database only if each of them has PULSE_CLUSTER=true"
)
_TAKEN_BY_CLUSTER: Final = (
    "another pulse-trio process is using this database ({holder}), and it belongs to a cluster: stop the whole cluster "
    "first, or join it with PULSE_CLUSTER=true"
)
_TAKEN_BY_OTHER: Final = (
    "another pulse-trio process is using this database ({holder}), and it does not belong to a cluster: stop it first, "
    "then start it again with PULSE_CLUSTER=true and a version that has this setting"
)
# `backend_start` distinguishes a session from a later one with the same pid.
_TAKE: Final = f"""
    SELECT %s({SERVICE_LOCK}), ({holder_of(SERVICE_LOCK)}), ({is_shared(SERVICE_LOCK)}), pid, backend_start
    FROM pg_stat_activity WHERE pid = pg_backend_pid()
"""  # noqa: S608  # our own text
_TAKE_ALONE: Final = _TAKE % "pg_try_advisory_lock"
_TAKE_SHARED: Final = _TAKE % "pg_try_advisory_lock_shared"
_END_LAST_SESSION: Final = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid = %s AND backend_start = %s
"""

log = structlog.get_logger(__name__)


class DatabaseTaken(LaunchError):
    """Another process has the service lock, in a mode that excludes this one.

    Args:
        holder: its session: pid, application, address.
        text: the line for a person, with a place for the holder.
    """

    def __init__(self, holder: str, text: str = _TAKEN) -> None:
        self.holder = holder
        super().__init__(text.format(holder=holder))


class ServiceLock:
    """A PostgreSQL advisory lock on its own connection; the server releases it when this process dies.

    It is taken before the event loop runs, so that a second process fails before it serves anything. Call
    `require_own_sessions` before: a pooler that shares sessions would share the lock.

    Args:
        conninfo: libpq connection string of a direct connection.
        sessions: the plan of the service's other sessions; checked again on each server found later.
        allow_losing_commits: accept a server that may lose commits.
        shared: take it in shared mode, with the other processes of a cluster.

    Raises:
        DatabaseTaken: another process has the lock, in a mode that excludes this one.
        psycopg.Error: the database cannot be reached.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        sessions: Sessions | None = None,
        allow_losing_commits: bool = True,
        shared: bool = False,
    ) -> None:
        self._is_shared = shared
        self._take = _TAKE_SHARED if shared else _TAKE_ALONE
        self._own = with_keepalives(conninfo)
        self._sessions = sessions
        self._allow_losing_commits = allow_losing_commits
        self._history: History | None = None
        self._moved = trio.Event()
        self._last_session: tuple[Any, ...] = ()  # that had the lock: pid and start
        self._newest_server: str | None = None  # that another process of the cluster has named
        self._connection: psycopg.Connection | TrioConnection = open_session(self._own)
        try:
            self._check_taken(self._connection.execute(self._take).fetchone())
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
    def is_shared(self) -> bool:
        """True if other processes may hold the lock as well."""
        return self._is_shared

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

    def look_again(self, server: str | None = None) -> None:
        """Ends the lock's connection, so that `watch` retakes it and finds out whether the history has changed.

        For a cluster, where another process may notice first that the database has failed over.

        Args:
            server: the server that another process uses now (`History.server`). Servers of the same cluster on an older
                timeline are rejected from now on.
        """
        known = self._newest_server
        if server is not None and (known is None or not _is_older(server, known)):
            self._newest_server = server
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self._connection.pgconn.socket)) as sock:
            sock.shutdown(socket.SHUT_RDWR)  # wakes `watch`, unlike closing it

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
        known = [] if self._history is None else [self._history.server]
        known += [] if self._newest_server is None else [self._newest_server]
        if any(_is_older(server, newer) for newer in known):
            return "it is on an older timeline: another server was promoted since"
        if (await _row(connection, READ_ONLY))[0]:
            return "it is read-only: default_transaction_read_only is on"
        for plan in self._plans():
            await trio.to_thread.run_sync(require_own_sessions, plan, abandon_on_cancel=True)
        # After a network failure the server may not have noticed yet that our last session is gone.
        await connection.execute(_END_LAST_SESSION, self._last_session)
        self._check_taken(await _row(connection, self._take))
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

    def _plans(self) -> list[Sessions]:
        """Returns the plans whose sessions must not be shared by a pooler."""
        if self._sessions is None:
            return []
        is_direct = self._own.conninfo != self._sessions.conninfo
        return [self._sessions, self._own] if is_direct else [self._sessions]

    def _check_taken(self, row: tuple[Any, ...] | None) -> None:
        """Checks a row of `_TAKE`.

        Raises:
            DatabaseTaken: another process has the lock.
        """
        if row is None or (row[1] is None and not row[0]):
            raise DatabaseTaken("its session has ended")
        if not row[0]:
            raise DatabaseTaken(row[1], _TAKEN_BY_OTHER if self._is_shared else _TAKEN_BY_CLUSTER if row[2] else _TAKEN)
        self._last_session = row[3:]


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
