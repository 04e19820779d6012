"""Whether PostgreSQL keeps what it says is committed: an acknowledgement is worth no more than that."""

from collections.abc import Sequence
from typing import Final

import psycopg

from pulse_trio.errors import LaunchError

# A session cannot turn these on. Without the first, a power cut loses commits; without the second, it may
# leave pages of which one half is old, and with them more than the last commits.
SERVER_SETTINGS: Final = ("fsync", "full_page_writes")
SETTINGS_OFF: Final = "SELECT name FROM pg_settings WHERE name = ANY(%s) AND setting = 'off' ORDER BY name"


def commit_settings(connection: psycopg.Connection) -> dict[str, str]:
    """The settings of a session with which COMMIT is answered when it is on the disk, not before.

    `synchronous_commit` is held at what it is now, or `on` if it is `off`: a default of the server, database or role
    that changes later changes nothing for sessions with this.

    Raises:
        LaunchError: the server may lose commits whatever a session says; names the settings of PostgreSQL.
        psycopg.Error: the database cannot be reached.
    """
    row = connection.execute(
        f"SELECT array({SETTINGS_OFF}), current_setting('synchronous_commit')",
        (list(SERVER_SETTINGS),),
    ).fetchone()
    assert row is not None
    off, synchronous_commit = row
    refuse_losses(off)
    return {"synchronous_commit": "on" if synchronous_commit == "off" else synchronous_commit}


def refuse_losses(off: Sequence[str]) -> None:
    """Says no to a server on which these `SERVER_SETTINGS` are off.

    Raises:
        LaunchError: there are any; names them.
    """
    if off:
        raise LaunchError(
            f"PostgreSQL may lose messages that were acknowledged: its {' and '.join(off)} "
            f"{'is' if len(off) == 1 else 'are'} off; turn {'it' if len(off) == 1 else 'them'} on, or accept the loss "
            "with PULSE_ALLOW_LOSING_COMMITS=true"
        )
