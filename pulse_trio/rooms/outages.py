"""Log lines of an outage, gathered: one a second for each kind and reason, with a count.

While the database is away each room retries its batch several times a second. A thousand rooms would write a thousand
lines a second that say the same. The first line comes at once, with the context of the request that it is about.
"""

from typing import Final

import structlog
import trio

INTERVAL: Final = 1.0  # seconds between two lines of one kind

log = structlog.get_logger(__name__)


class _Gathered:
    """Failures of one kind and reason that are not logged yet."""

    __slots__ = ("attempts", "count", "logged_at")

    def __init__(self) -> None:
        self.attempts = 0
        self.count = 0
        self.logged_at = float("-inf")


class Outages:
    """Gathers failures of the store that are retried, or answered with an error, and logs them."""

    def __init__(self) -> None:
        self._gathered: dict[tuple[str, str], _Gathered] = {}  # kind and reason → what is not logged
        self._has_news = trio.Event()

    def record(self, event: str, reason: BaseException, count: int = 1) -> None:
        """Records a failure.

        Args:
            event: its kind, which is the line's text; kinds are constants of the code, so they are few.
            reason: the error.
            count: the things that it concerns, such as messages.
        """
        key = event, type(reason).__name__
        gathered = self._gathered.setdefault(key, _Gathered())
        gathered.attempts += 1
        gathered.count += count
        if trio.current_time() - gathered.logged_at >= INTERVAL:
            self._log(key)
        else:
            self._has_news.set()

    async def run(self) -> None:
        """Logs what is gathered, until cancelled; then at once what is left."""
        try:
            while True:
                await self._has_news.wait()
                await trio.sleep(INTERVAL)
                self._log_all()
        finally:
            self._log_all()

    def _log_all(self) -> None:
        self._has_news = trio.Event()
        for key, gathered in self._gathered.items():
            if gathered.attempts:
                self._log(key)

    def _log(self, key: tuple[str, str]) -> None:
        gathered = self._gathered[key]
        event, reason = key
        log.warning(event, reason=reason, attempts=gathered.attempts, count=gathered.count)
        gathered.attempts = gathered.count = 0
        gathered.logged_at = trio.current_time()
