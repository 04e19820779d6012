"""Commands with fresh ids and fixed times, and shorthand to carry them out.

    message = await changed_message(store, post(group, alice, "hello"))
    edited = await changed_message(store, edit(message, alice, "hello, Bob", at=at(5)))

Users are given as `User` or by id. A repeat is the same command again; `dataclasses.replace` changes one field.
"""

from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias
from uuid import UUID

from pulse_trio.ids import IdSource
from pulse_trio.model import (
    AddMembers,
    Change,
    Command,
    Delete,
    Edit,
    Leave,
    Message,
    Post,
    RemoveMember,
    SetProperties,
    User,
)
from pulse_trio.store.base import Refusal, Store

START: Final = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
MANY: Final = 1_000  # a limit of members that no test reaches by accident

Someone: TypeAlias = User | UUID

new_id: Final = IdSource()


def at(seconds: float) -> datetime:
    """Returns the time that many seconds after START."""
    return START + timedelta(seconds=seconds)


def id_of(someone: Someone) -> UUID:
    """Returns the id of a user."""
    return someone.id if isinstance(someone, User) else someone


def post(
    conversation_id: UUID,
    actor: Someone,
    content: str = "hello",
    *,
    client_id: str | None = None,
    at: datetime = START,
) -> Post:
    """Makes a command that stores a message."""
    return Post(
        id=new_id(),
        conversation_id=conversation_id,
        actor_id=id_of(actor),
        at=at,
        content=content,
        client_id=client_id,
    )


def edit(message: Message, actor: Someone, content: str, *, if_rev: int | None = None, at: datetime = START) -> Edit:
    """Makes a command that gives a message new content."""
    return Edit(
        id=new_id(),
        conversation_id=message.conversation_id,
        actor_id=id_of(actor),
        at=at,
        message_id=message.id,
        content=content,
        if_rev=if_rev,
    )


def delete(message: Message, actor: Someone, *, at: datetime = START) -> Delete:
    """Makes a command that deletes a message."""
    return Delete(
        id=new_id(), conversation_id=message.conversation_id, actor_id=id_of(actor), at=at, message_id=message.id
    )


def set_properties(
    conversation_id: UUID, actor: Someone, *, at: datetime = START, **values: str | None
) -> SetProperties:
    """Makes a command that sets the given ones of `name` and `description`."""
    return SetProperties(id=new_id(), conversation_id=conversation_id, actor_id=id_of(actor), at=at, values=values)


def add(conversation_id: UUID, actor: Someone, *users: Someone, limit: int = MANY, at: datetime = START) -> AddMembers:
    """Makes a command that adds users to a group."""
    return AddMembers(
        id=new_id(),
        conversation_id=conversation_id,
        actor_id=id_of(actor),
        at=at,
        user_ids=tuple(map(id_of, users)),
        limit=limit,
    )


def remove(conversation_id: UUID, actor: Someone, user: Someone, *, at: datetime = START) -> RemoveMember:
    """Makes a command that removes a user from a group."""
    return RemoveMember(id=new_id(), conversation_id=conversation_id, actor_id=id_of(actor), at=at, user_id=id_of(user))


def leave(conversation_id: UUID, actor: Someone, *, at: datetime = START) -> Leave:
    """Makes a command by which the actor leaves a group."""
    return Leave(id=new_id(), conversation_id=conversation_id, actor_id=id_of(actor), at=at)


async def carry_out(store: Store, command: Command) -> tuple[Change, ...]:
    """Applies one command; returns its changes.

    Raises:
        Refusal: it was refused.
    """
    (outcome,) = await store.apply([command])
    if isinstance(outcome, Refusal):
        raise outcome
    return outcome


async def changed_message(store: Store, command: Post | Edit | Delete) -> Message:
    """Applies one command whose change is a message; returns the message.

    Raises:
        Refusal: it was refused.
    """
    (change,) = await carry_out(store, command)
    assert isinstance(change, Message)
    return change
