"""Steps before the event loop runs: open the database, lock and migrate it, and build the app on it."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import psycopg
import structlog

from pulse_trio.app import BusFactory, PulseApp, create_app
from pulse_trio.bus.opening import make_bus
from pulse_trio.database.encryption import ENCRYPTION_ADVICE, encryption_problem
from pulse_trio.database.lease_ids import end_leases, new_lease_id, new_owner
from pulse_trio.database.opening import (
    Database,
    attach_database,
    describe_failure,
    migrate_database,
    open_database,
    plan_sessions,
)
from pulse_trio.database.pool_share import PoolShare, allowed_sessions, needed_sessions, share_out
from pulse_trio.database.schema import SERVICE_LOCK, is_shared
from pulse_trio.database.service_lock import DatabaseTaken, ServiceLock
from pulse_trio.database.sessions import Sessions, open_session, require_own_sessions, with_keepalives
from pulse_trio.edge.siblings import Siblings
from pulse_trio.errors import LaunchError
from pulse_trio.metrics import Metrics
from pulse_trio.privileges import become, disable_core_dumps, is_root
from pulse_trio.settings import Settings
from pulse_trio.store.postgres.factory import alone, postgres_store

EMBEDDED_CONNECTIONS: Final = 50  # that an embedded PostgreSQL allows at least
EMBEDDED_MARGIN: Final = 5  # connections that PostgreSQL reserves for its superuser, and a margin
STANDBY_POLL: Final = 0.5  # seconds between looks at the lock of the service that a standby waits for

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Prepared:
    """A database that is ready for the service: locked, migrated, and its history known."""

    database: Database
    sessions: Sessions
    lock: ServiceLock


@contextmanager
def open_app(settings: Settings, *, workers: int | None = None) -> Iterator[tuple[PulseApp, Database]]:
    """Builds the app on its database, locked by this process and migrated; closes both after the block.

    With PULSE_USER it gives up root's rights first, so call it after the port is bound. With PULSE_STANDBY it waits
    for the end of another process that has the database.

    Args:
        settings: all settings.
        workers: the number of processes of this machine that share the connections of the database; None: only this one
            uses it on this machine.

    Raises:
        LaunchError: the database or a key cannot be used; one line for a person.
    """
    give_up_rights(settings)
    on_wait = _tell_standby if settings.standby else None
    with open_database(settings, on_wait=on_wait) as database, prepare(database) as prepared:
        share = None if workers is None else plan_share(database, workers)
        yield build_app(prepared, share), database


@contextmanager
def open_supervised_database(settings: Settings) -> Iterator[tuple[Prepared, PoolShare]]:
    """Opens the database for the supervisor of several workers: locked in shared mode, and migrated.

    It gives up root's rights, and waits, as `open_app` does. An embedded PostgreSQL allows enough connections for all
    workers, and waits for their sessions to end if the supervisor dies.

    Raises:
        LaunchError: the database cannot be used, or allows too few connections.
    """
    give_up_rights(settings)
    clustered = settings.model_copy(update={"cluster": True})
    needed = needed_sessions(alone(settings), settings.workers) + EMBEDDED_MARGIN
    options = {"max_connections": str(max(needed, EMBEDDED_CONNECTIONS))}
    on_wait = _tell_standby if settings.standby else None
    with open_database(clustered, on_wait=on_wait, options=options, death_signal=signal.SIGTERM) as database:
        share = plan_share(database, settings.workers)
        with prepare(database) as prepared:
            yield prepared, share


@contextmanager
def open_worker_app(
    settings: Settings, share: PoolShare, siblings: Siblings, *, owner: str, ended: Sequence[str]
) -> Iterator[PulseApp]:
    """Builds the app of a worker, on the database that its supervisor has opened; closes it after the block.

    Args:
        settings: all settings, of a clustered process.
        share: the connections that this worker may open.
        siblings: the other workers.
        owner: the beginning of the ids of its leases.
        ended: those of workers that have ended.

    Raises:
        LaunchError: as `open_app`.
    """
    disable_core_dumps()
    database = attach_database(settings)
    with prepare(database, warn=False) as prepared:
        try:
            with open_session(with_keepalives(database.direct_conninfo)) as session:
                end_leases(session, ended)
        except psycopg.Error as error:
            raise LaunchError(describe_failure(error)) from None
        yield build_app(prepared, share, siblings, owner)


def give_up_rights(settings: Settings) -> None:
    """Turns core dumps off, and takes on the account of PULSE_USER.

    Raises:
        LaunchError: as `become`.
    """
    disable_core_dumps()
    if settings.user is not None:
        become(settings.user)


@contextmanager
def prepare(database: Database, *, warn: bool = True) -> Iterator[Prepared]:
    """Locks and migrates a database for a block, and establishes its history.

    Args:
        database: an opened database.
        warn: log what is unsafe; the supervisor of a worker has done so.

    Raises:
        LaunchError: another process has the lock, or the database cannot be used.
    """
    try:
        sessions, lock = _lock(database)
    except psycopg.Error as error:
        raise LaunchError(describe_failure(error)) from None
    try:
        # Under the lock: a newer version that is refused here must not change the schema of the one that runs.
        migrate_database(database)
        try:
            lock.establish_history()
            with open_session(with_keepalives(database.conninfo)) as session:
                problem = encryption_problem(session)
        except psycopg.Error as error:
            raise LaunchError(describe_failure(error)) from None
        if warn and problem is not None:
            log.warning("database connection not safe", problem=problem, advice=ENCRYPTION_ADVICE)
        if warn and is_root():
            log.warning("running as root", advice="run it as an account of its own: PULSE_USER, or systemd's User")
        yield Prepared(database, sessions, lock)
    finally:
        lock.close()


def plan_share(database: Database, workers: int) -> PoolShare:
    """Returns the pools of each of several workers, so that all of them fit what PostgreSQL allows.

    Raises:
        LaunchError: it allows too few connections, or cannot be reached.
    """
    try:
        with open_session(with_keepalives(database.direct_conninfo)) as session:
            return share_out(allowed_sessions(session), alone(database.settings), workers)
    except psycopg.Error as error:
        raise LaunchError(describe_failure(error)) from None


def build_app(
    prepared: Prepared, share: PoolShare | None = None, siblings: Siblings | None = None, owner: str | None = None
) -> PulseApp:
    """Builds the app on a prepared database. `owner`: the beginning of the ids of its leases; None: a new one."""
    metrics = Metrics()
    database, lock = prepared.database, prepared.lock
    metrics.data_folder = database.data_dir
    store = postgres_store(database.settings, prepared.sessions, lock, metrics, database.embedded, share=share)
    return create_app(
        database.settings,
        store,
        wait_moved=lock.wait_moved,
        metrics=metrics,
        make_bus=_bus_factory(prepared, new_owner() if owner is None else owner),
        siblings=siblings,
    )


def _bus_factory(prepared: Prepared, owner: str) -> BusFactory | None:
    """Returns a function that makes the bus of a clustered process; None for a process that is alone."""
    database = prepared.database
    if not database.settings.is_clustered:
        return None
    cluster, _, name = prepared.lock.history.server.split("/")  # without the timeline, which a failover changes
    return lambda: make_bus(
        database.settings,
        database.direct_conninfo,
        new_lease_id(owner),
        is_alone=False,
        # Processes that have not noticed a failover yet must not hear of the revs of another history.
        service=f"{cluster}.{name}.{prepared.lock.history.epoch}",
    )


def _lock(database: Database) -> tuple[Sessions, ServiceLock]:
    """Checks the sessions and takes the service lock; a standby waits for it.

    Raises:
        LaunchError: the sessions cannot be used, or another process has the lock.
        psycopg.Error: the database cannot be reached.
    """
    allow_losing_commits = database.settings.allow_losing_commits
    has_waited = False
    while True:
        try:
            sessions = plan_sessions(database)
            require_own_sessions(sessions)
            if database.direct_conninfo != database.conninfo:
                require_own_sessions(with_keepalives(database.direct_conninfo))
            return sessions, ServiceLock(
                database.direct_conninfo,
                sessions=sessions,
                allow_losing_commits=allow_losing_commits,
                shared=database.settings.is_clustered,
            )
        except DatabaseTaken as error:
            if not database.settings.standby:
                raise
            _tell_standby(error.holder)
        except psycopg.OperationalError:
            if not has_waited:
                raise
        has_waited = True
        _wait_unlocked(database.direct_conninfo, is_clustered=database.settings.is_clustered)


def _wait_unlocked(conninfo: str, *, is_clustered: bool) -> None:
    """Returns when no process excludes this one, also if the database is away or fails over meanwhile.

    A process alone waits for the end of every other, a clustered one only for that of a process alone.
    """
    free = {None, (True,)} if is_clustered else {None}
    is_locked = True
    while is_locked:
        time.sleep(STANDBY_POLL)
        with suppress(psycopg.OperationalError), open_session(with_keepalives(conninfo)) as session:
            while is_locked := session.execute(is_shared(SERVICE_LOCK)).fetchone() not in free:
                time.sleep(STANDBY_POLL)


def _tell_standby(holder: str) -> None:
    log.info("standing by", waits_for=holder)
