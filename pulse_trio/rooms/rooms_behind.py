"""Conversations that other processes have changed, and the rooms that open here to catch up with them.

A conversation that is not open has no task. When it must come to a rev, a room opens, so that it hears what is heard
from then on; its feed reads the rest.
"""

import random
from typing import Final
from uuid import UUID

import trio

from pulse_trio.rooms.backoff import Backoff
from pulse_trio.rooms.cluster_counters import ClusterCounters
from pulse_trio.rooms.feed import GAP_WAIT
from pulse_trio.rooms.known_heads import KnownHeads
from pulse_trio.rooms.registry import Rooms
from pulse_trio.store.base import NotAMember, StoreUnavailable

MAX_OPENING: Final = 32  # rooms that open for changes of other processes at a time; the others wait in line


class RoomsBehind:
    """The conversations of this process that are behind the store.

    Args:
        rooms: the rooms of this process.
        heads: up to where it knows its conversations.
        counters: figures for metrics.
        rand: gives the jitter of retries.

    Attributes:
        nursery: rooms are opened in it; None: the process ends, and starts no more tasks.
    """

    def __init__(self, rooms: Rooms, heads: KnownHeads, counters: ClusterCounters, *, rand: random.Random) -> None:
        self._rooms = rooms
        self._heads = heads
        self._counters = counters
        self._random = rand
        self.nursery: trio.Nursery | None = None
        self._behind: dict[UUID, int] = {}  # conversations that must come to a rev, and have no open room
        self._opening: dict[UUID, None] = {}

    def come_to(self, conversation_id: UUID, rev: int) -> None:
        """Lets a conversation that is here come to a rev."""
        room = self._rooms.get(conversation_id)
        if room is not None:
            if rev > room.feed.last_rev:
                room.feed.fill_later(rev, wait=GAP_WAIT)
        elif self._heads.is_beginning(conversation_id) or rev > self._heads.indexed_rev(conversation_id):
            self.catch_up(conversation_id, rev)

    def delivered_rev(self, conversation_id: UUID) -> int:
        """Returns the rev up to which changes of a conversation that is here need not be delivered any more."""
        room = self._rooms.get(conversation_id)
        if room is not None and room.opened.is_set():
            return room.feed.last_rev
        head = self._heads.head_of(conversation_id)
        return 0 if head is None else head.last_rev

    def catch_up(self, conversation_id: UUID, rev: int) -> None:
        """Opens a room for a conversation that must come to a rev; those beyond `MAX_OPENING` wait in line."""
        self._behind[conversation_id] = max(rev, self._behind.get(conversation_id, 0))
        if conversation_id not in self._opening and len(self._opening) < MAX_OPENING:
            self._open_soon(conversation_id)

    def _open_soon(self, conversation_id: UUID) -> None:
        if self.nursery is None:  # the process ends
            return
        self._opening[conversation_id] = None
        self._counters.rooms_opened += 1
        if not self._rooms.is_draining:
            self._rooms.room_now(conversation_id)  # at once, so that it hears what is heard now
        self.nursery.start_soon(self._open, conversation_id, name=f"changes of {conversation_id}")

    async def _open(self, conversation_id: UUID) -> None:
        """Opens rooms until one has what must be caught up with; its feed does the rest."""
        backoff = Backoff(self._random)
        try:
            while conversation_id in self._behind and not self._rooms.is_draining:
                await trio.lowlevel.checkpoint_if_cancelled()  # no room can be opened then; see `Cluster.on_items`
                try:
                    async with self._rooms.opened(conversation_id, None) as room:
                        room.feed.fill_later(self._behind.pop(conversation_id), wait=GAP_WAIT)
                except NotAMember:
                    self._behind.pop(conversation_id, None)
                    self._heads.forget_beginning(conversation_id)
                except StoreUnavailable:
                    await backoff.wait()
        finally:
            del self._opening[conversation_id]
        # Not if it was cancelled: the next task would be, too, and would begin this one again.
        waiting = next((each for each in self._behind if each not in self._opening), None)
        if waiting is not None and not self._rooms.is_draining:
            self._open_soon(waiting)
