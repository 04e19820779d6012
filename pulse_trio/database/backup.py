"""Backup and restore with PostgreSQL's own pg_dump and pg_restore.

A dump is a snapshot, taken while the service runs. PostgreSQL guarantees that it can be restored into a server of the
programs' major version or a newer one, so the programs used are those of the server's version.
"""

import errno
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pulse_trio.database.embedded import EmbeddedError, find_binaries
from pulse_trio.database.opening import Database, migrate_database
from pulse_trio.database.schema import establish_epoch, renew_epoch
from pulse_trio.database.service_lock import ServiceLock
from pulse_trio.database.sessions import open_session, require_own_sessions, with_keepalives
from pulse_trio.errors import LaunchError

SYSTEM_FOLDERS: Final = ("/usr/lib/postgresql/{major}/bin", "/usr/pgsql-{major}/bin")  # Debian's, Red Hat's

# From this version on a server knows every setting that newer programs write into a dump; the last one added is
# transaction_timeout.
_MIN_TOLERANT_SERVER: Final = 17
# The name of one relation in any schema that is not an extension's.
_OCCUPANT: Final = """
    SELECT min(relation.oid::regclass::text) FROM pg_class AS relation
    JOIN pg_namespace AS namespace ON namespace.oid = relnamespace
    WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' AND relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
        AND NOT EXISTS (
            SELECT FROM pg_depend
            WHERE classid = 'pg_class'::regclass AND objid = relation.oid AND deptype = 'e'
        )
"""
# Rows of tables that are not logged, tickets and limited attempts, mean nothing in another place or at another time.
_DUMP_OPTIONS: Final = ("--format=custom", "--no-owner", "--no-privileges", "--no-unlogged-table-data")
_CHUNK_BYTES: Final = 65_536
_MAGIC: Final = b"PGDMP"  # begins a dump in PostgreSQL's custom format
_LISTED_TABLE: Final = re.compile(r"^\d+; \d+ \d+ TABLE \S+ (\S+) ", re.MULTILINE)
_OUR_TABLES: Final = {"alembic_version", "history", "messages"}


def dump(database: Database, file: Path) -> int:
    """Writes a dump of the database to a file, all or nothing; returns its size in bytes.

    Only the owner may read the file: it holds every message and all password hashes. A symbolic link stays, and the
    file that it names is replaced. A pipe or a character device is written to, as by `dump_to`.

    Raises:
        LaunchError: the dump failed; one line for a person. A previous file is unchanged.
    """
    if not _is_replaceable(file):
        try:
            special = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise LaunchError(f"{file} cannot be written: {error.strerror}") from None
        try:
            return dump_to(database, special)
        finally:
            os.close(special)
    file = file.resolve()
    program = _find_program(database, "pg_dump")
    require_own_sessions(with_keepalives(database.conninfo), writes=False)
    try:
        # A temporary file: concurrent dumps do not mix, and a previous file stays until the new one is complete.
        descriptor, name = tempfile.mkstemp(prefix=".pulse-", suffix=".part", dir=file.absolute().parent)
    except OSError as error:
        raise LaunchError(f"{file} cannot be written: {error.strerror}") from None
    draft = Path(name)
    try:
        # Into a file, not to standard output: pg_dump then records the offsets of its parts, so that pg_restore detects
        # a truncated dump.
        _run(program, [*_DUMP_OPTIONS, f"--file={draft}"], database)
        if os.pread(descriptor, len(_MAGIC), 0) != _MAGIC:
            raise LaunchError(f"{program} ended without an error but wrote no dump")
        os.fsync(descriptor)
        size = os.fstat(descriptor).st_size
        draft.rename(file)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise LaunchError(f"{file} cannot be written: {error.strerror}") from None
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)
    return size


def dump_to(database: Database, descriptor: int) -> int:
    """Writes a dump of the database to an open file, such as a pipe to another program; returns its size in bytes.

    A reader cannot tell a dump that ended early from a whole one until it restores it: look at the exit code.

    Raises:
        LaunchError: the dump failed, or nobody reads the file any longer; one line for a person.
    """
    program = _find_program(database, "pg_dump")
    require_own_sessions(with_keepalives(database.conninfo), writes=False)
    size = 0
    command, environment = _command(program, _DUMP_OPTIONS, database)
    with tempfile.TemporaryFile() as errors:
        try:
            running = subprocess.Popen(  # noqa: S603  # PostgreSQL's own program
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
            )
        except OSError as error:
            raise LaunchError(f"{program} cannot be run: {error.strerror}") from None
        with running:
            assert running.stdout is not None
            try:
                while chunk := running.stdout.read(_CHUNK_BYTES):
                    if not size and not chunk.startswith(_MAGIC):
                        raise LaunchError(f"{program} wrote something else than a dump")
                    size += len(chunk)
                    rest = memoryview(chunk)
                    while rest:
                        rest = rest[os.write(descriptor, rest) :]
            except OSError as error:
                running.kill()
                raise LaunchError(f"the dump cannot be written: {error.strerror}") from None
            except BaseException:
                running.kill()
                raise
        if running.returncode != 0:
            errors.seek(0)
            raise _failure(program, running.returncode, errors.read().decode("utf-8", "replace"))
    if not size:
        raise LaunchError(f"{program} ended without an error but wrote no dump")
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP, errno.EROFS}:  # a pipe, or what cannot be flushed
            raise LaunchError(f"the dump cannot be written: {error.strerror}") from None
    return size


