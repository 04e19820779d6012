"""The removals that other processes ask this one to confirm.

A removal is confirmed when nothing of the conversation can reach the user here any more. Nearly always the room has
delivered it by then, in its place of the order. If it has not, because a change before it is missing and the database
is slow, or because the room cannot open, the user is expelled ahead of the order, which needs nothing but this process:

- The user's own connections are closed, the subscriptions of their sessions end, and what is queued for them is
  dropped. So what was committed shortly before the removal may not reach them.
- Until the room has delivered the removal, `rev_of` says that it is known. Additions before it, and look-ups that are
  older, subscribe nobody. A user who was added again since, by a look-up that is newer, stays.
- The index keeps the user meanwhile: its head says where the room must begin to find what comes after.

The others are notified by the room when it comes to the removal. A process that cannot do even this in time, because
it stands still or does not hear the bus, is waited out; see `confirmations`.
"""

import random
from collections.abc import Callable
from typing import Final
from uuid import UUID

import trio

from pulse_trio.rooms.backoff import Backoff
from pulse_trio.rooms.conversation_index import ConversationIndex
from pulse_trio.rooms.feed import GAP_WAIT
from pulse_trio.rooms.peer_items import ConfirmedItem, ConfirmItem, Item
from pulse_trio.rooms.registry import Rooms
from pulse_trio.rooms.session import Sessions
from pulse_trio.store.base import NotAMember, StoreUnavailable

IN_ORDER: Final = 2 * GAP_WAIT  # seconds that the room has to deliver a removal in its place, before it is confirmed
MAX_CONFIRMING: Final = 1_000  # removals that wait for a room here; others are asked for again


class HeardRemovals:
    """Confirms removals, and keeps those that were confirmed before the room has delivered them.

    Args:
        rooms: the rooms of this process.
        sessions: its sessions.
        index: which of its users are in which conversations.
        publish: publishes an item.
        timeout: seconds after which a room that has not come to a removal is looked at again.
        rand: gives the jitter of retries.
    """

    def __init__(
        self,
        rooms: Rooms,
        sessions: Sessions,
        index: ConversationIndex,
        publish: Callable[[Item], None],
        *,
        timeout: float,
        rand: random.Random,
    ) -> None:
        self._rooms = rooms
        self._sessions = sessions
        self._index = index
        self._publish = publish
        self._timeout = timeout
        self._random = rand
        self._waiting: dict[UUID, None] = {}  # requests that wait for the room
        self._tasks = 0
        self._ahead: dict[UUID, dict[UUID, int]] = {}  # conversation → users expelled ahead, each with the rev

    def rev_of(self, conversation_id: UUID, user_id: UUID) -> int:
        """Returns the rev of a user's removal that the room has not delivered, and that is confirmed; else 0."""
        return self._ahead.get(conversation_id, {}).get(user_id, 0)

    def last_rev(self, conversation_id: UUID) -> int:
        """Returns the highest rev of such a removal of any user; 0 without one."""
        return max(self._ahead.get(conversation_id, {}).values(), default=0)

    def hear(self, item: ConfirmItem, nursery: trio.Nursery | None) -> None:
        """Confirms a removal: at once, or by a task in `nursery`; None: the process ends, and starts no more tasks.

        At once if there is no room, and nobody here is a member by the index: the caller has noted the rev, so a
        look-up of a membership that is under way is repeated, and an addition that is heard late is looked up.
        """
        conversation_id = item.conversation_id
        room = self._rooms.get(conversation_id)
        is_foreign = room is None and not self._index.has(conversation_id, item.user_id)
        is_delivered = room is not None and room.opened.is_set() and room.feed.last_rev >= item.rev
        if is_foreign or is_delivered or self.rev_of(conversation_id, item.user_id) >= item.rev:
            self._publish(ConfirmedItem(item.request))
        elif nursery is not None and item.request not in self._waiting and self._tasks < MAX_CONFIRMING:
            self._waiting[item.request] = None
            self._tasks += 1
            nursery.start_soon(self._confirm, item, name=f"removal from {conversation_id}")

    async def _confirm(self, item: ConfirmItem) -> None:
        """Confirms a removal after `IN_ORDER` seconds at the latest; ends when the room has delivered it."""
        try:
            with trio.move_on_after(IN_ORDER) as scope:
                await self._deliver(item)
            if scope.cancelled_caught:
                self._expel(item)
            self._publish(ConfirmedItem(item.request))
            del self._waiting[item.request]
            if scope.cancelled_caught:
                await self._deliver(item)
        finally:
            self._tasks -= 1
            self._waiting.pop(item.request, None)
            self._forget(item)

    async def _deliver(self, item: ConfirmItem) -> None:
        """Returns when the room has delivered a removal; retries until it has, or there is none to deliver."""
        backoff = Backoff(self._random)
        while not self._rooms.is_draining:
            try:
                async with self._rooms.opened(item.conversation_id, None) as room:
                    room.feed.fill_later(item.rev, wait=GAP_WAIT)
                    with trio.move_on_after(self._timeout):
                        await room.feed.wait_delivered(item.rev)
                    if room.feed.last_rev >= item.rev or room.feed.known_rev < item.rev:
                        return  # what the store does not have belongs to another history
            except NotAMember:
                return
            except StoreUnavailable:
                await backoff.wait()

    def _expel(self, item: ConfirmItem) -> None:
        """Ends all that the user has of the conversation here, and keeps it from coming back until the removal."""
        conversation_id, user_id = item.conversation_id, item.user_id
        users = self._ahead.setdefault(conversation_id, {})
        users[user_id] = max(item.rev, users.get(user_id, 0))
        room = self._rooms.get(conversation_id)
        head = self._index.head_of(conversation_id) if self._index.has(conversation_id, user_id) else None
        if head is not None and (room is None or not room.opened.is_set()):
            # Sessions in which nothing has happened here: their clients must hear of the removal, too.
            for session in self._sessions.of(user_id):
                session.begin_at(conversation_id, head, head.members_rev)
        self._rooms.expel(conversation_id, user_id, item.rev)

    def _forget(self, item: ConfirmItem) -> None:
        users = self._ahead.get(item.conversation_id, {})
        if users.get(item.user_id) == item.rev:
            del users[item.user_id]
            if not users:
                del self._ahead[item.conversation_id]
