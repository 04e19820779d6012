"""One process a database: rooms live in one process, and two would split conversations without a word.

The connection that holds the lock also tells where the history is: when it has to be made again it may find another
server, a standby that was promoted. What this process knows of the history may not be true there.
"""

from functools import partial
from typing import Any, Final

import psycopg
import structlog
import trio

from pulse_trio.database.durability import SERVER_SETTINGS, SETTINGS_OFF, refuse_losses
from pulse_trio.database.schema import ESTABLISH_EPOCH, SERVER, SERVICE_LOCK, History, holder_of, new_epoch
from pulse_trio.database.sessions import READ_ONLY, Sessions, as_lists, noticing, open_session, require_own_sessions
from pulse_trio.errors import LaunchError
from pulse_trio.trio_psycopg import SET_SETTINGS, TrioConnection

RETRY: Final = 0.5  # seconds between attempts to get the lock back from a database that is away

_TAKEN: Final = (
    "another pulse-trio process is using this database ({holder}): rooms live in one process, so stop that one first "
    "(and keep workers = 0)"
)
# What tells a session from a later one with the same pid comes along.
_TAKE: Final = f"""
    SELECT pg_try_advisory_lock({SERVICE_LOCK}), ({holder_of(SERVICE_LOCK)}), pid, backend_start
    FROM pg_stat_activity WHERE pid = pg_backend_pid()
"""  # noqa: S608  # our own text
_END_FORMER: Final = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid = %s AND backend_start = %s
"""

log = structlog.get_logger(__name__)


class ServiceLock:
    """An advisory lock on a connection of its own; PostgreSQL gives it up when this process dies.

    Taken before the event loop runs, so that a second process is refused before it serves anything. Before that, see
    to it that sessions are one's own (`require_own_sessions`).

    Args:
        conninfo: how to reach the database.
        sessions: the service's other sessions; a database that is found later must make them as the first one did.
        allow_losing_commits: take a server, too, that may lose what it says is committed.

    Raises:
        LaunchError: another process has it.
        psycopg.Error: the database cannot be reached.
    """

    def __init__(self, conninfo: str, *, sessions: Sessions | None = None, allow_losing_commits: bool = True) -> None:
        self._own = noticing(conninfo)
        self._sessions = sessions
        self._allow_losing_commits = allow_losing_commits
        self._history: History | None = None
        self._moved = trio.Event()
        self._former: tuple[Any, ...] = ()  # the session that had the lock last
        self._connection: psycopg.Connection | TrioConnection = open_session(self._own)
        try:
            self._keep(self._connection.execute(_TAKE).fetchone())
        except BaseException:
            self.close()
            raise

    def establish(self) -> None:
        """Finds out which history this is, before the event loop runs; gives it a new epoch if it is another server.

        Raises:
            psycopg.Error: the database cannot be reached.
        """
        assert isinstance(self._connection, psycopg.Connection)
        row = self._connection.execute(ESTABLISH_EPOCH, (new_epoch(),)).fetchone()
        assert row is not None
        self._history = History(*row)

    @property
    def history(self) -> History:
        """Where the history is, and its epoch."""
        assert self._history is not None, "`establish` comes first"
        return self._history

    def close(self) -> None:
        """Gives the lock up."""
        self._connection.pgconn.finish()

    async def wait_moved(self) -> None:
        """Returns when `history` has become another one, once for each time."""
        await self._moved.wait()
        self._moved = trio.Event()

    async def watch(self) -> None:
        """Takes the lock again when its connection breaks; runs until cancelled.

        Raises:
            LaunchError: another process took it meanwhile; the server may lose commits now; or it shares sessions.
        """
        while True:
            await self._wait_lost()
            log.warning("the database closed the service lock's connection")
            await self._take_again()

    async def _wait_lost(self) -> None:
        pgconn = self._connection.pgconn
        while True:
            try:
                await trio.lowlevel.wait_readable(pgconn.socket)
                pgconn.consume_input()  # a notice is no reason; the end of the connection raises
            except (psycopg.Error, OSError):
                pgconn.finish()
                return

    async def _take_again(self) -> None:
        told = ""
        while True:
            try:
                # Held from here on, so that `close` ends it whatever happens next.
                self._connection = connection = await TrioConnection.connect(self._own.conninfo, autocommit=True)
                await connection.execute(SET_SETTINGS, as_lists(self._own.settings))
                reason = await self._try(connection)
            except (psycopg.Error, OSError):
                reason = ""
            if reason is None:
                return
            if reason != told:
                log.warning("the database that was found is not used", reason=reason)
            told = reason or told
            self.close()
            await trio.sleep(RETRY)

    async def _try(self, connection: TrioConnection[Any]) -> str | None:
        """Takes the lock on a new connection; says why not, if this server must not be used.

        Raises:
            LaunchError: as `watch`.
            psycopg.Error: it is away again.
        """
        server = (await _row(connection, SERVER))[0]
        if server is None:
            return "it is a standby"
        if self._history is not None and _is_older(server, self._history.server):
            return "it is on an older timeline: its own promotion, or another's, has left it behind"
        if (await _row(connection, READ_ONLY))[0]:
            return "it takes no writes: default_transaction_read_only is on"
        if self._sessions is not None:
            check = partial(require_own_sessions, self._sessions)
            await trio.to_thread.run_sync(check, abandon_on_cancel=True)
        # After a break of the network the server may not know yet that our former session has gone.
        await connection.execute(_END_FORMER, self._former)
        self._keep(await _row(connection, _TAKE))
        if self._history is None:
            return None
        if not self._allow_losing_commits:
            off = await (await connection.execute(SETTINGS_OFF, (list(SERVER_SETTINGS),))).fetchall()
            refuse_losses([name for (name,) in off])
        epoch = None if server != self._history.server else (await _row(connection, "SELECT epoch FROM history"))[0]
        if epoch != self._history.epoch:
            self._history = History(*await _row(connection, ESTABLISH_EPOCH, new_epoch()))
            self._moved.set()
        return None

    def _keep(self, row: tuple[Any, ...] | None) -> None:
        """Raises LaunchError if the lock was not given."""
        if row is None or not row[0]:
            raise LaunchError(
                _TAKEN.format(holder="it has gone meanwhile" if row is None or row[1] is None else row[1])
            )
        self._former = row[2:]


async def require_server(server: str, connection: TrioConnection[Any]) -> None:
    """Makes sure that a new session is where the history is that this process knows, before anything is done in it.

    Raises:
        psycopg.OperationalError: it is another server, timeline or database, or a standby.
    """
    if (await _row(connection, SERVER))[0] != server:
        raise psycopg.OperationalError("the database is another server now")


def _is_older(server: str, known: str) -> bool:
    """Whether it is the same cluster on an earlier timeline: a primary from before a failover, that came back."""
    cluster, timeline, _ = server.split("/")
    known_cluster, known_timeline, _ = known.split("/")
    return cluster == known_cluster and int(timeline) < int(known_timeline)


async def _row(connection: TrioConnection[Any], query: Any, *values: object) -> tuple[Any, ...]:
    row = await (await connection.execute(query, values)).fetchone()
    assert row is not None
    return tuple(row)
