"""Up to where a process knows its conversations: where a room begins, and which changes of members were heard of.

An addition that is heard begins a conversation before it is indexed: the next room begins there.
"""

from typing import Final
from uuid import UUID

import trio

from pulse_trio.rooms.conversation_index import ConversationIndex
from pulse_trio.rooms.heard_removals import HeardRemovals
from pulse_trio.rooms.session import Sessions
from pulse_trio.store.base import Head

MAX_BEGINNINGS: Final = 10_000  # conversations with users to be added; beyond it a comparison finds them


class KnownHeads:
    """The heads of conversations, and the revs of their members, as this process knows them.

    Args:
        index: which of its users are in which conversations.
        sessions: its sessions.
        removals: those that were confirmed before the room has delivered them.
        timeout: seconds that one read may take.
    """

    def __init__(
        self, index: ConversationIndex, sessions: Sessions, removals: HeardRemovals, *, timeout: float
    ) -> None:
        self._index = index
        self._sessions = sessions
        self._removals = removals
        self._timeout = timeout
        self._members_revs: dict[UUID, tuple[int, float]] = {}  # heard of lately: rev and when, oldest first
        self._beginnings: dict[UUID, Head] = {}  # of conversations that are not indexed: where the next room begins

    def head_of(self, conversation_id: UUID) -> Head | None:
        """Returns the head up to which all sessions here have the changes; None if it is not known here."""
        indexed, beginning = self._index.head_of(conversation_id), self._beginnings.get(conversation_id)
        if indexed is None or beginning is None:
            return indexed or beginning
        return min(indexed, beginning, key=lambda head: head.last_rev)

    def begin(self, conversation_id: UUID) -> Head | None:
        """Returns the head at which a room begins now; sessions that have more begin at theirs."""
        head, indexed = self.head_of(conversation_id), self._index.head_of(conversation_id)
        self._beginnings.pop(conversation_id, None)
        if head is not None and indexed is not None and head.last_rev < indexed.last_rev:
            for user_id in self._index.users_of(conversation_id):
                if self._removals.rev_of(conversation_id, user_id) > indexed.members_rev:
                    continue
                for session in self._sessions.of(user_id):
                    session.begin_at(conversation_id, indexed, indexed.members_rev)
        return head

    def is_beginning(self, conversation_id: UUID) -> bool:
        """Returns whether the next room begins before an addition that was heard."""
        return conversation_id in self._beginnings

    def add_beginning(self, conversation_id: UUID, before: Head) -> bool:
        """Lets the next room begin before an addition; returns False if that is so of too many already."""
        if len(self._beginnings) >= MAX_BEGINNINGS:
            return False
        self._beginnings[conversation_id] = before
        return True

    def forget_beginning(self, conversation_id: UUID) -> None:
        """Lets no room begin before an addition: the conversation cannot be opened."""
        self._beginnings.pop(conversation_id, None)

    def indexed_rev(self, conversation_id: UUID) -> float:
        """Returns the rev up to which the sessions here have the changes; infinity if there are none."""
        head = self._index.head_of(conversation_id)
        return float("inf") if head is None else head.last_rev

    def members_rev_of(self, conversation_id: UUID) -> int:
        """Returns the rev of the latest change of the members that was heard of lately; 0 without one."""
        heard = self._members_revs.get(conversation_id)
        return max(0 if heard is None else heard[0], self._removals.last_rev(conversation_id))

    def note_members(self, conversation_id: UUID, rev: int) -> None:
        """Keeps the rev of a change of members for as long as a look-up that began before it may take."""
        now = trio.current_time()
        if rev > self.members_rev_of(conversation_id):
            self._members_revs.pop(conversation_id, None)
            self._members_revs[conversation_id] = rev, now
        while self._members_revs:
            oldest = next(iter(self._members_revs))
            if now - self._members_revs[oldest][1] < 2 * self._timeout:
                return
            del self._members_revs[oldest]
