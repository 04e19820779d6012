"""Steps before the event loop runs: open the database, migrate it, lock it, and build the app on it."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from pulse_trio.app import PulseApp, create_app
from pulse_trio.database.opening import Database, describe_failure, migrate_database, open_database, plan_sessions
from pulse_trio.database.service_lock import ServiceLock
from pulse_trio.database.sessions import require_own_sessions
from pulse_trio.errors import LaunchError
from pulse_trio.metrics import Metrics
from pulse_trio.settings import Settings
from pulse_trio.store.postgres.factory import postgres_store


@contextmanager
def open_app(settings: Settings) -> Iterator[tuple[PulseApp, Database]]:
    """Builds the app on its database, migrated and locked by this process; closes both after the block.

    Raises:
        LaunchError: the database or a key cannot be used; one line for a person.
    """
    with open_database(settings) as database:
        try:
            sessions = plan_sessions(database)
            require_own_sessions(sessions)
            migrate_database(database)
            allow_losing_commits = database.settings.allow_losing_commits
            lock = ServiceLock(database.conninfo, sessions=sessions, allow_losing_commits=allow_losing_commits)
        except psycopg.Error as error:
            raise LaunchError(describe_failure(error)) from None
        try:
            try:
                lock.establish_history()
            except psycopg.Error as error:
                raise LaunchError(describe_failure(error)) from None
            metrics = Metrics()
            store = postgres_store(database.settings, sessions, lock, metrics, database.embedded)
            yield create_app(database.settings, store, wait_moved=lock.wait_moved, metrics=metrics), database
        finally:
            lock.close()
