"""The number of files that the system lets this process open; a connection takes one."""

import logging
import math
from typing import Final

import trio

LOG_INTERVAL: Final = 10.0  # seconds between lines about connections that the system refuses to this process


class AcceptErrors(logging.Filter):
    """Thins out Trio's lines about failed accepts, which come ten times a second, each with a traceback."""

    def __init__(self) -> None:
        super().__init__()
        self._logged_at = -math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = None
        now = trio.current_time()
        if now - self._logged_at < LOG_INTERVAL:
            return False
        self._logged_at = now
        return True


def raise_open_files(wanted: int) -> int | None:
    """Raises the limit of open files to `wanted`, or to the highest that the system allows.

    Returns:
        The limit now; None if there is none.
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    best = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if best > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (best, hard))
        except (OSError, ValueError):
            return soft
        return best
    return soft
