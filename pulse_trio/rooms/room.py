"""A room: the live side of one conversation.

One nursery holds the writer's task and a task for each member. A room is in memory only while somebody
is connected: when the last member has left and the writer has stored what it held, the nursery ends.
"""

import random
from collections.abc import Callable, Sequence
from typing import Final
from uuid import UUID

import structlog
import trio
from msgspec import UNSET

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.protocol import (
    CloseCode,
    Encoded,
    MessageFrame,
    SystemFrame,
    TypingFrame,
    encode,
    error_frame,
    timestamp,
)
from pulse_trio.rooms.member import Member, Transport
from pulse_trio.rooms.writer import RETRY_FIRST, RETRY_MOST, Stored, Writer
from pulse_trio.settings import Settings
from pulse_trio.store.base import Message, NewMessage, Store, StoreUnavailable

GAP_PAGE: Final = 256  # changes read at a time when the room missed some

log = structlog.get_logger(__name__)


class Room:
    """One conversation while somebody is connected to it.

    Between two awaits everything here is atomic; members are changed and frames handed out only so.

    Args:
        conversation_id: which conversation.
        store: where its messages are.
        settings: the bounds.
        rand: where the jitter of retries comes from.
        on_vacant: called, with no await before or after, when the room has ended by itself.
    """

    def __init__(
        self,
        conversation_id: UUID,
        *,
        store: Store,
        settings: Settings,
        rand: random.Random,
        on_vacant: Callable[["Room"], None],
    ) -> None:
        self.conversation_id = conversation_id
        self.opened = trio.Event()
        self.ended = trio.Event()
        self.failure: Exception | None = None
        self.last_seq = 0
        self.last_rev = 0
        self._store = store
        self._random = rand
        self._on_vacant = on_vacant
        self._nursery: trio.Nursery | None = None
        self._members: dict[Transport, Member] = {}
        self._connections: dict[UUID, int] = {}  # of each active user, in the order they came
        self._joining = 0
        self._changed = trio.Event()
        self._writer = Writer(
            store,
            self._release,
            inbox_messages=settings.inbox_messages,
            batch_messages=settings.batch_messages,
            store_timeout=settings.store_timeout,
            rand=rand,
        )

    # --- life ---

    async def run(self) -> None:
        """The room, from its first member until it is vacant.

        Cancelled: members are closed with `CloseCode.INTERNAL_ERROR`; messages that are not stored yet are not
        acknowledged. Raises StoreUnavailable or NotAMember when it cannot be opened.
        """
        head = await self._store.head(self.conversation_id)
        self.last_seq, self.last_rev = head.last_seq, head.last_rev
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._run_writer, name=f"writer {self.conversation_id}")
            self.opened.set()
            while not self._is_vacant():
                await self._changed.wait()
                self._changed = trio.Event()
                if not self._members and not self._joining:
                    await self._writer.wait_idle()
            # No await from here to the end of the hub's callback: nobody can join a room that is going.
            self._writer.close()
            self._on_vacant(self)

    async def _run_writer(self) -> None:
        try:
            await self._writer.run()
        except Exception:
            # A fault of ours. The room ends with it: its members reconnect, and find a new one.
            self.close_all(CloseCode.INTERNAL_ERROR, "the conversation failed; reconnect")
            raise

    def _is_vacant(self) -> bool:
        return not self._members and not self._joining and not self._writer.unsettled

    def hold(self) -> None:
        """Keeps the room open for somebody who is about to join; `unhold` must follow."""
        self._joining += 1

    def unhold(self) -> None:
        """Ends a `hold`."""
        self._joining -= 1
        self._changed.set()

    # --- members ---

    def join(self, member: Member) -> None:
        """Adds a member and tells everybody, if it is the first connection of its user."""
        assert self._nursery is not None
        user_id = member.user.id
        first = user_id not in self._connections
        self._members[member.transport] = member
        self._connections[user_id] = self._connections.get(user_id, 0) + 1
        self._nursery.start_soon(member.run, name=f"member {user_id}")
        joined = encode(self._system("joined", f"User {member.user.username} joined the conversation", user_id))
        member.deliver(joined)
        if first:
            self.broadcast(joined, exclude_member=member, ephemeral=True)

    def leave(self, member: Member) -> None:
        """Takes a member out, and tells the others if it was the last connection of its user."""
        if self._members.get(member.transport) is not member:
            return
        del self._members[member.transport]
        member.leave()
        user_id = member.user.id
        self._connections[user_id] -= 1
        if not self._connections[user_id]:
            del self._connections[user_id]
            left = self._system("left", f"User {member.user.username} left the conversation", user_id)
            self.broadcast(encode(left), ephemeral=True)
        self._changed.set()

    def close_user(self, user_id: UUID, code: CloseCode, reason: str) -> None:
        """Closes all connections of a user; nothing more is delivered to them."""
        for member in [member for member in self._members.values() if member.user.id == user_id]:
            member.close(code, reason)
            self.leave(member)

    def close_all(self, code: CloseCode, reason: str) -> None:
        """Closes all connections."""
        for member in list(self._members.values()):
            member.close(code, reason)
            self.leave(member)

    def member_of(self, transport: Transport) -> Member | None:
        """The member that has this connection."""
        return self._members.get(transport)

    @property
    def active_users(self) -> list[UUID]:
        """Who is connected, each once, in the order they came."""
        return list(self._connections)

    @property
    def connection_count(self) -> int:
        """How many connections there are."""
        return len(self._members)

    # --- frames ---

    def broadcast(
        self,
        frame: Encoded,
        *,
        exclude_user_id: UUID | None = None,
        exclude_member: Member | None = None,
        ephemeral: bool = False,
    ) -> None:
        """Puts a frame into every member's outbox; never blocks."""
        for member in list(self._members.values()):
            if member is not exclude_member and member.user.id != exclude_user_id:
                member.deliver(frame, ephemeral=ephemeral)

    def announce(self, event: str, content: str, actor_id: UUID) -> None:
        """Tells every member of something that happened to the conversation."""
        self.broadcast(encode(self._system(event, content, actor_id)))

    def typing(self, member: Member) -> None:
        """Tells the other users that this one is typing."""
        user = member.user
        frame = TypingFrame(sender_id=user.id, sender_username=user.username, conversation_id=self.conversation_id)
        self.broadcast(encode(frame), exclude_user_id=user.id, ephemeral=True)

    async def submit(self, member: Member, message: NewMessage) -> None:
        """Hands a message to the writer; waits while the room, or this member, has too many unstored.

        Cancelled: the message was not taken.
        """
        await member.capacity.acquire()
        try:
            await self._writer.submit(message, _MemberSender(member))
        except BaseException:
            member.capacity.release()
            raise

    def _system(self, event: str, content: str, user_id: UUID) -> SystemFrame:
        return SystemFrame(
            content=content,
            sender_id=user_id,
            active_users=self.active_users,
            event=event,
            conversation_id=self.conversation_id,
            last_seq=self.last_seq,
            last_rev=self.last_rev,
        )

    # --- what the writer has committed ---

    async def _release(self, stored: Sequence[Stored]) -> None:
        for submission, message in sorted(stored, key=lambda item: item[1].rev):
            sender = submission.sender
            assert isinstance(sender, _MemberSender)
            if message.id != submission.message.id and not _is_same(message, submission.message):
                error = PulseError(
                    ErrorCode.CLIENT_ID_REUSED,
                    "This client_id was used for another message",
                    field="client_id",
                )
                sender.refuse(error, message.client_id)
            elif message.rev <= self.last_rev:
                sender.member.deliver(encode(message_frame(message)))  # a resend: everybody else has it
            else:
                if message.rev > self.last_rev + 1:
                    await self._fill_gap(message.rev - 1)
                if message.rev == self.last_rev + 1:
                    self._deliver(message)

    async def _fill_gap(self, up_to_rev: int) -> None:
        """Delivers what was committed without this room's knowing.

        That happens when the answer to a commit was lost and its sender gave up before the retry.
        """
        delay = RETRY_FIRST
        while self.last_rev < up_to_rev:
            try:
                missed = await self._store.changes(self.conversation_id, after_rev=self.last_rev, limit=GAP_PAGE)
            except StoreUnavailable:
                await trio.sleep(delay * self._random.uniform(0.5, 1.0))
                delay = min(delay * 2, RETRY_MOST)
                continue
            log.info("a gap was filled", conversation_id=str(self.conversation_id), count=len(missed))
            for message in missed:
                self._deliver(message)
            if not missed:
                return

    def _deliver(self, message: Message) -> None:
        self.last_rev = message.rev
        self.last_seq = max(self.last_seq, message.seq)
        self.broadcast(encode(message_frame(message)))


class _MemberSender:
    """Tells a member what became of its message; a member that has gone is told nothing."""

    __slots__ = ("member",)

    def __init__(self, member: Member) -> None:
        self.member = member

    def settled(self) -> None:
        self.member.capacity.release()

    def refuse(self, error: PulseError, client_id: str | None) -> None:
        self.member.deliver(encode(error_frame(error, client_id)))


def message_frame(message: Message) -> MessageFrame:
    """A stored message as everybody sees it."""
    return MessageFrame(
        content=message.content,
        sender_id=message.sender_id,
        sender_username=message.sender_username,
        message_id=message.id,
        timestamp=timestamp(message.created_at),
        is_edited=message.is_edited,
        conversation_id=message.conversation_id,
        seq=message.seq,
        rev=message.rev,
        client_id=UNSET if message.client_id is None else message.client_id,
    )


def _is_same(message: Message, resent: NewMessage) -> bool:
    return message.is_edited or message.content == resent.content
