"""The database's schema, which `migrate` brings up to date, and the epoch of the history in it."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from pulse_trio.database.sessions import open_session, with_keepalives
from pulse_trio.errors import LaunchError

# Keys of PostgreSQL's advisory locks, which share one number space per database: "pulse" in ASCII, then a purpose.
MIGRATION_LOCK: Final = 0x70756C7365_01
SERVICE_LOCK: Final = 0x70756C7365_02

# System identifier, timeline and database oid, such as '7412…/1/16384'. Null on a standby, because a promotion to a new
# timeline ends no session. pg_control_checkpoint() would report the old timeline for a while after a promotion.
SERVER: Final = """
    SELECT CASE WHEN NOT pg_is_in_recovery() THEN concat_ws(
        '/', system_identifier, ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int, oid
    ) END
    FROM pg_control_system(), pg_database WHERE datname = current_database()
"""
ESTABLISH_EPOCH: Final = f"""
    INSERT INTO history (epoch, server) VALUES (%s, ({SERVER}))
    ON CONFLICT (only_row) DO UPDATE SET
        epoch = CASE WHEN history.server = excluded.server THEN history.epoch ELSE excluded.epoch END,
        server = excluded.server
    RETURNING server, epoch
"""  # noqa: S608  # our own text

_REPORT_AFTER: Final = 3.0  # seconds of waiting for another migrating session before it is reported
_SETTINGS: Final = """
    SELECT set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true)
"""


@dataclass(frozen=True)
class History:
    """The identity of the history in a database.

    Example: a service runs with epoch "a1" on server "7412/1/16384". A standby is promoted, so the server becomes
    "7412/2/16384", and the history gets epoch "b2". The standby may lack the last commits of the old primary: a client
    that resumes with epoch "a1" is told to reload.

    Attributes:
        server: the value of `SERVER`: cluster, timeline and database.
        epoch: changes when acknowledged messages may be gone.
    """

    server: str
    epoch: str


def holder_of(key: int) -> str:
    """Returns a query for the holder of an advisory lock of this database: pid, application and address in one text.

    Of several that share the lock it names the one whose session is oldest.
    """
    return _of_holders(_HOLDER, key)


def is_shared(key: int) -> str:
    """Returns a query that says of the holder that `holder_of` names whether it shares the lock; no row without one."""
    return _of_holders("mode = 'ShareLock'", key)


def count_of_holders(key: int) -> str:
    """Returns a query for the number of sessions that hold an advisory lock of this database."""
    return f"SELECT count(*) FROM {_HOLDERS.format(key=key)}"  # noqa: S608  # our own text


_HOLDER: Final = "concat_ws(', ', 'pid ' || pid, nullif(application_name, ''), host(client_addr))"

_HOLDERS: Final = """
    pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'advisory' AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (classid::bigint << 32 | objid::bigint) = {key} AND objsubid = 1
