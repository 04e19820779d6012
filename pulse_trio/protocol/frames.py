"""Frames that the server sends."""

from typing import Annotated, ClassVar, Final, TypeAlias
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.protocol.fields import (
    ActiveCount,
    ClientId,
    EchoedClientId,
    Epoch,
    Event,
    LastRev,
    LastSeq,
    Rev,
    Seconds,
    Seq,
    Text,
    Time,
    Username,
)

FRAME_ERRORS: Final = {
    ErrorCode.INVALID_JSON: "not JSON, or JSON with repeated names, NaN, endless nesting or endless numbers",
    ErrorCode.INVALID_FRAME: "not an object, or a field of the wrong kind",
    ErrorCode.UNKNOWN_TYPE: "`type` is none of the above",
    ErrorCode.BINARY_FRAME: "frames are text messages",
    ErrorCode.EMPTY_CONTENT: "`content` is missing, empty or only white space",
    ErrorCode.CONTENT_TOO_LONG: "`content` is over the limit",
    ErrorCode.INVALID_TEXT: "a NUL character or a lone surrogate",
    ErrorCode.CLIENT_ID_REUSED: "this `client_id` was used for a message with other content",
    ErrorCode.NO_SUCH_MESSAGE: "the message to edit or delete is not in this conversation, or is deleted; "
    "no message has the `seq` that was read",
    ErrorCode.NOT_YOUR_MESSAGE: "only its sender may edit a message; its sender and the owner may delete it",
    ErrorCode.CANNOT_RESUME: "there is no such point to resume at; load the history afresh",
    ErrorCode.INVALID_TOKEN: "the token of an `auth` frame is not valid, or another user's",
    ErrorCode.NOT_A_MEMBER: "you are not in the conversation, or have been removed; the same if it does not exist",
    ErrorCode.RATE_LIMITED: "you send too much at once, and this frame was refused; wait, and send it again",
    ErrorCode.NOT_STORED: "the message could not be stored within `PULSE_STORE_TIMEOUT` seconds: send it again with "
    "the same `client_id`; with `field` `seq`: the same of a read position",
    ErrorCode.UNAVAILABLE: "the database does not answer, so your `auth` or `watch` was not taken: send it again in "
    "a moment",
}
"""What an `error` frame can be about."""


class Frame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """A frame of either direction."""

    is_session_only: ClassVar[bool] = False
    """True for frames that a conversation's own connection does not know."""


class MessageFrame(Frame, frozen=True, tag="message"):
    """A stored message."""

    content: Text
    sender_id: UUID
    sender_username: Username
    message_id: UUID
    timestamp: Time
    is_edited: bool
    conversation_id: UUID
    seq: Seq
    rev: Rev
    client_id: ClientId | UnsetType = UNSET


class MessageUpdatedFrame(MessageFrame, frozen=True, kw_only=True, tag="message_updated"):
    """A message that was edited, as it now is, with its new `rev`."""

    updated_at: Time


class MessageDeletedFrame(Frame, frozen=True, tag="message_deleted"):
    """A message that was deleted: its place, with its new `rev`, and no content."""

    sender_id: UUID
    sender_username: Username
    message_id: UUID
    timestamp: Time
    updated_at: Time
    conversation_id: UUID
    seq: Seq
    rev: Rev
    client_id: ClientId | UnsetType = UNSET


class TypingFrame(Frame, frozen=True, tag="typing"):
    """Somebody else is typing."""

    sender_id: UUID
    sender_username: Username
    conversation_id: UUID


class SystemFrame(Frame, frozen=True, kw_only=True, tag="system"):
    """Something happened to the conversation; `event` says what, `content` says it to a person.

    `active_users` is left out for all but who joins when there are too many of them. `user_ids` and `user_count` come
    with `added` and `removed`.
    """

    content: Annotated[str, Meta(examples=["User john_doe joined the conversation"])]
    sender_id: UUID
    active_users: list[UUID] | UnsetType = UNSET
    active_count: ActiveCount
    event: Event
    conversation_id: UUID
    last_seq: LastSeq
    last_rev: LastRev
    epoch: Epoch
    user_ids: Annotated[list[UUID], Meta(description="Whom it is about: the first 100 of them.")] | UnsetType = UNSET
    user_count: (
        Annotated[int, Meta(description="How many it is about; if more than `user_ids`, load the members afresh.")]
        | UnsetType
    ) = UNSET


