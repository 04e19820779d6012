"""psycopg 3 on Trio, with no thread in the query path; imports nothing from pulse_trio.

`connection`: `TrioConnection`, psycopg's AsyncConnection with every wait on Trio.
`pool`: `Pool`, a bounded FIFO pool that refills itself.
`_waiting`: drives psycopg's generators. `_resolve`: resolves host names. `_version_guard`: checks private names.
"""

from .connection import EXIT_SECONDS, TrioConnection, TrioCursor, TrioTransaction
from .pool import SET_SETTINGS, Pool, PoolClosed, PoolStatistics, PoolTimeout

__all__ = [
    "EXIT_SECONDS",
    "SET_SETTINGS",
    "Pool",
    "PoolClosed",
    "PoolStatistics",
    "PoolTimeout",
    "TrioConnection",
    "TrioCursor",
    "TrioTransaction",
]
