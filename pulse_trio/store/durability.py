"""Whether PostgreSQL keeps what it says is committed: an acknowledgement is worth no more than that."""

import os
from collections.abc import Mapping, Sequence
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pulse_trio.errors import LaunchError

# A session cannot turn these on. Without the first, a power cut loses commits; without the second, it may
# leave pages of which one half is old, and with them more than the last commits.
SERVER_SETTINGS: Final = ("fsync", "full_page_writes")
SETTINGS_OFF: Final = "SELECT name FROM pg_settings WHERE name = ANY(%s) AND setting = 'off' ORDER BY name"


def durable_conninfo(conninfo: str) -> str:
    """How to reach the database so that COMMIT is answered when it is on the disk, not before.

    `synchronous_commit` is held at what it is now, or `on` if it is `off`: a default of the server, database or role
    that changes later changes nothing for sessions made with this.

    Raises:
        LaunchError: the server may lose commits whatever a session says; names the settings of PostgreSQL.
        psycopg.Error: the database cannot be reached.
    """
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute(
            f"SELECT array({SETTINGS_OFF}), current_setting('synchronous_commit')",
            (list(SERVER_SETTINGS),),
        ).fetchone()
    assert row is not None
    off, synchronous_commit = row
    refuse_losses(off)
    params = conninfo_to_dict(conninfo)
    held = "on" if synchronous_commit == "off" else synchronous_commit
    # The last one wins.
    params["options"] = f"{session_options(params)} -c synchronous_commit={held}".strip()
    return make_conninfo("", **params)


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


def session_options(params: Mapping[str, object]) -> str:
    """The settings of a session as libpq reads them: those of the parameters, else those of the environment."""
    return str(params.get("options") or os.environ.get("PGOPTIONS", ""))
