"""Large work of clients, spread over turns of the event loop.

In one turn of the loop each connection may have something to do. Fifty that each send a frame of 64 KB, or as many
small ones as they can, would make a turn last a fifth of a second, and everybody would wait for it. So what one
connection does at once is bounded where it is done; here the sum over all connections is.
"""

from typing import Final

import trio

from pulse_trio.edge.lines import Lines

TURN_BYTES: Final = 65_536  # of one turn of the loop: 5 to 15 ms of work
LARGE_BYTES: Final = 4_096  # of a frame or a body; a smaller one takes no turn
MESSAGE_BYTES: Final = 512  # that a small message counts: reading it takes as long as so many bytes of a large one


class _Waiting:
    """A piece of work that waits."""

    __slots__ = ("has_begun", "size", "woken")

    def __init__(self, size: int) -> None:
        self.size = size
        self.woken = trio.Event()  # it may begin, or begins the next turn
        self.has_begun = False


class Turns:
    """Admits large pieces of work: some in each turn of the loop.

    The pieces of one address wait in a line, first come, first served, and the lines have turns: 1,000 connections of
    one address delay each other, and those of another address by one piece.

    Args:
        turn_bytes: the sum of the sizes that are admitted in a turn; one piece may be larger. What was admitted in the
            turn before may be done in the same one, so a turn of the loop has twice as much at most.
    """

    __slots__ = ("_admitted", "_leader", "_lines", "_turn_bytes")

    def __init__(self, turn_bytes: int = TURN_BYTES) -> None:
        self._turn_bytes = turn_bytes
        self._admitted = 0  # bytes, since some piece last waited for a turn
        self._lines: Lines[_Waiting] = Lines()  # bounded by the connections: each waits for one piece
        self._leader: _Waiting | None = None  # the first of the lines, which begins the next turn

    async def take(self, size: int, address: str) -> None:
        """Waits until a piece of work of an address may be done, which the caller then does without a checkpoint.

        Cancelled: it was not admitted, and the others do not wait for it.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if not self._lines and self._admitted + size <= self._turn_bytes:
            self._admitted += size
            return
        mine = _Waiting(size)
        self._lines.put(address, mine)
        try:
            if self._leader is None:
                self._leader = mine
                await trio.lowlevel.checkpoint()
            else:
                await mine.woken.wait()
            if not mine.has_begun:
                self._begin_turn()
        finally:
            if not mine.has_begun:
                self._lines.remove(address, mine)
                if self._leader is mine:
                    self._choose_leader()

    def _begin_turn(self) -> None:
        """Admits what fits into this turn, a piece of each line in turn; the next one begins another turn."""
        self._admitted = 0
        while self._lines:
            if self._admitted and self._admitted + self._lines.first().size > self._turn_bytes:
                break
            admitted = self._lines.take()
            admitted.has_begun = True
            self._admitted += admitted.size
            admitted.woken.set()
        self._choose_leader()

    def _choose_leader(self) -> None:
        self._leader = self._lines.first() if self._lines else None
        if self._leader is not None:
            self._leader.woken.set()
