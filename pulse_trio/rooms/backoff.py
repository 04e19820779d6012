"""How long to wait before the store is asked again."""

import random
from typing import Final

import trio

FIRST: Final = 0.05  # seconds: a connection that broke is replaced within this
MOST: Final = 1.0  # seconds: a database that comes back is noticed within this


class Backoff:
    """Waits that double, each shortened at random so that rooms do not come back in step.

    From FIRST to MOST seconds, times 0.5 to 1.

    Args:
        rand: where the random part comes from.
    """

    __slots__ = ("_next", "_rand")

    def __init__(self, rand: random.Random) -> None:
        self._next = FIRST
        self._rand = rand

    async def wait(self) -> None:
        """Sleeps for as long as it is time to."""
        delay, self._next = self._next, min(self._next * 2, MOST)
        await trio.sleep(delay * self._rand.uniform(0.5, 1.0))
