"""`pulse-trio doctor`: checks everything that could keep the service from starting or from keeping its promises."""

import os
import pwd
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import psycopg
import trio
from hypercorn.config import Config

from pulse_trio.auth.tokens import Tokens
from pulse_trio.bus.opening import probe_bus
from pulse_trio.bus.transport import TransportError
from pulse_trio.clock import utc_now
from pulse_trio.database.durability import DURABILITY_SETTINGS, SETTINGS_OFF
from pulse_trio.database.embedded import default_data_dir
from pulse_trio.database.encryption import ENCRYPTION_ADVICE, encryption_problem
from pulse_trio.database.opening import KEY_FILE, Database, describe_failure, open_database, plan_sessions
from pulse_trio.database.pool_share import PoolShare, allowed_sessions, needed_sessions
from pulse_trio.database.schema import (
    MIGRATION_LOCK,
    SERVICE_LOCK,
    compare_revisions,
    count_of_holders,
    holder_of,
    is_shared,
)
from pulse_trio.database.sessions import open_session, require_own_sessions, with_keepalives
from pulse_trio.edge.operators.probes import NOT_SERVED
from pulse_trio.edge.server import advise_on_address, load_certificate
from pulse_trio.edge.server.gate import reserved_files
from pulse_trio.errors import LaunchError
from pulse_trio.hypercorn_file import packaged_file, read_config
from pulse_trio.port_checks import Listened, answers, check, listened
from pulse_trio.privileges import is_root
from pulse_trio.settings import Settings
from pulse_trio.settings_values import bind_address
from pulse_trio.store.postgres import MESSAGE_CONNECTIONS

MIN_FREE_BYTES: Final = 256 * 2**20  # PostgreSQL preallocates several WAL files of 16 MiB
ENOUGH_FREE_BYTES: Final = 2 * 2**30
MAX_CLOCK_SKEW: Final = 1.0  # seconds between this machine and the database, including a round trip
MIN_TIME: Final = datetime(2026, 1, 1, tzinfo=UTC)  # an earlier time is certainly wrong
CORE_PATTERN: Final = Path("/proc/sys/kernel/core_pattern")  # core(5)
HEEDING_HANDLERS: Final = {"systemd-coredump", "apport", "false"}  # the kernel leaves the limit to them

