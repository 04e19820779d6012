"""Shares the connections that PostgreSQL allows among the workers of a machine."""

from dataclasses import dataclass
from typing import Final

import psycopg

from pulse_trio.errors import LaunchError

OWN_CONNECTIONS: Final = 4  # of each clustered process beside its pools: lock, lease, and two of the bus
PEOPLE: Final = 7  # connections left for commands, backups and people
MIN_SHARE: Final = 4  # connections of a worker's pools: one for messages, three for everything else

# The least of three limits: what other databases leave of the server's, and those of the role and of the database
# (-1 is none; they do not bind a superuser). Of other roles' sessions an ordinary role sees little but the database.
ALLOWED_SESSIONS: Final = """
    SELECT least(
        current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
            - coalesce(current_setting('reserved_connections', true)::int, 0)
            - (SELECT count(*) FROM pg_stat_activity WHERE datname <> current_database()),
        CASE WHEN NOT rolsuper THEN nullif(rolconnlimit, -1) END,
        CASE WHEN NOT rolsuper THEN nullif(datconnlimit, -1) END
    )
    FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()
"""


@dataclass(frozen=True, slots=True)
class PoolShare:
    """The most connections that a process opens for its two pools.

    Attributes:
        main: for everything but messages; `PULSE_POOL_MAX` of a process alone.
        messages: for storing, editing and deleting messages.
    """

    main: int
    messages: int


def needed_sessions(wanted: PoolShare, workers: int) -> int:
    """Returns the number of connections that PostgreSQL must allow so that each worker gets what it wants."""
    return workers * (wanted.main + wanted.messages + OWN_CONNECTIONS) + PEOPLE


def share_out(allowed: int, wanted: PoolShare, workers: int) -> PoolShare:
    """Returns what each of several workers may open: what it wants, or less so that all of them fit.

    Example: PostgreSQL allows 47 connections. Four workers get (47 - 7) / 4 = 10 each, of which 4 are their own; so
    the pools of a worker have 6, two for messages.

    Args:
        allowed: the connections that PostgreSQL allows in this database.
        wanted: the pools of a process that has the database alone.
        workers: the number of workers.

    Raises:
        LaunchError: less than `MIN_SHARE` would be left for a worker; says what to do.
    """
    size = (allowed - PEOPLE) // workers - OWN_CONNECTIONS
    if size >= wanted.main + wanted.messages:
        return wanted
    if size < MIN_SHARE:
        least = needed_sessions(PoolShare(MIN_SHARE - 1, 1), workers)
        most = max((allowed - PEOPLE) // (MIN_SHARE + OWN_CONNECTIONS), 1)
        raise LaunchError(
            f"PostgreSQL allows {allowed} connections, too few for {workers} workers: raise max_connections (or "
            f"CONNECTION LIMIT of the role or the database) so that {least} are free, or run at most {most} with "
            "PULSE_WORKERS"
        )
    messages = min(wanted.messages, max(1, size // 3))
    return PoolShare(min(wanted.main, size - messages), messages)


def allowed_sessions(connection: psycopg.Connection) -> int:
    """Returns the number of connections that PostgreSQL allows this role to open in this database.

    Raises:
        psycopg.Error: the database cannot be reached.
    """
    row = connection.execute(ALLOWED_SESSIONS).fetchone()
    assert row is not None
    return int(row[0])
