"""The deadlines of many waiting connections, which one task looks at.

A cancel scope with a deadline around each read costs more than the read. Deadlines here are moved often and are seldom
over, so an entry may be too early: then it is entered again. One is at most `GRAIN` seconds late.
"""

import heapq
import math
from itertools import count
from typing import Final, Protocol

import trio

GRAIN: Final = 0.25  # seconds between two looks; what is due in between is done together
MAX_LOOKS_A_TURN: Final = 256  # before other tasks have their turn: less than a millisecond
MAX_STALE: Final = 1_000  # entries that may stay although they are not needed any more, and as many as the others


class Waiter(Protocol):
    """A connection that waits.

    Attributes:
        due_at: its earliest entry, on Trio's clock; infinite if it has none. Only `Deadlines` changes it.
    """

    due_at: float

    def on_due(self, now: float) -> None:
        """Called when an entry is due and there is none any more; may enter another one."""


class Deadlines:
    """When to look at which waiter. Each has at most a few entries: a new one must be earlier than all it has."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Waiter]] = []
        self._numbers = count()  # of entries that are due at the same time
        self._stale = 0  # entries of waiters that have left, or have an earlier one
        self._pause = trio.CancelScope()
        self._looked_at = -math.inf

    def enter(self, waiter: Waiter, due: float) -> None:
        """Lets `waiter.on_due` be called at a time on Trio's clock, or earlier."""
        if due >= waiter.due_at:
            return
        self.leave(waiter)
        waiter.due_at = due
        heapq.heappush(self._heap, (due, next(self._numbers), waiter))
        if due < self._pause.deadline:
            self._pause.deadline = max(due, self._looked_at + GRAIN)

    def leave(self, waiter: Waiter) -> None:
        """Drops the entry of a waiter, if it has one; it may stay in memory until others have left as well."""
        if waiter.due_at == math.inf:
            return
        waiter.due_at = math.inf
        self._stale += 1
        if self._stale > max(MAX_STALE, len(self._heap) // 2):
            self._heap[:] = [entry for entry in self._heap if entry[0] == entry[2].due_at]
            heapq.heapify(self._heap)
            self._stale = 0

    async def run(self) -> None:
        """Looks at what is due, until cancelled."""
        heap = self._heap
        while True:
            self._looked_at = trio.current_time()
            first = heap[0][0] if heap else math.inf
            with trio.CancelScope(deadline=max(first, self._looked_at + GRAIN)) as self._pause:
                await trio.sleep_forever()
            now = trio.current_time()
            looks = 0
            while heap and heap[0][0] <= now:
                if looks == MAX_LOOKS_A_TURN:
                    await trio.lowlevel.checkpoint()
                    looks = 0
                looks += 1
                due, _, waiter = heapq.heappop(heap)
                if due == waiter.due_at:
                    waiter.due_at = math.inf
                    waiter.on_due(now)
                else:
                    self._stale -= 1