Status = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check.

    Attributes:
        name: the check's name.
        status: "ok", "warning" or "failed".
        text: what was found.
        mend: what to do about it; empty if ok.
    """

    name: str
    status: Status
    text: str
    mend: str = ""


def examine(load: Callable[[], Settings], host: str | None = None, port: int | None = None) -> Iterator[Finding]:
    """Runs all checks in order; skips those whose prerequisites failed.

    Starts the embedded PostgreSQL for its checks if it is not running. Creates nothing that does not exist yet.

    Args:
        load: reads the settings.
        host: address that the service listens on; None: see `read_config`.
        port: port that the service listens on; None: see `read_config`.
    """
    try:
        settings = load()
    except LaunchError as error:
        yield Finding(
            "settings", "failed", str(error), "correct it in the environment; docs/operations.md lists every setting"
        )
        return
    yield _settings()
    yield _account(settings)
    yield _core_dumps()
    yield _clock()
    yield _files(settings)
    try:
        config = read_config(settings.hypercorn_config, host, port)
    except LaunchError as error:
        addresses = []
        yield Finding("http", "failed", str(error), "correct the file of --config or PULSE_HYPERCORN_CONFIG")
    else:
        addresses = listened(config)
        yield _http(settings, config)
    is_running = False
    exists = settings.database_url is not None
    if settings.database_url is None:
        try:
            folder = default_data_dir() if settings.data_dir is None else settings.data_dir.absolute()
        except LaunchError as error:
            yield Finding("data folder", "failed", str(error), "set PULSE_DATA_DIR")
            return
        yield from _data_folder(folder)
        exists = (folder / "data").is_dir()
        if not exists:
            yield Finding("database", "ok", f"none yet in {folder}: the first start creates it")
    if exists:
        with ExitStack() as stack:
            try:
                database = stack.enter_context(open_database(settings, attach=True))
            except LaunchError as error:
                yield Finding("database", "failed", str(error), "see 'Troubleshooting' in docs/operations.md")
            else:
                try:
                    for finding in _database(database):
                        is_running |= finding.name == "service" and finding.text != _NOT_RUNNING
                        yield finding
                except psycopg.Error as error:
                    reason = " ".join(str(error).split()) or type(error).__name__
                    yield Finding("database", "failed", f"it stopped answering: {reason}", "see its log")
    yield from _bus(settings)
    if addresses:
        yield _ports(addresses, is_running=is_running)
    yield _metrics(settings, is_running=is_running)


def _settings() -> Finding:
    unknown = Settings.unknown_variables()
    if not unknown:
        return Finding("settings", "ok", "all are valid")
    names = ", ".join(f"{name} (did you mean {closest}?)" if closest else name for name, closest in unknown.items())
    return Finding("settings", "warning", f"unknown settings are ignored: {names}", "correct or remove them")


def _account(settings: Settings) -> Finding:
    if not is_root():
        return Finding("account", "ok", "not root")
    if settings.user is None:
        return Finding(
            "account",
            "warning",
            "this is root, whose rights the service does not need",
            "run it as an account of its own, as deploy/systemd/pulse-trio.service does, or set PULSE_USER",
        )
    try:
        account = pwd.getpwnam(settings.user)
    except KeyError:
        text = f"there is no account {settings.user} (PULSE_USER)"
        return Finding("account", "failed", text, f"add it: useradd --system {settings.user}")
    if account.pw_uid == 0:
        return Finding("account", "failed", f"{settings.user} (PULSE_USER) is root's", "name one without its rights")
    return Finding("account", "ok", f"root, becomes {settings.user} once the port is bound")


def _core_dumps() -> Finding:
    """Looks for a handler of core dumps; it may ignore the limit of 0 that the service sets for itself."""
    try:
        handler = CORE_PATTERN.read_text().strip()
    except OSError:
        handler = ""
    program = handler.removeprefix("|").split()[0] if handler.startswith("|") else ""
    if program and Path(program).name not in HEEDING_HANDLERS:
        text = f"the system hands the memory of a crashed process, with keys and messages, to {program}"
        return Finding("core dumps", "warning", text, "see that it heeds RLIMIT_CORE (LimitCORE=0 in the unit)")
    return Finding("core dumps", "ok", "off: the service sets its limit to 0")


def _http(settings: Settings, config: Config) -> Finding:
    """Checks what Hypercorn's configuration file could undo."""
    own = settings.hypercorn_config
    file = packaged_file() if own is None else own
    for is_wrong, text, mend in (
        (
            config.ssl_enabled and set(config.alpn_protocols) != {"http/1.1"},
            "it offers HTTP/2, which the limits of connections and requests do not count",
            'set alpn_protocols = ["http/1.1"]',
        ),
        (config.worker_class != "trio", "it names another worker than Trio's", 'set worker_class = "trio"'),
        (
            config.workers > 1 and (settings.database_url is None or settings.metrics_bind is not None),
            "it starts several processes, which need DATABASE_URL and cannot share PULSE_METRICS_BIND",
            "set workers = 0, and PULSE_WORKERS for pulse-trio serve",
        ),
    ):
        if is_wrong:
            return Finding("http", "failed", f"{file}: {text}", mend)
    try:
        load_certificate(config)
    except LaunchError as error:
        return Finding("http", "failed", str(error), "correct certfile and keyfile")
    workers = max(settings.workers, config.workers)
    return Finding("http", "ok", f"{file}, HTTP/1.1 in {'one process' if workers <= 1 else f'{workers} processes'}")


def _clock() -> Finding:
    now = utc_now()
    if now < MIN_TIME:
        return Finding("clock", "failed", f"it shows {now:%Y-%m-%d}", "set the clock, and keep it correct by NTP")
    return Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M} UTC")


def _files(settings: Settings) -> Finding:
    try:
        import resource
    except ImportError:  # Windows
        return Finding("open files", "ok", "no limit on this system")
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = settings.max_connections + reserved_files(settings)
    if hard == resource.RLIM_INFINITY:
        return Finding("open files", "ok", "no limit")
    if not settings.max_connections:
        text = f"at most {hard:,}; PULSE_MAX_CONNECTIONS is 0, which accepts more connections than that"
        return Finding(
            "open files", "warning", text, f"set PULSE_MAX_CONNECTIONS to {hard - reserved_files(settings, hard)}"
        )
    if hard < wanted:
        return Finding(
            "open files",
            "warning",
            f"at most {hard:,}, too few for PULSE_MAX_CONNECTIONS={settings.max_connections}: others are rejected",
            f"raise the limit to {wanted} (ulimit -Hn, LimitNOFILE), or lower PULSE_MAX_CONNECTIONS",
        )
    return Finding("open files", "ok", f"at most {hard:,}; PULSE_MAX_CONNECTIONS needs {wanted:,}")


def _data_folder(folder: Path) -> Iterator[Finding]:
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if there != folder:
        if os.access(there, os.W_OK | os.X_OK):
            yield Finding("data folder", "ok", f"{folder} does not exist yet and can be created")
        else:
            text = f"{folder} does not exist, and {there} cannot be written"
            yield Finding(
                "data folder", "failed", text, "choose another with PULSE_DATA_DIR, or create it for this account"
            )
            return
    else:
        yield _permissions(folder)
    free = shutil.disk_usage(there).free
    text = f"{free / 2**30:.1f} GiB free for {folder}"
    if free < MIN_FREE_BYTES:
        yield Finding("disk", "failed", text, "free some space: PostgreSQL stops when it cannot write")
    elif free < ENOUGH_FREE_BYTES:
        yield Finding("disk", "warning", text, "free some space soon")
    else:
        yield Finding("disk", "ok", text)


