"""A room: the live side of one conversation.

One nursery holds the writer's task and a member task for each connection of the conversation's own. A room is in
memory only while it is used: when the last such connection has left, its sessions have sent and got nothing for
`PULSE_ROOM_LINGER` seconds, and the writer has stored what it held, the nursery ends.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

import structlog
import trio
from msgspec import UNSET, structs

from pulse_trio.metrics import Metrics
from pulse_trio.protocol import CloseCode, Encoded, Position, ReadFrame, SystemFrame, encode
from pulse_trio.rooms.catch_up import CatchUp
from pulse_trio.rooms.connection import Transport
from pulse_trio.rooms.feed import Feed
from pulse_trio.rooms.hold import Hold
from pulse_trio.rooms.membership import MembershipChanges
from pulse_trio.rooms.opening import Opening
from pulse_trio.rooms.presence import Presence, PresenceNotifier
from pulse_trio.rooms.senders import SubscriptionSender, WaitingSender
from pulse_trio.rooms.session import Session, Sessions
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.rooms.writer import Writer, not_a_member, not_stored
from pulse_trio.settings import Settings
from pulse_trio.store.base import Message, NewMessage, NotAMember, Revision, Store, StoreUnavailable

MAX_FRAME_POSITIONS: Final = 200  # read positions in one frame: about 14 KB
MAX_FRAME_USERS: Final = 100  # ids of users in one frame: about 4 KB

log = structlog.get_logger(__name__)


class Room:
    """One conversation while it is used.

    Between two awaits everything here is atomic; subscriptions change, and frames are delivered, only in that way.

    Args:
        conversation_id: the conversation.
        store: stores its messages.
        sessions: the sessions of this process; those of members are subscribed when the room opens.
        changes: the changes of memberships in progress.
        catch_up: reads committed changes.
        settings: the bounds.
        rand: gives the jitter of retries.
        metrics: counts batches and frames.
        on_vacant: called, with no await before or after, when this room cannot be joined any more.

    Attributes:
        feed: delivers the changes of the conversation.
        opened: set when the room is open, or has failed to open.
        ended: set when its tasks have ended.
        failure: the reason why it did not open, or ended.
        read_seqs: the last read position of each member that was sent to the others.
    """

    def __init__(
        self,
        conversation_id: UUID,
        *,
        store: Store,
        sessions: Sessions,
        changes: MembershipChanges,
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
        self.read_seqs: dict[UUID, int] = {}
        self._store = store
        self._sessions = sessions
        self._changes = changes
        self._linger = settings.room_linger
        self._metrics = metrics
        self._on_vacant = on_vacant
        self._nursery: trio.Nursery | None = None
        self._subscriptions: dict[Transport, Subscription] = {}
        self._presence = Presence(settings.presence_list_max)
        self._notifier = PresenceNotifier(self, self._presence)
        self._own_connections = 0  # of this conversation alone; they keep the room open
        self._hold = Hold(self.check_vacant)
        self._changed = trio.Event()  # set when the room may have become vacant
        self.feed = Feed(
            conversation_id,
            self._subscriptions,
            catch_up=catch_up,
            store_timeout=settings.store_timeout,
            metrics=metrics,
            on_rechecked=self.check_vacant,
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
        self._opening = Opening(
            conversation_id, store, sessions, self._writer, timeout=settings.store_timeout, rand=rand
        )

    # --- life ---

    async def run(self) -> None:
        """Opens the room, and runs it until it is vacant.

        Raises:
            StoreUnavailable: it could not be opened.
            NotAMember: there is no such conversation.
        Cancelled: its connections are closed with `CloseCode.INTERNAL_ERROR`; messages that are not stored yet are
        not acknowledged.
        """
        try:
            head = await self._opening.look_up()
        except BaseException as error:  # also when cancelled: messages in the inbox must be answered
            self._writer.refuse_all(not_a_member() if isinstance(error, NotAMember) else not_stored())
            raise
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.feed.open(head, nursery)
            self._notifier.open(nursery)
            for user_id in self._opening.take_members():
                is_news = self._changes.is_being_added(self.conversation_id, user_id)
                for session in self._sessions.of(user_id):
                    if is_news:  # the look-up was faster than the answer to the addition, or that is lost
                        session.notify_added(self.conversation_id, is_news=True)
                    self._enter(session.subscribe(self.conversation_id, self.feed.last_rev))
            nursery.start_soon(self._run_writer, name=f"writer {self.conversation_id}")
            self.opened.set()
            await self._wait_vacant()
            # No await from here to the end of `_on_vacant`, so that no connection can join a room that ends.
            self._writer.close()
            self.feed.close()
            self._subscriptions.clear()  # sessions: they are subscribed again when it opens again
            self._notifier.close()
            self._on_vacant(self)

    def check_vacant(self) -> None:
        """Makes `run` check whether the room is vacant; it is not while it has a connection of its own."""
        if not self._own_connections:
            self._changed.set()

    def held(self) -> Hold:
        """Keeps the room open within a `with` block: `with room.held(): ...`."""
        return self._hold

    async def _wait_vacant(self) -> None:
        while True:
            if self._own_connections or self._hold.count or (self._subscriptions and self.feed.is_rechecking):
                await self._changed.wait()
            elif self._writer.unsettled:
                await self._writer.wait_idle()
            elif self._subscriptions:
                with trio.move_on_after(self._linger):
                    await self._changed.wait()
                # `_changed` is not set when a hold begins (that would cost each message), so look again before closing.
                if not self._changed.is_set() and not self._is_used():
                    return
            else:
                return
            if self._changed.is_set():
                self._changed = trio.Event()

    def _is_used(self) -> bool:
        return bool(self._own_connections or self._hold.count or self._writer.unsettled or self.feed.is_rechecking)

    async def _run_writer(self) -> None:
        try:
            await self._writer.run()
        except Exception:
            # A fault of ours. The room ends with it: clients reconnect, and get a new one at once,
            # also while this one still waits for a close frame to leave.
            log.exception("a room failed", conversation_id=str(self.conversation_id))
            self.failure = StoreUnavailable("the room failed")
            self._on_vacant(self)
            self.close_all(CloseCode.INTERNAL_ERROR, "the conversation failed; reconnect")
            assert self._nursery is not None
            # Not raised: together with a cancellation from outside it could not be caught for this room alone.
            self._nursery.cancel_scope.cancel()

    # --- subscriptions ---

    def join(self, subscription: Subscription) -> None:
        """Adds a connection of the conversation's own; the room stays open until it leaves."""
        assert self._nursery is not None
        user = subscription.connection.user
        subscription.target = max(subscription.target, self.feed.last_rev)
        self._own_connections += 1
        is_first = self._enter(subscription)
        self._nursery.start_soon(subscription.connection.run, name=f"member {user.id}")
        joined = self._notifier.joined_frame(user, with_list=True)
        self._metrics.frames_out[joined.kind] += 1
        subscription.deliver(joined)
        if is_first:
            self._notifier.notify_joined(subscription, joined)
        subscription.start()

    def attach(self, session: Session, *, many: bool = False) -> None:
        """Subscribes a session that has opened, or whose user has been added, unless it is subscribed.

        Args:
            session: the session.
            many: many join at once; then few frames are sent about them, as in a crowd.
        """
        if session.connection.transport in self._subscriptions:
            return
        subscription = session.subscribe(self.conversation_id, self.feed.last_rev)
        if self._enter(subscription):
            self._notifier.notify_joined(subscription, many=many)

    def add_members(self, user_ids: Sequence[UUID], version: int, *, many: bool) -> None:
        """Subscribes the sessions of users who have been added to the conversation; see `attach`."""
        if not self.opened.is_set():
            for user_id in user_ids:
                self._opening.record_change(user_id, version, is_member=True)
            return
        for user_id in user_ids:
            for session in self._sessions.of(user_id):
                self.attach(session, many=many)

    def remove_member(self, user_id: UUID, version: int) -> None:
        """Records the removal of a user, so that their sessions are not subscribed when the room opens."""
        self.read_seqs.pop(user_id, None)
        if not self.opened.is_set():
            self._opening.record_change(user_id, version, is_member=False)

    def recheck_members(self) -> None:
        """Looks up the members again, if the room is opening: one may have been removed."""
        self._opening.recheck()

    def leave(self, subscription: Subscription) -> None:
        """Removes a subscription, and notifies the others if it was the last of its user."""
        connection = subscription.connection
        if self._subscriptions.get(connection.transport) is not subscription:
            return
        del self._subscriptions[connection.transport]
        if not connection.is_session:
            self._own_connections -= 1
            connection.leave()
        was_crowded = self._presence.is_crowded
        if self._presence.leave(connection.user):
            self._notifier.notify_left(connection.user, was_crowded=was_crowded)
        self._changed.set()

    def close_user(self, user_id: UUID, code: CloseCode, reason: str) -> None:
        """Closes a user's connections that are of this conversation alone, not their sessions."""
        for subscription in list(self._subscriptions.values()):
            if subscription.connection.user.id == user_id and not subscription.connection.is_session:
                subscription.connection.close(code, reason)
                self.leave(subscription)

    def close_all(self, code: CloseCode, reason: str) -> None:
        """Closes all connections, sessions too. No `left` frames: no connection remains to receive them."""
        subscriptions = list(self._subscriptions.values())
        self._subscriptions.clear()
        self._presence.clear()
        self._own_connections = 0
        for subscription in subscriptions:
            subscription.connection.close(code, reason)
        self._changed.set()

    def _enter(self, subscription: Subscription) -> bool:
        """Adds a subscription; returns True if it is the first of its user."""
        self._subscriptions[subscription.connection.transport] = subscription
        return self._presence.enter(subscription.connection.user)

    def subscription_of(self, transport: Transport) -> Subscription | None:
        """Returns the subscription of a connection, if it has one here."""
        return self._subscriptions.get(transport)

    @property
    def active_users(self) -> list[UUID]:
        """The connected users, each once, in the order they came."""
        return self._presence.users

    @property
    def connection_count(self) -> int:
        """The number of connections."""
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
        """Delivers a frame to every subscription, except one or those of one user; never blocks."""
        count = 0
        for subscription in list(self._subscriptions.values()):
            if subscription is not exclude and subscription.connection.user.id != exclude_user_id:
                subscription.deliver(frame, ephemeral=ephemeral)
                count += 1
        self._metrics.frames_out[frame.kind] += count

    def announce(self, event: str, content: str, user_id: UUID, user_ids: Sequence[UUID] = ()) -> None:
        """Sends every connection one frame about an event in the conversation.

        Args:
            event: its kind: "added", "removed" or "renamed".
            content: a sentence for people.
            user_id: the user whom it is about, or who did it.
            user_ids: all users whom it is about; the frame has the first `MAX_FRAME_USERS`, and their number.
        """
        frame = self.system_frame(event, content, user_id)
        if user_ids:
            frame = structs.replace(frame, user_ids=list(user_ids[:MAX_FRAME_USERS]), user_count=len(user_ids))
        self.broadcast(encode(frame))

    def system_frame(self, event: str, content: str, user_id: UUID, *, with_list: bool = False) -> SystemFrame:
        """Makes a frame about an event; with the list of active users in a crowd, too, if `with_list`."""
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

    def notify_read(self, positions: Mapping[UUID, int]) -> None:
        """Sends the read positions that have moved.

        In a crowd each user gets only their own: the cost of sending all to everybody is the square of their number.
        """
        news = [Position(*item) for item in positions.items() if item[1] > self.read_seqs.get(item[0], 0)]
        self.read_seqs.update((position.user_id, position.seq) for position in news)
        if self._presence.is_crowded:
            frames = {p.user_id: encode(ReadFrame(conversation_id=self.conversation_id, positions=[p])) for p in news}
            for subscription in list(self._subscriptions.values()):
                frame = frames.get(subscription.connection.user.id)
                if frame is not None:
                    subscription.deliver(frame, ephemeral=True)
        else:
            for at in range(0, len(news), MAX_FRAME_POSITIONS):
                part = news[at : at + MAX_FRAME_POSITIONS]
                self.broadcast(encode(ReadFrame(conversation_id=self.conversation_id, positions=part)), ephemeral=True)

    # --- messages ---

    async def submit(self, subscription: Subscription, command: NewMessage | Revision, client_id: str | None) -> None:
        """Submits a message, or a change of one, to the writer; its client gets the answer as a frame.

        Waits while the room, or the connection, has too many unstored.
        Cancelled: it was not submitted.
        """
        connection = subscription.connection
        try:
            connection.capacity.acquire_nowait()  # nearly always free: this saves a turn of the loop
        except trio.WouldBlock:
            await connection.capacity.acquire()
        try:
            if not connection.is_open:
                raise trio.BrokenResourceError  # closed meanwhile: its frames are not handled any more
            sender = SubscriptionSender(subscription, client_id, self.subscription_of)
            await self._writer.submit(command, sender, client_id)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            connection.capacity.release()
            subscription.refuse(not_stored(), client_id)  # the room has failed; dropped if the connection is closed
        except BaseException:
            connection.capacity.release()
            raise

    async def store(self, command: NewMessage | Revision, client_id: str | None = None) -> Message:
        """Stores a message, or a change of one, of a user who need not be connected; returns it as it then is.

        Raises:
            NotAMember: its sender is not in the conversation.
            PulseError: it was rejected, or could not be stored in time.
        Cancelled: it may be stored or not.
        """
        sender = WaitingSender()
        try:
            await self._writer.submit(command, sender, client_id)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise not_stored() from None
        return await sender.wait()
