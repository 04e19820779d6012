"""Lines: who waits for a turn, in a line for each address, and the lines have turns.

One address with many waits behind itself, and another one for a single turn of it.
"""

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Lines(Generic[T]):
    """Waiting items; `len` is the number of all. Whoever puts them in bounds them."""

    __slots__ = ("_lines", "_size")

    def __init__(self) -> None:
        self._lines: dict[str, deque[T]] = {}  # none is empty; the one whose turn is next comes first
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def put(self, address: str, item: T) -> None:
        """Puts an item at the end of the line of its address."""
        self._lines.setdefault(address, deque()).append(item)
        self._size += 1

    def first(self) -> T:
        """Returns the item whose turn is next; only if there is one."""
        return next(iter(self._lines.values()))[0]

    def take(self) -> T:
        """Takes the item whose turn is next, if there is one; its line goes behind all others."""
        address = next(iter(self._lines))
        line = self._lines.pop(address)
        item = line.popleft()
        self._size -= 1
        if line:
            self._lines[address] = line
        return item

    def remove(self, address: str, item: T) -> None:
        """Removes an item that waits."""
        line = self._lines[address]
        line.remove(item)
        self._size -= 1
        if not line:
            del self._lines[address]
