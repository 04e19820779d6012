"""Opening a database: DATABASE_URL's or the embedded one; its schema, its signing key, its sessions.

Blocking code for the main thread, before the event loop runs: an embedded PostgreSQL stops when the *thread* that
started it ends (`database/embedded.py`).
"""

import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from pulse_trio.console import report
from pulse_trio.database.durability import commit_settings
from pulse_trio.database.embedded import (
    DataFolderTaken,
    EmbeddedPostgres,
    default_data_dir,
    find_binaries,
    running_conninfo,
)
from pulse_trio.database.schema import SERVER, compare_revisions, migrate
from pulse_trio.database.sessions import STORE_SETTINGS, TOO_FEW, Sessions, open_session, with_keepalives, with_timeout
from pulse_trio.errors import LaunchError
from pulse_trio.settings import Settings
from pulse_trio.settings_values import check_secret

MIN_POSTGRES: Final = 140_000  # server_version_num
TRANSACTION_TIMEOUT_SINCE: Final = 170_000  # server_version_num
KEY_FILE: Final = "secret_key"
FOLDER_POLL: Final = 0.5  # seconds between attempts to take a data folder that another process has

_ADVICE: Final = "check that it runs and that the URL is right"
# By a part of PgBouncer's error text.
_POOLER_ADVICE: Final = {
    "unsupported startup parameter": "take the options out of DATABASE_URL and PGOPTIONS, or connect directly",
    "statement pooling mode": "connect directly, or set pool_mode=session",
    "query_wait_timeout": TOO_FEW,
}


@dataclass(frozen=True)
class Database:
    """A reachable database, and the settings completed with its signing key.

    Attributes:
        settings: all settings; `secret_key` is set if the algorithm needs one.
        conninfo: libpq connection string.
        description: a phrase for messages, such as "the data folder /srv/pulse".
        embedded: the embedded server, if this process started it.
        direct_conninfo: the same database without a pooler in between (`PULSE_DATABASE_DIRECT_URL`), for what belongs
            to one session: locks, LISTEN, leases, migrations.
        data_dir: the folder of an embedded server.
    """

    settings: Settings
    conninfo: str
    description: str
    embedded: EmbeddedPostgres | None = None
    direct_conninfo: str = ""
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        if not self.direct_conninfo:
            object.__setattr__(self, "direct_conninfo", self.conninfo)


@contextmanager
def open_database(
    settings: Settings,
    *,
    attach: bool = False,
    create: bool = True,
    on_wait: Callable[[str], None] | None = None,
    options: Mapping[str, str] | None = None,
    death_signal: signal.Signals = signal.SIGINT,
) -> Iterator[Database]:
    """Opens the database of the settings for a block: DATABASE_URL's, or an embedded one started for the block.

    Args:
        settings: all settings.
        attach: use the embedded PostgreSQL of a running service, if there is one.
        create: create a missing data folder. If false, this service must have used the database before.
        on_wait: called once with the process that has the data folder, to wait for its end; None: do not wait.
        options: more settings of an embedded server that is started.
        death_signal: what such a server gets when this process dies; see `EmbeddedPostgres`.

    Raises:
        LaunchError: it cannot be reached or started; says what to do.
    """
    if settings.database_url is not None:
        conninfo = _check_url(settings.database_url.get_secret_value())
        if not create:
            _check_used(conninfo)
        direct = "" if settings.database_direct_url is None else _check_direct(settings, conninfo)
        yield Database(settings, conninfo, "the database of DATABASE_URL", direct_conninfo=direct)
        return
    data_dir = default_data_dir() if settings.data_dir is None else settings.data_dir.absolute()
    if not create and not (data_dir / "data").is_dir():
        raise LaunchError(
            f"there is no database in {data_dir}: say where it is with --data-dir, PULSE_DATA_DIR or DATABASE_URL"
        )
    running = running_conninfo(data_dir) if attach else None
    if running is not None:
        yield Database(_with_key(settings, data_dir), running, f"the data folder {data_dir}", data_dir=data_dir)
        return
    binaries = find_binaries(settings.postgres_bin)
    server = EmbeddedPostgres(data_dir, binaries=binaries, options=options, death_signal=death_signal)
    try:
        conninfo = _start(server, on_wait)
        own = _with_key(settings, data_dir)
        yield Database(own, conninfo, f"the data folder {data_dir}", server, data_dir=data_dir)
    finally:
        server.stop()  # even if a signal arrived between the start and the next line


def attach_database(settings: Settings) -> Database:
    """Returns the database that another process of this service has opened: a worker's supervisor.

    Raises:
        LaunchError: it cannot be reached.
    """
    if settings.database_url is not None:
        with open_database(settings) as database:
            return database
    folder = default_data_dir() if settings.data_dir is None else settings.data_dir.absolute()
    conninfo = running_conninfo(folder)
    if conninfo is None:  # which must not be started here
        raise LaunchError(f"the PostgreSQL of the data folder {folder} does not answer")
    return Database(_with_key(settings, folder), conninfo, f"the data folder {folder}", data_dir=folder)


def _start(server: EmbeddedPostgres, on_wait: Callable[[str], None] | None) -> str:
    """Starts an embedded server, after the end of another process that has its data folder if `on_wait` is given."""
    is_told = False
    while True:
        try:
            return server.start()
        except DataFolderTaken as error:
            if on_wait is None:
                raise
            if not is_told:
                on_wait(error.holder)
            is_told = True
        time.sleep(FOLDER_POLL)


