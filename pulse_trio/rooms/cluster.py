"""A process among others: publishes what is committed here, and delivers what others have committed.

Everybody hears everything. An item of a conversation that is in the index, or has a room, goes to its room, which opens
for it if need be; all others are dropped (`heard_changes`). The bus may lose, double, delay and reorder. A room notices
a gap by the rev; what no later change shows is found by a comparison of heads (`comparison`): the bus asks for one when
it may have lost something.

In what order things are known, and why nothing is missed:
- A session is indexed before its first frame is sent, as of a look-up that is not older than what was heard meanwhile.
  So whatever is committed after that frame is heard, or found by the next comparison.
- The head of an index entry says up to where all sessions here have the changes. A room begins there, not at the head
  in the store; when it closes, it leaves its own end there.
- A user who was added is not indexed until their room delivers the addition, so that it is no news to none of theirs.
  That room begins before the addition. Later changes may have been heard and dropped, so it also looks at the head.
- Where the room is past an addition that is heard late, the store is asked whether the user is a member.
- A user's own sequence counts as known up to the first rev that was not heard of. If the store has more, their list is
  compared: that finds additions that were lost.
"""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol
from uuid import UUID

import msgspec
import structlog
import trio

from pulse_trio.bus.base import BusCounters
from pulse_trio.model import Change, Member, MyMembership, User
from pulse_trio.rooms.cluster_counters import ClusterCounters
from pulse_trio.rooms.comparison import Comparison
from pulse_trio.rooms.confirmations import Confirmations
from pulse_trio.rooms.conversation_index import ConversationIndex
from pulse_trio.rooms.heard_changes import HeardChanges
from pulse_trio.rooms.heard_removals import HeardRemovals
from pulse_trio.rooms.known_heads import KnownHeads
from pulse_trio.rooms.lease import Lease
from pulse_trio.rooms.member_updates import MemberUpdates
from pulse_trio.rooms.peer_items import (
    AskItem,
    ConfirmedItem,
    ConfirmItem,
    CreatedItem,
    DeltaItem,
    DigestItem,
    Item,
    MembersItem,
    MessagesItem,
    PropertiesItem,
    ReadItem,
    RevItem,
    TypingItem,
    WholeItem,
    created_item,
    decode_item,
    items_of,
)
from pulse_trio.rooms.peer_presence import PeerPresence
from pulse_trio.rooms.peers import Peers
from pulse_trio.rooms.published_items import PublishedItems, PublishingBus
from pulse_trio.rooms.read_positions import ReadPositions
from pulse_trio.rooms.registry import Rooms
from pulse_trio.rooms.room_presence import RoomPresence
from pulse_trio.rooms.rooms_behind import RoomsBehind
from pulse_trio.rooms.sentences import Act
from pulse_trio.rooms.session import Session, Sessions
from pulse_trio.rooms.user_feeds import UserFeeds
from pulse_trio.store.base import Head, Store

log = structlog.get_logger(__name__)


class PeerBus(PublishingBus, Protocol):
    """A bus as a cluster uses it; see `pulse_trio.bus.base`."""

    @property
    def publisher(self) -> UUID:
        """The id of this process on the bus."""

    @property
    def counters(self) -> BusCounters:
        """Figures for metrics."""

    def last_heard(self, publisher: UUID) -> float | None:
        """Returns when a process was heard last, on Trio's clock; None: not lately."""

    async def run(self, listener: "Cluster", *, task_status: trio.TaskStatus[None] = ...) -> None:
        """Calls the listener with what is heard, until cancelled."""


