"""The changes of other processes that the bus delivers: each goes to its room, or says what must be looked up.

Only conversations that are here matter, and those that a user with a session here is added to.
"""

from collections.abc import Callable
from uuid import UUID

import trio

from pulse_trio.model import MyMembership
from pulse_trio.rooms.cluster_counters import ClusterCounters
from pulse_trio.rooms.comparison import Comparison
from pulse_trio.rooms.conversation_index import ConversationIndex
from pulse_trio.rooms.known_heads import KnownHeads
from pulse_trio.rooms.member_updates import MemberUpdates
from pulse_trio.rooms.peer_items import (
    CreatedItem,
    MembersItem,
    MessagesItem,
    PropertiesItem,
    changes_of,
    head_before,
)
from pulse_trio.rooms.registry import Rooms
from pulse_trio.rooms.rooms_behind import RoomsBehind
from pulse_trio.rooms.session import Sessions
from pulse_trio.rooms.time_limit import in_time
from pulse_trio.store.base import Store, StoreUnavailable


class HeardChanges:
    """Delivers changes of other processes.

    Args:
        store: the store.
        sessions: the sessions of this process.
        index: which of its users are in which conversations.
        rooms: its rooms.
        heads: up to where it knows its conversations.
        behind: lets conversations catch up that are behind.
        comparison: looks up what cannot be known from what is heard.
        members: its additions and removals.
        on_resync: called with the reason when all heads must be compared.
        counters: figures for metrics.
        timeout: seconds that one read may take.

    Attributes:
        nursery: new conversations are handled in it; None: the process ends, and starts no more tasks.
    """

    def __init__(
        self,
        store: Store,
        sessions: Sessions,
        index: ConversationIndex,
        rooms: Rooms,
        heads: KnownHeads,
        behind: RoomsBehind,
        comparison: Comparison,
        members: MemberUpdates,
        on_resync: Callable[[str], None],
        counters: ClusterCounters,
        *,
        timeout: float,
    ) -> None:
        self._store = store
        self._sessions = sessions
        self._index = index
        self._rooms = rooms
        self._heads = heads
        self._behind = behind
        self._comparison = comparison
        self._members = members
        self._on_resync = on_resync
        self._counters = counters
        self._timeout = timeout
        self.nursery: trio.Nursery | None = None

    def is_here(self, conversation_id: UUID) -> bool:
        """Returns whether a conversation has users or a room here."""
        return conversation_id in self._index or self._rooms.get(conversation_id) is not None

    def hear(self, item: MessagesItem | MembersItem | PropertiesItem) -> None:
        """Passes changes to their room, if the conversation is here."""
        self._counters.changes_in += 1
        conversation_id = item.conversation_id
        if not isinstance(item, MembersItem):
            if not self.is_here(conversation_id) and not self._heads.is_beginning(conversation_id):
                return
        elif not self._hear_members(item):
            return
        changes, act = changes_of(item)
        if self._rooms.get(conversation_id) is None:
            self._behind.come_to(conversation_id, changes[-1].rev)  # opens one, if it must
        room = self._rooms.get(conversation_id)
        if room is not None:
            room.feed.hear(changes, act)

    def _hear_members(self, item: MembersItem) -> bool:
        """Notes a change of members; returns False if it concerns nobody here, or must be read from the store."""
        conversation_id, rev = item.conversation_id, item.rows[-1].rev
        is_late = rev < self._heads.members_rev_of(conversation_id)
        self._heads.note_members(conversation_id, rev)
        if any(row.is_member for row in item.rows):
            self._members.forget_refusals(conversation_id)
        here = [row for row in item.rows if row.is_member and self._sessions.of(row.user_id)]
        room = self._rooms.get(conversation_id)
        delivered = room.feed.last_rev if room is not None and room.opened.is_set() else -1
        for row in here:
            if is_late or row.rev <= delivered:  # they may be removed since, or the room has begun after the addition
                self._comparison.check_soon(conversation_id, row.user_id)
        if is_late:  # a removal that was heard before it may be confirmed
            self._behind.come_to(conversation_id, rev)
            return False
        if here:
            self._comparison.compare_soon(conversation_id)
            known = self._heads.head_of(conversation_id)
            begins = delivered < 0 and (known is None or known.last_rev >= item.rows[0].rev)
            if begins and not self._heads.add_beginning(conversation_id, head_before(item)):
                self._on_resync("too many additions at once")
                return False
        return bool(here) or self.is_here(conversation_id)

    def hear_created(self, item: CreatedItem) -> None:
        """Notifies the members here of a new conversation, in a task."""
        members = [user_id for user_id, _ in item.members]
        here = [user_id for user_id in members if self._sessions.of(user_id)]
        if members and not here:
            return
        if self.is_here(item.conversation_id) or self._heads.members_rev_of(item.conversation_id):
            for user_id in here:  # it is late, or came twice: they may have been removed again
                self._comparison.check_soon(item.conversation_id, user_id)
        elif (members or self._sessions) and self.nursery is not None:
            self.nursery.start_soon(self._notify_created, item, name=f"creation of {item.conversation_id}")

    async def _notify_created(self, item: CreatedItem) -> None:
        members = [user_id for user_id, _ in item.members]
        try:
            if not members:  # those who are removed meanwhile are looked up again: see `notify_here`
                with in_time(self._timeout, "the members"):
                    members = list((await self._store.members(item.conversation_id)).ids)
        except StoreUnavailable:
            self._on_resync("the members of a new conversation could not be read")
            return
        known = [
            MyMembership(item.conversation_id, user_id, user_rev, True, 0)
            for user_id, user_rev in item.members
            if user_rev
        ]
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._members.notify_here(item.conversation_id, members, known)
        self._comparison.compare_soon(item.conversation_id)
