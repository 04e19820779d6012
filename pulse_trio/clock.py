"""The source of all timestamps.

Deadlines use `trio.current_time()`. Times written into a row, a frame or a token use a `Clock`, so that a test can
control every timestamp by replacing it.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

Clock: TypeAlias = Callable[[], datetime]
"""Returns the current time as an aware datetime in UTC."""


def utc_now() -> datetime:
    """Returns the wall clock's time in UTC."""
    return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """Formats a time by RFC 3339 in UTC, with microseconds: `2026-02-04T10:30:00.123456Z`."""
    if moment.tzinfo is not UTC:
        moment = moment.astimezone(UTC)
    return moment.isoformat("T", "microseconds")[: -len("+00:00")] + "Z"
