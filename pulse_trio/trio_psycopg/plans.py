"""Drops the cached plans of prepared statements, so that PostgreSQL makes them anew for tables that have grown.

PostgreSQL keeps the generic plan of a prepared statement until ANALYZE or VACUUM changes its tables' statistics. A plan
that was made while a table had ten rows may walk a whole index, and is kept while a bulk load fills the table, until
autovacuum comes to it. When PostgreSQL makes a plan, it looks at the size that the table has at this moment. So a
connection drops its plans now and then: soon at first, since young tables grow fast, then at each doubling of its age.

    age = PlanAge(now=0.0, first=10.0)  # due at 10, 20, 40, …, 320, 620, 920 seconds
"""

from __future__ import annotations

from typing import Any, Final

from .connection import TrioConnection

# Bounds how long plans stay old if the load comes late. New plans for twenty statements cost PostgreSQL 7 ms of CPU.
MAX_PLAN_SECONDS: Final = 300.0


class PlanAge:
    """The age of one connection's plans.

    Args:
        now: The time at which the connection was made, in seconds.
        first: Seconds from then until its plans are old for the first time.
    """

    __slots__ = ("_born", "_due")

    def __init__(self, now: float, first: float) -> None:
        self._born = now
        self._due = now + first

    def is_due(self, now: float) -> bool:
        """Return whether the plans are old."""
        return now >= self._due

    def discarded(self, now: float) -> None:
        """Note that the plans have just been dropped."""
        self._due = now + min(now - self._born, MAX_PLAN_SECONDS)


async def discard_plans(connection: TrioConnection[Any]) -> None:
    """Drop the plans of an idle connection; its prepared statements stay.

    Raises:
        psycopg.Error: The connection is broken.

    Cancelled: as a query of the connection.
    """
    await connection.execute("DISCARD PLANS", prepare=False)
    if not connection.autocommit:
        await connection.rollback()