"""


def _of_holders(column: str, key: int) -> str:
    return f"SELECT {column} FROM {_HOLDERS.format(key=key)} ORDER BY backend_start, pid LIMIT 1"  # noqa: S608  # our own


def new_epoch() -> str:
    """Returns a random epoch, 16 hexadecimal digits."""
    return secrets.token_hex(8)


def _scripts() -> Path:
    package = Path(__file__).resolve().parent.parent
    folders = (package.parent / "migrations", package / "_migrations")  # a checkout, an installed wheel
    folder = next((folder for folder in folders if (folder / "env.py").is_file()), None)
    if folder is None:
        raise LaunchError("the folder 'migrations' is missing from this installation; install pulse-trio again")
    return folder


def revisions(scripts: Path) -> list[str]:
    """Lists the revisions of this version's schema, the newest last: the leading digits of the files' names."""
    return sorted(file.name.partition("_")[0] for file in (scripts / "versions").glob("[0-9]*_*.py"))


def migrate(
    conninfo: str, *, wait: float = 60.0, on_wait: Callable[[str], None] = lambda _: None
) -> tuple[str | None, str]:
    """Brings the database up to this version's schema, one process at a time.

    Returns the revision before and after.

    Args:
        conninfo: libpq connection string.
        wait: seconds to wait for another migrating process, and for each lock of the migration.
        on_wait: called once with a line for a person if another process makes it wait.

    Raises:
        LaunchError: the database has a newer schema, a migration failed, or waited too long; nothing was changed.
        psycopg.Error: the database cannot be reached.
    """
    scripts = _scripts()
    known = revisions(scripts)
    head = known[-1]
    with open_session(with_keepalives(conninfo), autocommit=False) as guard:
        _lock_migrations(guard, wait, on_wait)
        before = _revision(guard)
        if before is not None and before not in known:
            raise LaunchError(
                f"the database has schema {before}, newer than this version's {head}: "
                "run the version of pulse-trio that made it, or a later one"
            )
        if before != head:
            # Importing Alembic and SQLAlchemy takes half a second and 20 MB, so only if there is something to do.
            from pulse_trio.database.upgrade import upgrade

            upgrade(conninfo, scripts, wait)
    return before, head


def _lock_migrations(guard: psycopg.Connection, wait: float, on_wait: Callable[[str], None]) -> None:
    """Takes the migration lock until the end of the transaction, so that it never outlives this process.

    A session-level lock would, behind a pooler that keeps the session for others.
    """
    guard.execute(_SETTINGS)
    if _try_lock_migrations(guard, min(wait, _REPORT_AFTER)):
        return
    if wait > _REPORT_AFTER:
        on_wait(f"waiting for another session that migrates the database ({_migrating(guard)})")
        if _try_lock_migrations(guard, wait - _REPORT_AFTER):
            return
    raise LaunchError(
        f"another session has been migrating the database for more than {wait:g} seconds ({_migrating(guard)}): wait "
        "for it, or if no process of pulse-trio has it end it with pg_terminate_backend"
    )


def _try_lock_migrations(guard: psycopg.Connection, seconds: float) -> bool:
    guard.execute("SELECT set_config('lock_timeout', %s, true)", (f"{max(1, round(seconds * 1000))}ms",))
    try:
        with guard.transaction():
            guard.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
    except psycopg.errors.LockNotAvailable:
        return False
    return True


def _migrating(guard: psycopg.Connection) -> str:
    row = guard.execute(holder_of(MIGRATION_LOCK)).fetchone()
    return "its session has ended" if row is None else str(row[0])


def compare_revisions(conninfo: str) -> tuple[str | None, str, bool]:
    """Returns the database's revision, this version's, and True if this version knows the database's.

    Raises:
        psycopg.Error: the database cannot be reached.
    """
    known = revisions(_scripts())
    with open_session(with_keepalives(conninfo)) as connection:
        current = _revision(connection)
    return current, known[-1], current is None or current in known


def _revision(connection: psycopg.Connection[tuple[object, ...]]) -> str | None:
    """Reads the revision that Alembic has recorded; None for an empty database."""
    row = connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone()
    if row != (True,):
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def establish_epoch(conninfo: str) -> str:
    """Returns the epoch of the history in this database; a new one if the server is not the one seen last.

    A restored dump, a recovery to an earlier time and a promoted standby each have another system identifier, timeline
    or database. Clients may know messages that are not there, so they must reload.

    Raises:
        psycopg.Error: the database cannot be reached.
    """
    with open_session(with_keepalives(conninfo), autocommit=False) as connection:
        row = connection.execute(ESTABLISH_EPOCH, (new_epoch(),)).fetchone()
    assert row is not None
    return str(row[1])


def renew_epoch(conninfo: str) -> None:
    """Gives the history a new epoch, for a rollback that the database cannot detect: restored files.

    Raises:
        psycopg.Error: the database cannot be reached.
    """
    with open_session(with_keepalives(conninfo), autocommit=False) as connection:
        connection.execute("UPDATE history SET epoch = %s", (new_epoch(),))
