"""The hub: opens and joins rooms, and drains them. It has the operations of the specification's connection manager.

Sessions, members, read positions and watches have their own objects: `hub.lobby`, `hub.members`,
`hub.read_positions` and `hub.watches`.
"""

import random
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import nullcontext
from typing import Final
from uuid import UUID

import trio

from pulse_trio.clock import Clock
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.metrics import Metrics
from pulse_trio.model import NO_FEATURES, AddMembers, Change, Command, Features, Member, Post, RemoveMember, User
from pulse_trio.protocol import (
    CloseCode,
    ServerFrame,
    TypingFrame,
    encode,
)
from pulse_trio.rooms.catch_up import CatchUp
from pulse_trio.rooms.cluster import Cluster, PeerBus
from pulse_trio.rooms.connection import Connection, Transport, open_connection
from pulse_trio.rooms.lease import boot_time
from pulse_trio.rooms.lobby import Lobby
from pulse_trio.rooms.member_updates import MemberUpdates
from pulse_trio.rooms.online import Online
from pulse_trio.rooms.outages import Outages
from pulse_trio.rooms.peers import Peers
from pulse_trio.rooms.read_positions import ReadPositions
from pulse_trio.rooms.refusals import Refusals
from pulse_trio.rooms.registry import RESTARTING, Rooms
from pulse_trio.rooms.room import Room
from pulse_trio.rooms.senders import OnStored
from pulse_trio.rooms.session import Sessions
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.rooms.user_feeds import UserFeeds
from pulse_trio.rooms.watches import Watches
from pulse_trio.rooms.writer import not_a_member, not_stored
from pulse_trio.settings import Settings
from pulse_trio.store.base import NoSuchMember, NotAMember, Store, StoreUnavailable

DRAIN_TIMEOUT: Final = 2.5  # seconds for the writers to store what they hold; below Hypercorn's graceful_timeout
MAX_HEARD_TYPING: Final = 16  # rooms that open at a time for typing in other processes; more is not shown
TYPING_INTERVAL: Final = 1.0  # seconds between two typing frames about one user: clients send one every two seconds


