"""Checks that PostgreSQL keeps what it reports as committed: every acknowledgement depends on it."""

from collections.abc import Sequence
from typing import Final

import psycopg

from pulse_trio.errors import LaunchError

# A session cannot turn these on. Without the first, a power cut loses commits; without the second, it may leave
# half-written pages and so damage older data.
DURABILITY_SETTINGS: Final = ("fsync", "full_page_writes")
SETTINGS_OFF: Final = "SELECT name FROM pg_settings WHERE name = ANY(%s) AND setting = 'off' ORDER BY name"


def commit_settings(connection: psycopg.Connection) -> dict[str, str]:
    """Returns session settings with which COMMIT returns only once it is on disk.

    They fix `synchronous_commit` at its current value, or at `on` if it is `off`, so that a later change of the
    server's, database's or role's default does not affect these sessions.

    Raises:
        LaunchError: the server may lose commits whatever a session sets; names the PostgreSQL settings.
        psycopg.Error: the database cannot be reached.
    """
    row = connection.execute(
        f"SELECT array({SETTINGS_OFF}), current_setting('synchronous_commit')",
        (list(DURABILITY_SETTINGS),),
    ).fetchone()
    assert row is not None
    off, synchronous_commit = row
    reject_lossy_settings(off)
    return {"synchronous_commit": "on" if synchronous_commit == "off" else synchronous_commit}


def reject_lossy_settings(off: Sequence[str]) -> None:
    """Rejects a server on which some `DURABILITY_SETTINGS` are off.

    Args:
        off: names of those that are off.

    Raises:
        LaunchError: there are any; names them.
    """
    if off:
        raise LaunchError(
            f"PostgreSQL may lose acknowledged messages: its {' and '.join(off)} "
            f"{'is' if len(off) == 1 else 'are'} off; turn {'it' if len(off) == 1 else 'them'} on, or accept the loss "
            "with PULSE_ALLOW_LOSING_COMMITS=true"
        )
