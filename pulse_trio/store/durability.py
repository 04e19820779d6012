"""Whether PostgreSQL keeps what it says is committed: an acknowledgement is worth no more than that."""

import os
from typing import Final

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pulse_trio.errors import LaunchError

# A session cannot turn these on. Without the first, a power cut loses commits; without the second, it may
# leave pages of which one half is old, and with them more than the last commits.
SERVER_SETTINGS: Final = ("fsync", "full_page_writes")


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
            "SELECT array(SELECT name FROM pg_settings WHERE name = ANY(%s) AND setting = 'off' ORDER BY name), "
            "current_setting('synchronous_commit')",
            (list(SERVER_SETTINGS),),
        ).fetchone()
    assert row is not None
    off, synchronous_commit = row
    if off:
        raise LaunchError(
            f"PostgreSQL may lose messages that were acknowledged: its {' and '.join(off)} "
            f"{'is' if len(off) == 1 else 'are'} off; turn {'it' if len(off) == 1 else 'them'} on, or accept the loss "
            "with PULSE_ALLOW_LOSING_COMMITS=true"
        )
    params = conninfo_to_dict(conninfo)
    # As libpq reads them: those of the string, else those of the environment. The last one wins.
    given = params.get("options") or os.environ.get("PGOPTIONS", "")
    held = "on" if synchronous_commit == "off" else synchronous_commit
    params["options"] = f"{given} -c synchronous_commit={held}".strip()
    return make_conninfo("", **params)