def _permissions(folder: Path) -> Finding:
    status = folder.stat()
    if status.st_uid != os.geteuid():
        text = f"{folder} belongs to user id {status.st_uid}, not to {os.geteuid()}"
        return Finding("data folder", "failed", text, "run the doctor as the account that runs the service")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("data folder", "failed", f"{folder} cannot be written", f"chmod u+rwx {folder}")
    for path, forbidden in ((folder, 0o066), (folder / KEY_FILE, 0o077), (folder / "data", 0o077)):
        if path.exists() and stat.S_IMODE(path.stat().st_mode) & forbidden:
            return Finding("data folder", "failed", f"{path} is open to other accounts", f"chmod go-rwx {path}")
    return Finding("data folder", "ok", f"{folder}, closed to other accounts")


_NOT_RUNNING: Final = "none runs on this database"


def _database(database: Database) -> Iterator[Finding]:
    began = time.time()
    # As few concurrent sessions as a start has: a pooler may have no more.
    with open_session(with_keepalives(database.conninfo)) as connection:

        def one(query: Any, *values: object) -> Any:
            row = connection.execute(query, values).fetchone()
            assert row is not None
            return row[0]

        version = str(one("SELECT current_setting('server_version')")).split()[0]
        took = (time.time() - began) * 1_000
        yield Finding("database", "ok", f"PostgreSQL {version}, {database.description}, answers in {took:.0f} ms")
        if one("SELECT pg_is_in_recovery()"):
            text = "it is a standby, which is read-only"
            yield Finding(
                "primary", "failed", text, "name the primary: target_session_attrs=read-write in DATABASE_URL"
            )
            return
        yield _clocks(one)
        durability = _durability(database.settings, connection)
        yield durability
        yield _sessions(database.settings, connection)
        yield _role(connection)
        problem = encryption_problem(connection)
        if problem is None:
            yield Finding("encryption", "ok", "sessions are encrypted and checked, or stay on this machine")
        else:
            yield Finding("encryption", "warning", problem, ENCRYPTION_ADVICE)
    if durability.status != "failed":  # a start would fail on durability first
        yield _own_sessions(database)
    with open_session(with_keepalives(database.conninfo)) as connection:
        parts = (holder_of(SERVICE_LOCK), is_shared(SERVICE_LOCK), count_of_holders(SERVICE_LOCK))
        query = "SELECT " + ", ".join(f"({part})" for part in parts)
        holder, is_clustered, count = connection.execute(query.encode()).fetchall()[0]
        if holder is None:
            text = _NOT_RUNNING
        elif is_clustered:
            text = f"processes of a cluster run on this database: {count} (the first: {holder}); more may join"
        else:
            text = f"one runs on this database ({holder}), which excludes a second one"
        yield Finding("service", "ok", text)
        migrating = one(f"SELECT ({holder_of(MIGRATION_LOCK)})")
        if migrating is not None:
            text = f"another session is migrating the database ({migrating}): a start waits for it"
            mend = "wait for it; if no pulse-trio process owns it, end it with pg_terminate_backend"
            yield Finding("migration", "warning", text, mend)
    yield _schema(database.conninfo)
    yield _keys(database.settings)


def _clocks(one: Callable[[Any], Any]) -> Finding:
    before = utc_now()
    theirs: datetime = one("SELECT clock_timestamp()")
    after = utc_now()
    apart = max((before - theirs).total_seconds(), (theirs - after).total_seconds(), 0.0)
    if apart > MAX_CLOCK_SKEW:
        text = f"this machine's clock and the database's differ by {apart:.0f} s"
        return Finding("clocks", "warning", text, "keep both correct by NTP")
    return Finding("clocks", "ok", "this machine's and the database's agree")


def _durability(settings: Settings, connection: psycopg.Connection) -> Finding:
    off = [name for (name,) in connection.execute(SETTINGS_OFF, (list(DURABILITY_SETTINGS),)).fetchall()]
    if not off:
        return Finding("durability", "ok", "commits are on disk (fsync, full_page_writes)")
    text = f"{' and '.join(off)} off: a power cut may lose acknowledged messages"
    mend = f"turn on in postgresql.conf: {', '.join(off)}"
    return Finding("durability", "warning" if settings.allow_losing_commits else "failed", text, mend)


