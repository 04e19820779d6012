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
    FeatureNames,
    LastRev,
    LastSeq,
    MeRev,
    PrevMeRev,
    PrevRev,
    Rev,
    Seconds,
    Seq,
    Text,
    Time,
    Username,
)

FRAME_ERRORS: Final = {
    ErrorCode.INVALID_JSON: "not JSON, or JSON with repeated names, NaN, numbers too long or nesting too deep",
    ErrorCode.INVALID_FRAME: "not an object, or a field of the wrong type",
    ErrorCode.UNKNOWN_TYPE: "an unknown `type`",
    ErrorCode.BINARY_FRAME: "frames are text messages",
    ErrorCode.EMPTY_CONTENT: "`content` is missing, empty or only white space",
    ErrorCode.CONTENT_TOO_LONG: "`content` is over the limit",
    ErrorCode.INVALID_TEXT: "a NUL character or a lone surrogate",
    ErrorCode.CLIENT_ID_REUSED: "this `client_id` was used for a message with different content",
    ErrorCode.NO_SUCH_MESSAGE: "the message to edit or delete is not in this conversation, or is deleted; "
    "or no message has the `seq` of a `read`",
    ErrorCode.NOT_YOUR_MESSAGE: "only its sender may edit a message; its sender and the owner may delete it",
    ErrorCode.CANNOT_RESUME: "the server cannot resume from there; reload the history",
    ErrorCode.INVALID_TOKEN: "the token of an `auth` frame is not valid, or another user's",
    ErrorCode.NOT_A_MEMBER: "you are not a member of the conversation, or it does not exist",
    ErrorCode.RATE_LIMITED: "rate limit exceeded: this frame was rejected; wait, then send it again",
    ErrorCode.NOT_STORED: "the message was not stored within `PULSE_STORE_TIMEOUT` seconds: send it again with the "
    "same `client_id`; with `field` `seq`: the read position was not stored",
    ErrorCode.UNAVAILABLE: "the database does not answer, so your `auth` or `watch` had no effect: retry in a moment",
}
"""The codes of `error` frames, with their meanings."""


