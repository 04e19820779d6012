"""Frozen records that the client returns, the same from the history and from a live connection."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from pulse_trio.ids import parse_uuid


class User(msgspec.Struct, frozen=True):
    """A user with an account."""

    id: UUID
    username: str


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message in its state at `rev`. As an event: a new message.

    Attributes:
        seq: its position in the conversation: 1, 2, 3 … without gaps.
        rev: the number of its latest change in the conversation. Of two records of a message the one with the higher
            rev is newer.
        is_edited: False for a deleted message.
        is_deleted: it keeps its `seq`, and its content is empty.
        client_id: the sender's own id for it, if they gave one.
    """

    id: UUID
    conversation_id: UUID
    sender_id: UUID
    sender_username: str
    content: str
    created_at: datetime
    updated_at: datetime
    seq: int
    rev: int
    is_edited: bool = False
    is_deleted: bool = False
    client_id: str | None = None

    def __post_init__(self) -> None:
        if self.is_deleted and self.is_edited:  # the history tells it of deleted messages, a live frame does not
            msgspec.structs.force_setattr(self, "is_edited", False)


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation with its first members, in the order they joined; `Client.members` returns all.

    `users` has at most 10 members in a list of conversations, at most 100 in a single conversation; `member_count`
    counts all, and `has_more_users` says that there are more than `users`. These two, `read_seq` and `unread_count` are
    None if the server does not support them.
    """

    id: UUID
    name: str | None
    description: str | None
    is_group: bool
    owner_id: UUID
    created_at: datetime
    updated_at: datetime
    users: tuple[User, ...]
    last_message: Message | None
    last_seq: int
    last_rev: int
    epoch: str
    member_count: int | None = None
    read_seq: int | None = None
    unread_count: int | None = None
    has_more_users: bool | None = None


class Presence(msgspec.Struct, frozen=True):
    """The presence of a user: whether they are connected, and when they last were."""

    user_id: UUID
    is_online: bool
    last_seen_at: datetime | None = None


# --- events ------------------------------------------------------------------------------------
#
# The event of a new message is the `Message` itself.


@dataclass(frozen=True, slots=True)
class MessageEdited:
    """A message was edited. After a reconnection it may be the first event of that message."""

    message: Message


@dataclass(frozen=True, slots=True)
class MessageDeleted:
    """A message was deleted. After a reconnection it may be the first event of that message."""

    message: Message


@dataclass(frozen=True, slots=True)
class Typing:
    """Another user is typing. May be missed."""

    user_id: UUID
    username: str


@dataclass(frozen=True, slots=True)
class Joined:
    """A user opened the conversation. May be missed; `Room.active_users` has all who are connected.

    Here and in `Left` the `username` is the user's id until the room learns their name.
    """

    user_id: UUID
    username: str


@dataclass(frozen=True, slots=True)
class Left:
    """A user's last connection closed. May be missed."""

    user_id: UUID
    username: str


class Member(msgspec.Struct, frozen=True):
    """A user who was added to a group or removed from it, as they now are.

    Of two records of a user the one with the higher `rev` is newer. `actor_id`: the user who added or removed them;
    None if unknown.
    """

    user_id: UUID
    username: str
    is_member: bool
    rev: int
    actor_id: UUID | None = None


class GroupDetails(msgspec.Struct, frozen=True):
    """Name, description and owner of a group at `rev`. `actor_id`: the user who changed them; None if unknown."""

    name: str | None
    description: str | None
    owner_id: UUID
    rev: int
    actor_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class MembersChanged:
    """The group changed: users were added or removed, or it has another name, description or owner.

    A server that knows no features sends neither `members`, `member_count` and `details` nor `new_owner`, leaves out
    what changed while the client was offline, and names the first 100 users only.

    Attributes:
        what: `added`, `removed`, `renamed` (name or description) or `new_owner`.
        user_id: the first user added or removed; the user who renamed it, None if unknown; the new owner.
        text: a sentence for people.
        user_ids: the users added or removed.
        user_count: their number; if it is higher than that of `user_ids`, reload the members.
        members: the users added or removed, with their names.
        member_count: number of members after the change.
        details: for `renamed` and `new_owner`: the group as it now is.
    """

    what: str
    user_id: UUID | None
    text: str
    user_ids: tuple[UUID, ...] = ()
    user_count: int = 0
    members: tuple[Member, ...] = ()
    member_count: int | None = None
    details: GroupDetails | None = None


@dataclass(frozen=True, slots=True)
class ReadPositions:
    """New read positions: user id → the highest `seq` read. May be missed."""

    positions: Mapping[UUID, int]

    def __hash__(self) -> int:
        return hash(frozenset(self.positions.items()))

    def __reduce__(self) -> tuple[Callable[[dict[UUID, int]], "ReadPositions"], tuple[dict[UUID, int]]]:
        """Supports pickle and copy: a read-only mapping cannot be pickled."""
        return read_positions, (dict(self.positions),)


def read_positions(positions: Mapping[UUID, int]) -> ReadPositions:
    """Makes the event with a read-only copy of the positions."""
    return ReadPositions(MappingProxyType(dict(positions)))


@dataclass(frozen=True, slots=True)
class Offline:
    """The connection broke; the next attempt follows in `retry_in` seconds. Missed changes follow after it."""

    reason: str
    retry_in: float


@dataclass(frozen=True, slots=True)
class Online:
    """The connection is back; missed changes follow."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The history was restored from a backup and cannot be resumed; reload it.

    Live changes follow without a gap. Ignore those whose `rev` the reloaded history already has.
    """

    last_seq: int
    last_rev: int
    epoch: str


@dataclass(frozen=True, slots=True)
class Warned:
    """The server rejected a frame without a sender that waits: `typing` or a read position. For a log."""

    code: str
    text: str


Event: TypeAlias = (
    Message
    | MessageEdited
    | MessageDeleted
    | Typing
    | Joined
    | Left
    | MembersChanged
    | ReadPositions
    | Offline
    | Online
    | Reset
    | Warned
)

ConversationRef: TypeAlias = Conversation | UUID | str
UserRef: TypeAlias = User | UUID | str


def key_of(thing: Any) -> UUID:
    """Returns the id of a conversation, a user or a message, given as a record, a UUID or text.

    Raises:
        ValueError: the text is not an id.
        TypeError: it is none of these.
    """
    if isinstance(thing, str):
        key = parse_uuid(thing)
        if key is None:
            raise ValueError("an id is a UUID in its usual form, 36 characters")
        return key
    found = thing if isinstance(thing, UUID) else getattr(thing, "id", None)
    if not isinstance(found, UUID):
        raise TypeError(f"give a record, its id as a UUID, or the id as a str, not {type(thing).__name__}")
    return found
