"""The contract of a store: records, errors, operations and their atomicity.

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
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

# Members included in each conversation of a list: enough for a one-to-one, and for a title of an unnamed group. A list
# of 200 groups then has 2,000 members, not a million.
LISTED_MEMBERS: Final = 10
SHOWN_MEMBERS: Final = 100  # included in a single conversation: most groups are no larger and need no second request


class StoreError(Exception):
    """An operation of the store failed."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or does not answer; a retry may succeed."""


class StoreRefused(StoreError):
    """The store can never accept this value; a retry fails as well."""


class UsernameTaken(StoreError):
    """Another user has this name, or one that differs only in case or Unicode form."""


class UnknownUsers(StoreError):
    """Some of the given users do not exist.

    Args:
        ids: the unknown ones, in the given order.
    """

    def __init__(self, ids: Sequence[UUID]) -> None:
        super().__init__(f"{len(ids)} unknown users")
        self.ids = ids


class TooManyMembers(StoreError):
    """The group would exceed the given limit of members."""


class NotAMember(StoreError):
    """The conversation does not exist, or the user is not a member; the store does not reveal which."""


class NotAGroup(StoreError):
    """The members and the name of a one-to-one conversation cannot change."""


class OwnerOnly(StoreError):
    """Only the owner of the group may do this."""


class NoSuchMessage(StoreError):
    """The message does not exist in this conversation, or has been deleted."""


class NotYourMessage(StoreError):
    """Only the sender may edit a message; only the sender and the conversation's owner may delete it."""


@dataclass(frozen=True, slots=True)
class User:
    """A person. `username` is in the spelling of its registration."""

    id: UUID
    username: str


@dataclass(frozen=True, slots=True)
class Account:
    """A user with the hash of their password; None for a user of an identity provider."""

    user: User
    password_hash: str | None


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to store. Its id is made by the caller, so that a retry is harmless."""

    id: UUID
    conversation_id: UUID
    sender_id: UUID
    content: str
    client_id: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Revision:
    """An edit of a message, or with content None its deletion. Its id makes a retry harmless."""

    id: UUID
    conversation_id: UUID
    message_id: UUID
    actor_id: UUID
    content: str | None
    made_at: datetime


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message in its current state. A deleted one is a tombstone with empty content.

    Attributes:
        seq: position in the conversation: 1, 2, 3 …
        rev: number of its latest change.
        client_id: the sender's own id for it, if any; makes a resend harmless.
    """

    id: UUID
    conversation_id: UUID
    sender_id: UUID
    sender_username: str
    content: str
    is_edited: bool
    is_deleted: bool
    created_at: datetime
    updated_at: datetime
    seq: int
    rev: int
    client_id: str | None


@dataclass(frozen=True, slots=True)
class Head:
    """The highest seq and rev of a conversation, and the version of its members; see the module for an example."""

    last_seq: int
    last_rev: int
    members_version: int = 0


@dataclass(frozen=True, slots=True)
class Members:
    """The members of a conversation in the order they joined, as of `version` (the `members_version` of `Head`)."""

    ids: tuple[UUID, ...]
    version: int


@dataclass(frozen=True, slots=True)
class Added:
    """The users who were added, without existing members, and the members' version after it."""

    users: tuple[User, ...]
    version: int


@dataclass(frozen=True, slots=True)
class Removed:
    """The user who was removed, or None if they were not a member, and the members' version after it."""

    user: User | None
    version: int


@dataclass(frozen=True, slots=True)
class ReadMark:
    """A new read position: the member has read everything up to `seq`."""

    conversation_id: UUID
    user_id: UUID
    seq: int


@dataclass(frozen=True, slots=True)
class ReadState:
    """A member's read position and the conversation's highest seq; their difference is the unread count."""

    read_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation with its first members in the order they joined, and its newest message.

    Attributes:
        members: at most `SHOWN_MEMBERS`; in a list of conversations at most `LISTED_MEMBERS`.
        member_count: number of all members.
        read_seq: read position of the requesting user.
    """

    id: UUID
    name: str | None
    description: str | None
    is_group: bool
    owner_id: UUID
    created_at: datetime
    updated_at: datetime
    head: Head
    members: tuple[User, ...]
    member_count: int
    read_seq: int
    last_message: Message | None


@dataclass(frozen=True, slots=True)
class Membership:
    """A member of a conversation.

    Attributes:
        user: who it is.
        position: place in the order in which members joined. Positions rise and have gaps; a member who is removed and
            added again gets a new one.
        read_seq: read position.
    """

    user: User
    position: int
    read_seq: int


@dataclass(frozen=True, slots=True)
class MemberPage:
    """A page of members in the order they joined.

    Attributes:
        members: the members of this page.
        total: number of all members.
        next_after: `after` of the next page; None if this is the last one.
    """

    members: tuple[Membership, ...]
    total: int
    next_after: int | None


@dataclass(frozen=True, slots=True)
class NewConversation:
    """A conversation to create; `member_ids` begins with the owner and has no duplicates."""

    id: UUID
    name: str | None
    description: str | None
    is_group: bool
    owner_id: UUID
    member_ids: tuple[UUID, ...]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """A page of messages, newest first, and the number of all messages of the conversation."""

    messages: tuple[Message, ...]
    total: int


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
