"""Sessions of the database as the service makes them: how they are reached, their settings, and that they are its own.

Settings are made after connecting, never by the startup parameter `options`, which PgBouncer refuses or drops.
"""

import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pulse_trio.errors import LaunchError
from pulse_trio.trio_psycopg import SET_SETTINGS

# Either side notices within some ten seconds that the other has gone without a word (a cable, a power cut):
# seconds but for the last, which is in milliseconds.
_CLIENT_NOTICES: Final = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 11_000,
}
_SERVER_NOTICES: Final = {f"tcp_{name.removeprefix('tcp_')}": str(value) for name, value in _CLIENT_NOTICES.items()}
_CONNECT_TIMEOUT: Final = 5  # seconds for each host
_ANSWER_TIMEOUT: Final = 5.0  # seconds: a pooler may be set up to let a connection wait for a session for ever
_APPLICATION: Final = "pulse-trio"  # names our sessions in pg_stat_activity

# On what the code relies, whatever a role, a database or a server has as its default: text of any language, times
# that the driver can read, statements that see what was committed before them, and a lock that nothing but its end
# gives up.
_RELIED_ON: Final = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "default_transaction_isolation": "read committed",
    "idle_session_timeout": "0",
}
# Not set by us: read-only may be the protection of a database, and the schema is the choice of who runs it.
READ_ONLY: Final = "SELECT current_setting('transaction_read_only')::bool"

_MARK: Final = "pulse_trio.session"  # a setting of our own, which no server knows
_MARKED: Final = f"SELECT current_setting('{_MARK}', true)"
_FOUND: Final = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"
_POOLED_ROUNDS: Final = (
    3  # sessions that a pooler is asked for: it may have several free and give the one in question last
)

_SHARED: Final = (
    "the database is reached through a pooler that gives every transaction another session (PgBouncer's pool_mode "
    "transaction): neither the service lock nor a session's settings hold there; connect to PostgreSQL directly, or "
    "set pool_mode=session"
)


TOO_FEW: Final = (
    "if a pooler is between, it has too few sessions: raise its default_pool_size to PULSE_POOL_MAX + 7 or more"
)


@dataclass(frozen=True)
class Sessions:
    """A plan for the service's sessions: `settings` of PostgreSQL are set on each, right after connecting.

    Their values are as pg_settings has them: milliseconds without a unit.
    """

    conninfo: str
    settings: Mapping[str, str]


def with_timeout(conninfo: str) -> str:
    """Makes a connection string whose attempts end, also at a server that takes connections and says nothing.

    The encoding is said while connecting: the driver reads what comes first by it, and poolers keep it.
    """
    params: dict[str, Any] = {
        "fallback_application_name": _APPLICATION,
        **conninfo_to_dict(conninfo),
        "client_encoding": _RELIED_ON["client_encoding"],
    }
    if "PGCONNECT_TIMEOUT" not in os.environ:
        params.setdefault("connect_timeout", _CONNECT_TIMEOUT)
    return make_conninfo("", **params)


def noticing(conninfo: str, settings: Mapping[str, str] | None = None) -> Sessions:
    """Sessions with which the loss of the network, or of the other machine, is soon noticed.

    The session at the other end ends, too, and with it the lock of a service whose machine is gone. What the
    string itself sets of that stays. On what the code relies is set, too.

    Args:
        conninfo: how to reach the database.
        settings: further settings of each session; they win over those of the string.
    """
    params = {**_CLIENT_NOTICES, **conninfo_to_dict(with_timeout(conninfo))}
    given = str(params.get("options") or os.environ.get("PGOPTIONS", "")).replace("-", "_")
    notices = {name: value for name, value in _SERVER_NOTICES.items() if name not in given}
    return Sessions(make_conninfo("", **params), {**notices, **_RELIED_ON, **(settings or {})})


def open_session(sessions: Sessions, *, autocommit: bool = True) -> psycopg.Connection:
    """A session, made as the pool makes its own.

    Raises:
        psycopg.Error: the database cannot be reached.
    """
    connection = psycopg.connect(sessions.conninfo, autocommit=True)
    try:
        with _answered(connection):  # its first statement: a pooler takes the connection before it has a session
            connection.execute(SET_SETTINGS, as_lists(sessions.settings))
        connection.autocommit = autocommit
    except BaseException:
        connection.close()
        raise
    return connection


def as_lists(settings: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Settings as the parameters of `SET_SETTINGS`."""
    return list(settings), list(settings.values())


def require_own_sessions(sessions: Sessions, *, writes: bool = True) -> None:
    """Makes sure that every connection has a session of its own, keeps its settings, and can be used.

    A pooler may lend one session to several connections by turns. To see that, a session is marked, and then others
    are opened, each with a transaction that holds what was lent for it: if the mark is found there, or is gone from the
    first, the session was lent on.

    Args:
        sessions: how they are made.
        writes: they are to make tables and to write, too.

    Raises:
        LaunchError: sessions are shared, lose settings, or take no writes; says what to do.
        psycopg.Error: the database cannot be reached.
    """
    mark = secrets.token_hex(8)
    with ExitStack() as stack:
        session = stack.enter_context(closing(open_session(sessions)))
        _one(session, SET_SETTINGS, [_MARK], [mark])
        is_direct = _one(session, "SELECT pg_backend_pid()") == session.info.backend_pid
        for _ in range(1 if is_direct else _POOLED_ROUNDS):
            other = stack.enter_context(closing(psycopg.connect(sessions.conninfo)))
            if _one(other, _MARKED) == mark or _one(session, _MARKED) != mark:
                raise LaunchError(_SHARED)
        # A Unix socket has nothing to keep alive, and says so.
        wanted = {name: value for name, value in sessions.settings.items() if name not in _SERVER_NOTICES}
        found: dict[str, str] = dict(session.execute(_FOUND, (list(wanted),)).fetchall())
        lost = [name for name, value in wanted.items() if found.get(name) != value]
        is_read_only = writes and _one(session, READ_ONLY)
        has_schema = not writes or _one(session, "SELECT current_schema()") is not None
    if lost:
        raise LaunchError(
            f"sessions of the database do not keep their settings ({', '.join(lost)}): something between changes them; "
            "connect to PostgreSQL directly"
        )
    if is_read_only:
        raise LaunchError(
            "sessions of the database are read-only: it is a standby, or default_transaction_read_only is on for the "
            "server, the database or the role; name the primary, or turn that off where it was turned on"
        )
    if not has_schema:
        raise LaunchError(
            "sessions of the database have no schema to make tables in: search_path of the role or the database names "
            "none that is there; make the schema, or have search_path name one, such as public"
        )


@contextmanager
def _answered(connection: psycopg.Connection) -> Iterator[None]:
    """Ends the connection if what is done with it takes too long.

    Raises:
        psycopg.OperationalError: it did; says why that may be.
    """
    has_ended = threading.Event()

    def end() -> None:
        has_ended.set()
        with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as sock:
            sock.shutdown(socket.SHUT_RDWR)  # what waits for it wakes up, unlike when it is closed

    timer = threading.Timer(_ANSWER_TIMEOUT, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except psycopg.Error as error:
        if has_ended.is_set():
            raise psycopg.OperationalError(f"no answer within {_ANSWER_TIMEOUT:g} seconds; {TOO_FEW}") from error
        raise
    finally:
        timer.cancel()


def _one(connection: psycopg.Connection, query: Any, *values: object) -> Any:
    with _answered(connection):
        row = connection.execute(query, values).fetchone()
    assert row is not None
    return row[0]
