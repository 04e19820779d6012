"""Backups: PostgreSQL's own pg_dump and pg_restore, those that come with the embedded server, on any of our databases.

A distribution's pg_dump refuses a server that is newer than itself. A dump is one moment of the history, taken while
the service goes on.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pulse_trio.errors import LaunchError
from pulse_trio.launch import Database, migrate_database
from pulse_trio.store.embedded import find_binaries
from pulse_trio.store.lock import ServiceLock
from pulse_trio.store.schema import establish_epoch, renew_epoch

_OUR_TABLES: Final = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"


def dump(database: Database, file: Path) -> int:
    """Writes a dump of the database to a file, whole or not at all; returns its size in bytes.

    Only the owner may read the file: it holds every message, and the hashes of passwords.

    Raises:
        LaunchError: it cannot be made; one line for a person. What the file was before it still is.
    """
    draft = file.with_name(f"{file.name}.part")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        raise LaunchError(f"{draft} cannot be written: {error.strerror}") from None
    try:
        os.fchmod(descriptor, 0o600)
        # By name, not to its standard output: only then the dump says where its parts begin, and one that was cut
        # short is noticed.
        options = ["--format=custom", "--no-owner", "--no-privileges", f"--file={draft.absolute()}"]
        _run(database, "pg_dump", options)
        os.fsync(descriptor)
        size = os.fstat(descriptor).st_size
        draft.rename(file)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return size


def restore(database: Database, file: Path) -> None:
    """Puts a dump into the database, which must be empty, and gives the history a new epoch.

    All of it happens, or nothing. Clients that knew the history load it afresh.

    Raises:
        LaunchError: it cannot be done; one line for a person.
    """
    lock = ServiceLock(database.conninfo)  # no service may start on what is half there
    try:
        with psycopg.connect(database.conninfo) as connection:
            row = connection.execute(_OUR_TABLES).fetchone()
        if row is None or row[0]:
            raise LaunchError("the database is not empty: restore into a new one (another --data-dir or DATABASE_URL)")
        options = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", str(file.absolute())]
        _run(database, "pg_restore", options)
        migrate_database(database)
        establish_epoch(database.conninfo)
        renew_epoch(database.conninfo)
    finally:
        lock.close()


def _run(database: Database, program: str, options: Sequence[str]) -> None:
    folder = find_binaries(database.settings.postgres_bin)
    params = {name: str(value) for name, value in conninfo_to_dict(database.conninfo).items()}
    password = params.pop("password", None)
    # Everybody on the machine may read the arguments of a program, and nobody else its environment.
    environment = os.environ if password is None else {**os.environ, "PGPASSWORD": password}
    try:
        done = subprocess.run(  # noqa: S603  # PostgreSQL's own program
            [str(folder / program), f"--dbname={make_conninfo('', **params)}", "--no-password", *options],
            env={**environment, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise LaunchError(f"{folder / program} cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in lines if "error:" in line), lines[0] if lines else f"exit {done.returncode}")
        raise LaunchError(f"{reason.strip()}; PULSE_POSTGRES_BIN chooses other programs than those that come along")
