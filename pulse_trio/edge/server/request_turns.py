"""Turns of requests: how many may begin at a time, so that a burst of them does not delay everything else.

Trio runs all tasks that are ready in one turn of the loop. When 500 clients connect at once, all of them would begin in
the same turn, and a message or a liveness probe would wait for half a second of their work. So a few begin in a turn;
the others wait in lines, one for each address, and the lines take turns: a newcomer waits for one request of each other
address, not for all of them.
"""

from typing import Final

import trio

from pulse_trio.edge.lines import Lines

MAX_BEGINNING: Final = 8  # each takes two turns of the loop to begin, and 0.3 to 0.5 ms of it: 2 ms of a turn


class RequestTurns:
    """Gives turns to requests. At most one request of each connection waits, so the lines are bounded.

    Args:
        most: requests that have a turn at a time.
    """

    def __init__(self, most: int = MAX_BEGINNING) -> None:
        self._free = most
        self._lines: Lines[trio.Event] = Lines()

    def take_nowait(self) -> bool:
        """Takes a turn if one is free; `give_back` must follow."""
        if not self._free:
            return False
        self._free -= 1
        return True

    async def take(self, address: str) -> None:
        """Waits for a turn, in the line of an address; `give_back` must follow. Cancelled: it has none."""
        if self.take_nowait():
            return
        given = trio.Event()
        self._lines.put(address, given)
        try:
            await given.wait()
        except trio.Cancelled:
            if given.is_set():
                self.give_back()
            else:
                self._lines.remove(address, given)
            raise

    def give_back(self) -> None:
        """Ends a turn: the next line has it."""
        if self._lines:
            self._lines.take().set()
        else:
            self._free += 1
