"""Computes the waits between attempts to connect."""

import random
from dataclasses import dataclass, field

MAX_RETRY_AFTER = 300.0  # seconds; a longer wait that a server asks for is cut to this


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff with jitter, so that clients do not reconnect in step.

    Args:
        first: upper bound of the first wait, in seconds; it doubles with each failure.
        most: upper bound of all waits, in seconds.
        attempts: failures in a row after which `ConnectionLost` is raised; None: unlimited.
        rand: source of the jitter.
    """

    first: float = 0.5
    most: float = 30.0
    attempts: int | None = 30  # about 13 minutes with the waits above: longer than a restart or a failover
    rand: random.Random = field(default_factory=random.Random, repr=False)

    def delay(self, failures: int, *, least: float = 0.0) -> float:
        """Returns the seconds to wait after `failures` in a row, at least `least` (what the server asked for)."""
        longest = min(self.first * 2.0 ** min(failures, 30), self.most)
        return min(least, MAX_RETRY_AFTER) + longest * self.rand.uniform(0.2, 1.0)