class Cluster(Peers):
    """The peers of a process that shares its store with others; listens to the bus.

    Args:
        bus: the bus; somebody else runs it, with this object as its listener.
        store: the store.
        sessions: the sessions of this process.
        on_online: called with a user who came to, or left, the other processes.
        timeout: seconds that one read may take.
        rand: gives the jitter of retries.
        boot_clock: gives seconds, also while the process stands still.

    Attributes:
        bus_counters: figures of the bus, for metrics.
        lease: says how long this process may deliver.
        counters: figures for metrics.
        is_connected: the bus takes and delivers items.
        presence: who is online, and in which room, over all processes.
    """

    are_there = True

    def __init__(
        self,
        bus: PeerBus,
        store: Store,
        sessions: Sessions,
        on_online: Callable[[UUID], None],
        *,
        timeout: float,
        rand: random.Random,
        boot_clock: Callable[[], float],
    ) -> None:
        self._published = PublishedItems(bus)
        self.lease = self.permit = Lease(bus.publisher, store, boot_clock)
        self._confirmations = Confirmations(
            bus.publisher,
            store,
            self._published.publish,
            boot_clock,
            timeout=timeout,
            rand=rand,
        )
        self.bus_counters = bus.counters
        self.counters = ClusterCounters()
        self.is_connected = False
        self._store = store
        self._sessions = sessions
        self._timeout = timeout
        self._random = rand
        self._index = ConversationIndex()
        self._nursery: trio.Nursery | None = None
        self.presence = PeerPresence(
            bus.publisher,
            self._published.publish,
            last_heard=bus.last_heard,
            users_of=self._users_here,
            name_of=self._name_of,
            on_online=on_online,
            on_pinned=self._on_pinned,
            on_gone=lambda: self.on_resync("a process has ended"),
            rand=rand,
        )

    def connect(
        self,
        rooms: Rooms,
        members: MemberUpdates,
        user_feeds: UserFeeds,
        read_positions: ReadPositions,
        on_typing: Callable[[UUID, User], None],
    ) -> None:
        """Sets the parts of the hub that items go to; must be called before `run`."""
        self._rooms = rooms
        self._user_feeds = user_feeds
        self._read_positions = read_positions
        self._on_typing = on_typing
        self._removals = HeardRemovals(
            rooms, self._sessions, self._index, self._published.publish, timeout=self._timeout, rand=self._random
        )
        self._heads = KnownHeads(self._index, self._sessions, self._removals, timeout=self._timeout)
        self._behind = RoomsBehind(rooms, self._heads, self.counters, rand=self._random)
        self._comparison = Comparison(
            self,
            self._store,
            self._sessions,
            self._index,
            rooms,
            self._behind,
            members,
            user_feeds,
            self.counters,
            timeout=self._timeout,
            rand=self._random,
        )
        self._changes = HeardChanges(
            self._store,
            self._sessions,
            self._index,
            rooms,
            self._heads,
            self._behind,
            self._comparison,
            members,
            self.on_resync,
            self.counters,
            timeout=self._timeout,
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Takes the lease, opens rooms and compares heads, until cancelled; then gives the lease up."""
        await self.lease.take()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = self._behind.nursery = self._changes.nursery = nursery
                nursery.start_soon(self.lease.run, name="lease")
                nursery.start_soon(self.presence.run, name="presence in other processes")
                task_status.started()
                try:
                    await self._comparison.run()
                finally:
                    # Rooms that end after it must not start anything.
                    self._nursery = self._behind.nursery = self._changes.nursery = None
        finally:
            await self.lease.give_up()  # noqa: ASYNC102  # shields itself, with a deadline

    # --- published ---

    def publish_changes(self, changes: Sequence[Change], before: Head, act: Act | None) -> None:
        for item in items_of(changes, before, act):
            self._published.publish(item)

    def publish_rev(self, conversation_id: UUID, rev: int) -> None:
        self._published.publish(RevItem(conversation_id, rev))

    def publish_created(
        self, conversation_id: UUID, member_ids: Sequence[UUID], memberships: Sequence[MyMembership]
    ) -> None:
        self._published.publish(created_item(conversation_id, member_ids, memberships))

    def publish_read(self, conversation_id: UUID, positions: Sequence[tuple[UUID, int, int]]) -> None:
        for user_id, _, user_rev in positions:
            self._index.note_rev(user_id, user_rev)
        self._published.publish_read(conversation_id, positions)

    def publish_typing(self, conversation_id: UUID, user: User) -> None:
        self._published.publish(TypingItem(conversation_id, user.id, user.username))

    # --- the index ---

    def head_of(self, conversation_id: UUID) -> Head | None:
        return self._heads.head_of(conversation_id)

    def begin(self, conversation_id: UUID) -> Head | None:
        return self._heads.begin(conversation_id)

    def users_of(self, conversation_id: UUID) -> Sequence[UUID]:
        return self._index.users_of(conversation_id)

    def members_rev_of(self, conversation_id: UUID) -> int:
        return self._heads.members_rev_of(conversation_id)

    def removed_rev(self, conversation_id: UUID, user_id: UUID) -> int:
        return self._removals.rev_of(conversation_id, user_id)

    def _users_here(self, conversation_id: UUID) -> list[UUID]:
        """Returns the users with sessions here who are in a conversation, but for those who are expelled."""
        users = self._index.users_of(conversation_id)
        return [user_id for user_id in users if not self.removed_rev(conversation_id, user_id)]

    def add_user(self, user_id: UUID) -> None:
        self._index.add_user(user_id)

    def index(self, session: Session, conversation_id: UUID, head: Head) -> None:
        user_id = session.user.id
        is_news = not self._index.has(conversation_id, user_id)
        self._index.add(conversation_id, user_id, head)
        room = self._rooms.get(conversation_id)
        is_open = room is not None and room.opened.is_set()
        known = self.head_of(conversation_id)
        for each in self._sessions.of(user_id) if is_news else (session,):
            if each is not session and room is not None and is_open:
                room.attach(each, head.members_rev, is_news=True)
            elif each is not session:
                each.notify_added(conversation_id)
            # Others here have less than this session's client has loaded, or will.
            if not is_open and known is not None and known.last_rev < head.last_rev:
                each.begin_at(conversation_id, head, head.members_rev)
        if room is None and conversation_id in self.presence.pinned:
            self._behind.catch_up(conversation_id, 0)

    def indexed(self, user_id: UUID, user_rev: int) -> None:
        self._index.set_rev(user_id, user_rev)
        self._comparison.user_indexed(user_id)

    def check_user(self, user_id: UUID) -> None:
        self._comparison.check_user(user_id)

    async def index_missing(self, user_id: UUID, conversation_ids: Sequence[UUID]) -> None:
        await self._comparison.index_missing(user_id, conversation_ids)

    def remove_user(self, user_id: UUID) -> None:
        self._index.remove_user(user_id)
        self._comparison.forget_user(user_id)

    def member_added(self, conversation_id: UUID, user_id: UUID, user_rev: int, before: Head) -> None:
        self._index.add(conversation_id, user_id, before)
        self._index.note_rev(user_id, user_rev)
        self._heads.note_members(conversation_id, before.members_rev)

    def member_removed(self, conversation_id: UUID, user_id: UUID, rev: int, user_rev: int) -> None:
        self._index.discard(conversation_id, user_id)
        self._index.note_rev(user_id, user_rev)
        self._heads.note_members(conversation_id, rev)

    def room_closed(self, conversation_id: UUID, head: Head, known_rev: int) -> None:
        self._index.set_head(conversation_id, head)
        if known_rev > head.last_rev:
            self._behind.catch_up(conversation_id, known_rev)

    # --- heard; a `BusListener` ---

    def on_items(self, publisher: UUID, items: Iterable[bytes | msgspec.Raw]) -> None:
        """Handles items of another process, in the order of its batch; ignores them if this one ends.

        A task that is cancelled may have one more turn, after the nurseries of rooms and sequences have been closed.
        """
        if trio.current_effective_deadline() == -math.inf:
            return
        self.presence.hear(publisher)
        for data in items:
            try:
                self._hear(publisher, decode_item(data))
            except Exception:  # one item, such as one of a newer version, must not end the bus
                log.exception("an item of another process failed", publisher=str(publisher))
                self.on_resync("an item failed")

    def _hear(self, publisher: UUID, item: Item | None) -> None:
        if isinstance(item, MessagesItem | MembersItem | PropertiesItem):
            self._changes.hear(item)
        elif isinstance(item, RevItem):
            self._behind.come_to(item.conversation_id, item.rev)
        elif isinstance(item, CreatedItem):
            self._changes.hear_created(item)
        elif isinstance(item, ReadItem):
            self._hear_read(item)
        elif isinstance(item, ConfirmItem):
            self._confirm(item)
        elif isinstance(item, ConfirmedItem):
            self._confirmations.confirmed(item.request, publisher)
        elif isinstance(item, AskItem | DeltaItem | WholeItem | DigestItem):
            self.presence.apply(publisher, item)
        elif isinstance(item, TypingItem) and self._changes.is_here(item.conversation_id):
            self._on_typing(item.conversation_id, User(item.user_id, item.username))

    def on_resync(self, reason: str) -> None:
        """Compares all heads: something may have been lost."""
        log.info("comparing heads", reason=reason)
        self.counters.comparisons += 1
        self._comparison.compare_all_soon()
        self.presence.resync()

    def on_connected(self, is_connected: bool) -> None:
        """Notes whether the bus is there; it asks for a comparison when it is back."""
        self.is_connected = is_connected
        self._confirmations.set_connected(is_connected)
        self.presence.set_connected(is_connected)

    def _hear_read(self, item: ReadItem) -> None:
        positions: dict[UUID, int] = {}
        for user_id, seq, user_rev in item.positions:
            self._index.note_rev(user_id, user_rev)
            self._user_feeds.apply(MyMembership(item.conversation_id, user_id, user_rev, True, seq))
            positions[user_id] = seq
        if self._changes.is_here(item.conversation_id):
            self._read_positions.notify_here(item.conversation_id, positions)

    # --- removals ---

    async def confirm_removal(self, removal: Member) -> None:
        self.counters.removals += 1
        await self._confirmations.collect(removal)

    def _confirm(self, item: ConfirmItem) -> None:
        self._heads.note_members(item.conversation_id, item.rev)
        self._removals.hear(item, self._nursery)

    # --- presence ---

    def open_presence(
        self, conversation_id: UUID, on_joined: Callable[[User, bool], None], on_left: Callable[[User, bool], None]
    ) -> RoomPresence:
        return self.presence.open_room(conversation_id, on_joined, on_left)

    def close_presence(self, presence: RoomPresence, *, have_left: bool) -> None:
        self.presence.close_room(presence, have_left=have_left)

    def _name_of(self, user_id: UUID) -> str | None:
        return next((session.user.username for session in self._sessions.of(user_id)), None)

    def _on_pinned(self, conversation_id: UUID) -> None:
        """Opens the room of a conversation that is in use elsewhere, if it has members here; or lets it go."""
        room = self._rooms.get(conversation_id)
        if room is not None:
            room.check_vacant()
        elif conversation_id in self._index:
            self._behind.catch_up(conversation_id, 0)