class PresentUser(msgspec.Struct, frozen=True):
    """Who came or went."""

    user_id: UUID
    username: Username


class PresenceFrame(Frame, frozen=True, tag="presence"):
    """Who came to a crowded conversation and who went, within a moment; in place of `joined` and `left`."""

    conversation_id: UUID
    joined: list[PresentUser]
    left: list[PresentUser]
    active_count: ActiveCount


class Position(msgspec.Struct, frozen=True):
    """How far a user has read."""

    user_id: UUID
    seq: Seq


class ReadFrame(Frame, frozen=True, tag="read"):
    """How far users have read who have read on, within a moment."""

    conversation_id: UUID
    positions: list[Position]


class UserPresence(msgspec.Struct, frozen=True):
    """Whether a user is online, and since when that is so; None if they never were."""

    user_id: UUID
    is_online: bool
    last_seen_at: Time | None


class UsersFrame(Frame, frozen=True, tag="users"):
    """Who of those that a session watches is online."""

    is_session_only: ClassVar[bool] = True
    users: list[UserPresence]


class ErrorFrame(Frame, frozen=True, tag="error"):
    """A frame of this client was refused, or its message could not be stored.

    `conversation_id`: only on a session's connection, when it concerns one conversation.
    """

    content: Annotated[str, Meta(description="A sentence for a person.", examples=["Message content cannot be empty"])]
    code: Annotated[
        str,
        Meta(
            description="For programs; stays the same.",
            examples=[ErrorCode.EMPTY_CONTENT.code],
            extra_json_schema={
                "enum": [code.code for code in FRAME_ERRORS],
                "x-meanings": {code.code: meaning for code, meaning in FRAME_ERRORS.items()},
            },
        ),
    ]
    field: Annotated[str, Meta(examples=["content"])] | UnsetType = UNSET
    client_id: EchoedClientId | UnsetType = UNSET
    conversation_id: UUID | UnsetType = UNSET


class SessionFrame(Frame, frozen=True, tag="session"):
    """The first frame of a session: whatever is committed from now on will be sent."""

    is_session_only: ClassVar[bool] = True
    user_id: UUID
    username: Username
    epoch: Epoch


class ConversationAddedFrame(Frame, frozen=True, tag="conversation_added"):
    """The user of this session has been added to a conversation; what happens there follows."""

    is_session_only: ClassVar[bool] = True
    conversation_id: UUID


class ConversationRemovedFrame(Frame, frozen=True, tag="conversation_removed"):
    """The user of this session is not in this conversation any more; nothing of it follows."""

    is_session_only: ClassVar[bool] = True
    conversation_id: UUID


class AuthFrame(Frame, frozen=True, tag="auth"):
    """The answer to `auth`: the connection may go on for so many seconds."""

    expires_in: Seconds


class PongFrame(Frame, frozen=True, tag="pong"):
    """The answer to `ping`."""


ServerFrame: TypeAlias = (
    MessageFrame
    | MessageUpdatedFrame
    | MessageDeletedFrame
    | TypingFrame
    | SystemFrame
    | PresenceFrame
    | ReadFrame
    | UsersFrame
    | ErrorFrame
    | AuthFrame
    | PongFrame
    | SessionFrame
    | ConversationAddedFrame
    | ConversationRemovedFrame
)


def error_frame(error: PulseError, client_id: str | None = None, conversation_id: UUID | None = None) -> ErrorFrame:
    """How an error is told over WebSocket; with the conversation only to a session."""
    return ErrorFrame(
        content=error.message,
        code=error.code.code,
        field=UNSET if error.field is None else error.field,
        client_id=UNSET if client_id is None else client_id,
        conversation_id=UNSET if conversation_id is None else conversation_id,
    )
