"""How a stored message is told to clients."""

from typing import Any

from msgspec import UNSET

from pulse_trio.protocol import MessageDeletedFrame, MessageFrame, MessageUpdatedFrame, timestamp
from pulse_trio.store.base import Message


def change_frame(message: Message) -> MessageFrame | MessageUpdatedFrame | MessageDeletedFrame:
    """What tells a client of a message's latest change."""
    client_id = UNSET if message.client_id is None else message.client_id
    if message.is_deleted:
        return MessageDeletedFrame(
            sender_id=message.sender_id,
            sender_username=message.sender_username,
            message_id=message.id,
            timestamp=timestamp(message.created_at),
            updated_at=timestamp(message.updated_at),
            conversation_id=message.conversation_id,
            seq=message.seq,
            rev=message.rev,
            client_id=client_id,
        )
    fields: dict[str, Any] = {
        "content": message.content,
        "sender_id": message.sender_id,
        "sender_username": message.sender_username,
        "message_id": message.id,
        "timestamp": timestamp(message.created_at),
        "is_edited": message.is_edited,
        "conversation_id": message.conversation_id,
        "seq": message.seq,
        "rev": message.rev,
        "client_id": client_id,
    }
    if message.is_edited:
        return MessageUpdatedFrame(**fields, updated_at=timestamp(message.updated_at))
    return MessageFrame(**fields)