class Frame(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """A frame of either direction."""

    is_session_only: ClassVar[bool] = False
    """True for frames that exist only on a session's connection."""


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
    prev_rev: PrevRev | UnsetType = UNSET


class MessageUpdatedFrame(MessageFrame, frozen=True, kw_only=True, tag="message_updated"):
    """An edited message in its present state, with its new `rev`."""

    updated_at: Time


class MessageDeletedFrame(Frame, frozen=True, tag="message_deleted"):
    """A deleted message: its place and its new `rev`, without content."""

    sender_id: UUID
    sender_username: Username
    message_id: UUID
    timestamp: Time
    updated_at: Time
    conversation_id: UUID
    seq: Seq
    rev: Rev
    client_id: ClientId | UnsetType = UNSET
    prev_rev: PrevRev | UnsetType = UNSET


class MemberEntry(msgspec.Struct, frozen=True):
    """A member as they now are, or somebody who left."""

    user_id: UUID
    username: Username
    is_member: bool
    rev: Rev
    actor_id: Annotated[UUID | None, Meta(description="The user who added or removed them; null if unknown.")]


class MemberFrame(Frame, frozen=True, tag="member"):
    """Members that were added or removed; with the feature `members`. `rev` is that of the last entry."""

    conversation_id: UUID
    rev: Rev
    prev_rev: PrevRev
    member_count: Annotated[int, Meta(ge=0, description="The number of members.", examples=[12])]
    members: list[MemberEntry]


class ConversationFrame(Frame, frozen=True, tag="conversation"):
    """The properties of the conversation as they now are; with the feature `conversation`."""

    conversation_id: UUID
    rev: Rev
    prev_rev: PrevRev
    name: str | None
    description: str | None
    owner_id: UUID
    actor_id: Annotated[UUID | None, Meta(description="The user who changed them; null if unknown.")]


class TypingFrame(Frame, frozen=True, tag="typing"):
    """Another user is typing."""

    sender_id: UUID
    sender_username: Username
    conversation_id: UUID


class SystemFrame(Frame, frozen=True, kw_only=True, tag="system"):
    """An event of the conversation: `event` is for programs, `content` for people.

    In a crowded conversation only the user who joins gets `active_users`. `user_ids` and `user_count` come with `added`
    and `removed`.
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
    user_ids: Annotated[list[UUID], Meta(description="The users it is about, at most 100 of them.")] | UnsetType = UNSET
    user_count: (
        Annotated[int, Meta(description="Number of users it is about; if `user_ids` has fewer, reload the members.")]
        | UnsetType
    ) = UNSET
    features: FeatureNames | UnsetType = UNSET


class PresentUser(msgspec.Struct, frozen=True):
    """A user who came or went."""

    user_id: UUID
    username: Username


class PresenceFrame(Frame, frozen=True, tag="presence"):
    """Users who came to a crowded conversation and who left it, batched; replaces `joined` and `left` there."""

    conversation_id: UUID
    joined: list[PresentUser]
    left: list[PresentUser]
    active_count: ActiveCount


class Position(msgspec.Struct, frozen=True):
    """The read position of a user: the highest `seq` that they have read."""

    user_id: UUID
    seq: Seq


class ReadFrame(Frame, frozen=True, tag="read"):
    """New read positions, batched."""

    conversation_id: UUID
    positions: list[Position]


class UserPresence(msgspec.Struct, frozen=True):
    """The presence of a user.

    `last_seen_at`: when their first connection opened if they are online, else when their last one closed; None if they
    never connected.
    """

    user_id: UUID
    is_online: bool
    last_seen_at: Time | None


class UsersFrame(Frame, frozen=True, tag="users"):
    """The presence of users that this session watches."""

    is_session_only: ClassVar[bool] = True
    users: list[UserPresence]


class ErrorFrame(Frame, frozen=True, tag="error"):
    """A frame of this client was rejected, or its message could not be stored.

    `conversation_id`: only on a session's connection, if the error concerns one conversation.
    """

    content: Annotated[str, Meta(description="A sentence for a person.", examples=["Message content cannot be empty"])]
    code: Annotated[
        str,
        Meta(
            description="For programs; stable.",
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
    """The first frame of a session: all changes committed from now on will be sent."""

    is_session_only: ClassVar[bool] = True
    user_id: UUID
    username: Username
    epoch: Epoch
    features: FeatureNames | UnsetType = UNSET
    me_rev: MeRev | UnsetType = UNSET


class FeaturesFrame(Frame, frozen=True, tag="features"):
    """The answer to the `features` of a `resume` frame, before anything else."""

    is_session_only: ClassVar[bool] = True
    features: FeatureNames
    me_rev: MeRev | UnsetType = UNSET


class MembershipFrame(Frame, frozen=True, tag="membership"):
    """The user's own membership of a conversation as it now is; with the feature `me`.

    They were added, removed, or their read position moved, on any of their devices. `read_seq` is 0 for no member.
    """

    is_session_only: ClassVar[bool] = True
    conversation_id: UUID
    is_member: bool
    read_seq: Annotated[int, Meta(ge=0, description="The `seq` up to which the user has read.", examples=[42])]
    me_rev: MeRev
    prev_me_rev: PrevMeRev


class ConversationAddedFrame(Frame, frozen=True, tag="conversation_added"):
    """The user of this session was added to a conversation; its events follow. Not with the feature `me`."""

    is_session_only: ClassVar[bool] = True
    conversation_id: UUID


class ConversationRemovedFrame(Frame, frozen=True, tag="conversation_removed"):
    """The user of this session is not in this conversation any more. Not with the feature `me`."""

    is_session_only: ClassVar[bool] = True
    conversation_id: UUID


class AuthFrame(Frame, frozen=True, tag="auth"):
    """The answer to `auth`: the connection is authorized for `expires_in` more seconds."""

    expires_in: Seconds


class PongFrame(Frame, frozen=True, tag="pong"):
    """The answer to `ping`."""


ServerFrame: TypeAlias = (
    MessageFrame
    | MessageUpdatedFrame
    | MessageDeletedFrame
    | MemberFrame
    | ConversationFrame
    | TypingFrame
    | SystemFrame
    | PresenceFrame
    | ReadFrame
    | UsersFrame
    | ErrorFrame
    | AuthFrame
    | PongFrame
    | SessionFrame
    | FeaturesFrame
    | MembershipFrame
    | ConversationAddedFrame
    | ConversationRemovedFrame
)


def error_frame(error: PulseError, client_id: str | None = None, conversation_id: UUID | None = None) -> ErrorFrame:
    """Builds the frame for an error; `conversation_id` is for sessions only."""
    return ErrorFrame(
        content=error.message,
        code=error.code.code,
        field=UNSET if error.field is None else error.field,
        client_id=UNSET if client_id is None else client_id,
        conversation_id=UNSET if conversation_id is None else conversation_id,
    )
