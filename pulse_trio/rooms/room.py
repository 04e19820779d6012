"""A room: the live side of one conversation.

One nursery holds the writer's task and a task for each connection of the conversation's own. A room is in
memory only while somebody needs it: when the last of them has left, the sessions in it have had nothing to
do with it for a while, and the writer has stored what it held, the nursery ends.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

import structlog
import trio
from msgspec import UNSET, structs

from pulse_trio.metrics import Metrics
from pulse_trio.protocol import (
    CloseCode,
    Encoded,
    Position,
    ReadFrame,
    SystemFrame,
    TypingFrame,
    encode,
)
from pulse_trio.rooms.backoff import Backoff
from pulse_trio.rooms.catch_up import CatchUp
from pulse_trio.rooms.connection import Transport
from pulse_trio.rooms.feed import Feed
from pulse_trio.rooms.membership import MembershipChanges, later
from pulse_trio.rooms.presence import Presence, PresenceNotifier
from pulse_trio.rooms.senders import SubscriptionSender, WaitingSender
from pulse_trio.rooms.session import Session, Sessions
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.rooms.writer import Writer, not_a_member, not_stored
from pulse_trio.settings import Settings
from pulse_trio.store.base import (
    Head,
    Members,
    Message,
    NewMessage,
    NotAMember,
    Revision,
    Store,
    StoreUnavailable,
)

FRAME_POSITIONS: Final = 200  # most read positions in one frame: about 14 KB
FRAME_USERS: Final = 100  # most ids of added users in one frame: about 4 KB

log = structlog.get_logger(__name__)


class Room:
    """One conversation while somebody is connected to it.

    Between two awaits everything here is atomic; members are changed and frames handed out only so.

    Args:
        conversation_id: which conversation.
        store: where its messages are.
        sessions: who is taken in when the room opens, if they are in the conversation.
        members: the changes of members that are under way.
        catch_up: reads committed changes.
        settings: the bounds.
        rand: where the jitter of retries comes from.
        metrics: where batches and frames are counted.
        on_vacant: called, with no await before or after, when nobody may join this room any more.
    """

    def __init__(
        self,
        conversation_id: UUID,
        *,
        store: Store,
        sessions: Sessions,
        members: MembershipChanges,
        catch_up: CatchUp,
        settings: Settings,
        rand: random.Random,
        metrics: Metrics,
        on_vacant: Callable[["Room"], None],
    ) -> None:
        self.conversation_id = conversation_id
        self.opened = trio.Event()
        self.ended = trio.Event()
        self.failure: Exception | None = None
        self.read_seqs: dict[UUID, int] = {}  # how far members have read, as far as it was told; one entry each at most
        self._store = store
        self._sessions = sessions
        self._changing = members
        self._store_timeout = settings.store_timeout
        self._linger = settings.room_linger
        self._random = rand
        self._metrics = metrics
        self._on_vacant = on_vacant
        self._nursery: trio.Nursery | None = None
        self._subscriptions: dict[Transport, Subscription] = {}
        self._presence = Presence(settings.presence_list_max)
        self._notifier = PresenceNotifier(self, self._presence)
        # While the room opens: the last change of each user's membership, its version and whether they were added.
        self._admitted: dict[UUID, tuple[int, bool]] = {}
        self._members_in_doubt = False
        self._keepers = 0  # members whose connection is this conversation's own
        self._hold = Hold(self)  # one for all, as each message takes one
        self._changed = trio.Event()
        self.feed = Feed(
            conversation_id,
            self._subscriptions,
            catch_up=catch_up,
            store_timeout=settings.store_timeout,
            metrics=metrics,
            on_rechecked=self.look_again,
        )
        self._writer = Writer(
            store,
            self.feed.release,
            inbox_messages=settings.inbox_messages,
            batch_messages=settings.batch_messages,
            store_timeout=settings.store_timeout,
            rand=rand,
            metrics=metrics,
            on_unknown_outcome=self.feed.recheck_later,
        )

    # --- life ---

    async def run(self) -> None:
        """The room, from its first subscription until it is vacant.

        Cancelled: members are closed with `CloseCode.INTERNAL_ERROR`; messages that are not stored yet are not
        acknowledged. Raises StoreUnavailable or NotAMember when it cannot be opened.
        """
        try:
            head, members = await self._look_up()
        except BaseException as error:  # whatever it is, who waits for the room is told
            self._writer.refuse_all(not_a_member() if isinstance(error, NotAMember) else not_stored())
            raise
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.feed.open(head, nursery)
            self._notifier.open(nursery)
            for user_id in self._members_now(members):
                is_news = self._changing.is_being_added(self.conversation_id, user_id)
                for session in self._sessions.of(user_id):
                    if is_news:  # the look-up was faster than the answer to the addition, or that is lost
                        session.notify_added(self.conversation_id, is_news=True)
                    self._enter(session.place(self.conversation_id, self.feed.last_rev))
            nursery.start_soon(self._run_writer, name=f"writer {self.conversation_id}")
            self.opened.set()
            await self._wait_vacant()
            # No await from here to the end of the hub's callback: nobody can join a room that is going.
            self._writer.close()
            self.feed.close()
            self._subscriptions.clear()  # sessions: they come in again when it opens again
            self._notifier.close()
            self._on_vacant(self)

    def _members_now(self, members: Members) -> list[UUID]:
        """The members that were looked up, with what has changed since then."""
        known = dict.fromkeys(members.ids, (members.version, True))
        for user_id, change in self._admitted.items():
            known[user_id] = later(known.get(user_id, (members.version, False)), change)
        self._admitted.clear()
        return [user_id for user_id, (_, is_member) in known.items() if is_member]

    async def _look_up(self) -> tuple[Head, Members]:
        """The head of the conversation, and its members if there is any session at all.

        A message that waits for it is worth asking again, for as long as a message may wait.
        """
        backoff = Backoff(self._random)
        with trio.move_on_after(self._store_timeout):
            while True:
                self._members_in_doubt = False
                try:
                    head = await self._store.head(self.conversation_id)
                    members = await self._store.members(self.conversation_id) if self._sessions else Members((), 0)
                except StoreUnavailable:
                    if not self._writer.unsettled:
                        raise
                    await backoff.wait()
                else:
                    if not self._members_in_doubt:
                        return head, members
        raise StoreUnavailable("the conversation could not be looked up in time")

    async def _wait_vacant(self) -> None:
        while True:
            if self._keepers or self._hold.count or (self._subscriptions and self.feed.is_rechecking):
                await self._changed.wait()
            elif self._writer.unsettled:
                await self._writer.wait_idle()
            elif self._subscriptions:
                with trio.move_on_after(self._linger):
                    await self._changed.wait()
                # Whoever came meanwhile, or is about to, did not say so: the room is asked for every message.
                if not self._changed.is_set() and not self._is_used():
                    return
            else:
                return
            if self._changed.is_set():
                self._changed = trio.Event()

    def _is_used(self) -> bool:
        return bool(self._keepers or self._hold.count or self._writer.unsettled or self.feed.is_rechecking)

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

    def look_again(self) -> None:
        """Makes `run` check whether the room is vacant; nothing happens while a connection of its own is there."""
        if not self._keepers:
            self._changed.set()

    def held(self) -> "Hold":
        """Keeps the room open within a `with` block: `with room.held(): ...`."""
        return self._hold

    # --- members ---

    def join(self, subscription: Subscription) -> None:
        """Adds a connection of the conversation's own; the room stays open while it is there."""
        assert self._nursery is not None
        user = subscription.connection.user
        subscription.target = max(subscription.target, self.feed.last_rev)
        self._keepers += 1
        is_first = self._enter(subscription)
        self._nursery.start_soon(subscription.connection.run, name=f"member {user.id}")
        joined = self._notifier.joined_frame(user, with_list=True)
        self._metrics.frames_out[joined.kind] += 1
        subscription.deliver(joined)
        if is_first:
            self._notifier.notify_joined(subscription, joined)
        subscription.start()

    def attach(self, session: Session, *, with_others: bool = False) -> None:
        """Takes in a session that has come, or whose user has been added; one that is in already stays.

        Args:
            session: which.
            with_others: many come at once: they are gathered into few frames, as a crowd's comings are.
        """
        if session.connection.transport in self._subscriptions:
            return
        subscription = session.place(self.conversation_id, self.feed.last_rev)
        if self._enter(subscription):
            self._notifier.notify_joined(subscription, many=with_others)

    def admit(self, user_ids: Sequence[UUID], version: int, *, with_others: bool) -> None:
        """Takes in the sessions of users who have been added to the conversation; see `attach`."""
        if not self.opened.is_set():
            for user_id in user_ids:
                self._admitted[user_id] = later(self._admitted.get(user_id), (version, True))
            return
        for user_id in user_ids:
            for session in self._sessions.of(user_id):
                self.attach(session, with_others=with_others)

    def dismiss(self, user_id: UUID, version: int) -> None:
        """Notes that a user has been removed: their sessions do not come in when the room opens."""
        self.read_seqs.pop(user_id, None)
        if not self.opened.is_set():
            self._admitted[user_id] = later(self._admitted.get(user_id), (version, False))

    def doubt_members(self) -> None:
        """Who is in the conversation is looked up again, if the room is opening: somebody may have been removed."""
        self._members_in_doubt = True

    def leave(self, subscription: Subscription) -> None:
        """Takes a subscription out, and tells the others if it was the last connection of its user."""
        connection = subscription.connection
        if self._subscriptions.get(connection.transport) is not subscription:
            return
        del self._subscriptions[connection.transport]
        if not subscription.connection.is_session:
            self._keepers -= 1
            connection.leave()
        user = connection.user
        was_crowded = self._presence.is_crowded
        if self._presence.leave(user):
            self._notifier.notify_left(user, was_crowded=was_crowded)
        self._changed.set()

    def close_user(self, user_id: UUID, code: CloseCode, reason: str) -> None:
        """Closes a user's connections that are of this conversation alone; sessions are left to the hub."""
        for subscription in list(self._subscriptions.values()):
            if subscription.connection.user.id == user_id and not subscription.connection.is_session:
                subscription.connection.close(code, reason)
                self.leave(subscription)

    def close_all(self, code: CloseCode, reason: str) -> None:
        """Closes all connections, sessions too. Nobody is told who left: nobody is left to be told."""
        subscriptions = list(self._subscriptions.values())
        self._subscriptions.clear()
        self._presence.clear()
        self._keepers = 0
        for subscription in subscriptions:
            subscription.connection.close(code, reason)
        self._changed.set()

    def _enter(self, subscription: Subscription) -> bool:
        """Adds a subscription; returns whether it is the first of its user."""
        self._subscriptions[subscription.connection.transport] = subscription
        return self._presence.enter(subscription.connection.user)

    def subscription_of(self, transport: Transport) -> Subscription | None:
        """The subscription that has this connection."""
        return self._subscriptions.get(transport)

    @property
    def active_users(self) -> list[UUID]:
        """Who is connected, each once, in the order they came."""
        return self._presence.users

    @property
    def connection_count(self) -> int:
        """How many connections there are."""
        return len(self._subscriptions)

    # --- frames ---

    def broadcast(
        self,
        frame: Encoded,
        *,
        exclude_user_id: UUID | None = None,
        exclude: Subscription | None = None,
        ephemeral: bool = False,
    ) -> None:
        """Puts a frame into every subscription's outbox; never blocks."""
        count = 0
        for subscription in list(self._subscriptions.values()):
            if subscription is not exclude and subscription.connection.user.id != exclude_user_id:
                subscription.deliver(frame, ephemeral=ephemeral)
                count += 1
        self._metrics.frames_out[frame.kind] += count

    def announce(self, event: str, content: str, user_id: UUID, user_ids: Sequence[UUID] = ()) -> None:
        """Sends every connection one frame about something that happened to the conversation.

        Args:
            event: which kind of event.
            content: a sentence for people.
            user_id: whom it is about, or who did it.
            user_ids: all whom it is about, if it is about users; the frame has the first `FRAME_USERS`, and a count.
        """
        frame = self.system_frame(event, content, user_id)
        if user_ids:
            frame = structs.replace(frame, user_ids=list(user_ids[:FRAME_USERS]), user_count=len(user_ids))
        self.broadcast(encode(frame))

    def typing(self, subscription: Subscription) -> None:
        """Notifies the other users that this one is typing, unless it has left."""
        if self._subscriptions.get(subscription.connection.transport) is not subscription:
            return
        user = subscription.connection.user
        frame = TypingFrame(sender_id=user.id, sender_username=user.username, conversation_id=self.conversation_id)
        self.broadcast(encode(frame), exclude_user_id=user.id, ephemeral=True)

    def tell_read(self, positions: Mapping[UUID, int]) -> None:
        """Tells how far users have read, what of it is news; in a crowd only to themselves, as the cost of telling
        everybody is the square of their number."""
        news = [Position(*item) for item in positions.items() if item[1] > self.read_seqs.get(item[0], 0)]
        self.read_seqs.update((position.user_id, position.seq) for position in news)
        if self._presence.is_crowded:
            frames = {p.user_id: encode(ReadFrame(conversation_id=self.conversation_id, positions=[p])) for p in news}
            for subscription in list(self._subscriptions.values()):
                frame = frames.get(subscription.connection.user.id)
                if frame is not None:
                    subscription.deliver(frame, ephemeral=True)
        else:
            for at in range(0, len(news), FRAME_POSITIONS):
                part = news[at : at + FRAME_POSITIONS]
                self.broadcast(encode(ReadFrame(conversation_id=self.conversation_id, positions=part)), ephemeral=True)

    async def submit(self, subscription: Subscription, message: NewMessage | Revision, client_id: str | None) -> None:
        """Hands a message, or a change of one, to the writer; the answer comes as a frame.

        Waits while the room, or this subscription, has too many unstored.
        Cancelled: it was not taken.
        """
        connection = subscription.connection
        try:
            connection.capacity.acquire_nowait()  # nearly always: no turn of the loop is spent on it
        except trio.WouldBlock:
            await connection.capacity.acquire()
        try:
            if not connection.is_open:
                raise trio.BrokenResourceError  # closed meanwhile: what it still sends is not taken
            await self._writer.submit(
                message, SubscriptionSender(subscription, client_id, self.subscription_of), client_id
            )
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            connection.capacity.release()
            subscription.refuse(not_stored(), client_id)  # the room has failed; dropped if the connection is closed
        except BaseException:
            connection.capacity.release()
            raise

    async def store(self, message: NewMessage | Revision, client_id: str | None = None) -> Message:
        """Stores a message, or a change of one, for somebody who need not be connected; returns it as it then is.

        Raises:
            NotAMember: its sender is not in the conversation.
            PulseError: it was refused, or could not be stored in time.
        Cancelled: it may be stored or not.
        """
        sender = WaitingSender()
        try:
            await self._writer.submit(message, sender, client_id)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise not_stored() from None
        return await sender.wait()

    def system_frame(self, event: str, content: str, user_id: UUID, *, with_list: bool = False) -> SystemFrame:
        return SystemFrame(
            content=content,
            sender_id=user_id,
            active_users=self.active_users if with_list or not self._presence.is_crowded else UNSET,
            active_count=len(self._presence),
            event=event,
            conversation_id=self.conversation_id,
            last_seq=self.feed.last_seq,
            last_rev=self.feed.last_rev,
            epoch=self._store.epoch,
        )


class Hold:
    """Keeps a room open while somebody is about to use it; a context manager that may be entered several times.

    Args:
        room: the room.
    """

    __slots__ = ("_room", "count")

    def __init__(self, room: Room) -> None:
        self._room = room
        self.count = 0

    def __enter__(self) -> Room:
        self.count += 1
        return self._room

    def __exit__(self, *_exc: object) -> None:
        self.count -= 1
        if not self.count:
            self._room.look_again()
