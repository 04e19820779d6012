"""Catching up: reads committed changes, for subscriptions that missed some and for a feed with a gap."""

import random
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

import trio

from pulse_trio.protocol import Encoded, encode
from pulse_trio.rooms.backoff import Backoff
from pulse_trio.rooms.connection import pieces
from pulse_trio.rooms.message_frames import change_frame
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.store.base import Message, Store, StoreUnavailable

PAGE_CHANGES: Final = 256  # read at a time: with the longest messages about the size of an outbox
# Pages kept for other subscriptions: those of a few hundred rooms whose clients all reconnect at once.
MAX_KEPT_PAGES: Final = 256
MAX_KEPT_BYTES: Final = 4 * 2**20


@dataclass(slots=True)
class _Page:
    """A page of changes, encoded: one reading serves all clients that reconnect at once.

    Attributes:
        as_of: the page, and the pages after it, have every change up to this rev.
        chunks: frames that are written together, and the rev of the last of them; None until they are read.
        is_last: True if no change follows.
        size: bytes.
        read: set when it is read, or its reader has been cancelled.
    """

    as_of: int
    chunks: list[tuple[list[Encoded], int]] | None = None
    is_last: bool = False
    size: int = 0
    read: trio.Event = field(default_factory=trio.Event)

    def fill(self, messages: list[Message]) -> None:
        """Sets the changes."""
        self.chunks = []
        revs = iter([message.rev for message in messages])
        for piece in pieces([encode(change_frame(message)) for message in messages]):
            self.chunks.append((piece, [next(revs) for _ in piece][-1]))
            self.size += sum(len(frame.wire) for frame in piece)
        self.is_last = len(messages) < PAGE_CHANGES
        if messages and self.is_last:
            self.as_of = max(self.as_of, messages[-1].rev)


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
    _pages: dict[tuple[UUID, int], _Page] = field(default_factory=dict)  # by the rev before their first change

    async def read_page(self, conversation_id: UUID, after_rev: int) -> list[Message]:
        """Reads the next page of changes; retries until the store answers, because the changes are committed.

        Cancelled: nothing was read.
        """
        backoff = Backoff(self.rand)
        while True:
            try:
                with trio.fail_after(self.timeout):
                    return await self.store.changes(conversation_id, after_rev=after_rev, limit=PAGE_CHANGES)
            except (StoreUnavailable, trio.TooSlowError):
                await backoff.wait()

    async def send_page(self, subscription: Subscription) -> None:
        """Sends the next page of missed changes; makes the subscription live if that was the last page.

        Changes that are committed meanwhile are read from the store, too: none is held in memory. Between the last
        page and `is_live` there is no await, so the client misses none and gets none twice. Between two pages the
        connection sends the frames of other conversations.

        Cancelled: the connection ends.
        """
        page = await self._next_page(subscription)
        assert page.chunks is not None
        for frames, last_rev in page.chunks:
            if subscription.is_removed:
                return
            subscription.cursor = last_rev
            await subscription.connection.send_now(frames, subscription)
        if page.chunks and subscription.cursor < subscription.target:
            subscription.catch_up_later()
        else:
            subscription.is_live = True

    def forget(self, conversation_id: UUID) -> None:
        """Drops the pages of a conversation: it has changed, or its room ends."""
        if self._pages:
            for key in [key for key in self._pages if key[0] == conversation_id]:
                del self._pages[key]

    async def _next_page(self, subscription: Subscription) -> _Page:
        """Returns the next page: one read for another subscription if nothing has changed since, or a new one."""
        key = subscription.conversation_id, subscription.cursor
        while (page := self._pages.get(key)) is not None and subscription.target <= page.as_of:
            if page.chunks is not None:
                return page
            await page.read.wait()
        page = self._pages[key] = _Page(as_of=subscription.target)
        try:
            page.fill(await self.read_page(*key))
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
