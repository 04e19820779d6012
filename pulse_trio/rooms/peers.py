"""The other processes of a service, as rooms see them: what is published to them, and what is known of their changes.

`Peers` is that of a process that is alone: it has no peers, so nothing is published, and every change of a conversation
passes its own room. `cluster.Cluster` is the other one.
"""

from collections.abc import Callable, Sequence
from uuid import UUID

from pulse_trio.model import Change, Member, MyMembership, User
from pulse_trio.rooms.connection import Permit
from pulse_trio.rooms.room_presence import RoomPresence
from pulse_trio.rooms.sentences import Act
from pulse_trio.rooms.session import Session
from pulse_trio.store.base import Head


class Peers:
    """A process that is alone.

    Attributes:
        are_there: there are other processes: changes of a conversation may come from the bus.
        permit: says whether this process may deliver frames of conversations; None: it always may.
    """

    are_there = False
    permit: Permit | None = None

    # --- published ---

    def publish_changes(self, changes: Sequence[Change], before: Head, act: Act | None) -> None:
        """Publishes committed changes of one conversation, in the order of rev.

        Args:
            changes: the changes.
            before: the head before them.
            act: what they are of, if it is known.
        """

    def publish_rev(self, conversation_id: UUID, rev: int) -> None:
        """Publishes that a conversation has come to a rev."""

    def publish_created(
        self, conversation_id: UUID, member_ids: Sequence[UUID], memberships: Sequence[MyMembership]
    ) -> None:
        """Publishes that a conversation was created; `memberships` are those whose revs are known."""

    def publish_read(self, conversation_id: UUID, positions: Sequence[tuple[UUID, int, int]]) -> None:
        """Publishes read positions that have moved: user, seq, and the rev in the user's own sequence."""

    def publish_typing(self, conversation_id: UUID, user: User) -> None:
        """Publishes that a user is typing."""

    # --- removals ---

    async def confirm_removal(self, removal: Member) -> None:
        """Returns when no other process delivers anything of the conversation to a removed user any more.

        Raises:
            StoreUnavailable: the other processes could not be looked up; they may deliver what was queued before.
        """

    # --- presence ---

    def open_presence(
        self, conversation_id: UUID, on_joined: Callable[[User, bool], None], on_left: Callable[[User, bool], None]
    ) -> RoomPresence | None:
        """Returns the presence of a room over all processes; None if there are no others.

        Args:
            conversation_id: the conversation.
            on_joined: called with a user who is in the room in another process; and True if the others must be
                notified.
            on_left: called with a user who is not any more; and True if the others must be notified.
        """
        return None

    def close_presence(self, presence: RoomPresence, *, have_left: bool) -> None:
        """Ends the presence of a room; `have_left`: its users have left, not only the room has ended."""

    # --- the index ---

    def head_of(self, conversation_id: UUID) -> Head | None:
        """Returns the head up to which all sessions here have the changes: where the next room begins.

        None if the conversation is not known here.
        """
        return None

    def begin(self, conversation_id: UUID) -> Head | None:
        """Does what `head_of` does for a room that begins there now."""
        return None

    def users_of(self, conversation_id: UUID) -> Sequence[UUID]:
        """Returns the users with sessions here who are in a conversation."""
        return ()

    def members_rev_of(self, conversation_id: UUID) -> int:
        """Returns the rev of the latest change of the members that was heard of lately; 0 without one."""
        return 0

    def removed_rev(self, conversation_id: UUID, user_id: UUID) -> int:
        """Returns the rev of a user's removal that is confirmed, and that the room has not delivered yet; else 0."""
        return 0

    def add_user(self, user_id: UUID) -> None:
        """Notes that a user has a session here, whose conversations are being looked up."""

    def index(self, session: Session, conversation_id: UUID, head: Head) -> None:
        """Indexes a conversation of a session's user, as of a look-up that is not older than what was heard."""

    def indexed(self, user_id: UUID, user_rev: int) -> None:
        """Notes that all conversations of a user are indexed that they were in at a rev of their own sequence."""

    def check_user(self, user_id: UUID) -> None:
        """Looks up soon whether a user with sessions here is in conversations that are not indexed for them."""

    async def index_missing(self, user_id: UUID, conversation_ids: Sequence[UUID]) -> None:
        """Indexes conversations of a user, before their sessions are notified that they are members.

        Whatever is committed after that must reach them. Those that the user has left again are left out.

        Raises:
            StoreUnavailable, NotAMember: they could not be looked up.
        Cancelled: some are indexed.
        """

    def remove_user(self, user_id: UUID) -> None:
        """Forgets a user whose last session here has ended."""

    def member_added(self, conversation_id: UUID, user_id: UUID, user_rev: int, before: Head) -> None:
        """Indexes a user who was added; `before` is the head before that."""

    def member_removed(self, conversation_id: UUID, user_id: UUID, rev: int, user_rev: int) -> None:
        """Takes a user who was removed at a rev out of the index."""

    def room_closed(self, conversation_id: UUID, head: Head, known_rev: int) -> None:
        """Notes up to where a room had delivered that cannot be joined any more, and what it knew to be committed."""
