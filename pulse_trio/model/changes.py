"""Changes: what became of commands. Each is an object as it now is, with the rev of its last change."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Final, TypeAlias
from uuid import UUID


class Kind:
    """The kinds of objects, as bits of a mask. Plain numbers: an `IntFlag` is ten times slower per delivered frame."""

    MESSAGE: Final = 1
    MEMBER: Final = 2
    CONVERSATION: Final = 4
    ALL: Final = 7


def highest_rev(revs: Mapping[int, int], kinds: int) -> int:
    """Returns the highest of the revs by `Kind` among the kinds of a mask; 0 without any."""
    return max((rev for kind, rev in revs.items() if kind & kinds), default=0)


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message in its current state. A deleted one is a tombstone with empty content.

    Attributes:
        seq: position in the conversation: 1, 2, 3 …
        rev: number of its latest change.
        client_id: the sender's own id for it, if any; makes a resend harmless.
    """

    kind: ClassVar = Kind.MESSAGE

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
class Member:
    """A user's place in a conversation: a member, or somebody who left.

    The members that a conversation was created with have no change of their own until they leave.

    Attributes:
        is_member: False for somebody who left or was removed.
        actor_id: the user who added or removed them; None if unknown.
        member_count: members of the conversation, as of this change or later.
        user_rev: number of this change in the user's own sequence; 0 if it was read later, when it may have moved on.
    """

    kind: ClassVar = Kind.MEMBER

    conversation_id: UUID
    rev: int
    user_id: UUID
    username: str
    is_member: bool
    actor_id: UUID | None
    member_count: int
    user_rev: int = 0


@dataclass(frozen=True, slots=True)
class Properties:
    """The properties that a conversation has once: its name, description and owner.

    Attributes:
        actor_id: the user who changed them; None if unknown.
    """

    kind: ClassVar = Kind.CONVERSATION

    conversation_id: UUID
    rev: int
    name: str | None
    description: str | None
    owner_id: UUID
    actor_id: UUID | None


Change: TypeAlias = Message | Member | Properties
