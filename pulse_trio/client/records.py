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


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation with its first members, in the order they joined; `Client.members` returns all.

    `users` has at most 10 members in a list of conversations, at most 100 in a single conversation; `member_count`
    counts all. `member_count`, `read_seq` and `unread_count` are None if the server does not support them.
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


@dataclass(frozen=True, slots=True)
class MembersChanged:
    """The group changed: `what` is `added`, `removed` or `renamed`; `text` is a sentence for people.

    `user_ids` are the users added or removed, at most 100 of them; `user_count` counts all: if it is higher, reload the
    conversation. For `renamed` there are none, and `user_id` is the user who renamed it.
    """

    what: str
    user_id: UUID
    text: str
    user_ids: tuple[UUID, ...] = ()
    user_count: int = 0


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
    """
    if isinstance(thing, str):
        key = parse_uuid(thing)
        if key is None:
            raise ValueError("an id is a UUID in its usual form, 36 characters")
        return key
    found = thing if isinstance(thing, UUID) else thing.id
    assert isinstance(found, UUID)
    return found