def restore(database: Database, file: Path) -> None:
    """Restores a dump into an empty database, all or nothing, and gives the history a new epoch.

    Clients that know the old history reload it.

    Raises:
        LaunchError: the restore failed; one line for a person.
    """
    program = _find_program(database, "pg_restore")
    require_own_sessions(with_keepalives(database.conninfo))  # shared ones would break the lock and the restore
    _require_ours(program, file)
    lock = ServiceLock(database.conninfo)  # keeps a service from starting on a half-restored database
    try:
        with open_session(with_keepalives(database.conninfo)) as connection:
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
    """Checks that a file is a dump of this service's database, before anything is restored.

    Raises:
        LaunchError: it is not.
    """
    listed = set(_LISTED_TABLE.findall(_run(program, ["--list", str(file.absolute())])))
    if not listed >= _OUR_TABLES:
        raise LaunchError(f"{file} is a dump of something else: it has no table {min(_OUR_TABLES - listed)}")


def _is_replaceable(file: Path) -> bool:
    """Returns True if a dump may take the place of what has this name: nothing, or an ordinary file.

    Renaming a draft over a device or a pipe would remove it: root's `backup /dev/null` would leave a file there.

    Raises:
        LaunchError: nothing can be written there.
    """
    try:
        mode = file.stat().st_mode
    except FileNotFoundError:
        return True
    except OSError as error:
        raise LaunchError(f"{file} cannot be written: {error.strerror}") from None
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return False
    if not stat.S_ISREG(mode):
        raise LaunchError(f"{file} cannot be written: it is neither a file, a pipe nor a character device")
    return True


def _find_program(database: Database, name: str) -> Path:
    """Finds a program of PostgreSQL that fits the version of the database's server.

    Raises:
        LaunchError: there is none; names the version needed and the programs found.
        psycopg.Error: the database cannot be reached.
    """
    with open_session(with_keepalives(database.conninfo)) as connection:
        server = connection.info.server_version // 10_000
    found = {path: major for path in _candidates(database, name, server) if (major := _major(path)) is not None}
    fitting = [path for path, major in found.items() if major == server]
    if server >= _MIN_TOLERANT_SERVER:
        fitting += [path for path, major in found.items() if major > server]
    if fitting:
        return fitting[0]
    others = ", ".join(f"{path} is of {major}" for path, major in found.items()) or "none was found"
    raise LaunchError(
        f"{name} of PostgreSQL {server} is needed, the version of the database's server ({others}): install it (on "
        f"Debian: apt-get install postgresql-client-{server}), or name its folder in PULSE_POSTGRES_BIN"
    )


def _candidates(database: Database, name: str, server: int) -> Iterator[Path]:
    """Lists possible paths of a program: in PULSE_POSTGRES_BIN only, or in the system's and the package's folders."""
    chosen = database.settings.postgres_bin
    if chosen is not None:
        yield chosen / name
        return
    if database.settings.database_url is not None:  # the system's support TLS, unlike the package's
        yield from (Path(folder.format(major=server)) / name for folder in SYSTEM_FOLDERS)
        on_path = shutil.which(name)
        if on_path is not None:
            yield Path(on_path)
    with suppress(EmbeddedError):  # the package does not exist for every platform
        yield find_binaries() / name


def _major(program: Path) -> int | None:
    """Returns the major version of a program of PostgreSQL; None if it cannot be executed."""
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
    """Runs a program of PostgreSQL, on a database if one is given; returns its standard output.

    Raises:
        LaunchError: it failed; one line for a person.
    """
    command, environment = _command(program, options, database)
    try:
        done = subprocess.run(  # noqa: S603  # PostgreSQL's own program
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise LaunchError(f"{program} cannot be run: {error.strerror}") from None
    if done.returncode != 0:
        raise _failure(program, done.returncode, done.stderr)
    return done.stdout


def _command(program: Path, options: Sequence[str], database: Database | None) -> tuple[list[str], dict[str, str]]:
    """Returns the arguments and the environment of a program of PostgreSQL.

    Every account can read a program's arguments, but only its own account can read its environment: the password is
    there.
    """
    environment = {**os.environ, "LC_ALL": "C"}
    if database is None:
        return [str(program), *options], environment
    params = {name: str(value) for name, value in conninfo_to_dict(database.conninfo).items()}
    password = params.pop("password", None)
    if password is not None:
        environment["PGPASSWORD"] = password
    return [str(program), f"--dbname={make_conninfo('', **params)}", "--no-password", *options], environment


def _failure(program: Path, code: int, stderr: str) -> LaunchError:
    """Returns the error for a program of PostgreSQL that failed: one line for a person."""
    lines = [line for line in stderr.splitlines() if line.strip()]
    reason = next((line for line in lines if "error:" in line), lines[0] if lines else f"exit {code}")
    if "unsupported version" in reason:
        return LaunchError(
            f"the dump was made by programs of a newer PostgreSQL than {program}: restore it into a server of that "
            "version or a newer one, or make the dump with programs of the version of the server it came from"
        )
    return LaunchError(f"{reason.strip()}; PULSE_POSTGRES_BIN chooses other programs than {program}")
