"""The queue for password hashes: bounded, and fair to the addresses of clients.

A hash takes a core for about 30 ms, and a login causes one without needing an account. So few are computed at a time, a
bounded number may wait, and an attempt that finds no room is rejected before anything is looked up or hashed for it.
"""

from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import Enum
from typing import Final

import trio

from pulse_trio.errors import ErrorCode, PulseError, too_many
from pulse_trio.settings import Settings

RETRY_SECONDS: Final = 1.0  # until a rejected attempt may find room


class HashKind(Enum):
    """The kinds of attempts; each has its own queue, so that a flood of one does not delay the other."""

    LOGIN = "logins"
    REGISTRATION = "registrations"


class HashQueue:
    """Gives places for hashing to attempts in turn: kind by kind, and within a kind address by address.

    Example: an address with 100 logins waiting and one with a single login get the next two places, one each.
    """

    def __init__(self, settings: Settings) -> None:
        self._free = settings.password_hash_parallel  # while any is free no attempt waits
        self._seconds = settings.password_wait
        self._queues = {kind: _Queue(kind, settings) for kind in HashKind}
        self._turns = deque(self._queues.values())  # the kind whose turn is next is the first

    def waiting(self, kind: HashKind) -> int:
        """The number of attempts that wait for a place."""
        return self._queues[kind].size

    @asynccontextmanager
    async def place(self, kind: HashKind, address: str) -> AsyncIterator[None]:
        """Waits for a place and holds it for the block, in which one password is hashed.

        Args:
            kind: login or registration.
            address: the client's address, as a key for limits.

        Raises:
            PulseError: too many attempts are pending, of the address or in all, or no place was free in time.

        Cancelled: the place goes to the next attempt.
        """
        queue = self._queues[kind]
        with queue.attempt(address):
            if self._free:
                self._free -= 1
            else:
                await self._wait(queue, address)
            try:
                await trio.lowlevel.checkpoint()
                yield
            finally:
                self._pass_on()

    async def _wait(self, queue: "_Queue", address: str) -> None:
        waiter = queue.add(address)
        try:
            with trio.move_on_after(self._seconds):
                await waiter.decided.wait()
        except trio.Cancelled:
            if waiter.has_place:
                self._pass_on()
            raise
        finally:
            queue.discard(address, waiter)
        if not waiter.has_place:
            raise _busy()

    def _pass_on(self) -> None:
        """Gives a place to the attempt whose turn is next."""
        for _ in range(len(self._turns)):
            queue = self._turns[0]
            self._turns.rotate(-1)
            if queue.size:
                waiter = queue.next()
                waiter.has_place = True
                waiter.decided.set()
                return
        self._free += 1


class _Waiter:
    """A waiting attempt; once decided it has a place or is rejected."""

    __slots__ = ("decided", "has_place")

    def __init__(self) -> None:
        self.decided = trio.Event()
        self.has_place = False


class _Queue:
    """The waiting attempts of one kind, in a line for each address; the first line has the next turn."""

    def __init__(self, kind: HashKind, settings: Settings) -> None:
        self._kind = kind
        self._max_waiting = settings.password_queue
        self._max_per_address = settings.password_attempts_per_address
        self._lines: dict[str, deque[_Waiter]] = {}  # no line is empty; together at most `_max_waiting`
        self._pending: dict[str, int] = {}  # by address: attempts that wait or have a place
        self.size = 0  # of all lines

    @contextmanager
    def attempt(self, address: str) -> Iterator[None]:
        """Counts an attempt of an address while it is pending. Raises PulseError when there are too many."""
        count = self._pending.get(address, 0)
        if self._max_per_address and count >= self._max_per_address:
            raise too_many(f"{self._kind.value} of your address at a time", RETRY_SECONDS)
        self._pending[address] = count + 1
        try:
            yield
        finally:
            self._pending[address] -= 1
            if not self._pending[address]:
                del self._pending[address]

    def add(self, address: str) -> _Waiter:
        """Puts an attempt at the end of its address's line.

        When the queue is full, the longest line gives up its last attempt unless that would make it shorter than this
        one. So while fewer addresses attack than the queue has room for, every other address finds room.

        Raises:
            PulseError: the queue is full.
        """
        if self.size >= self._max_waiting:
            longest = max(self._lines, key=lambda other: len(self._lines[other]))
            if len(self._lines[longest]) < len(self._lines.get(address, ())) + 2:
                raise _busy()
            self._lines[longest].pop().decided.set()
            self.size -= 1
        waiter = _Waiter()
        self._lines.setdefault(address, deque()).append(waiter)
        self.size += 1
        return waiter

    def next(self) -> _Waiter:
        """Takes the attempt whose turn is next; its address goes to the end."""
        address, line = next(iter(self._lines.items()))
        del self._lines[address]
        waiter = line.popleft()
        self.size -= 1
        if line:
            self._lines[address] = line
        return waiter

    def discard(self, address: str, waiter: _Waiter) -> None:
        """Removes an attempt that no longer waits, if it is still here."""
        line = self._lines.get(address)
        if line is not None and waiter in line:
            line.remove(waiter)
            self.size -= 1
            if not line:
                del self._lines[address]


def _busy() -> PulseError:
    message = "Too many logins or registrations are waiting; retry in a moment"
    return PulseError(ErrorCode.UNAVAILABLE, message, retry_after=RETRY_SECONDS)
