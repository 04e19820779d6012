"""Large work of clients, spread over turns of the event loop.

In one turn of the loop each connection may have something to do. Fifty that each send a frame of 64 KB, or as many
small ones as they can, would make a turn last a fifth of a second, and everybody would wait for it. So what one
connection does at once is bounded where it is done; here the sum over all connections is.
"""

from collections import deque
from typing import Final

import trio

TURN_BYTES: Final = 65_536  # of one turn of the loop: 5 to 15 ms of work
LARGE_BYTES: Final = 4_096  # of a frame or a body; a smaller one takes no turn
MESSAGE_BYTES: Final = 512  # that a small message counts: reading it takes as long as so many bytes of a large one


class _Waiting:
    """A piece of work that waits."""

    __slots__ = ("has_begun", "size", "woken")

    def __init__(self, size: int) -> None:
        self.size = size
        self.woken = trio.Event()  # it may begin, or is the first in the queue
        self.has_begun = False


class Turns:
    """Admits large pieces of work, first come, first served: some in each turn of the loop.

    Args:
        turn_bytes: the sum of the sizes that are admitted in a turn; one piece may be larger. What was admitted in the
            turn before may be done in the same one, so a turn of the loop has twice as much at most.
    """

    __slots__ = ("_admitted", "_turn_bytes", "_waiting")

    def __init__(self, turn_bytes: int = TURN_BYTES) -> None:
        self._turn_bytes = turn_bytes
        self._admitted = 0  # bytes, since some piece last waited for a turn
        self._waiting: deque[_Waiting] = deque()  # bounded by the connections: each waits for one piece

    async def take(self, size: int) -> None:
        """Waits until a piece of work may be done, which the caller then does at once, without a checkpoint.

        Cancelled: it was not admitted, and the others do not wait for it.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._waiting and self._admitted + size <= self._turn_bytes:
            self._admitted += size
            return
        mine = _Waiting(size)
        self._waiting.append(mine)
        try:
            if self._waiting[0] is not mine:
                await mine.woken.wait()
            if not mine.has_begun:
                await trio.lowlevel.checkpoint()
                self._begin_turn()
        finally:
            if not mine.has_begun:
                was_first = self._waiting[0] is mine
                self._waiting.remove(mine)
                if was_first and self._waiting:
                    self._waiting[0].woken.set()

    def _begin_turn(self) -> None:
        """Admits what fits into this turn; the next in the queue then waits for another one."""
        self._admitted = 0
        while self._waiting and (not self._admitted or self._admitted + self._waiting[0].size <= self._turn_bytes):
            admitted = self._waiting.popleft()
            admitted.has_begun = True
            self._admitted += admitted.size
            admitted.woken.set()
        if self._waiting:
            self._waiting[0].woken.set()
