"""Records that a store takes and returns."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

# Members included in each conversation of a list: enough for a one-to-one, and for a title of an unnamed group. A list
# of 200 groups then has 2,000 members, not a million.
LISTED_MEMBERS: Final = 10
SHOWN_MEMBERS: Final = 100  # included in a single conversation: most groups are no larger and need no second request


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
