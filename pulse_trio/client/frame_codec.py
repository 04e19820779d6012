"""Decodes and encodes WebSocket frames for the client. No I/O."""

from typing import Any, Final, TypeAlias

import msgspec
from msgspec import UNSET

from pulse_trio.client.errors import ProtocolError
from pulse_trio.client.records import Message
from pulse_trio.protocol import (
    AuthFrame,
    ConversationFrame,
    ErrorFrame,
    MemberFrame,
    MessageDeletedFrame,
    MessageFrame,
    MessageUpdatedFrame,
    PresenceFrame,
    ReadFrame,
    SystemFrame,
    TypingFrame,
)

MessageChange: TypeAlias = MessageFrame | MessageUpdatedFrame | MessageDeletedFrame
"""A new `rev` of a message."""

ChangeFrame: TypeAlias = MessageChange | MemberFrame | ConversationFrame
"""A frame with a `rev` of its own: each kind moves the position from which a client resumes."""

OtherFrame: TypeAlias = TypingFrame | SystemFrame | PresenceFrame | ErrorFrame | AuthFrame | ReadFrame
"""A frame that is no change of the conversation's history."""

IncomingFrame: TypeAlias = ChangeFrame | OtherFrame


class _Kind(msgspec.Struct):
    type: str


_kind: Final = msgspec.json.Decoder(_Kind)
_decoders: Final[dict[str, msgspec.json.Decoder[IncomingFrame]]] = {
    str(frame.__struct_config__.tag): msgspec.json.Decoder(frame)
    for frame in (
        MessageFrame,
        MessageUpdatedFrame,
        MessageDeletedFrame,
        MemberFrame,
        ConversationFrame,
        TypingFrame,
        SystemFrame,
        PresenceFrame,
        ErrorFrame,
        AuthFrame,
        ReadFrame,
    )
}
_encoder: Final = msgspec.json.Encoder()


def decode(text: str | bytes) -> IncomingFrame | None:
    """Decodes the frame in a WebSocket message; returns None for an unknown type, which clients must ignore.

    Raises:
        ProtocolError: it is not a valid frame.
    """
    try:
        decoder = _decoders.get(_kind.decode(text).type)
        return None if decoder is None else decoder.decode(text)
    except msgspec.DecodeError as error:
        raise ProtocolError(f"a frame cannot be decoded: {error}") from None


def encode(kind: str, **fields: Any) -> str:
    """Encodes a frame of this type as the text of a WebSocket message, without the fields that are None."""
    return _encoder.encode({"type": kind, **{k: v for k, v in fields.items() if v is not None}}).decode()


def message_of(frame: MessageChange) -> Message:
    """Returns the message that a frame carries.

    Raises:
        ProtocolError: a timestamp is not valid.
    """
    fields = {
        "id": frame.message_id,
        "conversation_id": frame.conversation_id,
        "sender_id": frame.sender_id,
        "sender_username": frame.sender_username,
        "content": "" if isinstance(frame, MessageDeletedFrame) else frame.content,
        "created_at": frame.timestamp,
        "updated_at": getattr(frame, "updated_at", frame.timestamp),
        "seq": frame.seq,
        "rev": frame.rev,
        "is_edited": False if isinstance(frame, MessageDeletedFrame) else frame.is_edited,
        "is_deleted": isinstance(frame, MessageDeletedFrame),
        "client_id": None if frame.client_id is UNSET else frame.client_id,
    }
    try:
        return msgspec.convert(fields, Message)
    except msgspec.ValidationError as error:
        raise ProtocolError(f"a frame cannot be decoded: {error}") from None