def plan_sessions(database: Database) -> Sessions:
    """Plans the sessions of the store's pool: connection string and PostgreSQL settings.

    Raises:
        LaunchError: the server may lose commits; names the PostgreSQL settings.
        psycopg.Error: the database cannot be reached.
    """
    settings = database.settings
    timeout_ms = max(1, round(settings.statement_timeout * 1000))  # 0 would be no limit
    # A process that stands still in the middle of a transaction must not keep rows locked for the others. The second
    # setting covers a pipeline, too: between two of its statements the server does not count the session as idle.
    session_settings = {
        **STORE_SETTINGS,
        "statement_timeout": str(timeout_ms),
        "idle_in_transaction_session_timeout": str(timeout_ms),
    }
    with open_session(with_keepalives(database.conninfo)) as connection:
        if connection.info.server_version >= TRANSACTION_TIMEOUT_SINCE:
            session_settings["transaction_timeout"] = str(2 * timeout_ms)
        if not settings.allow_losing_commits:
            session_settings |= commit_settings(connection)
    return with_keepalives(database.conninfo, session_settings)


def migrate_database(database: Database) -> tuple[str | None, str]:
    """Brings the schema up to date; returns the revision before and after.

    Raises:
        LaunchError: the schema is newer, a migration failed or waited too long, or the database cannot be reached.
    """
    try:
        return migrate(database.direct_conninfo, wait=database.settings.migration_wait, on_wait=report)
    except psycopg.Error as error:
        raise LaunchError(describe_failure(error)) from None


def describe_failure(error: psycopg.Error) -> str:
    """Turns a failure to connect into one line with advice; names host and reason, never the password."""
    reason = " ".join(str(error).split()) or type(error).__name__
    advice = next((advice for part, advice in _POOLER_ADVICE.items() if part in reason), _ADVICE)
    if TOO_FEW in reason:
        return f"the database of DATABASE_URL cannot be used: {reason}"
    return f"the database of DATABASE_URL cannot be used: {reason}; {advice}"


def _check_url(conninfo: str) -> str:
    """Returns the connection string with a timeout for each attempt.

    Raises:
        LaunchError: it is malformed, cannot be reached, or is a server that the service does not support.
    """
    if not _is_well_formed(conninfo):
        raise LaunchError(
            "DATABASE_URL is not well-formed: give a URL like postgresql://user:password@host:5432/database, with "
            "every special character of the password percent-encoded, or a libpq connection string"
        )
    conninfo = with_timeout(conninfo)
    try:
        with psycopg.connect(conninfo) as connection:
            version = connection.info.server_version
            encoding = connection.info.parameter_status("server_encoding")
    except psycopg.Error as error:
        raise LaunchError(describe_failure(error)) from None
    if version < MIN_POSTGRES:
        raise LaunchError(f"the database is PostgreSQL {version // 10_000}; 14 or newer is needed")
    if encoding != "UTF8":
        raise LaunchError(f"the database has the encoding {encoding}; create one with ENCODING 'UTF8'")
    return conninfo


def _check_direct(settings: Settings, conninfo: str) -> str:
    """Returns the connection string of `PULSE_DATABASE_DIRECT_URL`.

    Raises:
        LaunchError: as for `DATABASE_URL`, or it is another database than that one.
    """
    assert settings.database_direct_url is not None
    direct = settings.database_direct_url.get_secret_value()
    try:
        direct = _check_url(direct)
    except LaunchError as error:
        raise LaunchError(str(error).replace("DATABASE_URL", "PULSE_DATABASE_DIRECT_URL")) from None
    servers = []
    try:
        for each in (conninfo, direct):
            with open_session(with_keepalives(each)) as session:
                servers.append(session.execute(SERVER).fetchone())
    except psycopg.Error as error:
        raise LaunchError(describe_failure(error)) from None
    if servers[0] != servers[1]:
        raise LaunchError(
            "PULSE_DATABASE_DIRECT_URL leads to another database than DATABASE_URL: name the one behind the pooler"
        )
    return direct


def _check_used(conninfo: str) -> None:
    try:
        found, _, _ = compare_revisions(conninfo)
    except psycopg.Error as error:
        raise LaunchError(describe_failure(error)) from None
    if found is None:
        raise LaunchError(
            "the database of DATABASE_URL holds no data of this service: check that it is the right database"
        )


def _is_well_formed(conninfo: str) -> bool:
    """Checks that libpq can parse it and that no part of a password lands in host, port or database.

    An unescaped '@', '/', '?' or blank ends a password early, and libpq's own error text would show the rest.
    """
    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    except psycopg.Error:
        return False
    ports = parts.get("port", "").replace(",", "")
    return not (
        (ports and not ports.isdecimal()) or any("@" in parts.get(name, "") for name in ("host", "hostaddr", "dbname"))
    )


def _with_key(settings: Settings, data_dir: Path) -> Settings:
    """Completes the settings with the data folder's signing key, creating it if it is missing.

    Raises:
        LaunchError: the key's file cannot be read, or holds no good key.
    """
    if settings.secret_key is not None or not settings.algorithm.startswith("HS"):
        return settings
    path = data_dir / KEY_FILE
    try:
        key = path.read_text("ascii").strip()
    except FileNotFoundError:
        key = secrets.token_urlsafe(48)
        # Renamed when complete: a key cut short by a crash would lock everybody out.
        draft = path.with_suffix(".new")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(key + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise LaunchError(f"the signing key in {path} cannot be read: {reason}; restore that file") from None
    try:
        check_secret(key, settings.algorithm)
    except ValueError:
        raise LaunchError(
            f"the signing key in {path} is damaged: restore that file, or remove it to get a new key "
            "(everybody must log in again then)"
        ) from None
    return settings.model_copy(update={"secret_key": SecretStr(key)})
