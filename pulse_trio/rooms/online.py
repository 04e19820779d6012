"""Online: who is connected to this process, with any connection, and when the others were last seen."""

from collections.abc import Callable, Iterable
from datetime import datetime
from itertools import islice
from typing import Final
from uuid import UUID

import structlog
import trio

from pulse_trio.clock import Clock, rfc3339
from pulse_trio.protocol import UserPresence
from pulse_trio.store.base import Store, StoreUnavailable

GATHER: Final = 1.0  # seconds that comings and goings gather before they are written: at most a statement a second
BATCH: Final = 1_000  # most users of one statement
ATTEMPT: Final = 5.0  # seconds that one statement may take
UNWRITTEN: Final = 100_000  # users whose moment waits for the database; beyond it the oldest are forgotten

log = structlog.get_logger(__name__)


class Online:
    """Who is online, and the task that writes when they were seen.

    That is written when a user's last connection closes, and also when the first one opens: after a crash they were
    last seen when they came.

    Args:
        store: where it is written.
        clock: what time it is.

    Attributes:
        on_change: called with a user who has come or is going at this moment, and when.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self.on_change: Callable[[UUID, datetime], None] = lambda _user_id, _moment: None
        self._store = store
        self._clock = clock
        self._connections: dict[UUID, int] = {}
        self._since: dict[UUID, datetime] = {}  # of who is online
        self._unwritten: dict[UUID, datetime] = {}
        self._writing: dict[UUID, datetime] = {}
        self._came = trio.Event()
        self._hurry = trio.Event()
        self._idle = trio.Event()
        self._idle.set()

    def enter(self, user_id: UUID) -> None:
        """A connection has opened; `leave` must follow."""
        count = self._connections[user_id] = self._connections.get(user_id, 0) + 1
        if count == 1:
            self._since[user_id] = self._note(user_id)

    def leave(self, user_id: UUID) -> None:
        """A connection has ended."""
        self._connections[user_id] -= 1
        if not self._connections[user_id]:
            del self._connections[user_id], self._since[user_id]
            self._note(user_id)

    def recent(self, user_ids: Iterable[UUID]) -> dict[UUID, datetime]:
        """When users were seen, those of them of whom the store may not know it yet."""
        found = {user_id: self._recent(user_id) for user_id in user_ids}
        return {user_id: moment for user_id, moment in found.items() if moment is not None}

    def standing(self, user_id: UUID, *known: datetime | None) -> UserPresence:
        """Whether a user is online, and since when that is so; `known` are moments from elsewhere."""
        moments = (self._since.get(user_id),) if user_id in self._since else (self._recent(user_id), *known)
        seen = max((moment for moment in moments if moment is not None), default=None)
        return UserPresence(user_id, user_id in self._since, None if seen is None else rfc3339(seen))

    async def run(self) -> None:
        """Writes, until cancelled. What cannot be written waits, and is tried again."""
        while True:
            await self._came.wait()
            with trio.move_on_after(GATHER):
                await self._hurry.wait()
            self._writing = dict(islice(self._unwritten.items(), BATCH))
            for user_id in self._writing:
                del self._unwritten[user_id]
            await self._write()
            self._writing = {}
            if not self._unwritten:
                self._came, self._hurry = trio.Event(), trio.Event()
                self._idle.set()

    async def finish(self) -> None:
        """Returns when everything is written; does not wait for more to gather."""
        while self._unwritten or self._writing:
            self._hurry.set()
            await self._idle.wait()

    async def _write(self) -> None:
        try:
            with trio.fail_after(ATTEMPT):
                await self._store.mark_seen(self._writing)
        except (StoreUnavailable, trio.TooSlowError) as error:
            log.warning("users seen, not written yet", count=len(self._writing), reason=type(error).__name__)
            self._unwritten = {**self._writing, **self._unwritten}
        except Exception:
            log.exception("users seen could not be written", count=len(self._writing))
        else:
            return
        await trio.sleep(GATHER)

    def _recent(self, user_id: UUID) -> datetime | None:
        return self._unwritten.get(user_id) or self._writing.get(user_id)

    def _note(self, user_id: UUID) -> datetime:
        now = self._clock()
        self._unwritten.pop(user_id, None)
        self._unwritten[user_id] = now
        if len(self._unwritten) > UNWRITTEN:
            del self._unwritten[next(iter(self._unwritten))]
        if self._idle.is_set():
            self._idle = trio.Event()
        self._came.set()
        self.on_change(user_id, now)
        return now
