"""pulse-trio serve | migrate | doctor | backup | restore | restored | user add | token"""

import json
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import click
import psycopg
import structlog
import trio
from hypercorn.config import Config, Sockets

from pulse_trio import __version__, logs
from pulse_trio.auth.passwords import Passwords
from pulse_trio.auth.tokens import Tokens
from pulse_trio.clock import utc_now
from pulse_trio.console import exit_with, report
from pulse_trio.conversations import accounts
from pulse_trio.database.backup import dump, dump_to, restore
from pulse_trio.database.embedded import default_data_dir
from pulse_trio.database.opening import Database, migrate_database, open_database
from pulse_trio.database.schema import establish_epoch, renew_epoch
from pulse_trio.database.sessions import with_keepalives
from pulse_trio.doctor import examine
from pulse_trio.edge import server
from pulse_trio.errors import LaunchError, PulseError
from pulse_trio.exception_groups import flatten_group
from pulse_trio.hypercorn_file import DEFAULT_HOST, DEFAULT_PORT, read_config, read_values, warn_of_unused
from pulse_trio.ids import IdSource
from pulse_trio.launch import open_app, open_supervised_database
from pulse_trio.settings import Settings
from pulse_trio.signals import StopSignals, unwrap_exit
from pulse_trio.store.base import StoreError, User, UsernameTaken
from pulse_trio.store.postgres import PostgresStore
from pulse_trio.texts import username_problem
from pulse_trio.trio_psycopg import Pool
from pulse_trio.workers.assignment import Http
from pulse_trio.workers.supervisor import Supervisor

log = structlog.get_logger(__name__)

_data_dir = click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the embedded PostgreSQL (PULSE_DATA_DIR).",
)
_config_file = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="TOML file with Hypercorn's settings: TLS, addresses, timeouts (PULSE_HYPERCORN_CONFIG).",
)


@click.group()
@click.version_option(__version__, package_name="pulse-trio")
def main() -> None:
    """Pulse on Trio: a real-time chat backend. Settings come from the environment; docs/operations.md lists them."""


@main.command()
@click.option("--host", show_default=DEFAULT_HOST, help="Address to listen on; 0.0.0.0 for all.")
@click.option(
    "--port",
    show_default=str(DEFAULT_PORT),
    type=click.IntRange(0, 65_535),
    help="Port to listen on; 0 for a free one.",
)
@_config_file
@click.option("--workers", help="Number of processes, or auto: one for each core (PULSE_WORKERS).")
@click.option("--wait", is_flag=True, help="If another process serves the database, wait for its end (PULSE_STANDBY).")
@click.option("--user", help="If root starts it: the account whose rights to use, once the port is bound (PULSE_USER).")
@_data_dir
def serve(
    host: str | None,
    port: int | None,
    config_file: Path | None,
    workers: str | None,
    wait: bool,
    user: str | None,
    data_dir: Path | None,
) -> None:
    """Run the service until Ctrl-C."""
    with _errors_as_one_line():
        is_for_people = logs.configure_start()
        try:
            signals = StopSignals()
            settings = Settings.load(
                data_dir=data_dir, hypercorn_config=config_file, standby=wait or None, user=user, workers=workers
            )
            is_for_people = logs.configure(settings)
            run = _serve_alone if settings.workers == 1 else _serve_with_workers
            stopped_by = run(settings, host, port, signals, is_for_people)
            if not is_for_people:
                log.info("stopped", signal=stopped_by)
        except KeyboardInterrupt:
            if is_for_people:
                _say("Stopped before it was ready.", err=True)
            else:
                log.info("stopped before it was ready")
        else:
            if is_for_people:
                _say("Stopped.")


@main.command()
@_data_dir
def migrate(data_dir: Path | None) -> None:
    """Bring the database's schema up to date."""
    with _errors_as_one_line(), open_database(Settings.load(data_dir=data_dir), attach=True) as database:
        before, after = migrate_database(database)
        _answer(f"Schema {after}." if before == after else f"Schema {before or 'none'} → {after}.")


@main.command()
@click.option("--host", show_default=DEFAULT_HOST, help="Address that the service listens on.")
@click.option(
    "--port", show_default=str(DEFAULT_PORT), type=click.IntRange(1, 65_535), help="Port that the service listens on."
)
@_config_file
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_data_dir
def doctor(host: str | None, port: int | None, config_file: Path | None, as_json: bool, data_dir: Path | None) -> None:
    """Check everything that could keep the service from starting or from keeping its promises, also while it runs.

    Prints a line for each check: ok, warning or failed, and how to fix it. The exit code is 1 if a check failed.
    """
    findings = []
    load = partial(Settings.load, data_dir=data_dir, hypercorn_config=config_file)
    for finding in examine(load, host, port):
        findings.append(finding)
        if not as_json:
            mend = f"; {finding.mend}" if finding.mend else ""
            _answer(f"{finding.status:<8} {finding.name:<12} {finding.text}{mend}")
    is_ok = all(finding.status != "failed" for finding in findings)
    if as_json:
        _answer(json.dumps({"ok": is_ok, "checks": [asdict(finding) for finding in findings]}, indent=2))
    sys.exit(0 if is_ok else 1)


