"""The hub: conversation id → room. Opens a room on the first join, forgets it when it is vacant.

It has the connection manager's operations of the specification under their names.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import structlog
import trio

from pulse_trio.clock import Clock
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import IdSource
from pulse_trio.protocol import CloseCode, DeleteMessage, EditMessage, SendMessage, ServerFrame, encode
from pulse_trio.rooms.member import Member, Transport
from pulse_trio.rooms.room import Room
from pulse_trio.settings import Settings
from pulse_trio.store.base import Message, NewMessage, NotAMember, Revision, Store, StoreUnavailable, User

DRAIN_TIMEOUT: Final = 2.5  # seconds, below Hypercorn's graceful_timeout: what the writers hold is stored in it
RESTARTING: Final = "the server restarts; reconnect in a moment"

log = structlog.get_logger(__name__)


class JoinTicket:
    """A join under way: what happened to the membership between its check and the join."""

    __slots__ = ("doubtful", "revoked")

    def __init__(self) -> None:
        self.revoked = False
        self.doubtful = False


class Hub:
    """All rooms of this process.

    Args:
        store: where messages are.
        settings: the bounds of rooms and members.
        clock: gives messages their timestamp.
        ids: gives messages their id.
        rand: where the jitter of retries comes from.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        clock: Clock,
        ids: IdSource,
        rand: random.Random | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._ids = ids
        self._random = random.Random() if rand is None else rand  # noqa: S311  # jitter, not a secret
        self._rooms: dict[UUID, Room] = {}
        self._ending: dict[Room, None] = {}  # nobody joins them any more, but their tasks have not ended
        self._joining: dict[tuple[UUID, UUID], list[JoinTicket]] = {}
        self._nursery: trio.Nursery | None = None
        self.draining = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The nursery in which rooms live, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    async def drain(self) -> None:
        """Takes nobody in any more, closes every connection with 1012 and lets the writers finish.

        Returns after `DRAIN_TIMEOUT` seconds at the latest.
        """
        self.draining = True
        for room in list(self._rooms.values()):
            room.close_all(CloseCode.RESTART, RESTARTING)
        with trio.move_on_after(DRAIN_TIMEOUT):
            while rooms := [*self._rooms.values(), *self._ending]:
                await rooms[0].ended.wait()

    # --- the connection manager of the specification ---

    async def connect(
        self,
        conversation_id: UUID,
        user: User,
        websocket: Transport,
        *,
        ticket: JoinTicket | None = None,
        on_ended: Callable[[], object] = lambda: None,
        after_rev: int | None = None,
        epoch: str | None = None,
    ) -> Member:
        """Registers a connection of a user of the conversation; opens its room if need be.

        Args:
            conversation_id: where to join; the caller has checked that the user is in it.
            user: who connects.
            websocket: the connection; `disconnect` must follow, whatever happens to it.
            ticket: from `joining`, taken before that check.
            on_ended: called once when nothing more will be sent on the connection.
            after_rev: resume: what changed after it is sent before anything live.
            epoch: the epoch of the history that `after_rev` belongs to, if the client knows it.

        Raises:
            PulseError: it cannot resume there; the client must load the history afresh.
            NotAMember: the user has been removed since the check, or the conversation is gone.
            StoreUnavailable: the room could not be opened.
        Cancelled: the connection is not registered.
        """
        room = await self._hold_open(conversation_id)
        try:
            last_rev = room.last_rev
            if after_rev is not None and after_rev > last_rev:
                # A commit whose answer was lost is not known here yet, but a client may have read it in the store.
                last_rev = (await self._store.head(conversation_id)).last_rev
            if ticket is not None and ticket.revoked:
                raise NotAMember
            if ticket is not None and ticket.doubtful:
                raise StoreUnavailable("the membership is in doubt")
            is_other_history = epoch is not None and epoch != self._store.epoch
            if after_rev is not None and (after_rev > last_rev or is_other_history):
                raise PulseError(
                    ErrorCode.CANNOT_RESUME, "There is no such point to resume at; load the history afresh"
                )
            member = Member(
                user,
                websocket,
                outbox_bytes=self._settings.outbox_bytes,
                pending_messages=self._settings.pending_messages,
                on_ended=on_ended,
                after_rev=after_rev,
            )
            room.join(member)
            if self.draining:  # it came in after `drain` had closed the others
                room.close_all(CloseCode.RESTART, RESTARTING)
        finally:
            room.unhold()
        return member

    def disconnect(self, conversation_id: UUID, user_id: UUID, websocket: Transport) -> None:
        """Takes a connection out of its room; one that is not in it is no error."""
        room = self._rooms.get(conversation_id)
        member = None if room is None else room.member_of(websocket)
        if room is not None and member is not None and member.user.id == user_id:
            room.leave(member)

    async def broadcast(self, conversation_id: UUID, message: ServerFrame, exclude_user_id: UUID | None = None) -> None:
        """Sends a frame to all connections of a conversation, but for those of one user."""
        await trio.lowlevel.checkpoint()
        room = self._rooms.get(conversation_id)
        if room is not None:
            room.broadcast(encode(message), exclude_user_id=exclude_user_id)

    def get_active_users(self, conversation_id: UUID) -> set[str]:
        """The ids of the users that are connected to a conversation."""
        room = self._rooms.get(conversation_id)
        return set() if room is None else {str(user_id) for user_id in room.active_users}

    def get_connection_count(self, conversation_id: UUID) -> int:
        """How many connections a conversation has."""
        room = self._rooms.get(conversation_id)
        return 0 if room is None else room.connection_count

    # --- what clients and REST ask for ---

    @contextmanager
    def joining(self, conversation_id: UUID, user_id: UUID) -> Iterator[JoinTicket]:
        """Watches for the removal of a user while a connection of theirs is being set up."""
        ticket = JoinTicket()
        tickets = self._joining.setdefault((conversation_id, user_id), [])
        tickets.append(ticket)
        try:
            yield ticket
        finally:
            tickets.remove(ticket)
            if not tickets:
                del self._joining[(conversation_id, user_id)]

    async def send_message(self, conversation_id: UUID, member: Member, frame: SendMessage) -> None:
        """Takes a message; its answer comes to the member as a frame. Waits while too many are unstored.

        Cancelled: the message was not taken.
        """
        room = self._room_of(conversation_id, member)
        if room is None:
            await trio.lowlevel.checkpoint()
            return
        message = NewMessage(
            id=self._ids(),
            conversation_id=conversation_id,
            sender_id=member.user.id,
            content=frame.content,
            client_id=frame.client_id,
            created_at=self._clock(),
        )
        await room.submit(member, message, frame.client_id)

    async def send_revision(self, conversation_id: UUID, member: Member, frame: EditMessage | DeleteMessage) -> None:
        """Takes an edit or a deletion; its answer comes to the member as a frame.

        Cancelled: it was not taken.
        """
        room = self._room_of(conversation_id, member)
        if room is None:
            await trio.lowlevel.checkpoint()
            return
        content = frame.content if isinstance(frame, EditMessage) else None
        revision = self._revision(conversation_id, frame.message_id, member.user, content)
        await room.submit(member, revision, frame.client_id)

    async def revise(self, conversation_id: UUID, message_id: UUID, actor: User, content: str | None) -> Message:
        """Edits a message, or deletes it with None, through its room; returns it as it then is.

        Raises:
            PulseError: it was refused, or could not be stored in time.
            NotAMember: the conversation does not exist.
            StoreUnavailable: the room could not be opened.
        Cancelled: the change may be made or not.
        """
        room = await self._hold_open(conversation_id)
        try:
            return await room.revise(self._revision(conversation_id, message_id, actor, content))
        finally:
            room.unhold()

    def _room_of(self, conversation_id: UUID, member: Member) -> Room | None:
        """The member's room; None if its connection is being closed: what it still sends is not answered."""
        return self._rooms.get(conversation_id) if member.close_code is None else None

    def _revision(self, conversation_id: UUID, message_id: UUID, actor: User, content: str | None) -> Revision:
        return Revision(
            id=self._ids(),
            conversation_id=conversation_id,
            message_id=message_id,
            actor_id=actor.id,
            content=content,
            made_at=self._clock(),
        )

    def send_typing(self, conversation_id: UUID, member: Member) -> None:
        """Tells the other users of the conversation that this one is typing."""
        room = self._rooms.get(conversation_id)
        if room is not None:
            room.typing(member)

    def remove_user(self, conversation_id: UUID, user_id: UUID, reason: str) -> None:
        """Closes a removed user's connections and stops those that are being set up.

        When this returns nothing of the conversation is delivered to the user any more.
        """
        for ticket in self._joining.get((conversation_id, user_id), ()):
            ticket.revoked = True
        room = self._rooms.get(conversation_id)
        if room is not None:
            room.close_user(user_id, CloseCode.REMOVED, reason)

    def reconnect_user(self, conversation_id: UUID, user_id: UUID) -> None:
        """Closes a user's connections because nobody knows whether they were removed.

        When they come back their membership is looked up again.
        """
        for ticket in self._joining.get((conversation_id, user_id), ()):
            ticket.doubtful = True
        room = self._rooms.get(conversation_id)
        if room is not None:
            room.close_user(user_id, CloseCode.INTERNAL_ERROR, "the membership is in doubt; reconnect")

    def announce(self, conversation_id: UUID, event: str, content: str, actor_id: UUID) -> None:
        """Tells everybody connected of something that happened to the conversation."""
        room = self._rooms.get(conversation_id)
        if room is not None:
            room.announce(event, content, actor_id)

    # --- rooms ---

    @property
    def room_count(self) -> int:
        """How many rooms are in memory."""
        return len(self._rooms)

    async def _hold_open(self, conversation_id: UUID) -> Room:
        assert self._nursery is not None, "the hub is not running"
        room = self._rooms.get(conversation_id)
        if room is None:
            room = Room(
                conversation_id,
                store=self._store,
                settings=self._settings,
                rand=self._random,
                on_vacant=self._forget,
            )
            self._rooms[conversation_id] = room
            self._nursery.start_soon(self._run_room, room, name=f"room {conversation_id}")
        room.hold()
        try:
            await room.opened.wait()
            if room.failure is not None:
                raise room.failure
        except BaseException:
            room.unhold()
            raise
        return room

    async def _run_room(self, room: Room) -> None:
        """Runs a room; its failure ends that room, not the others."""
        try:
            await room.run()
        except (StoreUnavailable, NotAMember) as error:
            room.failure = error
        except Exception:
            room.failure = StoreUnavailable("the room failed")
            log.exception("a room failed", conversation_id=str(room.conversation_id))
        finally:
            if room.failure is None:
                room.failure = StoreUnavailable("the room has ended")  # for who still waits for it to open
            self._forget(room)
            self._ending.pop(room, None)
            room.opened.set()
            room.ended.set()

    def _forget(self, room: Room) -> None:
        if self._rooms.get(room.conversation_id) is room:
            del self._rooms[room.conversation_id]
            self._ending[room] = None
