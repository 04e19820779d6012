"""Messages of users who need not be connected: post, edit, delete; and how far they have read.

What comes over a WebSocket goes from the reader to the hub: its sender is a member already, and gets the answer as a
frame.
"""

from uuid import UUID

from pulse_trio.conversations.core import Core
from pulse_trio.conversations.groups import require_member
from pulse_trio.store.base import Message, ReadState, User


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
        StoreUnavailable: it was not stored.
    Cancelled: it may be stored or not.
    """
    await require_member(core, conversation_id, sender)
    return await core.hub.post(conversation_id, sender, content, client_id)


async def edit(core: Core, conversation_id: UUID, message_id: UUID, actor: User, content: str) -> Message:
    """Gives a message new content; its sender may. Returns it as it then is.

    Args:
        core: the running service.
        conversation_id: the conversation.
        message_id: the message.
        actor: the user who edits it.
        content: a text that `protocol.content_problem` accepts.

    Raises:
        NotAMember: the actor is not in the conversation, or it does not exist.
        PulseError: there is no such message, it is not the actor's, or it could not be stored in time.
        StoreUnavailable: the room could not be opened.
    Cancelled: the change may be made or not.
    """
    await require_member(core, conversation_id, actor)
    return await core.hub.revise(conversation_id, message_id, actor, content)


async def delete(core: Core, conversation_id: UUID, message_id: UUID, actor: User) -> None:
    """Deletes a message; its sender and the owner of the conversation may. A tombstone stays.

    Raises:
        NotAMember, PulseError, StoreUnavailable: as `edit`.
    Cancelled: the change may be made or not.
    """
    await require_member(core, conversation_id, actor)
    await core.hub.revise(conversation_id, message_id, actor, None)


async def mark_read(core: Core, conversation_id: UUID, user: User, seq: int) -> ReadState:
    """Moves the read position of a user forward to a message; returns where it then stands.

    Raises:
        NotAMember: the user is not in the conversation, or it does not exist.
        PulseError: no message has this seq.
        StoreUnavailable: it could not be stored in time; it may be stored later.
    Cancelled: it may be stored or not.
    """
    return await core.hub.read_positions.mark_read(conversation_id, user.id, seq)
