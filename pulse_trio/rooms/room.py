"""A room: the live side of one conversation.

One nursery holds the writer's task and the member tasks: one for each connection of the conversation's own that has
something to send. The others are idle, and the room closes them itself when it ends early. A room is in memory only
while it is used: when the last such connection has left, its sessions have sent and got nothing for `PULSE_ROOM_LINGER`
seconds, and the writer has stored what it held, the nursery ends.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from uuid import UUID

import structlog
import trio
from msgspec import UNSET, structs

from pulse_trio.metrics import Metrics
from pulse_trio.model import Change, Command, Member, Properties, User
from pulse_trio.protocol import CloseCode, Encoded, Position, ReadFrame, SystemFrame, encode
from pulse_trio.rooms import opening
from pulse_trio.rooms.audience import Audience
from pulse_trio.rooms.catch_up import CatchUp
from pulse_trio.rooms.connection import Connection, Transport
from pulse_trio.rooms.feed import Feed
from pulse_trio.rooms.hold import Hold
from pulse_trio.rooms.outages import Outages
from pulse_trio.rooms.peers import Peers
from pulse_trio.rooms.presence import LatePresence, Presence, PresenceNotifier, joined_sentence
from pulse_trio.rooms.senders import OnStored, SubscriptionSender, WaitingSender
from pulse_trio.rooms.sentences import Act, added_sentence, removed_sentence, renamed_sentence
from pulse_trio.rooms.session import Session, Sessions
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.rooms.turns import MAX_USERS_A_TURN
from pulse_trio.rooms.user_feeds import UserFeeds
from pulse_trio.rooms.watches import Watches
from pulse_trio.rooms.writer import Writer, not_a_member, not_stored
from pulse_trio.settings import Settings
from pulse_trio.store.base import Head, Members, NotAMember, Store, StoreUnavailable

MAX_FRAME_POSITIONS: Final = 200  # read positions in one frame: about 14 KB
MAX_FRAME_USERS: Final = 100  # ids of users in one frame: about 4 KB
REMOVED: Final = "removed from the conversation"  # the reason in close frames

log = structlog.get_logger(__name__)


class Room:
    """One conversation while it is used.

    Between two awaits everything here is atomic; subscriptions change, and frames are delivered, only in that way.

    Args:
        conversation_id: the conversation.
        store: stores its messages.
        sessions: the sessions of this process; those of members are subscribed when the room opens.
        user_feeds: are sent what changes for a user alone.
        watches: must be checked again after a removal.
        catch_up: reads committed changes.
        peers: the other processes; with them the sessions of members are those of its index.
        settings: the bounds.
        rand: gives the jitter of retries.
        metrics: counts batches and frames.
        outages: logs failed attempts.
        on_vacant: called, with no await before or after, when this room cannot be joined any more.
        delivered: what a room of this conversation had delivered when it failed; this one goes on after it. Without it
            the room begins at the head of the conversation.

    Attributes:
        feed: delivers the changes of the conversation.
        opened: set when the room is open, or has failed to open.
        ended: set when its tasks have ended.
        failure: the reason why it did not open, or ended.
        has_failed: it ended by a fault of ours: what its writer was at may be committed, now or later.
        read_seqs: the last read position of each member that was sent to the others.
    """

    def __init__(
        self,
        conversation_id: UUID,
        *,
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
        on_vacant: Callable[["Room"], None],
        delivered: Head | None = None,
    ) -> None:
        self.conversation_id = conversation_id
        self.opened = trio.Event()
        self.ended = trio.Event()
        self.failure: Exception | None = None
        self.has_failed = False
        self.read_seqs: dict[UUID, int] = {}
        self._store = store
        self._settings = settings
        self._random = rand
        self._sessions = sessions
        self._user_feeds = user_feeds
        self._watches = watches
        self._linger = settings.room_linger
        self._metrics = metrics
        self._on_vacant = on_vacant
        self._delivered = delivered
        self._peers = peers
        self._nursery: trio.Nursery | None = None
        self._audience = Audience()
        self._ahead: set[Subscription] = set()  # made when the room opened, of members that the feed may yet add
        self._presence = Presence(settings.presence_list_max)
        self._notifier = PresenceNotifier(self, self._presence)
        self._shared = peers.open_presence(conversation_id, self._peer_joined, self._peer_left)
        self._late_presence = LatePresence(self._presence_list)
        self._own_connections = 0  # of this conversation alone; they keep the room open
        self._hold = Hold(self.check_vacant)
        self._changed = trio.Event()  # set when the room may have become vacant
        self.feed = Feed(
            conversation_id,
            self._audience,
            self,
            catch_up=catch_up,
            peers=peers,
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
            release_now=self.feed.release_now,
            metrics=metrics,
            outages=outages,
            on_unknown_outcome=self.feed.recheck_later,
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
            head, members = await opening.look_up(
                self.conversation_id,
                self._store,
                self._writer,
                sessions=None if self._peers.are_there else self._sessions,
                store_timeout=self._settings.store_timeout,
                rand=self._random,
            )
        except BaseException as error:  # also when cancelled: messages in the inbox must be answered
            self._writer.refuse_all(not_a_member() if isinstance(error, NotAMember) else not_stored())
            raise
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            indexed = self._peers.begin(self.conversation_id)
            begin = self._delivered or indexed or head
            self._notifier.open(nursery)
            self.feed.open(begin, nursery)
            if self._peers.are_there:
                members = Members(tuple(self._peers.users_of(self.conversation_id)), begin.members_rev)
                if head.last_rev > begin.last_rev:
                    self.feed.fill_later(head.last_rev)
            for user_id in members.ids:
                removed_rev = self._peers.removed_rev(self.conversation_id, user_id)
                for session in self._sessions.of(user_id):
                    known = session.subscriptions.get(self.conversation_id)
                    if removed_rev > (members.rev if known is None else known.member_rev):
                        continue  # expelled by a change that this room has not come to yet
                    subscription, _ = self._subscribe(session, members.rev)
                    if members.rev > self.feed.members_rev:
                        self._ahead.add(subscription)
            if self._shared is not None:
                self._shared.begin()
            nursery.start_soon(self._run_writer, name=f"writer {self.conversation_id}")
            if self._delivered is not None:
                self.feed.recheck_later()
            self.opened.set()
            try:
                await self._wait_vacant()
            except BaseException:
                self._fail("the server failed; reconnect")
                raise
            # No await from here to the end of `_on_vacant`, so that no connection can join a room that ends.
            self._writer.close()
            self.feed.close()
            self._late_presence.clear()
            for subscription in self._audience.clear():  # sessions: they are subscribed again when it opens again
                subscription.room_ended(self.feed.last_revs)
            self._end_presence(have_left=False)
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
            if self._own_connections or self._hold.count or self._must_recheck or self._is_needed_elsewhere:
                await self._changed.wait()
            elif self._writer.unsettled:
                await self._writer.wait_idle()
            elif self._audience:
                with trio.move_on_after(self._linger):
                    await self._changed.wait()
                # `_changed` is not set when a hold begins (that would cost each message), so look again before closing.
                if not self._changed.is_set() and not self._is_used():
                    return
            else:
                return
            if self._changed.is_set():
                self._changed = trio.Event()

    @property
    def _is_needed_elsewhere(self) -> bool:
        # A room with a connection of its own in another process shows the users of this one, too.
        return self._shared is not None and self._shared.is_pinned and bool(self._audience)

    @property
    def _must_recheck(self) -> bool:
        # A change whose answer was lost may also concern sessions that are not here: those of users that it added. And
        # other processes hear of it from here only.
        has_interest = bool(self._audience or self._sessions) or self._peers.are_there
        return (self.feed.is_rechecking and has_interest) or self.feed.is_behind

    def _is_used(self) -> bool:
        if self._own_connections or self._hold.count or self._is_needed_elsewhere:
            return True
        return bool(self._writer.unsettled) or self.feed.is_rechecking or self.feed.is_behind

    async def _run_writer(self) -> None:
        try:
            await self._writer.run()
        except Exception:
            # A fault of ours. The room ends with it.
            log.exception("a room failed", conversation_id=str(self.conversation_id))
            self.has_failed = True
            self._fail("the conversation failed; reconnect")
            assert self._nursery is not None
            # Not raised: together with a cancellation from outside it could not be caught for this room alone.
            self._nursery.cancel_scope.cancel()

    def _fail(self, reason: str) -> None:
        """Closes all connections, while the nursery can still run their tasks; nobody can join any more.

        Clients reconnect, and get a new room at once, also while this one still waits for a close frame to leave.
        """
        if self.failure is None:
            self.failure = StoreUnavailable("the room failed")
        self._on_vacant(self)
        self.close_all(CloseCode.INTERNAL_ERROR, reason)

    # --- subscriptions ---

    def join(self, subscription: Subscription) -> None:
        """Adds a connection of the conversation's own; the room stays open until it leaves."""
        assert self._nursery is not None
        user = subscription.connection.user
        subscription.target = max(subscription.target, self.feed.last_rev_of(subscription.mask))
        self._own_connections += 1
        if self._shared is not None:
            self._shared.pin()
        is_first = self._enter(subscription)
        subscription.connection.begin(self._nursery)
        joined = self._system_frame("joined", joined_sentence(user), user.id, subscription.mask, with_list=True)
        features = subscription.connection.features
        if features.are_asked:
            joined = structs.replace(joined, features=features.names)
        encoded = encode(joined)
        self._metrics.frames_out[encoded.kind] += 1
        subscription.deliver(encoded)
        if is_first:
            self._notifier.notify_joined(user, subscription)
        subscription.start()

    def attach(self, session: Session, member_rev: int, *, is_news: bool = False, many: bool = False) -> None:
        """Subscribes a session, unless it is subscribed.

        Args:
            session: the session.
            member_rev: the rev of the members as of which its user is one of them.
            is_news: its client does not know that its user is a member.
            many: many join at once; then few frames are sent about them, as in a crowd.
        """
        known = self._audience.get(session.connection.transport)
        if known is not None:
            known.member_rev = max(known.member_rev, member_rev)
            if is_news and known in self._ahead:
                self._ahead.discard(known)
                session.notify_added(self.conversation_id)
            return
        if is_news:
            session.notify_added(self.conversation_id)
        subscription, is_first = self._subscribe(session, member_rev)
        if is_first:
            self._notifier.notify_joined(session.user, subscription, many=many)

    def _subscribe(self, session: Session, member_rev: int) -> tuple[Subscription, bool]:
        """Subscribes a session; returns its subscription, and True if it is the first of its user."""
        subscription = session.subscribe(self.conversation_id, self.feed, member_rev)
        return subscription, self._enter(subscription)

    async def admit_ahead(self, members: Sequence[Member]) -> None:
        """Subscribes the sessions of many users who were added, spread over turns of the loop.

        The changes before theirs must be delivered.
        """
        for at in range(0, len(members), MAX_USERS_A_TURN):
            if at:
                await trio.lowlevel.checkpoint()
            for member in members[at : at + MAX_USERS_A_TURN]:
                # What the feed has delivered in another turn has taken effect: they may have been removed again.
                if member.is_member and member.rev > self.feed.last_rev:
                    self._admit(member, many=True)

    def apply_members(self, members: Sequence[Member]) -> None:
        """Subscribes the sessions of users who were added, and ends the subscriptions of users who were removed."""
        for member in members:
            if member.is_member:
                self._admit(member, many=len(members) > 1)
            else:
                self._expel(member)

    def _admit(self, member: Member, *, many: bool) -> None:
        # Not who is removed by a change that is confirmed, and that this room has not come to yet.
        is_expelled = member.rev < self._peers.removed_rev(self.conversation_id, member.user_id)
        sessions = [] if is_expelled else self._sessions.of(member.user_id)
        if sessions:
            self._peers.member_added(self.conversation_id, member.user_id, member.user_rev, self.feed.head)
        for session in sessions:
            self.attach(session, member.rev, is_news=True, many=many)
        if self._shared is not None and not is_expelled:
            self._shared.show(member.user_id)
        self._user_feeds.apply_member(member, self.feed.last_seq)

    def _expel(self, member: Member) -> None:
        self.read_seqs.pop(member.user_id, None)
        self.expel(member.user_id, member.rev)
        if self._shared is not None:
            self._shared.hide(member.user_id)
        sessions = self._sessions.of(member.user_id)
        self._peers.member_removed(self.conversation_id, member.user_id, member.rev, member.user_rev)
        for session in sessions:
            session.removed(self.conversation_id, member.rev)
        self._watches.recheck_user(member.user_id, (session.connection for session in sessions))
        self._user_feeds.apply_member(member, 0)

    def expel(self, user_id: UUID, rev: int) -> None:
        """Ends the subscriptions of a user who was removed at a rev."""
        for subscription in self._audience.of_user(user_id):
            if subscription.member_rev >= rev:
                continue  # they were added again since
            if not subscription.connection.is_session:
                subscription.is_removed = True
                subscription.connection.close(CloseCode.REMOVED, REMOVED)
            self.leave(subscription)

    def leave(self, subscription: Subscription) -> None:
        """Removes a subscription, and notifies the others if it was the last of its user."""
        connection = subscription.connection
        if not self._audience.discard(subscription):
            return
        self._ahead.discard(subscription)
        self._late_presence.discard(subscription)
        if not connection.is_session:
            self._own_connections -= 1
            connection.leave()
        if self._shared is not None:
            self._shared.leave(connection.user)
            if not self._own_connections:
                self._shared.unpin()
        was_crowded = self._presence.is_crowded
        if self._presence.leave(connection.user):
            self._notifier.notify_left(connection.user, was_crowded=was_crowded)
        self._changed.set()

    def close_all(self, code: CloseCode, reason: str) -> None:
        """Closes all connections, sessions too. No `left` frames: no connection remains to receive them."""
        subscriptions = self._audience.clear()
        self._ahead.clear()
        self._late_presence.clear()
        self._end_presence(have_left=True)
        self._own_connections = 0
        for subscription in subscriptions:
            subscription.connection.close(code, reason)
        self._changed.set()

    def _end_presence(self, *, have_left: bool) -> None:
        if self._shared is not None:
            self._peers.close_presence(self._shared, have_left=have_left)
            self._shared = None
        self._presence.clear()

    def _enter(self, subscription: Subscription) -> bool:
        """Adds a subscription; returns True if it is the first of its user."""
        self._audience.add(subscription)
        if self._shared is not None:
            self._shared.enter(subscription.connection.user)
        return self._presence.enter(subscription.connection.user)

    async def settle(self) -> None:
        """Returns when it is known who is in the room in other processes, for a connection that is about to join."""
        if self._shared is not None and not self._own_connections:
            self._shared.pin()
            await self._shared.settle()

    def end_settle(self) -> None:
        """Lets the room go in other processes if the connection has not joined."""
        if self._shared is not None and not self._own_connections:
            self._shared.unpin()

    def _peer_joined(self, user: User, is_news: bool) -> None:
        if self._presence.enter(user) and is_news:
            self._notifier.notify_joined(user, None)

    def _peer_left(self, user: User, is_news: bool) -> None:
        was_crowded = self._presence.is_crowded
        if self._presence.leave(user) and is_news:
            self._notifier.notify_left(user, was_crowded=was_crowded)

    def replace(self, old: Subscription, renewed: Subscription) -> None:
        """Replaces the subscription of a session that has not started yet, if it has one here."""
        if self._audience.discard(old):
            self._late_presence.discard(old)
            if old in self._ahead:
                self._ahead.discard(old)
                self._ahead.add(renewed)
            renewed.target = renewed.cursor
            renewed.raise_target(self.feed.last_rev_of(renewed.mask))  # also of kinds that it had not asked for
            self._audience.add(renewed)

    def subscription_of(self, transport: Transport) -> Subscription | None:
        """Returns the subscription of a connection, if it has one here."""
        return self._audience.get(transport)

    @property
    def active_users(self) -> list[UUID]:
        """The connected users, each once, in the order they came."""
        return self._presence.users

    @property
    def connections(self) -> list[Connection]:
        """The connections, sessions too."""
        return [subscription.connection for subscription in self._audience]

    @property
    def connection_count(self) -> int:
        """The number of connections."""
        return len(self._audience)

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
        for subscription in self._audience:
            if subscription is not exclude and subscription.connection.user.id != exclude_user_id:
                subscription.deliver(frame, ephemeral=ephemeral)
                count += 1
        self._metrics.frames_out[frame.kind] += count

    def announce_presence(
        self, event: str, content: str, user_id: UUID, *, exclude: Subscription | None = None
    ) -> None:
        """Sends every connection, except one, a `system` frame about a user who joined or left.

        A client that reads slowly gets it later.

        Args:
            event: its kind.
            content: a sentence for people.
            user_id: the user.
            exclude: the connection that is not sent it.
        """
        for mask, subscriptions in self._audience.snapshot():
            frame = encode(self._system_frame(event, content, user_id, mask))
            self._deliver_presence([each for each in subscriptions if each is not exclude], frame)

    def broadcast_presence(self, frame: Encoded) -> None:
        """Delivers a `presence` frame to every subscription; a client that reads slowly gets it later."""
        self._deliver_presence(list(self._audience), frame)

    def _deliver_presence(self, audience: Sequence[Subscription], frame: Encoded) -> None:
        self._metrics.frames_out[frame.kind] += len(audience)
        for subscription in audience:
            self._late_presence.deliver(subscription, frame)

    def _presence_list(self, subscription: Subscription) -> Encoded:
        """Makes a frame with all active users: the `joined` of the subscription's own user."""
        user = subscription.connection.user
        return encode(self._system_frame("joined", joined_sentence(user), user.id, subscription.mask, with_list=True))

    def announce_members(
        self, audience: Sequence[Subscription], mask: int, members: Sequence[Member], act: Act | None
    ) -> None:
        """Sends `added` and `removed` to clients that did not ask for members."""
        added = [member for member in members if member.is_member]
        if added:
            self._announce_users(audience, mask, "added", added_sentence(added, act), added)
        for member in members:
            if not member.is_member:
                self._announce_users(audience, mask, "removed", removed_sentence(member, act), [member])

    def announce_properties(
        self, audience: Sequence[Subscription], mask: int, properties: Properties, act: Act | None
    ) -> None:
        """Sends `renamed` to clients that did not ask for the properties; not if the owner has changed only."""
        if act is None or act.is_renaming:
            user_id = properties.actor_id or properties.owner_id
            self._deliver_all(audience, self._system_frame("renamed", renamed_sentence(act), user_id, mask))

    def _announce_users(
        self, audience: Sequence[Subscription], mask: int, event: str, content: str, members: Sequence[Member]
    ) -> None:
        frame = structs.replace(
            self._system_frame(event, content, members[0].user_id, mask),
            user_ids=[member.user_id for member in members[:MAX_FRAME_USERS]],
            user_count=len(members),
        )
        self._deliver_all(audience, frame)

    def _deliver_all(self, audience: Sequence[Subscription], frame: SystemFrame) -> None:
        encoded = encode(frame)
        self._metrics.frames_out[encoded.kind] += len(audience)
        for subscription in audience:
            subscription.deliver(encoded)

    def _system_frame(
        self, event: str, content: str, user_id: UUID, mask: int, *, with_list: bool = False
    ) -> SystemFrame:
        """Makes a frame about an event for clients with the features of `mask`.

        In a crowd it has the list of active users only if `with_list`.
        """
        return SystemFrame(
            content=content,
            sender_id=user_id,
            active_users=self.active_users if with_list or not self._presence.is_crowded else UNSET,
            active_count=len(self._presence),
            event=event,
            conversation_id=self.conversation_id,
            last_seq=self.feed.last_seq,
            last_rev=self.feed.last_rev_of(mask),
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
            for subscription in self._audience:
                frame = frames.get(subscription.connection.user.id)
                if frame is not None:
                    subscription.deliver(frame, ephemeral=True)
        else:
            for at in range(0, len(news), MAX_FRAME_POSITIONS):
                part = news[at : at + MAX_FRAME_POSITIONS]
                self.broadcast(encode(ReadFrame(conversation_id=self.conversation_id, positions=part)), ephemeral=True)

    # --- messages ---

    async def submit(
        self,
        subscription: Subscription,
        command: Command,
        client_id: str | None,
        *,
        on_stored: OnStored | None = None,
    ) -> None:
        """Submits a command about a message to the writer; its client gets the answer as a frame.

        Waits while the room, or the connection, has too many unstored. `on_stored`: see `SubscriptionSender`.
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
            sender = SubscriptionSender(subscription, client_id, self.subscription_of, on_stored)
            await self._writer.submit(command, sender, client_id)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            connection.capacity.release()
            subscription.refuse(not_stored(), client_id)  # the room has failed; dropped if the connection is closed
        except BaseException:
            connection.capacity.release()
            raise

    def submit_now(self, subscription: Subscription, command: Command, client_id: str | None) -> bool:
        """Submits as `submit`, if nothing has to be waited for; False, with nothing done, if it would have to wait."""
        connection = subscription.connection
        if not connection.is_open:
            return False
        try:
            connection.capacity.acquire_nowait()
        except trio.WouldBlock:
            return False
        sender = SubscriptionSender(subscription, client_id, self.subscription_of)
        if not self._writer.submit_now(command, sender, client_id):
            connection.capacity.release()
            return False
        self.check_vacant()  # as at the end of a hold: the time for which it stays open begins anew
        return True

    async def apply(self, command: Command, client_id: str | None = None) -> Sequence[Change]:
        """Carries out a command of a user who need not be connected; returns the changes when they are delivered.

        Raises:
            Refusal: the store refused it.
            PulseError: it was rejected, or could not be stored in time.
        Cancelled: it may be carried out or not.
        """
        sender = WaitingSender()
        try:
            await self._writer.submit(command, sender, client_id)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise not_stored() from None
        return await sender.wait()