@main.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True, path_type=Path))
@_data_dir
def backup(file: Path, data_dir: Path | None) -> None:
    """Write a dump of the database to FILE, also while the service runs; - is standard output.

    The signing key of a data folder (secret_key) is not in the dump: keep a copy of it elsewhere, or everybody must
    log in again after a restore.
    """
    is_stream = str(file) == "-"
    with _errors_as_one_line():
        if is_stream and sys.stdout is None:
            raise LaunchError("standard output is closed")
        if is_stream and sys.stdout.isatty():
            raise LaunchError("standard output is a terminal: send the dump to a file or a program")
        with open_database(Settings.load(data_dir=data_dir), attach=True, create=False) as database:
            size = dump_to(database, sys.stdout.fileno()) if is_stream else dump(database, file)
            # Standard output may be where FILE leads, such as /dev/stdout.
            _answer(f"{size:,} bytes.", err=is_stream or not file.is_file())


@main.command("restore")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_data_dir
def restore_dump(file: Path, data_dir: Path | None) -> None:
    """Restore a dump from FILE into an empty database: a new data folder, or the database of DATABASE_URL.

    The history gets a new epoch, so clients reload it. A dump is a program: the SQL in it runs with the rights of the
    database's role, so restore only dumps that nobody else could write.
    """
    with _errors_as_one_line():
        if not file.is_file():
            raise LaunchError(f"there is no file {file}")
        with open_database(Settings.load(data_dir=data_dir), attach=True) as database:
            restore(database, file)
        _answer("Restored.")


@main.command()
@_data_dir
def restored(data_dir: Path | None) -> None:
    """Declare that the database's files were restored from a backup, so that clients reload their histories.

    Not needed after restoring a dump, promoting a standby or recovering to an earlier time: the service detects those.
    A running service notices at its next start.
    """
    with _errors_as_one_line(), open_database(Settings.load(data_dir=data_dir), attach=True, create=False) as database:
        migrate_database(database)
        establish_epoch(database.conninfo)
        renew_epoch(database.conninfo)
        _answer("The history has a new epoch.")


@main.group()
def user() -> None:
    """Manage accounts."""


@user.command("add")
@click.argument("username")
@click.option(
    "--password", help="Prompted for if missing; '-' reads it from standard input. Visible in process lists otherwise."
)
@click.option("--password-file", type=click.File("r", encoding="utf-8"), help="File whose first line is the password.")
@_data_dir
def add_user(username: str, password: str | None, password_file: TextIO | None, data_dir: Path | None) -> None:
    """Create an account, also while the service runs."""
    if password is not None and password_file is not None:
        raise click.UsageError("give --password or --password-file, not both")
    with _errors_as_one_line():
        settings = Settings.load(data_dir=data_dir)
        problem = username_problem(username)
        if problem is not None:
            raise LaunchError(f"the username {problem}")
        password = _chosen_password(password, password_file)
        problem = accounts.password_problem(password, settings)
        if problem is not None:
            raise LaunchError(f"the password {problem}")
        with open_database(settings, attach=True) as database:
            migrate_database(database)
            _answer(trio.run(_add_user, database, username, password))


@main.command()
@click.argument("username")
@_data_dir
def token(username: str, data_dir: Path | None) -> None:
    """Print a token for a user, also while the service runs."""
    with _errors_as_one_line(), open_database(Settings.load(data_dir=data_dir), attach=True, create=False) as database:
        migrate_database(database)
        _answer(trio.run(_token, database, username))


def _serve_alone(
    settings: Settings, host: str | None, port: int | None, signals: StopSignals, is_for_people: bool
) -> str | None:
    """Serves in this process; returns the name of the signal that ended it."""
    server.install(settings)
    config = read_config(settings.hypercorn_config, host, port)
    warn_of_unused(settings.hypercorn_config)
    server.load_certificate(config)
    # A standby listens once it serves: until then the port may be that of the service that it waits for.
    sockets = None if settings.standby else server.bind(config)
    _announce_creation(settings)
    with open_app(settings) as (app, database):
        if sockets is None:  # it may have waited for months
            server.renew_certificate(config)
            sockets = server.bind(config)
        signals.keep()
        _announce_start(server.address(sockets), config, database, is_for_people)
        trio.run(_serve, app, config, sockets, signals)
    return signals.name


def _serve_with_workers(
    settings: Settings, host: str | None, port: int | None, signals: StopSignals, is_for_people: bool
) -> str | None:
    """Serves in several processes that this one supervises; returns the name of the signal that ended them."""
    server.is_supported(settings)
    config = read_config(settings.hypercorn_config, host, port)
    warn_of_unused(settings.hypercorn_config)
    server.load_certificate(config)

    def read_http() -> Http:
        return Http.read(read_values(settings.hypercorn_config))

    http = read_http()

    def listen() -> tuple[Sockets, socket.socket | None]:
        bound = server.bind(config)
        return bound, None if settings.metrics_bind is None else server.listen_for_metrics(settings.metrics_bind)

    listening = None if settings.standby else listen()
    _announce_creation(settings)
    with open_supervised_database(settings) as (prepared, share):
        database = prepared.database
        sockets, metrics = listen() if listening is None else listening
        address = server.address(sockets)
        signals.keep()

        def on_ready() -> None:
            prepared.lock.close()  # the workers hold it
            _announce_start(address, config, database, is_for_people)

        return Supervisor(database, http, read_http, sockets, metrics, share).run(signals, on_ready)


