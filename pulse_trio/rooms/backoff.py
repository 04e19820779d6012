"""The waits between two attempts to reach the store."""

import random
from typing import Final

import trio

MIN_DELAY: Final = 0.05  # seconds: a connection that broke is replaced within this
MAX_DELAY: Final = 1.0  # seconds: a database that comes back is noticed within this


class Backoff:
    """Waits that double, each shortened at random so that rooms do not retry in step.

    From MIN_DELAY to MAX_DELAY seconds, times 0.5 to 1.

    Args:
        rand: gives the random part.
    """

    __slots__ = ("_next", "_rand")

    def __init__(self, rand: random.Random) -> None:
        self._next = MIN_DELAY
        self._rand = rand

    async def wait(self) -> None:
        """Sleeps until the next attempt is due."""
        delay, self._next = self._next, min(self._next * 2, MAX_DELAY)
        await trio.sleep(delay * self._rand.uniform(0.5, 1.0))
