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
from pulse_trio.networks import widest
from pulse_trio.settings import Settings

RETRY_SECONDS: Final = 1.0  # until a rejected attempt may find room


class HashKind(Enum):
    """The kinds of attempts; each has its own queue, so that a flood of one does not delay the other."""

    LOGIN = "logins"
    REGISTRATION = "registrations"


class HashQueue:
    """Gives places for hashing to attempts in turn: kind by kind, and within a kind address by address.

    Example: an address with 100 logins waiting and one with a single login get the next two places, one each. The
    addresses of one IPv6 network (/48) share its turns, because one client may have all of them.
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
    """The waiting attempts of one kind, in a line for each address, by network.

    The first line of the first network has the next turn. A network is a /48 of IPv6, or a single address of IPv4.
    """

    def __init__(self, kind: HashKind, settings: Settings) -> None:
        self._kind = kind
        self._max_waiting = settings.password_queue
        self._max_per_address = settings.password_attempts_per_address
        self._networks = settings.networks
        self._lines: dict[str, dict[str, deque[_Waiter]]] = {}  # none is empty; together at most `_max_waiting`
        self._pending: dict[str, int] = {}  # by address and network: attempts that wait or have a place
        self.size = 0  # of all lines

    @contextmanager
    def attempt(self, address: str) -> Iterator[None]:
        """Counts an attempt of an address while it is pending. Raises PulseError when there are too many."""
        counted = self._networks.of(address)
        for key, factor in counted:
            if self._max_per_address and self._pending.get(key, 0) >= self._max_per_address * factor:
                raise too_many(f"{self._kind.value} of your address at a time", RETRY_SECONDS)
        for key, _ in counted:
            self._pending[key] = self._pending.get(key, 0) + 1
        try:
            yield
        finally:
            for key, _ in counted:
                self._pending[key] -= 1
                if not self._pending[key]:
                    del self._pending[key]

    def add(self, address: str) -> _Waiter:
        """Puts an attempt at the end of its address's line.

        When the queue is full, the longest line of the network with most attempts gives up its last one, unless that
        would make it shorter than this one. So while fewer networks attack than the queue has room for, every other
        one finds room.

        Raises:
            PulseError: the queue is full.
        """
        network = widest(address)
        if self.size >= self._max_waiting:
            self._give_up(network, address)
        waiter = _Waiter()
        self._lines.setdefault(network, {}).setdefault(address, deque()).append(waiter)
        self.size += 1
        return waiter

    def _give_up(self, network: str, address: str) -> None:
        """Rejects a waiting attempt in favour of one more of an address. Raises PulseError when none has to go."""

        def count(of: str) -> int:
            return sum(map(len, self._lines.get(of, {}).values()))

        largest = max(self._lines, key=count)
        is_larger = count(largest) >= count(network) + 2
        lines = self._lines[largest if is_larger else network] if is_larger or network in self._lines else {}
        # Of lines of one length, the one whose turn is last.
        longest = max(reversed(lines), key=lambda other: len(lines[other]), default=None)
        if longest is None or (not is_larger and len(lines[longest]) < len(lines.get(address, ())) + 2):
            raise _busy()
        waiter = lines[longest][-1]
        self.discard(longest, waiter)
        waiter.decided.set()

    def next(self) -> _Waiter:
        """Takes the attempt whose turn is next; its network goes to the end, and within it its address."""
        network, lines = next(iter(self._lines.items()))
        address, line = next(iter(lines.items()))
        del self._lines[network], lines[address]
        waiter = line.popleft()
        self.size -= 1
        if line:
            lines[address] = line
        if lines:
            self._lines[network] = lines
        return waiter

    def discard(self, address: str, waiter: _Waiter) -> None:
        """Removes an attempt that no longer waits, if it is still here."""
        network = widest(address)
        lines = self._lines.get(network, {})
        line = lines.get(address)
        if line is not None and waiter in line:
            line.remove(waiter)
            self.size -= 1
            if not line:
                del lines[address]
            if not lines:
                del self._lines[network]


def _busy() -> PulseError:
    message = "Too many logins or registrations are waiting; retry in a moment"
    return PulseError(ErrorCode.UNAVAILABLE, message, retry_after=RETRY_SECONDS)
