"""Backups: PostgreSQL's own pg_dump and pg_restore, on any of our databases.

A dump is one moment of the history, taken while the service goes on. PostgreSQL promises that it can be restored into a
server of the same major version as the programs, or a newer one: so they are those of the server's version.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pulse_trio.database.embedded import EmbeddedError, find_binaries
from pulse_trio.database.schema import establish_epoch, renew_epoch
from pulse_trio.database.service_lock import ServiceLock
from pulse_trio.database.sessions import noticing, open_session, require_own_sessions
from pulse_trio.errors import LaunchError
from pulse_trio.launch import Database, migrate_database

SYSTEM_FOLDERS: Final = ("/usr/lib/postgresql/{major}/bin", "/usr/pgsql-{major}/bin")  # Debian's, Red Hat's

# From this version on a server knows every setting that newer programs set in it (transaction_timeout is the last).
_LENIENT_SERVER: Final = 17
# One thing that is in the database already, in whatever schema; what an extension brought along is none.
_OCCUPANT: Final = """
    SELECT min(relation.oid::regclass::text) FROM pg_class AS relation
    JOIN pg_namespace AS namespace ON namespace.oid = relnamespace
    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
        AND NOT EXISTS (
            SELECT FROM pg_depend
            WHERE classid = 'pg_class'::regclass AND objid = relation.oid AND deptype = 'e'
        )
"""
_BEGINS_WITH: Final = b"PGDMP"  # a dump in PostgreSQL's custom format
_LISTED_TABLE: Final = re.compile(r"^\d+; \d+ \d+ TABLE \S+ (\S+) ", re.MULTILINE)
_OUR_TABLES: Final = {"alembic_version", "history", "messages"}


def dump(database: Database, file: Path) -> int:
    """Writes a dump of the database to a file, whole or not at all; returns its size in bytes.

    Only the owner may read the file: it holds every message, and the hashes of passwords.

    Raises:
        LaunchError: it cannot be made; one line for a person. What the file was before it still is.
    """
    program = _find_program(database, "pg_dump")
    require_own_sessions(noticing(database.conninfo), writes=False)
    try:
        # A file of its own: of two dumps at once each is whole, and what is there already is not touched.
        descriptor, name = tempfile.mkstemp(prefix=".pulse-", suffix=".part", dir=file.absolute().parent)
    except OSError as error:
        raise LaunchError(f"{file} cannot be written: {error.strerror}") from None
    draft = Path(name)
    try:
        # By name, not to its standard output: only then the dump says where its parts begin, and one that was cut
        # short is noticed.
        options = ["--format=custom", "--no-owner", "--no-privileges", f"--file={draft}"]
        _run(program, options, database)
        if os.pread(descriptor, len(_BEGINS_WITH), 0) != _BEGINS_WITH:
            raise LaunchError(f"{program} ended without an error, and wrote no dump")
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
    program = _find_program(database, "pg_restore")
    require_own_sessions(noticing(database.conninfo))  # neither the lock nor what the program sets holds in others
    _require_ours(program, file)
    lock = ServiceLock(database.conninfo)  # no service may start on what is half there
    try:
        with open_session(noticing(database.conninfo)) as connection:
            (occupant,) = connection.execute(_OCCUPANT).fetchall()[0]
        if occupant is not None:
            raise LaunchError(
                f"the database is not empty ({occupant} is there): restore into a new one (another --data-dir or "
                "DATABASE_URL)"
            )
        options = ["--single-transaction", "--exit-on-error", "--no-owner", "--no-privileges", str(file.absolute())]
        _run(program, options, database)
        migrate_database(database)
        establish_epoch(database.conninfo)
        renew_epoch(database.conninfo)
    finally:
        lock.close()


def _require_ours(program: Path, file: Path) -> None:
    """Makes sure that a file is a dump of this service's history, before anything is restored.

    Raises:
        LaunchError: it is not.
    """
    listed = set(_LISTED_TABLE.findall(_run(program, ["--list", str(file.absolute())])))
    if not listed >= _OUR_TABLES:
        raise LaunchError(f"{file} is a dump of something else: it has no table {min(_OUR_TABLES - listed)}")


def _find_program(database: Database, name: str) -> Path:
    """The path of a program of PostgreSQL that fits the database's server.

    Raises:
        LaunchError: there is none; says which one is needed, and where others are.
        psycopg.Error: the database cannot be reached.
    """
    with open_session(noticing(database.conninfo)) as connection:
        server = connection.info.server_version // 10_000
    found = {path: major for path in _candidates(database, name, server) if (major := _major(path)) is not None}
    fitting = [path for path, major in found.items() if major == server]
    if server >= _LENIENT_SERVER:
        fitting += [path for path, major in found.items() if major > server]
    if fitting:
        return fitting[0]
    others = ", ".join(f"{path} is of {major}" for path, major in found.items()) or "none was found"
    raise LaunchError(
        f"{name} of PostgreSQL {server} is needed, the version of the database's server ({others}): install it (on "
        f"Debian: apt-get install postgresql-client-{server}), or name its folder in PULSE_POSTGRES_BIN"
    )


def _candidates(database: Database, name: str, server: int) -> Iterator[Path]:
    """Lists the paths the program may have: in PULSE_POSTGRES_BIN alone, or the system's and the package's folders."""
    chosen = database.settings.postgres_bin
    if chosen is not None:
        yield chosen / name
        return
    if database.settings.database_url is not None:  # the system's know TLS, unlike the package's
        yield from (Path(folder.format(major=server)) / name for folder in SYSTEM_FOLDERS)
        on_path = shutil.which(name)
        if on_path is not None:
            yield Path(on_path)
    with suppress(EmbeddedError):  # the package is not there for every platform
        yield find_binaries() / name


def _major(program: Path) -> int | None:
    """The major version of a program of PostgreSQL; None if it cannot be run."""
    try:
        done = subprocess.run(  # noqa: S603  # PostgreSQL's own program
            [str(program), "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError:
        return None
    version = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    return None if version is None else int(version[1])


def _run(program: Path, options: Sequence[str], database: Database | None = None) -> str:
    """Runs a program of PostgreSQL, on a database if one is given; returns what it says."""
    target: list[str] = []
    password = None
    if database is not None:
        params = {name: str(value) for name, value in conninfo_to_dict(database.conninfo).items()}
        password = params.pop("password", None)
        target = [f"--dbname={make_conninfo('', **params)}", "--no-password"]
    # Everybody on the machine may read the arguments of a program, and nobody else its environment.
    environment = os.environ if password is None else {**os.environ, "PGPASSWORD": password}
    try:
        done = subprocess.run(  # noqa: S603  # PostgreSQL's own program
            [str(program), *target, *options],
            env={**environment, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise LaunchError(f"{program} cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in lines if "error:" in line), lines[0] if lines else f"exit {done.returncode}")
        if "unsupported version" in reason:
            raise LaunchError(
                f"the dump was made by programs of a newer PostgreSQL than {program}: restore it into a server of that "
                "version or a newer one, or make the dump with programs of the version of the server it came from"
            )
        raise LaunchError(f"{reason.strip()}; PULSE_POSTGRES_BIN chooses other programs than {program}")
    return done.stdout