class Hub:
    """All rooms of this process.

    Args:
        store: stores messages.
        settings: the bounds of rooms and connections.
        clock: gives last-seen times.
        rand: gives the jitter of retries.
        metrics: counts what happens.
        bus: the bus to the other processes that share the store; None: there are none.
        boot_clock: gives seconds, also while the process stands still.

    Attributes:
        rooms: the rooms in memory.
        lobby: opens, resumes and closes sessions.
        members: looks up memberships, and notifies the members of new conversations.
        user_feeds: delivers what changes for one user alone.
        read_positions: stores how far users have read.
        outages: logs failures of the store.
        random: gives the jitter of retries.
        online: which users are connected to this process.
        watches: which sessions follow whose presence.
        cluster: listens to the bus; None without one.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        clock: Clock,
        rand: random.Random | None = None,
        metrics: Metrics | None = None,
        bus: PeerBus | None = None,
        boot_clock: Callable[[], float] = boot_time,
    ) -> None:
        rand = random.Random() if rand is None else rand  # noqa: S311  # jitter, not a secret
        metrics = Metrics() if metrics is None else metrics
        timeout = settings.store_timeout
        self._store = store
        self._settings = settings
        self.random = rand
        self._metrics = metrics
        self._catch_up = CatchUp(store, timeout, rand)
        self._sessions = sessions = Sessions()
        self.outages = Outages()
        self.online = Online(store, clock, self.outages)
        self.watches = Watches(store, self.online, max_users=settings.watched_users, timeout=timeout, rand=rand)
        self.online.on_change = self.watches.record_change
        self.cluster = None
        if bus is not None:
            self.cluster = Cluster(
                bus,
                store,
                sessions,
                self.online.change_elsewhere,
                timeout=timeout,
                rand=rand,
                boot_clock=boot_clock,
            )
            self.online.share(self.cluster.presence.online_here, self.cluster.presence.online)
        self._peers = peers = self.cluster or Peers()
        self.user_feeds = feeds = UserFeeds(store, peers, timeout=timeout, rand=rand)
        self.rooms = Rooms(
            store, sessions, feeds, self.watches, self._catch_up, peers, settings, rand, metrics, self.outages
        )
        self.lobby = Lobby(
            store, self.rooms, sessions, feeds, self._catch_up, self.online, self.watches, peers, settings, metrics
        )
        # An addition is retried until the timeout; the last attempt may take as long again.
        self._refusals = Refusals(commit_seconds=2 * timeout)
        self.members = MemberUpdates(store, self.rooms, sessions, feeds, peers, self._refusals, settings, rand=rand)
        self.read_positions = ReadPositions(
            store, self.rooms, sessions, feeds, peers, self.outages, timeout=timeout, rand=rand
        )
        if self.cluster is not None:
            self.cluster.connect(self.rooms, self.members, feeds, self.read_positions, self._hear_typing)
            self.cluster.lease.on_expired = self._cut_unfinished
        self._typing: dict[Connection, None] = {}  # sessions whose typing is opening a room
        self._heard_typing: dict[UUID, None] = {}  # conversations whose room opens for typing in another process
        self._typed: dict[tuple[UUID, UUID], float] = {}  # typing of the last `TYPING_INTERVAL`, oldest first

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs the nursery of rooms and sessions, until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.rooms.run)
            await nursery.start(self.watches.run)
            await nursery.start(self.user_feeds.run)
            if self.cluster is not None:
                await nursery.start(self.cluster.run)
            nursery.start_soon(self.read_positions.run, name="read positions")
            nursery.start_soon(self.online.run, name="last-seen times")
            nursery.start_soon(self.outages.run, name="log lines of outages")
            task_status.started()

    async def drain(self) -> None:
        """Stops accepting connections, closes all with 1012, and waits for pending writes.

        Returns after `DRAIN_TIMEOUT` seconds at the latest.
        """
        self.rooms.is_draining = True
        self.rooms.stop_rechecks()
        for session in self._sessions.all():
            session.connection.close(CloseCode.RESTART, RESTARTING)
        for room in self.rooms.all():
            room.close_all(CloseCode.RESTART, RESTARTING)
        with trio.move_on_after(DRAIN_TIMEOUT):
            await self.read_positions.finish()
            while running := [
                *(session.ended for session in self._sessions.all()),
                *(room.ended for room in self.rooms.running()),
            ]:
                await running[0].wait()
            await self.online.finish()  # after the last connection has ended

    async def wait_lost(self) -> None:
        """Returns when the lease of this process is lost: the service must close all connections, and open again.

        What was queued is dropped by then.
        """
        await (trio.Event() if self.cluster is None else self.cluster.lease.is_lost).wait()
        for connection in self._connections():
            connection.abandon(CloseCode.RESTART, RESTARTING)

    def _cut_unfinished(self) -> None:
        """Ends writes that began while the lease was valid: their user may be removed by now."""
        for connection in self._connections():
            connection.cut_unfinished()

    def _connections(self) -> list[Connection]:
        """Returns all connections; that of a session is there more than once."""
        found = [connection for room in self.rooms.all() for connection in room.connections]
        return found + [session.connection for session in self._sessions.all()]

    @property
    def draining(self) -> bool:
        """True since `drain` was called."""
        return self.rooms.is_draining

    @property
    def room_count(self) -> int:
        """The number of rooms in memory."""
        return len(self.rooms)

    # --- the connection manager of the specification ---

    async def connect(
        self,
        conversation_id: UUID,
        user: User,
        websocket: Transport,
        *,
        member_rev: int | None = None,
        features: Features = NO_FEATURES,
        on_ended: Callable[[], object] = lambda: None,
        after_rev: int | None = None,
        epoch: str | None = None,
    ) -> Subscription:
        """Registers a connection of a member of the conversation; opens its room if need be.

        Args:
            conversation_id: the conversation; the caller has checked that the user is a member.
            user: the user.
            websocket: the connection; `disconnect` must follow, whatever happens to it.
            member_rev: from that check: the rev of the members as of which the user is one of them. It is repeated if
                the room has delivered a later change of its members.
            features: the kinds of changes that the client asked for.
            on_ended: called once when nothing more will be sent on the connection.
            after_rev: resume: the changes after it are sent before anything live.
            epoch: the epoch of the history that `after_rev` belongs to, if the client knows it.

        Raises:
            PulseError: it cannot resume there; the client must reload the history.
            NotAMember: the user has been removed since the check, or the conversation is gone.
            StoreUnavailable: the room could not be opened.
        Cancelled: the connection is not registered.
        """
        async with self.rooms.opened(conversation_id, user.id) as room:
            try:
                await room.settle()
                last_rev = room.feed.last_rev
                if after_rev is not None and after_rev > last_rev:
                    # A commit whose answer was lost is not known here yet, but a client may have read it in the store.
                    last_rev = (await self._store.head(conversation_id)).last_rev
                # What was heard of, and is not delivered yet, may be the removal of this user.
                while member_rev is not None and member_rev < max(
                    room.feed.members_rev, self._peers.members_rev_of(conversation_id)
                ):
                    member_rev = await self._store.membership(conversation_id, user.id)
                    if member_rev is None:
                        raise NotAMember
                if room.failure is not None:  # meanwhile
                    raise room.failure
                is_other_history = epoch is not None and epoch != self._store.epoch
                if after_rev is not None and (after_rev > last_rev or is_other_history):
                    self._metrics.resumes_refused += 1
                    raise PulseError(ErrorCode.CANNOT_RESUME)
                if after_rev is not None:
                    self._metrics.resumed_changes.observe(last_rev - after_rev)

                def ended() -> None:
                    self.online.remove_connection(user.id)
                    on_ended()

                connection = open_connection(
                    user,
                    websocket,
                    self._settings,
                    ended,
                    self._metrics,
                    features=features,
                    permit=self._peers.permit,
                )
                cursor = room.feed.last_rev_of(features.mask) if after_rev is None else after_rev
                subscription = Subscription(connection, conversation_id, cursor, self._catch_up.send_page)
                subscription.member_rev = room.feed.members_rev if member_rev is None else member_rev
                room.join(subscription)
                self.online.add_connection(user.id)
                if self.draining:  # `drain` closed the others before this one joined
                    room.close_all(CloseCode.RESTART, RESTARTING)
            finally:
                room.end_settle()
        return subscription

    def disconnect(self, conversation_id: UUID, user_id: UUID, websocket: Transport) -> None:
        """Removes a connection from its room, if it is in it."""
        room = self.rooms.get(conversation_id)
        subscription = None if room is None else room.subscription_of(websocket)
        if room is not None and subscription is not None and subscription.connection.user.id == user_id:
            room.leave(subscription)

    async def broadcast(
        self,
        conversation_id: UUID,
        message: ServerFrame,
        exclude_user_id: UUID | None = None,
        *,
        ephemeral: bool = False,
    ) -> None:
        """Sends a frame to all connections of a conversation, except those of one user.

        `ephemeral`: connections that read slowly do not get it.

        Cancelled: the frame is delivered all the same.
        """
        room = self.rooms.get(conversation_id)
        if room is not None:
            room.broadcast(encode(message), exclude_user_id=exclude_user_id, ephemeral=ephemeral)
        await trio.lowlevel.checkpoint()

    async def active_users(self, conversation_id: UUID) -> list[UUID]:
        """Returns the users that are connected to a conversation, in any process, in the order they came.

        Raises:
            NotAMember: there is no such conversation.
            StoreUnavailable: the room could not be opened.
        """
        if self.cluster is None:
            await trio.lowlevel.checkpoint()
            room = self.rooms.get(conversation_id)
            return [] if room is None else room.active_users
        async with self.rooms.opened(conversation_id, None) as room:
            try:
                await room.settle()
                return room.active_users
            finally:
                room.end_settle()

    def get_active_users(self, conversation_id: UUID) -> AbstractSet[str]:
        """Returns the ids of the users that are connected to a conversation; iterates in the order they came."""
        room = self.rooms.get(conversation_id)
        return {str(user_id): None for user_id in ([] if room is None else room.active_users)}.keys()

    def get_connection_count(self, conversation_id: UUID) -> int:
        """Returns the number of connections that a conversation has."""
        room = self.rooms.get(conversation_id)
        return 0 if room is None else room.connection_count

    # --- messages ---

    async def submit(
        self,
        subscription: Subscription,
        command: Command,
        client_id: str | None = None,
        *,
        on_stored: OnStored | None = None,
    ) -> None:
        """Submits a command about a message of a connection, which gets the answer as a frame.

        Waits while too many are unstored. `on_stored`: see `SubscriptionSender`.

        Cancelled: the command was not submitted.
        """
        connection = subscription.connection
        self._end_typing(subscription, command)
        if connection.close_code is not None:
            room = None  # frames that come in while the connection is being closed are not answered
        elif connection.is_session:  # it opens while the message waits in its inbox
            try:
                room = await self.rooms.room(subscription.conversation_id, connection.user.id)
            except StoreUnavailable:
                subscription.refuse(not_stored(), client_id)
                return
        else:
            room = self.rooms.get(subscription.conversation_id)
        if room is None:
            await trio.lowlevel.checkpoint()
            return
        with room.held():
            await room.submit(subscription, command, client_id, on_stored=on_stored)

    def submit_now(self, subscription: Subscription, command: Command, client_id: str | None = None) -> bool:
        """Submits as `submit`, if nothing has to be waited for; False, with nothing done, if it would have to wait."""
        room = self.rooms.get(subscription.conversation_id)
        if room is None or not room.submit_now(subscription, command, client_id):
            return False
        self._end_typing(subscription, command)
        return True

    def _end_typing(self, subscription: Subscription, command: Command) -> None:
        """Lets the next typing frame after a message be sent at once."""
        if self._typed and isinstance(command, Post):
            self._typed.pop((subscription.conversation_id, subscription.connection.user.id), None)

    async def apply(self, command: Command, client_id: str | None = None) -> Sequence[Change]:
        """Carries out a command of a user who need not be connected; returns the changes when they are delivered.

        A removal is delivered when no process delivers anything of the conversation to the user any more.

        Raises:
            Refusal: the store refused it, or the conversation does not exist.
            PulseError: it was rejected, or could not be stored in time.
            StoreUnavailable: the room could not be opened.
        Cancelled: it may be carried out or not.
        """
        is_addition = isinstance(command, AddMembers)
        with self._refusals.adding(command.conversation_id) if is_addition else nullcontext():
            async with self.rooms.opened(command.conversation_id, command.actor_id) as room:
                changes: Sequence[Change] = ()
                absent: NoSuchMember | None = None
                try:
                    changes = await room.apply(command, client_id)
                except NoSuchMember as error:
                    absent = error
        if absent is not None:
            await self._confirm_earlier_removal(command)
            raise absent
        for change in changes:
            if isinstance(change, Member) and not change.is_member:
                await self._peers.confirm_removal(change)
        return changes

    async def _confirm_earlier_removal(self, command: Command) -> None:
        """Lets other processes confirm a removal that was carried out before, perhaps without an answer.

        Raises:
            StoreUnavailable: they could not be looked up.
        """
        if self._peers.are_there and isinstance(command, RemoveMember):
            head = await self._store.head(command.conversation_id)
            gone = Member(command.conversation_id, head.members_rev, command.user_id, "", False, None, 0)
            await self._peers.confirm_removal(gone)

    # --- typing ---

    async def send_typing(self, subscription: Subscription) -> None:
        """Notifies the other users of the conversation that this one is typing, once in `TYPING_INTERVAL` seconds.

        Cancelled: they are notified all the same.
        """
        connection, conversation_id = subscription.connection, subscription.conversation_id
        room = self.rooms.get(conversation_id)
        if self._may_type(conversation_id, connection.user.id):
            if room is not None and room.opened.is_set():
                await self._broadcast_typing(room, subscription)
                return
            if connection.is_session and connection not in self._typing:
                self._typing[connection] = None  # one at a time: a client cannot make us open many rooms at once
                self.rooms.nursery.start_soon(self._open_and_type, subscription, name=f"typing in {conversation_id}")
        await trio.lowlevel.checkpoint()

    def _may_type(self, conversation_id: UUID, user_id: UUID) -> bool:
        now = trio.current_time()
        while self._typed and now - next(iter(self._typed.values())) >= TYPING_INTERVAL:
            del self._typed[next(iter(self._typed))]
        key = conversation_id, user_id
        if key in self._typed:
            return False
        self._typed[key] = now
        return True

    async def _open_and_type(self, subscription: Subscription) -> None:
        try:
            async with self.rooms.opened(subscription.conversation_id, subscription.connection.user.id) as room:
                await self._broadcast_typing(room, subscription)
        except NotAMember:
            subscription.refuse(not_a_member())
        except StoreUnavailable:
            pass  # typing is ephemeral
        finally:
            del self._typing[subscription.connection]

    async def _broadcast_typing(self, room: Room, subscription: Subscription) -> None:
        connection, user = subscription.connection, subscription.connection.user
        if room.subscription_of(connection.transport) is not None:
            self._peers.publish_typing(subscription.conversation_id, user)
            await self.broadcast(
                subscription.conversation_id, _typing(subscription.conversation_id, user), user.id, ephemeral=True
            )
            return
        if connection.is_session and connection.is_open:
            subscription.refuse(not_a_member())
        await trio.lowlevel.checkpoint()

    def _hear_typing(self, conversation_id: UUID, user: User) -> None:
        """Notifies the users of a conversation here that one is typing in another process."""
        room = self.rooms.get(conversation_id)
        if room is not None and room.opened.is_set():
            room.broadcast(encode(_typing(conversation_id, user)), exclude_user_id=user.id, ephemeral=True)
        elif room is None and len(self._heard_typing) < MAX_HEARD_TYPING and conversation_id not in self._heard_typing:
            self._heard_typing[conversation_id] = None
            name = f"typing in {conversation_id}"
            self.rooms.nursery.start_soon(self._open_and_show_typing, conversation_id, user, name=name)

    async def _open_and_show_typing(self, conversation_id: UUID, user: User) -> None:
        try:
            async with self.rooms.opened(conversation_id, None):
                self._hear_typing(conversation_id, user)
        except (NotAMember, StoreUnavailable):
            pass  # typing is ephemeral
        finally:
            del self._heard_typing[conversation_id]


def _typing(conversation_id: UUID, user: User) -> TypingFrame:
    return TypingFrame(sender_id=user.id, sender_username=user.username, conversation_id=conversation_id)
