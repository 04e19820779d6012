"""The slots of a pool, shared by kinds of callers so that none takes what the others need."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import trio


@dataclass(frozen=True, slots=True)
class Share:
    """The share of one kind of callers.

    Attributes:
        reserved: Slots that other kinds cannot take.
        most: Slots that it can hold at a time.
    """

    reserved: int
    most: int


class _Waiter:
    """A task that waits for a slot."""

    __slots__ = ("has_slot", "wake")

    def __init__(self) -> None:
        self.wake = trio.Event()
        self.has_slot = False


class Slots:
    """A semaphore with a share for each kind of callers.

    A free slot goes to the kinds in turn; within a kind to the keys in turn, and within a key to the one that has
    waited longest. Example: of two users, one with 100 lists waiting and one with a single list, each gets the next.

    Args:
        size: Number of slots.
        shares: The kinds. Other kinds have nothing reserved, and may hold all that is not.
    """

    def __init__(self, size: int, shares: Mapping[Hashable, Share] | None = None) -> None:
        self.value = size
        self._shares = dict(shares or {})
        self._other = Share(0, size)
        if sum(share.reserved for share in self._shares.values()) > size:
            raise ValueError("more slots are reserved than there are")
        self._held: Counter[Hashable] = Counter()
        # Kind → key → waiters. No deque is empty; the kind and the key whose turn is next come first.
        self._waiting: dict[Hashable, dict[Hashable, deque[_Waiter]]] = {}

    def acquire_nowait(self, kind: Hashable = None) -> None:
        """Take a slot.

        Raises:
            trio.WouldBlock: There is none for this kind.
        """
        if not self._may_take(kind):  # it may not while others of its kind wait: a slot is handed on when it is freed
            raise trio.WouldBlock
        self._take(kind)

    async def acquire(self, kind: Hashable = None, key: Hashable = None) -> None:
        """Wait for a slot. Cancelled: the caller has none."""
        if self._may_take(kind):
            self._take(kind)
            try:
                await trio.lowlevel.checkpoint()
            except BaseException:
                self.release(kind)
                raise
            return
        waiter = _Waiter()
        self._waiting.setdefault(kind, {}).setdefault(key, deque()).append(waiter)
        try:
            await waiter.wake.wait()
        except BaseException:
            if waiter.has_slot:
                self.release(kind)
            else:
                self._forget(kind, key, waiter)
            raise

    def release(self, kind: Hashable = None) -> None:
        """Free a slot, and hand it on."""
        self._held[kind] -= 1
        self.value += 1
        while turn := [each for each in self._waiting if self._may_take(each)][:1]:
            (kind,) = turn
            keys = self._waiting.pop(kind)
            key = next(iter(keys))
            line = keys.pop(key)
            waiter = line.popleft()
            if line:
                keys[key] = line
            if keys:
                self._waiting[kind] = keys
            self._take(kind)
            waiter.has_slot = True
            waiter.wake.set()

    def _may_take(self, kind: Hashable) -> bool:
        share, held = self._shares.get(kind, self._other), self._held
        if not self.value or held[kind] >= share.most:
            return False
        if held[kind] < share.reserved:
            return True
        kept = sum(max(0, other.reserved - held[each]) for each, other in self._shares.items() if each != kind)
        return self.value > kept

    def _take(self, kind: Hashable) -> None:
        self._held[kind] += 1
        self.value -= 1

    def _forget(self, kind: Hashable, key: Hashable, waiter: _Waiter) -> None:
        keys = self._waiting[kind]
        keys[key].remove(waiter)
        if not keys[key]:
            del keys[key]
        if not keys:
            del self._waiting[kind]
