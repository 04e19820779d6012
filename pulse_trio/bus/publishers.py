"""The numbers heard from other publishers, and the batches missing among them. No clock of its own, and no I/O."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from .base import GAP_TIMEOUT, BusCounters

FORGET_AFTER: Final = 300.0  # seconds of silence; a forgotten publisher that speaks again is a new one
MAX_PUBLISHERS: Final = 1_024  # far above the processes of a service and their former leases
MAX_MISSING: Final = 256  # batches of one publisher; a wider gap is not waited for


class _Publisher:
    """A publisher: its id, the highest number known, and numbers below it that have not arrived, with deadlines."""

    __slots__ = ("heard_at", "highest", "id", "missing")

    def __init__(self, publisher_id: UUID, number: int) -> None:
        self.id = publisher_id
        self.highest = number
        self.heard_at = 0.0
        self.missing: dict[int, float] = {}  # in the order of their deadlines


class Publishers:
    """All other publishers that were heard lately. Times are seconds of any clock that does not go back.

    Args:
        counters: where gaps are counted.

    Attributes:
        next_deadline: when `expire` is due; infinite while nothing is missing.
    """

    def __init__(self, counters: BusCounters) -> None:
        self._counters = counters
        # By the id's canonical text, in the order in which they were heard first.
        self._known: dict[str, _Publisher] = {}
        self.next_deadline = float("inf")

    def __len__(self) -> int:
        return len(self._known)

    def hear(self, text: str, number: int, now: float, *, is_heartbeat: bool) -> tuple[UUID, str | None]:
        """Notes a batch or a heartbeat.

        Returns:
            The publisher's id, and the reason to resync, if there is one.

        Raises:
            ValueError: `text` is not a UUID in its canonical form.
        """
        publisher = self._known.get(text)
        if publisher is None:
            publisher = self._add(text, number, now)
            return publisher.id, "new publisher"
        publisher.heard_at = now
        reason = None
        if number > publisher.highest:
            # A heartbeat names a batch that should have come before it; a batch names itself.
            end = number + 1 if is_heartbeat else number
            if end - publisher.highest - 1 + len(publisher.missing) > MAX_MISSING:
                self._counters.gaps += end - publisher.highest - 1 + len(publisher.missing)
                publisher.missing.clear()
                reason = "missing batch"
            else:
                for missing in range(publisher.highest + 1, end):
                    publisher.missing[missing] = now + GAP_TIMEOUT
                    self.next_deadline = min(self.next_deadline, now + GAP_TIMEOUT)
            publisher.highest = number
        elif publisher.missing and not is_heartbeat:
            publisher.missing.pop(number, None)
        return publisher.id, reason

    def expire(self, now: float) -> str | None:
        """Gives up the batches whose time is over; returns the reason to resync, if there are any."""
        expired = 0
        earliest = float("inf")
        for publisher in self._known.values():
            missing = publisher.missing
            while missing:
                number, deadline = next(iter(missing.items()))
                if deadline > now:
                    earliest = min(earliest, deadline)
                    break
                del missing[number]
                expired += 1
        self.next_deadline = earliest
        self._counters.gaps += expired
        return "missing batch" if expired else None

    def last_heard(self, publisher: UUID) -> float | None:
        """Returns the time at which a publisher was heard last."""
        known = self._known.get(str(publisher))
        return None if known is None else known.heard_at

    def forget_silent(self, now: float) -> None:
        """Forgets those that were silent for `FORGET_AFTER`."""
        for text in [text for text, known in self._known.items() if now - known.heard_at > FORGET_AFTER]:
            del self._known[text]

    def _add(self, text: str, number: int, now: float) -> _Publisher:
        publisher_id = UUID(text)
        if str(publisher_id) != text:
            raise ValueError("not a canonical UUID")
        self.forget_silent(now)
        if len(self._known) >= MAX_PUBLISHERS:
            longest_silent = min(self._known, key=lambda known: self._known[known].heard_at)
            del self._known[longest_silent]
        publisher = self._known[text] = _Publisher(publisher_id, number)
        publisher.heard_at = now
        return publisher
