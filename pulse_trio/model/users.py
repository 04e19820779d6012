"""Users, and the changes that only one user sees."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class User:
    """A person. `username` is in the spelling of its registration."""

    id: UUID
    username: str


@dataclass(frozen=True, slots=True)
class MyMembership:
    """A user's own membership of a conversation as it now is: an object of the user's own sequence.

    Attributes:
        conversation_id: the conversation.
        user_id: the user.
        user_rev: number of its latest change in the user's own sequence (`users.last_rev`).
        is_member: False after the user left or was removed.
        read_seq: the user's read position; 0 if they are no member.
    """

    conversation_id: UUID
    user_id: UUID
    user_rev: int
    is_member: bool
    read_seq: int
