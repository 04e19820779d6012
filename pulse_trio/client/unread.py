"""Events that wait for the program, and the position that it has read up to."""

from collections import deque

from pulse_trio.client.records import Event, Reset
from pulse_trio.client.wakeup import Wakeup


class Unread:
    """A bounded queue of events.

    Each event of a change carries the rev that the program has read once it has taken it.

    Args:
        limit: number of events from which it is full.
        wakeup: notified after each change.

    Attributes:
        rev, epoch: the position that the program has read up to; `epoch` is None until known.
    """

    def __init__(self, limit: int, rev: int, epoch: str | None, wakeup: Wakeup) -> None:
        self.rev = rev
        self.epoch = epoch
        self._limit = limit
        self._wakeup = wakeup
        self._events: deque[tuple[Event, int | None]] = deque()

    def __len__(self) -> int:
        return len(self._events)

    @property
    def is_full(self) -> bool:
        """True if the connection must not be read."""
        return len(self._events) >= self._limit

    def put(self, event: Event, rev: int | None = None) -> None:
        """Adds an event, also if it is full; `rev`: the change that it completes, if any."""
        self._events.append((event, rev))
        self._wakeup.notify()

    def put_if_space(self, event: Event) -> None:
        """Adds an event that may be missed."""
        if not self.is_full:
            self.put(event)

    def take(self) -> Event:
        """Removes and returns the oldest event.

        Raises:
            IndexError: there is none.
        """
        event, rev = self._events.popleft()
        if isinstance(event, Reset):
            self.rev, self.epoch = event.last_rev, event.epoch
        elif rev is not None:
            self.rev = rev
        self._wakeup.notify()
        return event
