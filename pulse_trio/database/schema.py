"""The schema of the database: brings it up to date, or says why it cannot; and the epoch of what is in it."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg

from pulse_trio.database.sessions import noticing, open_session
from pulse_trio.errors import LaunchError

# Keys of PostgreSQL's advisory locks, which are one number space a database: "pulse" and what for.
MIGRATION_LOCK: Final = 0x70756C7365_01
SERVICE_LOCK: Final = 0x70756C7365_02

# Which server, on which timeline, which database of it; null on a standby, which may become the next primary on a
# timeline of its own without ending a session. Not pg_control_checkpoint(): it has the old timeline for some time after
# a promotion.
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


_TELL_AFTER: Final = 3.0  # seconds of waiting for another process that migrates, before a line names it
_SETTINGS: Final = """
    SELECT set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true)
"""


@dataclass(frozen=True)
class History:
    """Where the history is, as `SERVER` tells it, and the epoch that it has there."""

    server: str
    epoch: str


def holder_of(key: int) -> str:
    """A query for who has an advisory lock of this database: its session's pid, application and address in one text."""
    return f"""
        SELECT concat_ws(', ', 'pid ' || pid, nullif(application_name, ''), host(client_addr))
        FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE locktype = 'advisory' AND granted
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND (classid::bigint << 32 | objid::bigint) = {key} AND objsubid = 1
    """  # noqa: S608  # our own text


def new_epoch() -> str:
    """An epoch that no history had before."""
    return secrets.token_hex(8)


def _scripts() -> Path:
    package = Path(__file__).resolve().parent.parent
    folders = (package.parent / "migrations", package / "_migrations")  # a checkout, an installed wheel
    folder = next((folder for folder in folders if (folder / "env.py").is_file()), None)
    if folder is None:
        raise LaunchError("the folder 'migrations' is missing from this installation; install pulse-trio again")
    return folder


def revisions(scripts: Path) -> list[str]:
    """The revisions of this version's schema, the newest last: each is what the name of its file begins with."""
    return sorted(file.name.partition("_")[0] for file in (scripts / "versions").glob("[0-9]*_*.py"))


def migrate(
    conninfo: str, *, wait: float = 60.0, tell: Callable[[str], None] = lambda _: None
) -> tuple[str | None, str]:
    """Brings the database up to this version's schema, one process at a time.

    Returns the revision before and after.

    Args:
        conninfo: which database.
        wait: seconds to wait for another process that migrates, and for each lock that the migration needs.
        tell: called once with a line for a person, when the wait for another process takes long.

    Raises:
        LaunchError: the database has a newer schema, a migration failed, or waited for too long; nothing was changed.
        psycopg.Error: it cannot be reached.
    """
    scripts = _scripts()
    known = revisions(scripts)
    head = known[-1]
    with open_session(noticing(conninfo), autocommit=False) as guard:
        _lock_migrations(guard, wait, tell)
        before = _revision(guard)
        if before is not None and before not in known:
            raise LaunchError(
                f"the database has schema {before}, newer than this version's {head}: "
                "run the version of pulse-trio that made it, or a later one"
            )
        if before != head:
            # Alembic and what it needs take half a second and 20 MB: only where there is something to do.
            from pulse_trio.database.upgrade import upgrade

            upgrade(conninfo, scripts, wait)
    return before, head


def _lock_migrations(guard: psycopg.Connection, wait: float, tell: Callable[[str], None]) -> None:
    """Takes the lock of migrations until the end of the transaction, and so of this process, however it ends.

    A lock of the session would outlive both behind a pooler, which keeps the session for others.
    """
    guard.execute(_SETTINGS)
    if _try_lock_migrations(guard, min(wait, _TELL_AFTER)):
        return
    if wait > _TELL_AFTER:
        tell(f"waiting for another session that migrates the database ({_migrating(guard)})")
        if _try_lock_migrations(guard, wait - _TELL_AFTER):
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
    return "it has gone meanwhile" if row is None else str(row[0])


def compare_revisions(conninfo: str) -> tuple[str | None, str, bool]:
    """The revision of the database, that of this version, and whether this version knows the database's.

    Raises:
        psycopg.Error: it cannot be reached.
    """
    known = revisions(_scripts())
    with open_session(noticing(conninfo)) as connection:
        current = _revision(connection)
    return current, known[-1], current is None or current in known


def _revision(connection: psycopg.Connection[tuple[object, ...]]) -> str | None:
    """The revision of the schema that is there, as Alembic keeps it; None if there is none."""
    row = connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone()
    if row != (True,):
        return None
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    return None if row is None else str(row[0])


def establish_epoch(conninfo: str) -> str:
    """The epoch of the history in this database; a new one if the database is not where it was before.

    A dump restored elsewhere, a cluster recovered to an earlier time and a standby that was promoted have another
    system identifier, timeline or database: clients that knew more than they do must load afresh.

    Raises:
        psycopg.Error: the database cannot be reached.
    """
    with open_session(noticing(conninfo), autocommit=False) as connection:
        row = connection.execute(ESTABLISH_EPOCH, (new_epoch(),)).fetchone()
    assert row is not None
    return str(row[1])


def renew_epoch(conninfo: str) -> None:
    """Says that the history may have been rolled back in a way that the database cannot tell: files put back.

    Raises:
        psycopg.Error: the database cannot be reached.
    """
    with open_session(noticing(conninfo), autocommit=False) as connection:
        connection.execute("UPDATE history SET epoch = %s", (new_epoch(),))
