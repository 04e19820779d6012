"""What must happen before the event loop runs: the key, the database, its schema, its lock.

PostgreSQL is started here, on the main thread, because it is told to stop when the *thread* that started
it ends (`database/embedded.py`).
"""

import atexit
import os
import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr

from pulse_trio.app import PulseApp, create_app, postgres_store
from pulse_trio.database.durability import commit_settings
from pulse_trio.database.embedded import (
    EmbeddedError,
    EmbeddedPostgres,
    default_data_dir,
    find_binaries,
    running_conninfo,
)
from pulse_trio.database.schema import compare_revisions, migrate
from pulse_trio.database.service_lock import ServiceLock
from pulse_trio.database.sessions import TOO_FEW, Sessions, noticing, open_session, require_own_sessions, with_timeout
from pulse_trio.errors import LaunchError
from pulse_trio.metrics import Metrics
from pulse_trio.settings import Settings
from pulse_trio.settings_values import check_secret
from pulse_trio.store.postgres import SERVER_SETTINGS

OLDEST_POSTGRES: Final = 140_000  # server_version_num
KEY_FILE: Final = "secret_key"
INTERRUPT_AGAIN: Final = 0.02  # seconds

_ADVICE: Final = "check that it runs and that the URL is right"
# By what PgBouncer says.
_POOLER_ADVICE: Final = {
    "unsupported startup parameter": "take the options out of DATABASE_URL and PGOPTIONS, or connect directly",
    "statement pooling mode": "connect directly, or set pool_mode=session",
    "query_wait_timeout": TOO_FEW,
}
_STOPPING: Final = (signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else []))


@dataclass(frozen=True)
class Database:
    """A database that can be reached, and the settings with the key that belongs to it.

    `embedded` is the server, if this process started it.
    """

    settings: Settings
    conninfo: str
    description: str
    embedded: EmbeddedPostgres | None = None


@contextmanager
def open_database(settings: Settings, *, attach: bool = False, creates: bool = True) -> Iterator[Database]:
    """The database of the settings: DATABASE_URL's, or the embedded one, which runs while the block does.

    Args:
        settings: all settings.
        attach: use the embedded PostgreSQL of a service that is running, if there is one.
        creates: make what is not there yet. Without it the database must have been used by this service before.

    Raises:
        LaunchError: it cannot be reached or started; says what to do.
    """
    if settings.database_url is not None:
        conninfo = _checked(settings.database_url.get_secret_value())
        if not creates:
            _check_used(conninfo)
        yield Database(settings, conninfo, "the database of DATABASE_URL")
        return
    data_dir = default_data_dir() if settings.data_dir is None else settings.data_dir.absolute()
    if not creates and not (data_dir / "data").is_dir():
        raise LaunchError(
            f"there is no database in {data_dir}: say where it is with --data-dir, PULSE_DATA_DIR or DATABASE_URL"
        )
    running = running_conninfo(data_dir) if attach else None
    if running is not None:
        yield Database(_with_key(settings, data_dir), running, f"the data folder {data_dir}")
        return
    try:
        server = EmbeddedPostgres(data_dir, binaries=find_binaries(settings.postgres_bin))
    except EmbeddedError as error:
        raise LaunchError(str(error)) from None
    try:
        try:
            conninfo = server.start()
        except EmbeddedError as error:
            raise LaunchError(str(error)) from None
        yield Database(_with_key(settings, data_dir), conninfo, f"the data folder {data_dir}", server)
    finally:
        server.stop()  # also when a signal came between the start and the next line


@contextmanager
def open_app(settings: Settings) -> Iterator[tuple[PulseApp, Database]]:
    """The app on its database, migrated and locked for this process; closed again after the block.

    Raises:
        LaunchError: something is missing or in the way; one line for a person.
    """
    with open_database(settings) as database:
        try:
            sessions = plan_sessions(database)
            require_own_sessions(sessions)
            migrate_database(database)
            allow_losing_commits = database.settings.allow_losing_commits
            lock = ServiceLock(database.conninfo, sessions=sessions, allow_losing_commits=allow_losing_commits)
        except psycopg.Error as error:
            raise LaunchError(cannot_reach(error)) from None
        try:
            try:
                lock.establish()
            except psycopg.Error as error:
                raise LaunchError(cannot_reach(error)) from None
            metrics = Metrics()
            store = postgres_store(database.settings, sessions, lock, metrics, database.embedded)
            yield create_app(database.settings, store, moved=lock.wait_moved, metrics=metrics), database
        finally:
            lock.close()


def plan_sessions(database: Database) -> Sessions:
    """The sessions of the service's pool: how they are made, and their settings.

    Raises:
        LaunchError: the server may lose commits; names the settings of PostgreSQL.
        psycopg.Error: the database cannot be reached.
    """
    settings = database.settings
    timeout = str(round(settings.statement_timeout * 1000))
    ours = {**SERVER_SETTINGS, "statement_timeout": timeout}
    if not settings.allow_losing_commits:
        with open_session(noticing(database.conninfo)) as connection:
            ours |= commit_settings(connection)
    return noticing(database.conninfo, ours)


def migrate_database(database: Database) -> tuple[str | None, str]:
    """Brings the schema up to date; returns the revision before and after.

    Raises:
        LaunchError: it cannot be; one line for a person.
    """
    try:
        return migrate(database.conninfo, wait=database.settings.migration_wait, tell=_say)
    except psycopg.Error as error:
        raise LaunchError(cannot_reach(error)) from None


