"""psycopg 3 on Trio, with no thread in the query path; imports nothing from pulse_trio.

`connection`: `TrioConnection`, psycopg's AsyncConnection with every wait on Trio.
`prepared`: statements in libpq's binary format, for the few that run all the time; `binary`: their values.
`pool`: `Pool`, a bounded pool that refills itself. `slots`: its order, and the shares of kinds of callers.
`plans`: when a connection of a pool makes the plans of its prepared statements anew.
`_waiting`: drives psycopg's generators. `_resolve`: resolves host names. `_version_guard`: checks private names.
"""

from .connection import EXIT_SECONDS, TrioConnection, TrioCursor, TrioTransaction
from .pool import SET_SETTINGS, Pool, PoolClosed, PoolStatistics, PoolTimeout
from .prepared import Statement
from .slots import Share

__all__ = [
    "EXIT_SECONDS",
    "SET_SETTINGS",
    "Pool",
    "PoolClosed",
    "PoolStatistics",
    "PoolTimeout",
    "Share",
    "Statement",
    "TrioConnection",
    "TrioCursor",
    "TrioTransaction",
]
