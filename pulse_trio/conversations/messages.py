"""Messages: send, edit, delete; and how far users have read.

`send` and `revise` are for connections, which get the answer as a frame; `post`, `edit` and `delete` for users who need
not be connected. Both lead to the room's writer.
"""

from collections.abc import Sequence
from uuid import UUID

from pulse_trio.conversations.core import Core
from pulse_trio.conversations.groups import require_member
from pulse_trio.model import Change, Delete, Edit, Message, Post, User
from pulse_trio.protocol import DeleteMessage, EditMessage, SendMessage
from pulse_trio.rooms.senders import OnStored
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.store.base import NotAMember, ReadState


async def send(core: Core, subscription: Subscription, frame: SendMessage) -> None:
    """Submits a connection's message; waits while too many are unstored. Cancelled: it was not submitted."""
    user = subscription.connection.user
    message = _new_message(core, subscription.conversation_id, user, frame.content, frame.client_id)
    await core.hub.submit(subscription, message, frame.client_id)


def send_now(core: Core, subscription: Subscription, frame: SendMessage) -> bool:
    """Submits a connection's message as `send`, if nothing has to be waited for; False if it was not submitted."""
    user = subscription.connection.user
    message = _new_message(core, subscription.conversation_id, user, frame.content, frame.client_id)
    return core.hub.submit_now(subscription, message, frame.client_id)


async def revise(
    core: Core, subscription: Subscription, frame: EditMessage | DeleteMessage, on_stored: OnStored | None = None
) -> None:
    """Submits a connection's edit or deletion; `on_stored` gets the message. Cancelled: it was not submitted."""
    conversation_id, user = subscription.conversation_id, subscription.connection.user
    command: Edit | Delete
    if isinstance(frame, EditMessage):
        command = _edit(core, conversation_id, frame.message_id, user, frame.content)
    else:
        command = _delete(core, conversation_id, frame.message_id, user)
    await core.hub.submit(subscription, command, frame.client_id, on_stored=on_stored)


async def post(
    core: Core, conversation_id: UUID, sender: User, content: str, client_id: str | None
) -> tuple[Message, bool]:
    """Stores a message and delivers it; returns it, and False if it was stored before under its `client_id`.

    Args:
        core: the running service.
        conversation_id: the conversation.
        sender: a member of it.
        content: a text that `protocol.content_problem` accepts.
        client_id: the sender's own id for the message, which makes a resend harmless.

    Raises:
        NotAMember: the sender is not in the conversation, or it does not exist.
        PulseError: it was refused, or could not be stored in time.
        StoreUnavailable: the room could not be opened, or a resend's membership not be looked up.
    Cancelled: it may be stored or not.
    """
    await require_member(core, conversation_id, sender)
    new = _new_message(core, conversation_id, sender, content, client_id)
    message = _message(await core.hub.apply(new, client_id))
    is_new = message.id == new.id
    # The store also finds earlier messages of a sender who has been removed since.
    if not is_new and await core.store.membership(conversation_id, sender.id) is None:
        raise NotAMember
    return message, is_new


async def edit(
    core: Core, conversation_id: UUID, message_id: UUID, actor: User, content: str, *, if_rev: int | None = None
) -> Message:
    """Gives a message new content; its sender may. Returns it as it then is.

    Args:
        core: the running service.
        conversation_id: the conversation.
        message_id: the message.
        actor: the user who edits it.
        content: a text that `protocol.content_problem` accepts.
        if_rev: the rev that the message must have; None for any.

    Raises:
        Refusal: the actor is not in the conversation, there is no such message, it is not the actor's, or it has
            another rev.
        PulseError: it could not be stored in time.
        StoreUnavailable: the room could not be opened.
    Cancelled: the change may be made or not.
    """
    await require_member(core, conversation_id, actor)
    return _message(await core.hub.apply(_edit(core, conversation_id, message_id, actor, content, if_rev)))


async def delete(core: Core, conversation_id: UUID, message_id: UUID, actor: User) -> Message:
    """Deletes a message; its sender and the owner of the conversation may. Returns the tombstone, which stays.

    Raises:
        Refusal, PulseError, StoreUnavailable: as `edit`.
    Cancelled: the change may be made or not.
    """
    await require_member(core, conversation_id, actor)
    return _message(await core.hub.apply(_delete(core, conversation_id, message_id, actor)))


async def mark_read(core: Core, conversation_id: UUID, user: User, seq: int) -> ReadState:
    """Moves the read position of a user forward to a message; returns where it then stands.

    Raises:
        NotAMember: the user is not in the conversation, or it does not exist.
        PulseError: no message has this seq.
        StoreUnavailable: it could not be stored in time; it may be stored later.
    Cancelled: it may be stored or not.
    """
    return await core.hub.read_positions.mark_read(conversation_id, user.id, seq)


def _new_message(core: Core, conversation_id: UUID, sender: User, content: str, client_id: str | None) -> Post:
    return Post(
        id=core.ids(),
        conversation_id=conversation_id,
        actor_id=sender.id,
        at=core.clock(),
        content=content,
        client_id=client_id,
    )


def _edit(
    core: Core, conversation_id: UUID, message_id: UUID, actor: User, content: str, if_rev: int | None = None
) -> Edit:
    return Edit(
        id=core.ids(),
        conversation_id=conversation_id,
        actor_id=actor.id,
        at=core.clock(),
        message_id=message_id,
        content=content,
        if_rev=if_rev,
    )


def _delete(core: Core, conversation_id: UUID, message_id: UUID, actor: User) -> Delete:
    return Delete(
        id=core.ids(), conversation_id=conversation_id, actor_id=actor.id, at=core.clock(), message_id=message_id
    )


def _message(changes: Sequence[Change]) -> Message:
    (message,) = changes
    assert isinstance(message, Message)
    return message
