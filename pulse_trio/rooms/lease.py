"""A lease: the time up to which this process may deliver frames of conversations.

A removed user must get nothing once their removal is answered, in no process; also in one that stands still, or cannot
reach the database or the bus, and does not know of it. So each process has a lease in the database, and delivers only
while it is sure to have it. Whoever removes a user waits until every process has confirmed, or its lease has ended.

No clock of another machine and none of the database is read. A process counts the term from before it has sent the
renewal; whoever waits for its end counts from after the lease was fenced. A fenced lease cannot be renewed. Then
everything that was queued under it is dropped, and the service opens again with another lease: it takes it before it
looks up any membership.
"""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from uuid import UUID

import structlog
import trio

from pulse_trio.store.base import Store, StoreUnavailable

TERM: Final = 6.0  # seconds that a renewal is worth
RENEWAL: Final = 2.0  # seconds between two renewals
ATTEMPT_TIMEOUT: Final = 2.0  # seconds that one renewal may take
RETRY: Final = 0.25  # seconds after a renewal that has failed
# Seconds after which a lease that was fenced has ended, whatever the two clocks: they may differ by 0.2 %.
WAITED_OUT: Final = TERM * 1.002 + 0.05
SILENT: Final = 12.0  # seconds after which a lease that nobody renews is ended by any other process

log = structlog.get_logger(__name__)

# It goes on while the machine sleeps; macOS's monotonic clock does, too.
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", None)


def boot_time() -> float:
    """Returns seconds on a clock that goes on while this process stands still, and while the machine sleeps."""
    return time.monotonic() if _CLOCK is None or sys.platform == "darwin" else time.clock_gettime(_CLOCK)


class Lease:
    """The lease of this process.

    Args:
        lease_id: its id, which is also the process's on the bus.
        store: has the leases.
        clock: gives seconds; must go on while the process stands still.

    Attributes:
        id: its id.
        is_lost: set when another process has ended it: the service must drop what is queued, and open again.
        on_expired: called when it has run out, before it is renewed or lost: what is being written must stop.
    """

    def __init__(self, lease_id: UUID, store: Store, clock: Callable[[], float] = boot_time) -> None:
        self.id = lease_id
        self.is_lost = trio.Event()
        self._store = store
        self._clock = clock
        self._deadline = float("-inf")
        self._renewed = trio.Event()
        self.on_expired: Callable[[], None] = lambda: None
        self._seen_at = float("-inf")  # when leases were looked at last
        self._seen: dict[UUID, tuple[int, float]] = {}  # leases of others: counter, and when it was first seen

    def is_valid(self) -> bool:
        """Returns whether frames may be delivered now; ask next to each write."""
        return self._clock() < self._deadline

    async def wait_valid(self) -> None:
        """Returns when frames may be delivered; never if the lease is lost."""
        while not self.is_valid():
            await self._renewed.wait()

    async def take(self) -> None:
        """Takes the lease, before any membership is looked up; retries until the store answers.

        Cancelled: it may be taken or not.
        """
        while not await self._take():  # noqa: ASYNC110  # retries until the store answers
            await trio.sleep(RETRY)
        # An attempt may have taken it without an answer, and others may have ended it since: the renewal finds out.
        while not await self._renew():  # noqa: ASYNC110  # the same
            await trio.sleep(RETRY)

    async def _take(self) -> bool:
        try:
            with trio.move_on_after(ATTEMPT_TIMEOUT) as scope:
                await self._store.take_lease(self.id)
        except StoreUnavailable as error:
            log.warning("lease not taken yet", reason=str(error))
            return False
        return not scope.cancelled_caught

    async def run(self) -> None:
        """Renews the lease until it is lost or this is cancelled; ends those of processes that have gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, name="end of the lease")
            while not self.is_lost.is_set():
                await trio.sleep(RENEWAL)
                while not await self._renew():  # noqa: ASYNC110  # retries until the store answers
                    await trio.sleep(RETRY)
            nursery.cancel_scope.cancel()

    async def _watch(self) -> None:
        while True:
            left = self._deadline - self._clock()
            if left > 0:
                await trio.sleep(left)
            else:
                self.on_expired()
                await self.wait_valid()

    async def give_up(self) -> None:
        """Ends the lease: nothing is delivered any more, so nobody has to wait for it."""
        self._deadline = float("-inf")
        with trio.move_on_after(ATTEMPT_TIMEOUT, shield=True), suppress(StoreUnavailable):
            await self._store.end_leases([self.id])  # if that fails, others end it when it is silent for long

    def _extend(self, began: float) -> None:
        self._deadline = max(self._deadline, began + TERM)
        self._renewed.set()
        self._renewed = trio.Event()

    async def _renew(self) -> bool:
        """Renews the lease once; returns False if it must be tried again soon."""
        began = self._clock()
        others: dict[UUID, int] | None = {}
        try:
            with trio.move_on_after(ATTEMPT_TIMEOUT) as scope:
                others = await self._store.renew_lease(self.id)
        except StoreUnavailable:
            return False
        if scope.cancelled_caught:
            return False
        if others is None:
            self._deadline = float("-inf")
            log.warning("lease lost", reason="another process has ended it")
            self.is_lost.set()
            return True
        self._extend(began)
        await self._end_silent(others)
        return True

    async def _end_silent(self, others: dict[UUID, int]) -> None:
        """Ends leases that are not renewed any more: fences them, and deletes them when their term is over.

        When this process could not renew its own for a while, others may not have been able to, either.
        """
        now = trio.current_time()
        seen = self._seen if now - self._seen_at < 2 * RENEWAL else {}
        self._seen_at = now
        self._seen = {}
        for lease_id, count in others.items():
            if lease_id != self.id:
                known = seen.get(lease_id)
                self._seen[lease_id] = known if known is not None and known[0] == count else (count, now)
        silent = [lease_id for lease_id, (_, since) in self._seen.items() if now - since > SILENT]
        over = [lease_id for lease_id in silent if now - self._seen[lease_id][1] > SILENT + WAITED_OUT + RENEWAL]
        # In time for the next renewal, which tries again.
        with trio.move_on_after(ATTEMPT_TIMEOUT), suppress(StoreUnavailable):
            if silent:
                await self._store.fence_leases(silent)
            if over:
                await self._store.end_leases(over)
                log.info("leases of ended processes removed", count=len(over))
