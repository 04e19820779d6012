"""Confirmations of removals: a removal is answered when every process has confirmed it, or its lease has ended.

The order matters; each other one has a counterexample. The removal is committed first, then the leases are listed. A
process confirms after what was queued for the user is dropped. Who has not confirmed in `PATIENCE` seconds is fenced,
which is committed before its term is waited out; its lease is deleted after that, not before: another removal must find
it. In the first term after the service has opened no removal is answered: the database may be a standby that was
promoted, and lack leases that were taken shortly before.

A process that cannot publish must not fence the others, which may be well: they would all close their connections. Then
a removal is carried out, but not answered. When the engine of the bus was away all processes connect again, not in one
moment; so those that are still missing have `RECONNECTING` seconds from then on.
"""

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from uuid import UUID

import structlog
import trio

from pulse_trio.model import Member
from pulse_trio.rooms.lease import WAITED_OUT
from pulse_trio.rooms.peer_items import ConfirmItem, Item
from pulse_trio.rooms.time_limit import in_time
from pulse_trio.store.base import Store, StoreUnavailable

PATIENCE: Final = 1.0  # seconds for the confirmations of processes that are well; they take a few ms
LIST_AGAIN: Final = 0.5  # seconds between two looks at the leases
# Seconds after the bus was connected here that others have to connect, too, before they count as silent. Each tries
# every 2 seconds; one that stays away is waited out as ever.
RECONNECTING: Final = 3.0
REPEAT: Final = 0.3  # seconds after which the request is published again: the bus may have lost it

log = structlog.get_logger(__name__)


class _Request:
    """A removal that others confirm."""

    __slots__ = ("missing", "news")

    def __init__(self, missing: set[UUID]) -> None:
        self.missing = missing
        self.news = trio.Event()

    async def wait(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.news.wait()


class Confirmations:
    """The removals of this process that others confirm.

    Args:
        own_id: the lease of this process.
        store: has the leases.
        publish: publishes an item.
        clock: gives seconds; must go on while the process stands still.
        timeout: seconds that one statement may take.
        rand: gives ids.
    """

    def __init__(
        self,
        own_id: UUID,
        store: Store,
        publish: Callable[[Item], None],
        clock: Callable[[], float],
        *,
        timeout: float,
        rand: random.Random,
    ) -> None:
        self._own_id = own_id
        self._store = store
        self._publish = publish
        self._clock = clock
        self._connected_at: float | None = None  # when the bus came to take items; None: it does not
        self._timeout = timeout
        self._random = rand
        self._requests: dict[UUID, _Request] = {}
        self._not_before = clock() + WAITED_OUT

    def set_connected(self, is_connected: bool) -> None:
        """Notes whether the bus takes items."""
        self._connected_at = self._clock() if is_connected else None

    def confirmed(self, request_id: UUID, lease_id: UUID) -> None:
        """Notes that the process with a lease has confirmed a removal."""
        request = self._requests.get(request_id)
        if request is not None and lease_id in request.missing:
            request.missing.remove(lease_id)
            request.news.set()
            request.news = trio.Event()

    async def collect(self, removal: Member) -> None:
        """Returns when all processes have confirmed a committed removal, or their leases have ended.

        Raises:
            StoreUnavailable: the leases could not be read or ended, or the others could not be asked.
        Cancelled: some may not have confirmed.
        """
        with in_time(self._timeout, "the leases"):
            missing = set(await self._store.leases()) - {self._own_id}
        if missing:
            await self._ask_others(removal, missing)
        while (rest := self._not_before - self._clock()) > 0:  # noqa: ASYNC110  # the clocks may differ
            await trio.sleep(rest)

    async def _ask_others(self, removal: Member, missing: set[UUID]) -> None:
        request_id = UUID(bytes=self._random.randbytes(16), version=4)
        item = ConfirmItem(request_id, removal.conversation_id, removal.user_id, removal.rev)
        request = self._requests[request_id] = _Request(missing)
        try:
            await self._ask(request, item, self._clock() + PATIENCE)
            if missing and self._connected_at is not None:
                await self._ask(request, item, self._connected_at + RECONNECTING)
            if missing:
                await self._forget_ended(request)
            if not missing:
                return
            if self._connected_at is None:
                raise StoreUnavailable("the other processes cannot be asked")
            log.warning("processes do not confirm a removal", count=len(missing), waits_seconds=round(WAITED_OUT))
            with in_time(self._timeout, "the leases"):
                await self._store.fence_leases(list(missing))
            await self._ask(request, item, self._clock() + WAITED_OUT)
            if missing:
                with in_time(self._timeout, "the leases"):
                    await self._store.end_leases(list(missing))
        finally:
            del self._requests[request_id]

    async def _ask(self, request: _Request, item: ConfirmItem, deadline: float) -> None:
        """Publishes a request until all have confirmed, or the deadline has passed."""
        published_at = float("-inf")
        listed_at = self._clock()
        while request.missing and (now := self._clock()) < deadline:
            if now - published_at >= REPEAT:
                published_at = now
                self._publish(item)
            if now - listed_at >= LIST_AGAIN:
                listed_at = now
                await self._forget_ended(request)
            await request.wait(min(REPEAT, deadline - now))

    async def _forget_ended(self, request: _Request) -> None:
        """Does not wait for leases that have been ended: by their process, or by who knows that it lives no more."""
        with suppress(StoreUnavailable), in_time(LIST_AGAIN, "the leases"):  # else they are waited out
            request.missing.intersection_update(await self._store.leases())