def _checked(conninfo: str) -> str:
    """How to reach the database, each attempt within some seconds, once it is seen to be one that can be used.

    Raises:
        LaunchError: it is not.
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
        raise LaunchError(cannot_reach(error)) from None
    if version < OLDEST_POSTGRES:
        raise LaunchError(f"the database is PostgreSQL {version // 10_000}; 14 or newer is needed")
    if encoding != "UTF8":
        raise LaunchError(f"the database has the encoding {encoding}; create one with ENCODING 'UTF8'")
    return conninfo


def _check_used(conninfo: str) -> None:
    try:
        found, _, _ = compare_revisions(conninfo)
    except psycopg.Error as error:
        raise LaunchError(cannot_reach(error)) from None
    if found is None:
        raise LaunchError(
            "the database of DATABASE_URL has nothing of this service in it: see that it is the right one"
        )


def _is_well_formed(conninfo: str) -> bool:
    """Whether libpq reads it, and finds no piece of a password where a host, a port or a database belongs.

    What libpq says of one that is not may show the password: '@', '/', '?' or a blank in it ends it early.
    """
    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    except psycopg.Error:
        return False
    ports = parts.get("port", "").replace(",", "")
    return not (
        (ports and not ports.isdecimal()) or any("@" in parts.get(name, "") for name in ("host", "hostaddr", "dbname"))
    )


def cannot_reach(error: psycopg.Error) -> str:
    """What libpq says of it: names the host and the reason; never the password."""
    reason = " ".join(str(error).split()) or type(error).__name__
    advice = next((advice for part, advice in _POOLER_ADVICE.items() if part in reason), _ADVICE)
    if TOO_FEW in reason:
        return f"the database of DATABASE_URL cannot be used: {reason}"
    return f"the database of DATABASE_URL cannot be used: {reason}; {advice}"


def _with_key(settings: Settings, data_dir: Path) -> Settings:
    """The settings with a signing key: the one given, or the data folder's own."""
    if settings.secret_key is not None or not settings.algorithm.startswith("HS"):
        return settings
    path = data_dir / KEY_FILE
    try:
        key = path.read_text("ascii").strip()
    except FileNotFoundError:
        key = secrets.token_urlsafe(48)
        # Whole or not at all: a key cut short by a crash would lock everybody out.
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
            "(everybody logs in again then)"
        ) from None
    return settings.model_copy(update={"secret_key": SecretStr(key)})


def exit_with(error: LaunchError) -> SystemExit:
    """How a program ends that cannot start: one line, and an exit code that is not 0."""
    _say(str(error))
    return SystemExit(1)


def _say(line: str) -> None:
    print(f"pulse-trio: {line}", file=sys.stderr)  # noqa: T201  # for the person at the terminal


@contextmanager
def plain_exit() -> Iterator[None]:
    """Unpacks a SystemExit that comes out of nurseries, so that the program ends by it: its reason is in the log."""
    try:
        yield
    except BaseExceptionGroup as group:
        exits, others = group.split(SystemExit)
        if exits is None or others is not None:
            raise
        raise SystemExit(1) from None


class StopSignals:
    """SIGINT, SIGTERM and SIGHUP, from here to the end of the program.

    SIGHUP is what a terminal sends that is closed, and what `nohup` has set aside: then it stays so.

    The first one ends the start by a KeyboardInterrupt, or asks the service to stop. More of them change
    nothing, so that PostgreSQL is stopped in peace. (Trio's own receiver would pass a second one on to Python,
    in the middle of that.)
    """

    def __init__(self) -> None:
        self.name: str | None = None  # of the first one that came
        self._is_asked = False
        self._is_kept = False
        self._wake: Callable[[], None] | None = None
        self._unraisable = sys.unraisablehook
        sys.unraisablehook = self._not_raised
        signal.signal(signal.SIGALRM, self._interrupt)
        for number in _STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN or number is signal.SIGINT:
                signal.signal(number, self._handle)
        atexit.register(_ignore_signals)

    def keep(self) -> None:
        """From now on `wait` tells of a signal, and none interrupts any more."""
        self._is_kept = True

    async def wait(self) -> None:
        """Returns when the first signal has come."""
        event, token = trio.Event(), trio.lowlevel.current_trio_token()
        self._wake = lambda: token.run_sync_soon(event.set, idempotent=True)
        try:
            if not self._is_asked:
                await event.wait()
        finally:
            self._wake = None

    def _handle(self, number: int, frame: object) -> None:
        is_first, self._is_asked = not self._is_asked, True
        if is_first:
            self.name = signal.Signals(number).name
        if self._wake is not None:
            self._wake()
        elif is_first:
            self._interrupt(number, frame)

    def _interrupt(self, _number: int, _frame: object) -> None:
        if not self._is_kept:
            raise KeyboardInterrupt

    def _not_raised(self, problem: Any) -> None:
        """An interrupt in a place that lets nothing through (a hook at a fork, a finalizer) comes again."""
        if isinstance(problem.exc_value, KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, INTERRUPT_AGAIN)
        else:
            self._unraisable(problem)


def _ignore_signals() -> None:
    # Python's last act gives them their deadly default back, but not to those that are ignored.
    for number in _STOPPING:
        signal.signal(number, signal.SIG_IGN)
