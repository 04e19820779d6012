"""Records that a store takes and returns."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from pulse_trio.model import Kind, Message, MyMembership, User, highest_rev

# Members included in each conversation of a list: enough for a one-to-one, and for a title of an unnamed group. A list
# of 200 groups then has 2,000 members, not a million.
LISTED_MEMBERS: Final = 10
SHOWN_MEMBERS: Final = 100  # included in a single conversation: most groups are no larger and need no second request


@dataclass(frozen=True, slots=True)
class Account:
    """A user with the hash of their password; None for a user of an identity provider."""

    user: User
    password_hash: str | None


@dataclass(frozen=True, slots=True)
class Admission:
    """A user who asks for a conversation, and its `members_rev`, as of which they are a member; None: they are not."""

    user: User
    members_rev: int | None


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a conversation.

    Attributes:
        last_seq: the highest seq.
        last_rev: the highest rev of all kinds.
        message_rev: the highest rev of a message.
        members_rev: the rev of the latest change of its members; the members of an answer are as of it.
        properties_rev: the rev of the latest change of its properties.
    """

    last_seq: int
    last_rev: int
    message_rev: int = 0
    members_rev: int = 0
    properties_rev: int = 0

    @property
    def last_revs(self) -> dict[int, int]:
        """The highest rev of each kind."""
        return {
            Kind.MESSAGE: self.message_rev,
            Kind.MEMBER: self.members_rev,
            Kind.CONVERSATION: self.properties_rev,
        }

    def last_rev_of(self, mask: int) -> int:
        """Returns the highest rev of the kinds of a mask."""
        return highest_rev(self.last_revs, mask)


@dataclass(frozen=True, slots=True)
class Memberships:
    """A user's conversations and the user's own sequence, of one snapshot.

    Attributes:
        heads: by conversation.
        user_rev: the highest rev of the user's own sequence.
    """

    heads: dict[UUID, Head]
    user_rev: int


@dataclass(frozen=True, slots=True)
class Members:
    """The members of a conversation in the order they joined, as of `rev` (the `members_rev` of `Head`)."""

    ids: tuple[UUID, ...]
    rev: int


@dataclass(frozen=True, slots=True)
class ReadMark:
    """A new read position: the member has read everything up to `seq`."""

    conversation_id: UUID
    user_id: UUID
    seq: int


@dataclass(frozen=True, slots=True)
class ReadState:
    """A member's read position and the conversation's highest seq; their difference is the unread count.

    `user_rev`: the number in the user's own sequence of the latest change of this membership.
    """

    read_seq: int
    last_seq: int
    user_rev: int = 0


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
    """A page of messages, newest first.

    Attributes:
        messages: those of this page.
        total: number of all messages of the conversation.
        has_more: the history goes on behind the page in the direction of reading, within the bounds that were given.
    """

    messages: tuple[Message, ...]
    total: int
    has_more: bool


@dataclass(frozen=True, slots=True)
class ConversationPage:
    """A page of a user's conversations, latest activity first.

    Attributes:
        conversations: those of this page.
        total: number of all of the user's conversations.
        next_before: `before` of the next page; None if this is the last one.
    """

    conversations: tuple[Conversation, ...]
    total: int
    next_before: int | None


@dataclass(frozen=True, slots=True)
class UserPage:
    """A page of users, by name.

    Attributes:
        users: those of this page.
        total: number of all users found, counted up to a bound.
        next_after: `after` of the next page; None if this is the last one.
        is_total_exact: False if there are more than `total`.
    """

    users: tuple[User, ...]
    total: int
    next_after: str | None
    is_total_exact: bool = True


@dataclass(frozen=True, slots=True)
class Created:
    """A conversation that was created, or the one-to-one that existed.

    Attributes:
        conversation: as its owner sees it.
        is_new: False if it existed.
        memberships: of its members in their own sequences; empty if it existed.
    """

    conversation: Conversation
    is_new: bool
    memberships: tuple[MyMembership, ...]
