"""The contract of a store: its operations and their atomicity; with its records and errors.

Every operation is atomic: all of it happens, or nothing. Every operation may raise `StoreUnavailable`; a write may then
have happened or not. `append` and `revise` may be repeated with the same ids. Cancelled: like `StoreUnavailable`.

Numbers of a conversation, by an example. Alice posts "a" and "b", then edits "a", then Bob joins:

    change         seq  rev  last_seq  last_rev  members_version
    "a" posted      1    1       1         1            0
    "b" posted      2    2       2         2            0
    "a" edited      1    3       2         3            0
    Bob is added    -    -       2         3            1

`seq` is a message's position in the history and never changes (IMAP: UID). `rev` numbers the changes of messages; an
edit or a deletion gives its message a new one (IMAP: MODSEQ, RFC 7162). A client that resumes after rev 2 gets "a"
once, in its current state. Both count without gaps. `members_version` orders answers about members: the higher one is
the later one, whichever arrived first. All three rise under the lock of the conversation's row.

The `epoch` says which history the numbers belong to. A backup restored with last_rev 2 gives rev 3 to another change: a
client that knows rev 3 of the old epoch must reload, not resume.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID

from pulse_trio.store.errors import (
    NoSuchMessage,
    NotAGroup,
    NotAMember,
    NotYourMessage,
    OwnerOnly,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    TooManyMembers,
    UnknownUsers,
    UsernameTaken,
)
from pulse_trio.store.records import (
    LISTED_MEMBERS,
    SHOWN_MEMBERS,
    Account,
    Added,
    Conversation,
    Head,
    MemberPage,
    Members,
    Membership,
    Message,
    NewConversation,
    NewMessage,
    Page,
    ReadMark,
    ReadState,
    Removed,
    Revision,
    User,
)

__all__ = [
    "LISTED_MEMBERS",
    "SHOWN_MEMBERS",
    "Account",
    "Added",
    "Conversation",
    "Head",
    "MemberPage",
    "Members",
    "Membership",
    "Message",
    "NewConversation",
    "NewMessage",
    "NoSuchMessage",
    "NotAGroup",
    "NotAMember",
    "NotYourMessage",
    "OwnerOnly",
    "Page",
    "ReadMark",
    "ReadState",
    "Removed",
    "Revision",
    "Store",
    "StoreError",
    "StoreRefused",
    "StoreUnavailable",
    "TooManyMembers",
    "UnknownUsers",
    "User",
    "UsernameTaken",
    "page_range",
]


def page_range(total: int, limit: int, offset: int, before_seq: int | None, after_seq: int | None) -> tuple[int, int]:
    """Returns the first and the last seq of a page of `Store.page_messages`; an empty page has last < first.

    Seqs have no gaps, so skipping `offset` messages is a subtraction and a page is a range of `limit` seqs: reading it
    touches no other message. Example: the newest 50 of 1,000 messages are the seqs 951 to 1,000.
    """
    lowest = max(after_seq or 0, 0) + 1
    if before_seq is not None:
        last = min(before_seq - 1, total)
    elif after_seq is not None:
        last = min(lowest + limit - 1, total)
    else:
        last = total - offset
    return max(lowest, last - limit + 1), last


class Store(Protocol):
    """The operations of a store. Lists come with the total number of entries, ignoring `limit`."""

    epoch: str
    """Identifies this history. Changes when acknowledged messages may be gone (a restored backup, a promoted standby),
    so that clients reload instead of resuming.
    """

    async def ping(self) -> None:
        """Returns once the store has answered."""

    # --- accounts ---

    async def create_user(
        self, user: User, *, password_hash: str | None, subject: str | None, created_at: datetime
    ) -> None:
        """Creates an account with a password, or with the `subject` of an identity provider.

        Raises:
            UsernameTaken: another user has the name or the `subject`.
        """

    async def find_account(self, username: str) -> Account | None:
        """Finds a user by name, ignoring case."""

    async def find_subject(self, subject: str, user_id: UUID | None) -> User | None:
        """Finds the user with this `subject` at the identity provider, or else the one with this id."""

    async def set_password_hash(self, user_id: UUID, password_hash: str, *, old_hash: str) -> None:
        """Replaces the password hash if it is still `old_hash`."""

    async def search_users(self, prefix: str, *, limit: int, offset: int) -> tuple[list[User], int]:
        """Finds users whose name begins with `prefix`, ignoring case; sorted by name."""

    # --- conversations and members ---

    async def create_conversation(self, new: NewConversation) -> tuple[Conversation, bool]:
        """Creates a conversation; returns it as its owner sees it, and True.

        If it is a one-to-one that the two users already have, returns the existing one and False.

        Raises:
            UnknownUsers: a member does not exist.
        """

    async def get_conversation(self, conversation_id: UUID, user_id: UUID) -> Conversation | None:
        """Returns the conversation as this user sees it; None if they are not a member."""

    async def list_conversations(self, user_id: UUID, *, limit: int, offset: int) -> tuple[list[Conversation], int]:
        """Lists the user's conversations, most recent activity first."""

    async def membership(self, conversation_id: UUID, user_id: UUID) -> int | None:
        """Returns the version of the conversation's members; None if this user is not one of them."""

    async def memberships(self, user_id: UUID, among: Sequence[UUID] | None = None) -> dict[UUID, Head]:
        """Returns the heads of the user's conversations: of all, or of those in `among`."""

    async def members(self, conversation_id: UUID) -> Members:
        """Returns all members of a conversation; none, and version 0, if it does not exist."""

    async def page_members(self, conversation_id: UUID, user_id: UUID, *, limit: int, after: int = 0) -> MemberPage:
        """Returns a page of members in the order they joined: those whose position is above `after`.

        Costs the same at every depth.

        Raises:
            NotAMember: `user_id` is not a member.
        """

    async def add_members(
        self, conversation_id: UUID, actor_id: UUID, user_ids: Sequence[UUID], *, limit: int, now: datetime
    ) -> Added:
        """Adds users to a group. Any member may do so.

        Their read position is the end of the conversation, so that no existing message counts as unread.

        Raises:
            NotAMember: the actor is not a member.
            NotAGroup: it is a one-to-one.
            UnknownUsers: a user does not exist; none is added.
            TooManyMembers: the group would have more than `limit` members; none is added.
        """

    async def remove_member(self, conversation_id: UUID, actor_id: UUID, user_id: UUID, *, now: datetime) -> Removed:
        """Removes a user from a group. Members may remove themselves, and the owner anybody.

        No message of theirs is stored after the removal. When the owner leaves, the longest-standing member becomes the
        owner.

        Raises:
            NotAMember: the actor is not a member.
            NotAGroup: it is a one-to-one.
            OwnerOnly: the actor is neither the user nor the owner.
        """

    async def rename(
        self, conversation_id: UUID, actor_id: UUID, changes: dict[str, str | None], *, now: datetime
    ) -> Conversation:
        """Sets `name`, `description` or both: the keys of `changes`.

        Raises:
            NotAMember: the actor is not a member.
            NotAGroup: it is a one-to-one.
        """

    # --- messages ---

    async def head(self, conversation_id: UUID) -> Head:
        """Returns the head of a conversation.

        Raises:
            NotAMember: it does not exist.
        """

    async def append(self, batch: Sequence[NewMessage]) -> list[Message | None]:
        """Stores messages in one transaction, in this order within each conversation; returns them in the same order.

        Each new message takes the next seq and rev of its conversation. A message whose id is already stored, or whose
        sender has used its client_id in this conversation before, is not stored again: the result has the existing
        message (the id takes precedence), even if the sender has left since. The result is None for a message whose
        sender is not a member at the moment of the commit.

        No two messages of a batch may have the same id, or the same sender, conversation and client_id.

        Raises:
            StoreRefused: one of them can never be stored; none is.
        """

    async def revise(self, revision: Revision) -> Message:
        """Edits or deletes a message, which takes the next rev. A repeat with the same id changes nothing.

        Raises:
            NotAMember: the actor is not a member.
            NoSuchMessage: it is not in the conversation, or is deleted.
            NotYourMessage: the actor may not do this.
        """

    async def changes(self, conversation_id: UUID, *, after_rev: int, limit: int) -> list[Message]:
        """Returns messages changed after `after_rev`, in rev order, each once in its current state."""

    async def page_messages(
        self,
        conversation_id: UUID,
        user_id: UUID,
        *,
        limit: int,
        offset: int = 0,
        before_seq: int | None = None,
        after_seq: int | None = None,
    ) -> Page:
        """Returns a page of history, newest first. Costs the same at every depth.

        Args:
            conversation_id: the conversation.
            user_id: the requesting user.
            limit: most messages of the page.
            offset: skips the newest messages; only without `before_seq` and `after_seq`.
            before_seq: the page has the newest messages below it (and above `after_seq`).
            after_seq: without `before_seq`, the page has the oldest messages above it.

        Raises:
            NotAMember: the user is not a member.
        """

    # --- read positions and last-seen times ---

    async def mark_read(self, marks: Sequence[ReadMark]) -> list[ReadState | None]:
        """Moves read positions forward, in any conversations; returns the new states in the given order.

        A mark behind the position, or beyond the last message, moves nothing. The state is None if the user is not a
        member. A returned position may be below a valid mark if another transaction had locked the row: retry.
        """

    async def mark_seen(self, moments: Mapping[UUID, datetime]) -> None:
        """Records when users were last seen; an earlier time than the recorded one changes nothing."""

    async def acquaintances(self, user_id: UUID, among: Sequence[UUID]) -> dict[UUID, datetime | None]:
        """Returns last-seen times of those users in `among` who share a conversation with the user, or are the user.

        The time is None for a user who was never seen.
        """
