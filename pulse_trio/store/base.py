"""The contract of a store: its records, its errors, its operations and what is atomic.

Every operation is atomic: it happens whole or not at all. Every operation may raise
`StoreUnavailable`; then a write may or may not have happened, which is why `append` may be repeated
with the same ids. Cancelled: as with `StoreUnavailable`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

# Members that a conversation carries. In a list they are enough for a one-to-one, and for a client to name a group
# without a name; 200 groups have 2,000 members then, and not a million.
LISTED_MEMBERS: Final = 10
SHOWN_MEMBERS: Final = 100  # of one conversation: most groups are no larger, and need no further request


class StoreError(Exception):
    """The store could not do what it was asked."""


class StoreUnavailable(StoreError):
    """The store cannot be reached or does not answer; the same call may succeed later."""


class StoreRefused(StoreError):
    """The store will never take this; trying again is of no use."""


class UsernameTaken(StoreError):
    """Another user has this name, or one that differs only in case or form."""


class UnknownUsers(StoreError):
    """Some of the users named do not exist.

    Args:
        ids: those that do not, in the order given.
    """

    def __init__(self, ids: Sequence[UUID]) -> None:
        super().__init__(f"{len(ids)} unknown users")
        self.ids = ids


class TooManyMembers(StoreError):
    """The group would have more members than the limit given."""


class NotAMember(StoreError):
    """The conversation does not exist, or this user is not in it; the store does not say which."""


class NotAGroup(StoreError):
    """A one-to-one conversation keeps its two members and its name."""


class OwnerOnly(StoreError):
    """Only the owner of the group may do this."""


class NoSuchMessage(StoreError):
    """The message does not exist in this conversation, or has been deleted."""


class NotYourMessage(StoreError):
    """Only its sender may edit a message; only its sender and the conversation's owner may delete it."""


@dataclass(frozen=True, slots=True)
class User:
    """A person. `username` is as they wrote it."""

    id: UUID
    username: str


@dataclass(frozen=True, slots=True)
class Account:
    """A user with what is needed to let them in. Users of an identity provider have no password."""

    user: User
    password_hash: str | None


@dataclass(frozen=True, slots=True)
class NewMessage:
    """A message to be stored. The id is made before the insert, which makes a retry harmless."""

    id: UUID
    conversation_id: UUID
    sender_id: UUID
    content: str
    client_id: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Revision:
    """A change of a message: new content, or None for its deletion. The id makes a retry harmless."""

    id: UUID
    conversation_id: UUID
    message_id: UUID
    actor_id: UUID
    content: str | None
    made_at: datetime


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message. `seq`: where it stands, 1, 2, 3 … ; `rev`: its latest change.

    A deleted one is a tombstone: its content is empty.
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
    """The head of a conversation: the highest seq and rev given out, and the version of its members.

    `members_version` rises with every change of the members. Of two looks at a conversation the one with the higher
    version is the later one, whichever answer came first.
    """

    last_seq: int
    last_rev: int
    members_version: int = 0


@dataclass(frozen=True, slots=True)
class Members:
    """The members of a conversation in the order they came, as of a version; see `Head`."""

    ids: tuple[UUID, ...]
    version: int


@dataclass(frozen=True, slots=True)
class Added:
    """The users who were added, without those who were members before, and the version of the members since then."""

    users: tuple[User, ...]
    version: int


@dataclass(frozen=True, slots=True)
class Removed:
    """The user who was removed, or None if they were no member, and the version of the members since then."""

    user: User | None
    version: int


@dataclass(frozen=True, slots=True)
class ReadMark:
    """A member has read everything up to `seq`."""

    conversation_id: UUID
    user_id: UUID
    seq: int


@dataclass(frozen=True, slots=True)
class ReadStanding:
    """How far a member has read, and the highest seq that there is."""

    read_seq: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation with its first members in the order they came, and its newest message.

    Attributes:
        members: at most `SHOWN_MEMBERS` of them; in a list of conversations at most `LISTED_MEMBERS`.
        member_count: how many there are.
        read_seq: how far the user has read who asked for it.
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
    """A member of a conversation: how far they have read, and their position in the order in which members came.

    Positions grow and have gaps; a member who is removed and added again gets a new one.
    """

    user: User
    position: int
    read_seq: int


@dataclass(frozen=True, slots=True)
class MemberPage:
    """Members of a conversation in the order they came, and how many it has in all.

    Attributes:
        next_after: the position after which the next page begins; None if no member follows.
    """

    members: tuple[Membership, ...]
    total: int
    next_after: int | None


@dataclass(frozen=True, slots=True)
class NewConversation:
    """A conversation to be created; `member_ids` holds the owner first and nobody twice."""

    id: UUID
    name: str | None
    description: str | None
    is_group: bool
    owner_id: UUID
    member_ids: tuple[UUID, ...]
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """Messages of a conversation, newest first, and how many it has in all."""

    messages: tuple[Message, ...]
    total: int