def _announce_start(address: str, config: Config, database: Database, is_for_people: bool) -> None:
    """Prints or logs where the service is."""
    url = _url(address, is_tls=config.ssl_enabled)
    settings = database.settings
    if is_for_people:
        _greet(url, database, settings)
        return
    several = {"workers": settings.workers} if settings.workers > 1 else {}
    log.info("started", version=__version__, address=address, url=url, database=database.description, **several)


async def _serve(app: Any, config: Config, sockets: Any, signals: StopSignals) -> None:
    with unwrap_exit():
        await server.serve(server.wrap(app), config, sockets, signals.wait)


def _chosen_password(password: str | None, file: TextIO | None) -> str:
    """Returns the password of an option, a file, standard input or a prompt."""
    if password == "-":  # noqa: S105  # means standard input
        file = sys.stdin
    elif password is not None:
        report("others on this machine can read the password in the list of processes: use --password-file, or -")
        return password
    if file is None:
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True))
    try:
        return file.readline().rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise LaunchError("the password cannot be read: it is not a line of UTF-8") from None


def _pool(database: Database) -> Pool:
    """Makes a pool of one connection, with the service's session settings."""
    sessions = with_keepalives(database.conninfo)
    return Pool(sessions.conninfo, server_settings=sessions.settings, min_size=0, max_size=1, autocommit=True)


async def _add_user(database: Database, username: str, password: str) -> str:
    new = User(IdSource()(), username)
    async with _pool(database) as pool:
        try:
            await accounts.create(PostgresStore(pool), Passwords(1), new, password, now=utc_now())
        except UsernameTaken:
            raise LaunchError(f"the username {username} is taken") from None
    return str(new.id)


async def _token(database: Database, username: str) -> str:
    tokens = Tokens(database.settings, utc_now)
    async with _pool(database) as pool:
        account = await PostgresStore(pool).find_account(username)
    if account is None:
        raise LaunchError(f"there is no user {username}")
    return tokens.issue(account.user)


@contextmanager
def _errors_as_one_line() -> Iterator[None]:
    """Ends the program with one line, not a traceback, for errors that a person can fix."""
    try:
        yield
    except BaseExceptionGroup as group:
        known, others = group.split((LaunchError, PulseError, StoreError, psycopg.Error))
        if others is not None or known is None:
            raise
        raise exit_with(LaunchError(str(flatten_group(known)[0]))) from None
    except (LaunchError, PulseError, StoreError, psycopg.Error) as error:
        raise exit_with(LaunchError(str(error))) from None


def _url(address: str, *, is_tls: bool) -> str:
    """Returns the URL at which a browser on this machine finds an address; a Unix socket's as it is."""
    if address.startswith("unix:"):
        return address
    host, _, port = address.rpartition(":")
    host = "127.0.0.1" if host in {"0.0.0.0", "[::]"} else host  # noqa: S104
    return f"{'https' if is_tls else 'http'}://{host}:{port}"


def _announce_creation(settings: Settings) -> None:
    """Prints that a database is created, which takes a while, to a person at a terminal."""
    if settings.database_url is None and sys.stderr is not None and sys.stderr.isatty():
        folder = default_data_dir() if settings.data_dir is None else settings.data_dir.absolute()
        if not (folder / "data").is_dir():
            _say(f"Creating a database in {folder}; this takes some seconds, once.", err=True)


def _greet(base: str, database: Database, settings: Settings) -> None:
    chat = f"  Chat in the browser:    {base}/\n" if settings.web_client else ""
    workers = f", in {settings.workers} processes" if settings.workers > 1 else ""
    _say(
        f"Pulse on Trio {__version__} on {base}, with {database.description}{workers}.\n"
        f"{chat}"
        f"  API to browse and try:  {base}/docs\n"
        f"  Ctrl-C stops it."
    )


def _answer(text: str, *, err: bool = False) -> None:
    """Prints the result of a command.

    Raises:
        SystemExit: it cannot be written, such as to a full disk; standard error says that the command is done.
    """
    try:
        click.echo(text, err=err)
    except BrokenPipeError:  # the reader has seen enough
        raise
    except OSError as error:
        _silence(err=err)
        raise exit_with(LaunchError(f"done, but the output cannot be written: {error.strerror}")) from None


def _say(text: str, *, err: bool = False) -> None:
    """Prints a line; a failing stdout (full disk, closed pipe) must not stop the service."""
    try:
        click.echo(text, err=err)
    except OSError:
        _silence(err=err)


def _silence(*, err: bool) -> None:
    """Discards what is left in a stream's buffer: the flush at exit would fail again, and change the exit code."""
    stream = sys.stderr if err else sys.stdout
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
