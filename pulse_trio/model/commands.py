"""Commands: what users ask for.

Each has an id that is made beforehand, so that a retry is harmless: the store recognizes it and answers with the same
changes, as they now are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A request to change a conversation.

    Attributes:
        id: makes a retry harmless.
        conversation_id: the conversation.
        actor_id: the user who asks; must be a member under the lock that orders the conversation's changes.
        at: the time of the request.
        actor_username: the actor's name, for sentences about what they did.
    """

    id: UUID
    conversation_id: UUID
    actor_id: UUID
    at: datetime
    actor_username: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Post(Command):
    """Store a message, whose id is the command's.

    Attributes:
        content: the text.
        client_id: the sender's own id for it; a second message of theirs with the same one is not stored.
    """

    content: str
    client_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit(Command):
    """Give a message new content; its sender may.

    Attributes:
        message_id: the message.
        content: the new text.
        if_rev: the rev that the message must have; None for any.
    """

    message_id: UUID
    content: str
    if_rev: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delete(Command):
    """Delete a message; its sender and the owner of the conversation may. A tombstone stays."""

    message_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class SetProperties(Command):
    """Set the `name`, the `description` or both of a group: the keys of `values`. Any member may."""

    values: Mapping[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddMembers(Command):
    """Add users to a group; any member may. Those who are members already stay.

    Their read position is the end of the conversation, so that no existing message counts as unread.

    Attributes:
        user_ids: the users, each once.
        limit: members that the group may have afterwards.
    """

    user_ids: tuple[UUID, ...]
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveMember(Command):
    """Remove a user from a group; its owner may. When the owner goes, the longest-standing member becomes the owner."""

    user_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave(Command):
    """Leave a group: the actor removes themselves."""


def text_chars(command: Command) -> int:
    """Returns the characters of the text that a command carries: what it costs beyond others of its kind."""
    return len(command.content) if isinstance(command, Post | Edit) else 0
