"""Catching up: reads committed changes, for subscriptions that missed some and for a feed with a gap."""

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import trio

from pulse_trio.model import Change, Kind
from pulse_trio.protocol import Encoded
from pulse_trio.rooms.backoff import Backoff
from pulse_trio.rooms.change_frames import encode_changes
from pulse_trio.rooms.connection import split
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.store.base import Store, StoreUnavailable

PAGE_CHANGES: Final = 256  # read at a time: with the longest messages about the size of an outbox
# Pages kept for other subscriptions: those of a few hundred rooms whose clients all reconnect at once.
MAX_KEPT_PAGES: Final = 256
MAX_KEPT_BYTES: Final = 4 * 2**20


@dataclass(slots=True)
class _Page:
    """A page of changes, encoded: one reading serves all clients that reconnect at once.

    Attributes:
        as_of: the page, and the pages after it, have every change up to this rev.
        chunks: frames that are written together, after the rev of each; None until they are read.
        is_last: True if no change follows.
        size: bytes.
        read: set when it is read, or its reader has been cancelled.
    """

    as_of: int
    chunks: list[tuple[list[int], list[Encoded]]] | None = None
    is_last: bool = False
    size: int = 0
    read: trio.Event = field(default_factory=trio.Event)

    def fill(self, changes: Sequence[Change], mask: int, after_rev: int) -> None:
        """Sets the changes, which follow `after_rev`."""
        encoded = encode_changes(changes, mask, after_rev)
        self.chunks = split(encoded)
        self.size = sum(len(frame.wire) for _, frame in encoded)
        self.is_last = len(changes) < PAGE_CHANGES
        if changes and self.is_last:
            self.as_of = max(self.as_of, changes[-1].rev)


@dataclass(frozen=True, slots=True)
class CatchUp:
    """Reads changes of conversations from the store.

    Args:
        store: the store.
        timeout: seconds that one read may take.
        rand: gives the jitter of retries.
    """

    store: Store
    timeout: float
    rand: random.Random
    _pages: dict[tuple[UUID, int, int], _Page] = field(default_factory=dict)  # by features, and the rev before them

    async def read_page(self, conversation_id: UUID, after_rev: int, kinds: int = Kind.ALL) -> list[Change]:
        """Reads the next page of changes; retries until the store answers, because the changes are committed.

        Cancelled: nothing was read.
        """
        backoff = Backoff(self.rand)
        while True:
            try:
                with trio.fail_after(self.timeout):
                    return await self.store.changes(
                        conversation_id, after_rev=after_rev, kinds=kinds, limit=PAGE_CHANGES
                    )
            except (StoreUnavailable, trio.TooSlowError):
                await backoff.wait()

    async def send_page(self, subscription: Subscription) -> None:
        """Sends the next page of missed changes; makes the subscription live if that was the last page.

        Changes that are committed meanwhile are read from the store, too: none is held in memory. Between the last
        page and `is_live` there is no await, so the client misses none and gets none twice. Between two pages the
        connection sends the frames of other conversations. What the room has not delivered yet waits until it has: a
        removal of the user may come before it.

        Cancelled: the connection ends.
        """
        page = await self._next_page(subscription)
        assert page.chunks is not None
        for revs, frames in page.chunks:
            if subscription.is_removed:
                return
            delivered = bisect_right(revs, subscription.target)
            if delivered:
                subscription.cursor = revs[delivered - 1]
                await subscription.connection.send_now(frames[:delivered], subscription)
            if delivered < len(revs):
                subscription.wait_for(revs[delivered])
                return
        if page.is_last and subscription.target <= page.as_of:
            subscription.is_live = True
        else:
            subscription.catch_up_later()

    def forget(self, conversation_id: UUID) -> None:
        """Drops the pages of a conversation: it has changed, or its room ends."""
        if self._pages:
            for key in [key for key in self._pages if key[0] == conversation_id]:
                del self._pages[key]

    async def _next_page(self, subscription: Subscription) -> _Page:
        """Returns the next page: one read for another subscription if nothing has changed since, or a new one."""
        conversation_id, after_rev, mask = key = subscription.conversation_id, subscription.cursor, subscription.mask
        while (page := self._pages.get(key)) is not None and subscription.target <= page.as_of:
            if page.chunks is not None:
                return page
            await page.read.wait()
        page = self._pages[key] = _Page(as_of=subscription.target)
        try:
            page.fill(await self.read_page(conversation_id, after_rev, mask & Kind.ALL), mask, after_rev)
        finally:
            page.read.set()
            if page.chunks is None and self._pages.get(key) is page:
                del self._pages[key]
        self._drop_oldest()
        return page

    def _drop_oldest(self) -> None:
        """Drops the oldest pages beyond `MAX_KEPT_PAGES` and `MAX_KEPT_BYTES`."""
        kept = sum(page.size for page in self._pages.values())
        for key, page in list(self._pages.items()):
            if kept <= MAX_KEPT_BYTES and len(self._pages) <= MAX_KEPT_PAGES:
                return
            if page.chunks is not None:
                kept -= page.size
                del self._pages[key]