def page_range(total: int, limit: int, offset: int, before_seq: int | None, after_seq: int | None) -> tuple[int, int]:
    """The first and the last seq of a page of `Store.page_messages`; the last is lower when the page is empty.

    Since seqs have no gaps, skipping `offset` messages is a subtraction, and a page of `limit` messages is a
    range of so many seqs: whatever reads it touches no other message.
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
    """What the service asks of a store. Lists come with the total that there is without limit."""

    epoch: str
    """Which history this is: another one when it may have been rolled back, as by a restored backup."""

    async def ping(self) -> None:
        """Returns when the store answers."""

    # --- accounts ---

    async def create_user(
        self, user: User, *, password_hash: str | None, subject: str | None, created_at: datetime
    ) -> None:
        """Raises UsernameTaken, also when another user has this `subject`."""

    async def find_account(self, username: str) -> Account | None:
        """The user of this name, without regard to case."""

    async def find_subject(self, subject: str, user_id: UUID | None) -> User | None:
        """The user whose identity provider calls them `subject`, or else the one with this id."""

    async def set_password_hash(self, user_id: UUID, password_hash: str, *, old_hash: str) -> None:
        """Replaces the hash if it is still `old_hash`."""

    async def search_users(self, prefix: str, *, limit: int, offset: int) -> tuple[list[User], int]:
        """Users whose name begins with `prefix`, without regard to case, in the order of their names."""

    # --- conversations ---

    async def create_conversation(self, new: NewConversation) -> tuple[Conversation, bool]:
        """Creates it, as its owner sees it; a one-to-one that these two already have is returned instead, with False.

        Raises UnknownUsers.
        """

    async def get_conversation(self, conversation_id: UUID, user_id: UUID) -> Conversation | None:
        """The conversation, if this user is in it."""

    async def list_conversations(self, user_id: UUID, *, limit: int, offset: int) -> tuple[list[Conversation], int]:
        """The user's conversations, the one with the most recent activity first."""

    async def membership(self, conversation_id: UUID, user_id: UUID) -> int | None:
        """The version of the conversation's members if this user is one of them, or None."""

    async def memberships(self, user_id: UUID, among: Sequence[UUID] | None = None) -> dict[UUID, Head]:
        """Where the user's conversations stand: all of them, or those that are in `among`."""

    async def members(self, conversation_id: UUID) -> Members:
        """The members of a conversation; none, and version 0, if it does not exist."""

    async def page_members(self, conversation_id: UUID, user_id: UUID, *, limit: int, after: int = 0) -> MemberPage:
        """A page of the members in the order they came: those whose position is above `after`.

        Costs the same at every depth. Raises NotAMember (of `user_id`).
        """

    async def add_members(
        self, conversation_id: UUID, actor_id: UUID, user_ids: Sequence[UUID], *, limit: int, now: datetime
    ) -> Added:
        """Adds users to a group, by any of its members.

        They begin at the end of the conversation: nothing that is there counts as unread.

        Raises NotAMember (of the actor), NotAGroup, UnknownUsers, TooManyMembers.
        """

    async def remove_member(self, conversation_id: UUID, actor_id: UUID, user_id: UUID, *, now: datetime) -> Removed:
        """Removes a user from a group: themselves, or by its owner.

        No message that they sent is stored after it. When the owner leaves, the member who has been in it longest
        becomes the owner.
        Raises NotAMember (of the actor), NotAGroup, OwnerOnly.
        """

    async def rename(
        self, conversation_id: UUID, actor_id: UUID, changes: dict[str, str | None], *, now: datetime
    ) -> Conversation:
        """Sets `name` and `description`, those of them that are in `changes`. Raises NotAMember, NotAGroup."""

    # --- who has read what, and who was here ---

    async def mark_read(self, marks: Sequence[ReadMark]) -> list[ReadStanding | None]:
        """Moves members' read positions, in any conversations, forward; where they then stand, in the order given.

        A mark that is behind its position, or beyond the last message, moves nothing. A place is None when the
        user is not in the conversation. A position may be lower than its mark although there is such a message:
        then somebody else was at that row; ask again.
        """

    async def mark_seen(self, moments: Mapping[UUID, datetime]) -> None:
        """Notes when users were here; a moment that is earlier than the one known changes nothing."""

    async def acquaintances(self, user_id: UUID, among: Sequence[UUID]) -> dict[UUID, datetime | None]:
        """Those that share a conversation with a user, and the user if named, each with when they were last seen."""

    # --- messages ---

    async def head(self, conversation_id: UUID) -> Head:
        """Where the conversation stands. Raises NotAMember when it does not exist."""

    async def append(self, batch: Sequence[NewMessage]) -> list[Message | None]:
        """Stores messages, all of them in one transaction, in this order within a conversation.

        Each new one takes the next seq and rev of its conversation. One whose id is stored already, or
        whose sender has used its client_id in this conversation before, is not stored again: its place in
        the result has the message that exists (the id goes first), also when the sender has left since. A
        place is None when the sender is not a member at the moment of the commit. No two messages of a batch have
        the same id, or the same sender, conversation and client_id.

        Raises StoreRefused when one of them can never be stored.
        """

    async def revise(self, revision: Revision) -> Message:
        """Edits or deletes a message, which takes the next rev; repeated with the same id, it changes nothing more.

        Raises NotAMember (of the actor), NoSuchMessage, NotYourMessage.
        """

    async def changes(self, conversation_id: UUID, *, after_rev: int, limit: int) -> list[Message]:
        """The messages changed after `after_rev`, in rev order, each as it now is."""

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
        """A page of history, newest first.

        Without bounds it skips the `offset` newest; `before_seq`: the newest below it; `after_seq`: the
        oldest above it; both: the newest between them. Costs the same at every depth.
        Raises NotAMember.
        """
