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

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.protocol import (
    CloseCode,
    Encoded,
    SystemFrame,
    TypingFrame,
    encode,
)
from pulse_trio.rooms.frames import change_frame
from pulse_trio.rooms.member import Member, Transport
from pulse_trio.rooms.senders import MemberSender, WaitingSender
from pulse_trio.rooms.writer import RETRY_FIRST, RETRY_MOST, Stored, Writer
from pulse_trio.settings import Settings
from pulse_trio.store.base import Message, NewMessage, Revision, Store, StoreUnavailable

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
        on_vacant: called, with no await before or after, when nobody may join this room any more.
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
        self._store_timeout = settings.store_timeout
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
            on_doubt=self._doubt,
        )
        self._doubts: trio.CancelScope | None = None  # of the task that reads what may have been committed

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
            if self._doubts is not None:
                self._doubts.cancel()
            self._on_vacant(self)

    async def _run_writer(self) -> None:
        try:
            await self._writer.run()
        except Exception:
            # A fault of ours. The room ends with it: its members reconnect, and find a new one at once,
            # also while this one still waits for a close frame to leave.
            log.exception("a room failed", conversation_id=str(self.conversation_id))
            self.failure = StoreUnavailable("the room failed")
            self._on_vacant(self)
            self.close_all(CloseCode.INTERNAL_ERROR, "the conversation failed; reconnect")
            assert self._nursery is not None
            # Not raised: together with a cancellation from outside it could not be caught for this room alone.
            self._nursery.cancel_scope.cancel()

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
        if member.is_live:
            member.cursor = self.last_rev
        self._nursery.start_soon(member.run, self._catch_up, name=f"member {user_id}")
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
        """Closes all connections. Nobody is told who left: nobody is left to be told."""
        members = list(self._members.values())
        self._members.clear()
        self._connections.clear()
        for member in members:
            member.close(code, reason)
        self._changed.set()

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
        """Tells the other users that this one is typing, unless it is being closed."""
        if self._members.get(member.transport) is not member:
            return
        user = member.user
        frame = TypingFrame(sender_id=user.id, sender_username=user.username, conversation_id=self.conversation_id)
        self.broadcast(encode(frame), exclude_user_id=user.id, ephemeral=True)

    async def submit(self, member: Member, message: NewMessage | Revision, client_id: str | None) -> None:
        """Hands a message, or a change of one, to the writer; its answer comes to the member as a frame.

        Waits while the room, or this member, has too many unstored.
        Cancelled: it was not taken.
        """
        await member.capacity.acquire()
        try:
            if self._members.get(member.transport) is not member:
                raise trio.BrokenResourceError  # closed meanwhile: what it still sends is not taken
            await self._writer.submit(message, MemberSender(member), client_id)
        except trio.BrokenResourceError:
            member.capacity.release()  # also when the room has failed: then all its members are closed
        except BaseException:
            member.capacity.release()
            raise

    async def revise(self, revision: Revision) -> Message:
        """Changes a message for somebody who need not be connected; returns it as it then is.

        Raises:
            PulseError: it was refused, or could not be stored in time.
        Cancelled: the change may be made or not.
        """
        sender = WaitingSender()
        try:
            await self._writer.submit(revision, sender)
        except trio.BrokenResourceError:
            raise PulseError(ErrorCode.NOT_STORED, "The change could not be stored") from None
        return await sender.wait()

    def _system(self, event: str, content: str, user_id: UUID) -> SystemFrame:
        return SystemFrame(
            content=content,
            sender_id=user_id,
            active_users=self.active_users,
            event=event,
            conversation_id=self.conversation_id,
            last_seq=self.last_seq,
            last_rev=self.last_rev,
            epoch=self._store.epoch,
        )

    # --- what the writer has committed ---

    async def _release(self, stored: Sequence[Stored]) -> None:
        for submission, message in sorted(stored, key=lambda item: item[1].rev):
            asked = submission.message
            if isinstance(asked, NewMessage) and message.id != asked.id and not _is_same(message, asked):
                error = PulseError(
                    ErrorCode.CLIENT_ID_REUSED, "This client_id was used for another message", field="client_id"
                )
                submission.sender.refuse(error, submission.client_id)
                continue
            is_news = message.rev > self.last_rev
            if message.rev > self.last_rev + 1:
                await self._fill_gap(message.rev - 1)
            if is_news:
                self._deliver(message)
            submission.sender.stored(message, is_news=is_news)

    async def _fill_gap(self, up_to_rev: int) -> None:
        """Delivers what was committed without this room's knowing.

        That happens when the answer to a commit was lost and its sender gave up before the retry.
        """
        while self.last_rev < up_to_rev:
            # What is committed behind the gap is delivered by whoever submitted it.
            missed = [message for message in await self._read_changes(self.last_rev) if message.rev <= up_to_rev]
            log.info("a gap was filled", conversation_id=str(self.conversation_id), count=len(missed))
            for message in missed:
                self._deliver(message)
            if not missed:
                return

    async def _read_changes(self, after_rev: int) -> list[Message]:
        """The next page of changes; asks again until the store answers, for the changes are committed."""
        delay = RETRY_FIRST
        while True:
            try:
                with trio.fail_after(self._store_timeout):
                    return await self._store.changes(self.conversation_id, after_rev=after_rev, limit=GAP_PAGE)
            except (StoreUnavailable, trio.TooSlowError):
                await trio.sleep(delay * self._random.uniform(0.5, 1.0))
                delay = min(delay * 2, RETRY_MOST)

    def _doubt(self) -> None:
        """A message was refused that may be committed all the same: then everybody must see it, and soon."""
        assert self._nursery is not None
        if self._doubts is not None:
            self._doubts.cancel()
        self._doubts = trio.CancelScope()
        self._nursery.start_soon(self._resolve, self._doubts, name=f"doubt {self.conversation_id}")

    async def _resolve(self, scope: trio.CancelScope) -> None:
        """Delivers what was committed without this room's knowing: now, and what the database was still at."""
        with scope:
            for _ in range(2):
                while page := await self._read_changes(self.last_rev):
                    for message in page:
                        self._deliver(message)
                await trio.sleep(self._store_timeout)

    def _deliver(self, message: Message) -> None:
        if message.rev <= self.last_rev:
            return  # whoever fills a gap, and whoever resolves a doubt, may both have read it
        self.last_rev = message.rev
        self.last_seq = max(self.last_seq, message.seq)
        frame = encode(change_frame(message))
        for member in list(self._members.values()):
            member.deliver_change(message.rev, frame)

    async def _catch_up(self, member: Member) -> None:
        """Sends a member what changed after its cursor, page by page, until it has seen all that the room has.

        What is released meanwhile it reads from the store, too: nothing is held in memory for it, and between
        the last page and its going live there is no await, so that it misses nothing and gets nothing twice.
        """
        while member.cursor < self.last_rev:
            page = await self._read_changes(member.cursor)
            if not page:
                break
            for message in page:
                await member.send(encode(change_frame(message)))
                member.cursor = message.rev
        member.is_live = True


def _is_same(message: Message, resent: NewMessage) -> bool:
    return message.is_edited or message.is_deleted or message.content == resent.content
