"""Steps before the event loop runs: open the database, lock and migrate it, and build the app on it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import psycopg
import structlog

from pulse_trio.app import PulseApp, create_app
from pulse_trio.database.encryption import ENCRYPTION_ADVICE, encryption_problem
from pulse_trio.database.opening import Database, describe_failure, migrate_database, open_database, plan_sessions
from pulse_trio.database.schema import SERVICE_LOCK, holder_of
from pulse_trio.database.service_lock import DatabaseTaken, ServiceLock
from pulse_trio.database.sessions import Sessions, open_session, require_own_sessions, with_keepalives
from pulse_trio.errors import LaunchError
from pulse_trio.metrics import Metrics
from pulse_trio.privileges import become, disable_core_dumps, is_root
from pulse_trio.settings import Settings
from pulse_trio.store.postgres.factory import postgres_store

STANDBY_POLL: Final = 0.5  # seconds between looks at the lock of the service that a standby waits for

log = structlog.get_logger(__name__)


@contextmanager
def open_app(settings: Settings) -> Iterator[tuple[PulseApp, Database]]:
    """Builds the app on its database, locked by this process and migrated; closes both after the block.

    With PULSE_USER it gives up root's rights first, so call it after the port is bound. With PULSE_STANDBY it waits
    for the end of another process that has the database.

    Raises:
        LaunchError: the database or a key cannot be used; one line for a person.
    """
    disable_core_dumps()
    if settings.user is not None:
        become(settings.user)
    on_wait = _tell_standby if settings.standby else None
    with open_database(settings, on_wait=on_wait) as database:
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
            if problem is not None:
                log.warning("database connection not safe", problem=problem, advice=ENCRYPTION_ADVICE)
            if is_root():
                log.warning("running as root", advice="run it as an account of its own: PULSE_USER, or systemd's User")
            metrics = Metrics()
            store = postgres_store(database.settings, sessions, lock, metrics, database.embedded)
            yield create_app(database.settings, store, wait_moved=lock.wait_moved, metrics=metrics), database
        finally:
            lock.close()


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
            return sessions, ServiceLock(
                database.conninfo, sessions=sessions, allow_losing_commits=allow_losing_commits
            )
        except DatabaseTaken as error:
            if not database.settings.standby:
                raise
            _tell_standby(error.holder)
        except psycopg.OperationalError:
            if not has_waited:
                raise
        has_waited = True
        _wait_unlocked(database.conninfo)


def _wait_unlocked(conninfo: str) -> None:
    """Returns when no process has the service lock, also if the database is away or fails over meanwhile."""
    is_locked = True
    while is_locked:
        time.sleep(STANDBY_POLL)
        with suppress(psycopg.OperationalError), open_session(with_keepalives(conninfo)) as session:
            while is_locked := session.execute(holder_of(SERVICE_LOCK)).fetchone() is not None:
                time.sleep(STANDBY_POLL)


def _tell_standby(holder: str) -> None:
    log.info("standing by", waits_for=holder)
