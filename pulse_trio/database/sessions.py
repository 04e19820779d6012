"""Database sessions of the service: connection parameters, settings, and a check that no pooler shares them.

Settings are set after connecting, never by the startup parameter `options`, which PgBouncer rejects or drops.
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

# Each side detects within about ten seconds that the other vanished silently (an unplugged cable, a power cut).
# In seconds, except the last, which is in milliseconds.
_CLIENT_KEEPALIVES: Final = {
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 11_000,
}
_SERVER_KEEPALIVES: Final = {
    f"tcp_{name.removeprefix('tcp_')}": str(value) for name, value in _CLIENT_KEEPALIVES.items()
}
_CONNECT_TIMEOUT: Final = 5  # seconds for each host
_ANSWER_TIMEOUT: Final = 5.0  # seconds; a pooler may be configured to make a connection wait for a session forever
_APPLICATION: Final = "pulse-trio"  # names our sessions in pg_stat_activity

# The code relies on these, whatever the default of a role, database or server: text in any language, times that the
# driver can parse, statements that see everything committed before them, and a lock that lasts as long as its session.
_REQUIRED: Final = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "default_transaction_isolation": "read committed",
    "idle_session_timeout": "0",
}
# Of each session of the store. Generic plans are made once, without looking at the values: each statement of the store
# finds its rows by key, whatever the values are, and planning took most of the time of a small one. A wait for a row
# locked by another transaction ends before the statement's own timeout, so that it does not look like a database that
# hangs. Milliseconds. No sequential scans, since statistics of a young database say "empty", and a plan that scans an
# empty table is kept while the table fills; no compiling, which the cost of an unavoidable scan would then cause.
STORE_SETTINGS: Final = {
    "plan_cache_mode": "force_generic_plan",
    "lock_timeout": "1000",
    "enable_seqscan": "off",
    "jit": "off",
}
# Checked, not set: read-only may protect a database, and the operator chooses the schema.
READ_ONLY: Final = "SELECT current_setting('transaction_read_only')::bool"

_MARK: Final = "pulse_trio.session"  # a setting of our own, unknown to any server
_MARKED: Final = f"SELECT current_setting('{_MARK}', true)"
_FOUND: Final = "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)"
_POOLER_ROUNDS: Final = 3  # sessions requested from a pooler: it may have several free and lend the marked one last

_SHARED: Final = (
    "the database is reached through a pooler that gives every transaction another session (PgBouncer's pool_mode "
    "transaction): neither the service lock nor session settings work there; connect to PostgreSQL directly, or "
    "set pool_mode=session"
)
TOO_FEW: Final = (
    "if there is a pooler in between, it has too few sessions: set its default_pool_size to PULSE_POOL_MAX + 7 or more"
)


@dataclass(frozen=True)
class Sessions:
    """A plan for sessions.

    Attributes:
        conninfo: libpq connection string.
        settings: PostgreSQL settings, set on each session right after connecting; values in the form of pg_settings
            (milliseconds without a unit).
    """

    conninfo: str
    settings: Mapping[str, str]


def with_timeout(conninfo: str) -> str:
    """Returns a connection string whose attempts time out, even if a server accepts connections and never answers.

    It names the encoding, too: the driver decodes the first messages with it, and poolers preserve it.
    """
    params: dict[str, Any] = {
        "fallback_application_name": _APPLICATION,
        **conninfo_to_dict(conninfo),
        "client_encoding": _REQUIRED["client_encoding"],
    }
    if "PGCONNECT_TIMEOUT" not in os.environ:
        params.setdefault("connect_timeout", _CONNECT_TIMEOUT)
    return make_conninfo("", **params)


def with_keepalives(conninfo: str, settings: Mapping[str, str] | None = None) -> Sessions:
    """Plans sessions that soon detect the loss of the network or of the other machine.

    The server's side ends its session, too, and so releases the lock of a service whose machine is gone. Keepalives
    that the string itself sets are kept. The settings that the code requires are added.

    Args:
        conninfo: libpq connection string.
        settings: more settings of each session; they win over those of the string.
    """
    params = {**_CLIENT_KEEPALIVES, **conninfo_to_dict(with_timeout(conninfo))}
    given = str(params.get("options") or os.environ.get("PGOPTIONS", "")).replace("-", "_")
    keepalives = {name: value for name, value in _SERVER_KEEPALIVES.items() if name not in given}
    return Sessions(make_conninfo("", **params), {**keepalives, **_REQUIRED, **(settings or {})})


def open_session(sessions: Sessions, *, autocommit: bool = True) -> psycopg.Connection:
    """Opens a session in the same way as the pool does.

    Raises:
        psycopg.Error: the database cannot be reached.
    """
    connection = psycopg.connect(sessions.conninfo, autocommit=True)
    try:
        with _answer_timeout(connection):  # a pooler accepts the connection before it has a session for it
            connection.execute(SET_SETTINGS, as_lists(sessions.settings))
        connection.autocommit = autocommit
    except BaseException:
        connection.close()
        raise
    return connection


def as_lists(settings: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Returns settings as the parameters of `SET_SETTINGS`."""
    return list(settings), list(settings.values())


