"""Online: which users are connected to this process, with any connection, and when the others were last seen."""

from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import islice
from typing import Final
from uuid import UUID

import structlog
import trio

from pulse_trio.clock import Clock, rfc3339
from pulse_trio.protocol import UserPresence
from pulse_trio.rooms.outages import Outages
from pulse_trio.rooms.peer_sets import OwnSet, PeerSet
from pulse_trio.store.base import Store, StoreUnavailable

DELAY: Final = 1.0  # seconds that last-seen times are batched before they are written: at most a statement a second
MAX_BATCH: Final = 1_000  # users of one statement
ATTEMPT_TIMEOUT: Final = 5.0  # seconds that one statement may take
MAX_LEFT: Final = 10_000  # users that left other processes; those beyond it are written by now
MAX_UNWRITTEN: Final = 100_000  # last-seen times that wait for the database; beyond it the oldest are dropped

log = structlog.get_logger(__name__)


class Online:
    """The users that are online, and the task that writes their last-seen times.

    A time is written when a user's last connection closes, and also when the first one opens: after a crash they were
    last seen when they came.

    Args:
        store: stores the last-seen times.
        clock: gives the time of day.
        outages: logs failed attempts.

    Attributes:
        on_change: called with a user who comes or leaves at this moment, and the moment.
    """

    def __init__(self, store: Store, clock: Clock, outages: Outages) -> None:
        self.on_change: Callable[[UUID, datetime], None] = lambda _user_id, _moment: None
        self._here: OwnSet | None = None  # the users that are online, for the other processes
        self._elsewhere: PeerSet | tuple[()] = ()  # the users that are online in other processes
        self._left: dict[UUID, datetime] = {}  # users that have left other processes lately; they write it themselves
        self._store = store
        self._clock = clock
        self._outages = outages
        self._connections: dict[UUID, int] = {}
        self._since: dict[UUID, datetime] = {}  # of the users that are online
        self._unwritten: dict[UUID, datetime] = {}
        self._writing: dict[UUID, datetime] = {}
        self._has_unwritten = trio.Event()
        self._skip_delay = trio.Event()
        self._idle = trio.Event()
        self._idle.set()

    def add_connection(self, user_id: UUID) -> None:
        """Counts a connection that has opened; `remove_connection` must follow."""
        count = self._connections[user_id] = self._connections.get(user_id, 0) + 1
        if count == 1:
            self._since[user_id] = self._record_seen(user_id)
            if self._here is not None:
                self._here.add(user_id)

    def remove_connection(self, user_id: UUID) -> None:
        """Counts a connection that has ended."""
        self._connections[user_id] -= 1
        if not self._connections[user_id]:
            del self._connections[user_id], self._since[user_id]
            self._record_seen(user_id)
            if self._here is not None:
                self._here.remove(user_id)

    def share(self, here: OwnSet, elsewhere: PeerSet) -> None:
        """Shares who is online with other processes.

        Args:
            here: is given the users of this process.
            elsewhere: has those of the others.
        """
        self._here = here
        self._elsewhere = elsewhere

    def change_elsewhere(self, user_id: UUID) -> None:
        """Notes that a user came to, or left, the other processes."""
        now = self._clock()
        self._left.pop(user_id, None)
        if user_id not in self._elsewhere:
            self._left[user_id] = now
            if len(self._left) > MAX_LEFT:
                del self._left[next(iter(self._left))]
        if user_id not in self._since:
            self.on_change(user_id, now)

    def recent(self, user_ids: Iterable[UUID]) -> dict[UUID, datetime]:
        """Returns last-seen times that may not be in the store yet."""
        found = {user_id: self._recent(user_id) for user_id in user_ids}
        return {user_id: moment for user_id, moment in found.items() if moment is not None}

    def presence_of(self, user_id: UUID, *known: datetime | None) -> UserPresence:
        """Returns whether a user is online, and since when; `known` are last-seen times from elsewhere."""
        moments = (self._since.get(user_id),) if user_id in self._since else (self._recent(user_id), *known)
        seen = max((moment for moment in moments if moment is not None), default=None)
        is_online = user_id in self._since or user_id in self._elsewhere
        return UserPresence(user_id, is_online, None if seen is None else rfc3339(seen))

    async def run(self) -> None:
        """Writes last-seen times, until cancelled. Those that cannot be written wait, and are retried."""
        while True:
            await self._has_unwritten.wait()
            with trio.move_on_after(DELAY):
                await self._skip_delay.wait()
            self._writing = dict(islice(self._unwritten.items(), MAX_BATCH))
            for user_id in self._writing:
                del self._unwritten[user_id]
            await self._write_batch()
            self._writing = {}
            if not self._unwritten:
                self._has_unwritten, self._skip_delay = trio.Event(), trio.Event()
                self._idle.set()

    async def finish(self) -> None:
        """Returns when everything is written; does not wait for `DELAY`."""
        while self._unwritten or self._writing:
            self._skip_delay.set()
            await self._idle.wait()

    async def _write_batch(self) -> None:
        try:
            with trio.fail_after(ATTEMPT_TIMEOUT):
                await self._store.mark_seen(self._writing)
        except (StoreUnavailable, trio.TooSlowError) as error:
            self._outages.record("last-seen times not written yet", error, len(self._writing))
            self._unwritten = {**self._writing, **self._unwritten}
        except Exception:
            log.exception("last-seen times could not be written", count=len(self._writing))
        else:
            return
        await trio.sleep(DELAY)

    def _recent(self, user_id: UUID) -> datetime | None:
        return self._unwritten.get(user_id) or self._writing.get(user_id) or self._left.get(user_id)

    def _record_seen(self, user_id: UUID) -> datetime:
        now = self._clock()
        self._unwritten.pop(user_id, None)
        self._unwritten[user_id] = now
        if len(self._unwritten) > MAX_UNWRITTEN:
            del self._unwritten[next(iter(self._unwritten))]
        if self._idle.is_set():
            self._idle = trio.Event()
        self._has_unwritten.set()
        if user_id not in self._elsewhere:
            self.on_change(user_id, now)
        return now