def _sessions(settings: Settings, connection: psycopg.Connection) -> Finding:
    allowed = allowed_sessions(connection)
    pools = PoolShare(settings.pool_max, MESSAGE_CONNECTIONS)
    is_alone = settings.workers == 1 and not settings.is_clustered
    # Alone: for the service lock and a command besides.
    wanted = pools.main + pools.messages + 2 if is_alone else needed_sessions(pools, settings.workers)
    if wanted > allowed:
        text = f"PostgreSQL allows {allowed} connections beside those of other databases; the service needs {wanted}"
        mend = "raise max_connections, or CONNECTION LIMIT of the role or the database, or lower PULSE_POOL_MAX"
        return Finding("sessions", "warning", text, mend)
    return Finding("sessions", "ok", f"PostgreSQL allows {allowed} connections, the service needs {wanted}")


def _role(connection: psycopg.Connection) -> Finding:
    row = connection.execute("SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
    assert row is not None
    name, is_superuser = row
    if is_superuser:
        text = f"{name} is a superuser, whose rights the service does not need"
        return Finding("role", "warning", text, "name a role in DATABASE_URL that only owns the database")
    return Finding("role", "ok", f"{name}, no superuser")


def _own_sessions(database: Database) -> Finding:
    """Opens sessions as the service does, and so finds the same faults."""
    try:
        require_own_sessions(plan_sessions(database))
        if database.direct_conninfo != database.conninfo:
            require_own_sessions(with_keepalives(database.direct_conninfo))
    except (LaunchError, psycopg.Error) as error:
        text = describe_failure(error) if isinstance(error, psycopg.Error) else str(error)
        return Finding("own sessions", "failed", text, "see 'Troubleshooting' in docs/operations.md")
    return Finding("own sessions", "ok", "every connection has a session of its own and keeps its settings")


def _schema(conninfo: str) -> Finding:
    current, head, is_known = compare_revisions(conninfo)
    if not is_known:
        text = f"the database has schema {current}, newer than this version's {head}"
        return Finding("schema", "failed", text, "run the version of pulse-trio that migrated it, or a later one")
    if current != head:
        text = f"the database has schema {current or 'none'}, this version {head}"
        return Finding("schema", "warning", text, "the next start or pulse-trio migrate brings it up to date")
    return Finding("schema", "ok", f"{head}, up to date")


def _keys(settings: Settings) -> Finding:
    try:
        tokens = Tokens(settings, utc_now)
    except LaunchError as error:
        return Finding("keys", "failed", str(error), "set the key that ALGORITHM needs")
    return Finding(
        "keys", "ok", f"{settings.algorithm}, {'issues and verifies' if tokens.can_issue else 'only verifies'} tokens"
    )


def _bus(settings: Settings) -> Iterator[Finding]:
    """Checks the Redis of `PULSE_BUS_URL`, if there is one. Without it a service starts, and says `degraded`."""
    try:
        is_there = trio.run(probe_bus, settings)
    except LaunchError as error:
        yield Finding("bus", "failed", str(error), "correct PULSE_BUS_URL")
    except TransportError as error:
        text = f"the Redis of PULSE_BUS_URL cannot be used: {error}; what other processes send would arrive late"
        yield Finding("bus", "warning", text, "check that it runs, and that host, user and password are right")
    else:
        if is_there:
            yield Finding("bus", "ok", "the Redis of PULSE_BUS_URL answers")


def _ports(
    addresses: Sequence[Listened], *, is_running: bool, advise: Callable[[Exception], str] = advise_on_address
) -> Finding:
    """Checks every address of the service; a service that runs answers on them."""
    taken = []
    for address in addresses:
        try:
            check(address)
        except OSError as error:
            if not (is_running and answers(address)):
                text = f"cannot listen on {address}: {error.strerror or error}"
                return Finding("port", "failed", text, advise(error))
            taken.append(address)
    free = [address for address in addresses if address not in taken]
    texts = [f"{', '.join(map(str, taken))}: the service answers on it"] if taken else []
    texts += [f"{', '.join(map(str, free))} is free"] if free else []
    return Finding("port", "ok", "; ".join(texts))


def _metrics(settings: Settings, *, is_running: bool) -> Finding:
    if not settings.metrics:
        return Finding("metrics", "ok", "off")
    if settings.metrics_bind is None:
        is_open = settings.metrics_token is not None
        text = "for the bearer of PULSE_METRICS_TOKEN" if is_open else f"for nobody: {NOT_SERVED}"
        return Finding("metrics", "ok", text)
    host, port = bind_address(settings.metrics_bind)
    found = _ports(
        [Listened(host, port or 0)],
        is_running=is_running,
        advise=lambda _: "set PULSE_METRICS_BIND to a free port at an address of this machine, such as 127.0.0.1:9464",
    )
    return replace(found, name="metrics")
