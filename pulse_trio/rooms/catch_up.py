"""Reading what is committed: for subscriptions that catch up, and for a room that missed something."""

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

PAGE: Final = 256  # changes read at a time: with the longest messages about the size of an outbox
# Pages that others may need in a moment: those of some hundred rooms whose subscriptions all come back.
KEPT_PAGES: Final = 256
KEPT_BYTES: Final = 4 * 2**20


@dataclass(slots=True)
class _Page:
    """A page of changes, encoded: one reading serves all subscriptions who come back at once.

    Attributes:
        chunks: frames that are written together, and the rev of the last of them; None until they are there.
        is_last: whether nothing followed it.
        as_of: every change up to this rev is in it, or follows it.
        size: bytes.
        read: set when it is there, or its reader has been cancelled.
    """

    as_of: int
    chunks: list[tuple[list[Encoded], int]] | None = None
    is_last: bool = False
    size: int = 0
    read: trio.Event = field(default_factory=trio.Event)

    def fill(self, messages: list[Message]) -> None:
        """Puts the changes in."""
        self.chunks = []
        revs = iter([message.rev for message in messages])
        for piece in pieces([encode(change_frame(message)) for message in messages]):
            self.chunks.append((piece, [next(revs) for _ in piece][-1]))
            self.size += sum(len(frame.wire) for frame in piece)
        self.is_last = len(messages) < PAGE
        if messages and self.is_last:
            self.as_of = max(self.as_of, messages[-1].rev)


@dataclass(frozen=True, slots=True)
class CatchUp:
    """What changed in conversations, as the store has it.

    Args:
        store: where it is.
        timeout: seconds that one read may take.
        rand: where the jitter of retries comes from.
    """

    store: Store
    timeout: float
    rand: random.Random
    _pages: dict[tuple[UUID, int], _Page] = field(default_factory=dict)  # by the rev that they begin after

    async def read_page(self, conversation_id: UUID, after_rev: int) -> list[Message]:
        """The next page of changes; asks again until the store answers, for the changes are committed."""
        backoff = Backoff(self.rand)
        while True:
            try:
                with trio.fail_after(self.timeout):
                    return await self.store.changes(conversation_id, after_rev=after_rev, limit=PAGE)
            except (StoreUnavailable, trio.TooSlowError):
                await backoff.wait()

    async def send_page(self, subscription: Subscription) -> None:
        """Sends a subscription the next page of what it missed, and makes it live when that was the last.

        What is released meanwhile it reads from the store, too: nothing is held in memory for it, and between
        the last page and its going live there is no await, so that it misses nothing and gets nothing twice.
        While it reads page by page, its connection sends what other conversations have for it in between.
        """
        page = await self._page(subscription)
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
        """Something has changed in a conversation, or nobody is there any more: what was read serves nobody now."""
        if self._pages:
            for key in [key for key in self._pages if key[0] == conversation_id]:
                del self._pages[key]

    async def _page(self, subscription: Subscription) -> _Page:
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
        self._bound()
        return page

    def _bound(self) -> None:
        """Lets the oldest pages go, so that no more is kept than may be."""
        kept = sum(page.size for page in self._pages.values())
        for key, page in list(self._pages.items()):
            if kept <= KEPT_BYTES and len(self._pages) <= KEPT_PAGES:
                return
            if page.chunks is not None:
                kept -= page.size
                del self._pages[key]
