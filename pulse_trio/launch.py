"""What must happen before the event loop runs: the key, the database, its schema, its lock.

PostgreSQL is started here, on the main thread, because it is told to stop when the *thread* that started
it ends (`store/embedded.py`).
"""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from pydantic import SecretStr

from pulse_trio.app import PulseApp, create_app, postgres_store
from pulse_trio.errors import LaunchError
from pulse_trio.settings import Settings
from pulse_trio.store.embedded import (
    EmbeddedError,
    EmbeddedPostgres,
    default_data_dir,
    find_binaries,
    running_conninfo,
)
from pulse_trio.store.lock import ServiceLock
from pulse_trio.store.schema import migrate

OLDEST_POSTGRES: Final = 140_000  # server_version_num
KEY_FILE: Final = "secret_key"


@dataclass(frozen=True)
class Database:
    """A database that can be reached, and the settings with the key that belongs to it."""

    settings: Settings
    conninfo: str
    description: str


@contextmanager
def open_database(settings: Settings, *, attach: bool = False) -> Iterator[Database]:
    """The database of the settings: DATABASE_URL's, or the embedded one, which runs while the block does.

    Args:
        settings: all settings.
        attach: use the embedded PostgreSQL of a service that is running, if there is one.

    Raises:
        LaunchError: it cannot be reached or started; says what to do.
    """
    if settings.database_url is not None:
        conninfo = settings.database_url.get_secret_value()
        _check_reachable(conninfo)
        yield Database(settings, conninfo, "the database of DATABASE_URL")
        return
    data_dir = default_data_dir() if settings.data_dir is None else settings.data_dir.absolute()
    running = running_conninfo(data_dir) if attach else None
    if running is not None:
        yield Database(_with_key(settings, data_dir), running, f"the data folder {data_dir}")
        return
    try:
        server = EmbeddedPostgres(data_dir, binaries=find_binaries(settings.postgres_bin))
        conninfo = server.start()
    except EmbeddedError as error:
        raise LaunchError(str(error)) from None
    try:
        yield Database(_with_key(settings, data_dir), conninfo, f"the data folder {data_dir}")
    finally:
        server.stop()


@contextmanager
def open_app(settings: Settings) -> Iterator[tuple[PulseApp, Database]]:
    """The app on its database, migrated and locked for this process; closed again after the block.

    Raises:
        LaunchError: something is missing or in the way; one line for a person.
    """
    with open_database(settings) as database:
        migrate_database(database)
        try:
            lock = ServiceLock(database.conninfo)
        except psycopg.Error as error:
            raise LaunchError(_cannot_reach(error)) from None
        try:
            store = postgres_store(database.settings, database.conninfo, lock)
            yield create_app(database.settings, store), database
        finally:
            lock.close()


def migrate_database(database: Database) -> tuple[str | None, str]:
    """Brings the schema up to date; returns the revision before and after.

    Raises:
        LaunchError: it cannot be; one line for a person.
    """
    try:
        return migrate(database.conninfo)
    except psycopg.Error as error:
        raise LaunchError(_cannot_reach(error)) from None


def _check_reachable(conninfo: str) -> None:
    try:
        with psycopg.connect(conninfo) as connection:
            version = connection.info.server_version
    except psycopg.Error as error:
        raise LaunchError(_cannot_reach(error)) from None
    if version < OLDEST_POSTGRES:
        raise LaunchError(f"the database is PostgreSQL {version // 10_000}; 14 or newer is needed")


def _cannot_reach(error: psycopg.Error) -> str:
    """What libpq says of it: names the host and the reason; never the password."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"the database of DATABASE_URL cannot be used: {reason}; check that it runs and that the URL is right"


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
        raise LaunchError(f"the signing key in {path} cannot be read: {error}") from None
    return settings.model_copy(update={"secret_key": SecretStr(key)})


def exit_with(error: LaunchError) -> SystemExit:
    """How a program ends that cannot start: one line, and an exit code that is not 0."""
    print(f"pulse-trio: {error}", file=sys.stderr)  # noqa: T201  # for the person at the terminal
    return SystemExit(1)
