"""How long to wait before the next attempt to connect."""

import random
from dataclasses import dataclass, field

# A server that asks for more is not obeyed: it is tried again once in so many seconds.
LONGEST_RETRY_AFTER = 300.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double, each shortened at random, so that clients do not come back in step.

    Args:
        first: the longest first wait, in seconds.
        most: the longest wait, in seconds.
        attempts: how many in a row may fail before `ConnectionLost` is raised; None: for ever.
        rand: where the random part comes from.
    """

    first: float = 0.5
    most: float = 30.0
    attempts: int | None = 30  # with the waits above about 13 minutes: longer than a restart or a failover
    rand: random.Random = field(default_factory=random.Random, repr=False)

    def delay(self, failures: int, *, least: float = 0.0) -> float:
        """Seconds to wait after so many failures in a row, at least `least` (what the server asked for)."""
        longest = min(self.first * 2.0 ** min(failures, 30), self.most)
        return min(least, LONGEST_RETRY_AFTER) + longest * self.rand.uniform(0.2, 1.0)