def require_own_sessions(sessions: Sessions, *, writes: bool = True) -> None:
    """Checks that every connection has its own session, keeps its settings, and is usable.

    A pooler may lend one session to several connections in turn. To detect that, this marks a session and then opens
    others, each with a transaction that keeps the session lent to it: if one of them has the mark, or the first has
    lost it, the session is shared.

    Args:
        sessions: the plan to check.
        writes: the sessions create tables and write.

    Raises:
        LaunchError: sessions are shared, lose settings, or are read-only; says what to do.
        psycopg.Error: the database cannot be reached.
    """
    mark = secrets.token_hex(8)
    with ExitStack() as stack:
        session = stack.enter_context(closing(open_session(sessions)))
        _one(session, SET_SETTINGS, [_MARK], [mark])
        is_direct = _one(session, "SELECT pg_backend_pid()") == session.info.backend_pid
        for _ in range(1 if is_direct else _POOLER_ROUNDS):
            other = stack.enter_context(closing(psycopg.connect(sessions.conninfo)))
            if _one(other, _MARKED) == mark or _one(session, _MARKED) != mark:
                raise LaunchError(_SHARED)
        # On a Unix socket PostgreSQL reports keepalives as 0.
        wanted = {name: value for name, value in sessions.settings.items() if name not in _SERVER_KEEPALIVES}
        found: dict[str, str] = dict(session.execute(_FOUND, (list(wanted),)).fetchall())
        lost = [name for name, value in wanted.items() if found.get(name) != value]
        is_read_only = writes and _one(session, READ_ONLY)
        has_schema = not writes or _one(session, "SELECT current_schema()") is not None
    if lost:
        raise LaunchError(
            f"sessions of the database lose their settings ({', '.join(lost)}): something in between changes them; "
            "connect to PostgreSQL directly"
        )
    if is_read_only:
        raise LaunchError(
            "sessions of the database are read-only: it is a standby, or default_transaction_read_only is on for the "
            "server, the database or the role; name the primary, or turn that off where it was turned on"
        )
    if not has_schema:
        raise LaunchError(
            "sessions of the database have no schema for tables: search_path of the role or the database names "
            "none that exists; create the schema, or set search_path to an existing one, such as public"
        )


@contextmanager
def _answer_timeout(connection: psycopg.Connection) -> Iterator[None]:
    """Shuts the connection down if the block takes longer than `_ANSWER_TIMEOUT`.

    Raises:
        psycopg.OperationalError: it did; names the likely reason.
    """
    has_timed_out = threading.Event()

    def shut_down() -> None:
        has_timed_out.set()
        with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as sock:
            sock.shutdown(socket.SHUT_RDWR)  # wakes a thread that waits on the socket; closing would not

    timer = threading.Timer(_ANSWER_TIMEOUT, shut_down)
    timer.daemon = True
    timer.start()
    try:
        yield
    except psycopg.Error as error:
        if has_timed_out.is_set():
            raise psycopg.OperationalError(f"no answer within {_ANSWER_TIMEOUT:g} seconds; {TOO_FEW}") from error
        raise
    finally:
        timer.cancel()


def _one(connection: psycopg.Connection, query: Any, *values: object) -> Any:
    with _answer_timeout(connection):
        row = connection.execute(query, values).fetchone()
    assert row is not None
    return row[0]
