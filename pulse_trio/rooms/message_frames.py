"""The frames that carry a stored message."""

from typing import Any

from msgspec import UNSET

from pulse_trio.clock import rfc3339
from pulse_trio.protocol import MessageDeletedFrame, MessageFrame, MessageUpdatedFrame
from pulse_trio.store.base import Message


def change_frame(message: Message) -> MessageFrame | MessageUpdatedFrame | MessageDeletedFrame:
    """Returns the frame for a message's latest change."""
    fields: dict[str, Any] = {
        "sender_id": message.sender_id,
        "sender_username": message.sender_username,
        "message_id": message.id,
        "timestamp": rfc3339(message.created_at),
        "conversation_id": message.conversation_id,
        "seq": message.seq,
        "rev": message.rev,
        "client_id": UNSET if message.client_id is None else message.client_id,
    }
    if message.is_deleted:
        return MessageDeletedFrame(**fields, updated_at=rfc3339(message.updated_at))
    fields["content"] = message.content
    fields["is_edited"] = message.is_edited
    if message.is_edited:
        return MessageUpdatedFrame(**fields, updated_at=rfc3339(message.updated_at))
    return MessageFrame(**fields)
