"""Samples of log lines that repeat themselves under attack: they must fill neither the disk nor the log of others."""

from typing import Final

from pulse_trio.buckets import Buckets, TokenBucket

LOG_INTERVAL: Final = 10.0  # seconds between lines of one kind that say the same


class LogSampler:
    """Chooses the events of one kind that get a line, and counts the others.

    Args:
        rate: lines a second.
        burst: lines that may come at once.
        source_rate: lines a second of one source; 0 is no bound.
        source_burst: lines of one source that may come at once.
    """

    def __init__(
        self, rate: float = 1 / LOG_INTERVAL, burst: float = 1, *, source_rate: float = 0, source_burst: float = 0
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._all: TokenBucket | None = None  # made at its first use: before that there may be no clock
        self._sources = Buckets(source_rate, source_burst)
        self._suppressed = 0

    def take(self, source: str = "") -> int | None:
        """Counts an event of a source.

        Returns:
            The number of events without a line since the last one that had one; None if this one gets none either.
        """
        if self._all is None:
            self._all = TokenBucket(self._rate, self._burst)
        if not (self._sources.take(source) and self._all.take()):
            self._suppressed += 1
            return None
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed
