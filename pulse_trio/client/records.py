"""What a client is given: frozen records, the same from history and from a live connection."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from pulse_trio.ids import parse_uuid


class User(msgspec.Struct, frozen=True):
    """Somebody with an account."""

    id: UUID
    username: str


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message, as it is at its `rev`; as an event: it is new.

    `seq` is where it stands in its conversation: 1, 2, 3 … without gaps. `rev` numbers the changes of the
    conversation: of two records of one message the one with the higher rev is how it now is.
    A deleted one keeps its place and has no content. `client_id` is what its sender gave it.
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
    """A conversation and its first members, in the order they came; `Client.members` has all.

    `users` holds up to 10 of them in a list of conversations, up to 100 in a conversation alone; `member_count` is how
    many there are. It, `read_seq` and `unread_count` are None if the server does not keep them.
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
    """Whether somebody is connected, and when they last were."""

    user_id: UUID
    is_online: bool
    last_seen_at: datetime | None = None


# --- events ------------------------------------------------------------------------------------
#
# A new message is a `Message`.


@dataclass(frozen=True, slots=True)
class MessageEdited:
    """A message has new content. After a reconnection it may be the first you hear of that message."""

    message: Message


@dataclass(frozen=True, slots=True)
class MessageDeleted:
    """A message was deleted. After a reconnection it may be the first you hear of that message."""

    message: Message


@dataclass(frozen=True, slots=True)
class Typing:
    """Somebody else is typing. May be missed."""

    user_id: UUID
    username: str


@dataclass(frozen=True, slots=True)
class Joined:
    """A user opened the conversation. May be missed; `Room.active_users` says who has it open.

    Here and in `Left` the `username` is the id of somebody whose name has not been heard yet.
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
    """The group changed: `what` is `added`, `removed` or `renamed`; `text` says it to a person.

    `user_ids` are those who were added or removed, the first 100 of them if there are more; `user_count` is how many
    there are: if that is more, load the conversation afresh. Of `renamed` there are none, and `user_id` is who did it.
    """

    what: str
    user_id: UUID
    text: str
    user_ids: tuple[UUID, ...] = ()
    user_count: int = 0


@dataclass(frozen=True, slots=True)
class ReadPositions:
    """How far members have read: the seq up to which, for those that moved. May be missed."""

    positions: Mapping[UUID, int]

    def __hash__(self) -> int:
        return hash(frozenset(self.positions.items()))

    def __reduce__(self) -> tuple[Callable[[dict[UUID, int]], "ReadPositions"], tuple[dict[UUID, int]]]:
        """Gives the arguments from which pickle and copy make it again: a read-only mapping cannot be pickled."""
        return read_positions, (dict(self.positions),)


def read_positions(positions: Mapping[UUID, int]) -> ReadPositions:
    """An event whose positions nobody changes."""
    return ReadPositions(MappingProxyType(dict(positions)))


@dataclass(frozen=True, slots=True)
class Offline:
    """The connection broke; another attempt is made in so many seconds. Nothing is lost: what is missed follows."""

    reason: str
    retry_in: float


@dataclass(frozen=True, slots=True)
class Online:
    """The connection is back; what was missed follows."""


@dataclass(frozen=True, slots=True)
class Reset:
    """There is no going on from where this was: the history was restored from a backup. Load it afresh now.

    What follows is live, and no part of it is missing. A change whose `rev` the loaded history has is no news.
    """

    last_seq: int
    last_rev: int
    epoch: str


@dataclass(frozen=True, slots=True)
class Warned:
    """A frame that nobody waits for was refused: a `typing` or a read position. For a log."""

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
    """The id of a conversation, a user or a message, or of what writes one.

    Raises:
        ValueError: it is none.
    """
    if isinstance(thing, str):
        key = parse_uuid(thing)
        if key is None:
            raise ValueError("an id is a UUID in its usual form, 36 characters")
        return key
    found = thing if isinstance(thing, UUID) else thing.id
    assert isinstance(found, UUID)
    return found
