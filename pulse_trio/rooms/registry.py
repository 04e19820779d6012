"""The rooms of this process: opened when one is needed, dropped when it is vacant."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final
from uuid import UUID

import structlog
import trio

from pulse_trio.metrics import Metrics
from pulse_trio.protocol import CloseCode
from pulse_trio.rooms.backoff import Backoff
from pulse_trio.rooms.catch_up import CatchUp
from pulse_trio.rooms.outages import Outages
from pulse_trio.rooms.peers import Peers
from pulse_trio.rooms.room import Room
from pulse_trio.rooms.session import Sessions
from pulse_trio.rooms.turns import Turns
from pulse_trio.rooms.user_feeds import UserFeeds
from pulse_trio.rooms.watches import Watches
from pulse_trio.settings import Settings
from pulse_trio.store.base import Head, NotAMember, Store, StoreUnavailable

# A user who sends to many conversations waits for theirs to open; the others' wait for a few of them in the database.
MAX_OPENING_OF_USER: Final = 4
RESTARTING: Final = "the server restarts; reconnect in a moment"

log = structlog.get_logger(__name__)


class Rooms:
    """Conversation id → room, and the nursery of rooms and sessions.

    Args:
        store: stores messages.
        sessions: the sessions of this process; a room that opens subscribes those of its members.
        user_feeds: are sent what changes for a user alone.
        watches: must be checked again after a removal.
        catch_up: reads committed changes.
        peers: the other processes.
        settings: the bounds of rooms.
        rand: gives the jitter of retries.
        metrics: counts what they do.
        outages: logs failed attempts.

    Attributes:
        is_draining: the service ends: a new connection is closed at once.
    """

    def __init__(
        self,
        store: Store,
        sessions: Sessions,
        user_feeds: UserFeeds,
        watches: Watches,
        catch_up: CatchUp,
        peers: Peers,
        settings: Settings,
        rand: random.Random,
        metrics: Metrics,
        outages: Outages,
    ) -> None:
        self.is_draining = False
        self._store = store
        self._sessions = sessions
        self._user_feeds = user_feeds
        self._watches = watches
        self._catch_up = catch_up
        self._peers = peers
        self._settings = settings
        self._random = rand
        self._metrics = metrics
        self._outages = outages
        self._opening = Turns(MAX_OPENING_OF_USER)
        self._rechecks: dict[UUID, trio.CancelScope] = {}
        # What rooms had delivered that failed, until others have been open in their place; those are opened at once.
        self._delivered: dict[UUID, Head] = {}
        self._rooms: dict[UUID, Room] = {}
        self._closing: dict[Room, None] = {}  # cannot be joined any more, but their tasks have not ended
        self._nursery: trio.Nursery | None = None
        self._has_ended = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs the nursery, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                try:
                    await trio.sleep_forever()
                finally:  # idle sessions have no task that could notice
                    self._has_ended = True
                    for session in self._sessions.all():
                        session.connection.close(CloseCode.INTERNAL_ERROR, "the server failed; reconnect")
        finally:
            self._nursery = None

    @property
    def nursery(self) -> trio.Nursery:
        """The nursery in which rooms and sessions run.

        Raises:
            StoreUnavailable: it has ended; a request may outlive it when the service opens again.
        """
        if self._nursery is None:
            raise StoreUnavailable("the rooms have ended")
        return self._nursery

    def get(self, conversation_id: UUID) -> Room | None:
        """Returns the room, if there is one; it may still be opening."""
        return self._rooms.get(conversation_id)

    def may_repeat(self, conversation_id: UUID, last_rev: int) -> bool:
        """Returns whether the next room of a conversation begins before `last_rev`, which is committed.

        It goes on after a failed one, or after what the sessions here have of the changes of other processes.
        """
        indexed = self._peers.head_of(conversation_id)
        return conversation_id in self._delivered or (indexed is not None and indexed.last_rev < last_rev)

    def open_ids(self) -> list[UUID]:
        """Returns the conversations whose rooms are open."""
        return [conversation_id for conversation_id, room in self._rooms.items() if room.opened.is_set()]

    def all(self) -> list[Room]:
        """Returns the rooms that may be joined."""
        return list(self._rooms.values())

    def running(self) -> list[Room]:
        """Returns all running rooms, including closing ones."""
        return [*self._rooms.values(), *self._closing]

    def __len__(self) -> int:
        return len(self._rooms)

    async def room(self, conversation_id: UUID, user_id: UUID | None) -> Room:
        """Returns the room; begins to open it if there is none. To keep it, enter `Room.held` before any await.

        Args:
            conversation_id: the conversation.
            user_id: the user it opens for, who has `MAX_OPENING_OF_USER` rooms opening at a time and waits for the
                first of them, at most `PULSE_STORE_TIMEOUT` seconds; None for the service itself.

        Raises:
            StoreUnavailable: too many rooms were opening for too long; or the service has closed, and this is for a
                request that outlives it.
        Cancelled: no room was opened.
        """
        room = self._rooms.get(conversation_id)
        if room is not None:
            return room
        if user_id is not None:
            with trio.move_on_after(self._settings.store_timeout) as scope:
                await self._opening.acquire(user_id)
            room = self._rooms.get(conversation_id)  # opened meanwhile, for somebody else
            if room is not None:
                if not scope.cancelled_caught:
                    self._opening.release(user_id)
                return room
            if scope.cancelled_caught:
                raise StoreUnavailable("too many rooms are opening for this user")
        if self._has_ended:
            if user_id is not None:
                self._opening.release(user_id)
            raise StoreUnavailable("the service has closed")
        room = self._begin(conversation_id)
        if user_id is not None:
            self.nursery.start_soon(self._end_turn, room, user_id, name=f"opening of {conversation_id}")
        return room

    def room_now(self, conversation_id: UUID) -> Room:
        """Returns the room; begins to open it, for the service itself, if there is none."""
        return self._rooms.get(conversation_id) or self._begin(conversation_id)

    def _begin(self, conversation_id: UUID) -> Room:
        room = Room(
            conversation_id,
            store=self._store,
            sessions=self._sessions,
            user_feeds=self._user_feeds,
            watches=self._watches,
            catch_up=self._catch_up,
            peers=self._peers,
            settings=self._settings,
            rand=self._random,
            metrics=self._metrics,
            outages=self._outages,
            on_vacant=self._forget,
            delivered=self._delivered.get(conversation_id),
        )
        nursery = self.nursery
        try:
            nursery.start_soon(self._run_room, room, name=f"room {conversation_id}")
        except RuntimeError:  # it was cancelled and is closed, but its task has not run yet
            raise StoreUnavailable("the rooms have ended") from None
        self._rooms[conversation_id] = room
        return room

    @asynccontextmanager
    async def opened(self, conversation_id: UUID, user_id: UUID | None) -> AsyncIterator[Room]:
        """Waits until a room is open, and keeps it open within an `async with` block. `user_id`: see `room`.

        Raises:
            NotAMember: there is no such conversation.
            StoreUnavailable: the room could not be opened.
        Cancelled: while it opens, the room is not kept.
        """
        room = await self.room(conversation_id, user_id)
        with room.held():
            await room.opened.wait()
            if room.failure is not None:
                raise room.failure
            yield room

    def expel(self, conversation_id: UUID, user_id: UUID, rev: int) -> None:
        """Ends what a user has of a conversation who was removed at a rev that its room has not delivered."""
        room = self._rooms.get(conversation_id)
        if room is not None:
            room.expel(user_id, rev)
        sessions = self._sessions.of(user_id)
        for session in sessions:
            session.removed(conversation_id, rev)
        self._watches.recheck_user(user_id, (session.connection for session in sessions))

    async def _end_turn(self, room: Room, user_id: UUID) -> None:
        """Ends a user's turn once the room has opened, or failed to."""
        try:
            await room.opened.wait()
        finally:
            self._opening.release(user_id)

    async def _run_room(self, room: Room) -> None:
        """Runs a room; its failure ends that room, not the others."""
        # Its log lines must not carry the context of the request that happened to open it.
        structlog.contextvars.clear_contextvars()
        try:
            await room.run()
        except (StoreUnavailable, NotAMember) as error:
            room.failure = error
        except Exception:
            room.failure = StoreUnavailable("the room failed")
            room.has_failed = room.opened.is_set()  # its writer was cancelled, and what it was at may be committed
            log.exception("a room failed", conversation_id=str(room.conversation_id))
        finally:
            if room.failure is None:
                room.failure = StoreUnavailable("the room has ended")  # for tasks that still wait for it to open
            self._forget(room)
            room.close_all(CloseCode.INTERNAL_ERROR, "the conversation failed; reconnect")  # sessions, if it did
            self._closing.pop(room, None)
            room.opened.set()
            room.ended.set()
            if room.has_failed and not self.is_draining:
                self._recheck_later(room.conversation_id)

    def _recheck_later(self, conversation_id: UUID) -> None:
        """Keeps a room open until the store's timeout is over, in place of one that has failed."""
        deadline = trio.current_time() + self._settings.store_timeout
        scope = self._rechecks.get(conversation_id)
        if scope is not None:
            scope.deadline = deadline
            return
        self._rechecks[conversation_id] = scope = trio.CancelScope(deadline=deadline)
        self.nursery.start_soon(self._recheck, conversation_id, scope, name=f"recheck {conversation_id}")

    def stop_rechecks(self) -> None:
        """Lets go of the rooms that are open only because one failed."""
        for scope in self._rechecks.values():
            scope.cancel()

    async def _recheck(self, conversation_id: UUID, scope: trio.CancelScope) -> None:
        """Opens a room for the commits of one that has failed, and keeps it until `scope` ends.

        What the failed room was at may be committed until then. The sessions of its members get that from the new one,
        whether it opens before the commit or, because the store is away, after it.
        """
        backoff = Backoff(self._random)
        try:
            with scope:
                while True:
                    with suppress(StoreUnavailable):
                        async with self.opened(conversation_id, None) as room:
                            await room.ended.wait()
                    await backoff.wait()
        except NotAMember:
            self._delivered.pop(conversation_id, None)
        finally:
            del self._rechecks[conversation_id]

    def _forget(self, room: Room) -> None:
        if self._rooms.get(room.conversation_id) is room:
            del self._rooms[room.conversation_id]
            self._closing[room] = None
            if room.opened.is_set():
                self._peers.room_closed(room.conversation_id, room.feed.head, room.feed.known_rev)
            if room.opened.is_set() and room.failure is not None:
                self._delivered[room.conversation_id] = room.feed.head
            elif room.opened.is_set():
                self._delivered.pop(room.conversation_id, None)
