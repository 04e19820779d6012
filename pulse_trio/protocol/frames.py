"""The WebSocket protocol: every frame, every close code, how they are read and written.

No I/O here. `docs/protocol.md` tells the same to people; a test holds it to this module. Frames are
JSON objects in text messages; the field `type` says which. Fields of a client's frame that are not
listed here are ignored, so that clients may be newer than the server.
"""

from datetime import datetime
from enum import IntEnum
from typing import Annotated, Any, Final, Self, TypeAlias, get_args
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pulse_trio import strict_json
from pulse_trio.clock import rfc3339
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import parse_uuid
from pulse_trio.protocol.fields import (
    CLIENT_ID_MAX_CHARS,
    REV_MOST,
    ActiveCount,
    ClientId,
    Content,
    Epoch,
    Event,
    LastRev,
    LastSeq,
    Rev,
    Revs,
    Seconds,
    Seq,
    Text,
    Time,
    Token,
    ToldBack,
    Username,
)
from pulse_trio.texts import text_problem

SUBPROTOCOL: Final = "pulse.v1"
"""The one subprotocol that a handshake may choose."""

BEARER_PREFIX: Final = "bearer."
"""A `Sec-WebSocket-Protocol` entry with this before it carries the token; it is never chosen."""


class CloseCode(IntEnum):
    """Why the server closes a connection (RFC 6455, section 7.4; 4000 and above are this service's).

    Each with what it means and what the client is to do.
    """

    NORMAL = 1000, "you closed it", ""
    PROTOCOL_ERROR = 1002, "you broke the WebSocket protocol", "mend the client"
    INVALID_TEXT = 1007, "a text message was not UTF-8", "mend the client"
    UNFINISHED = 1008, "a message did not come to its end within `PULSE_MESSAGE_TIMEOUT` seconds", "reconnect"
    TOO_BIG = 1009, "a message over `PULSE_MAX_FRAME_BYTES` bytes", "send less at a time"
    INTERNAL_ERROR = 1011, "a fault of the server", "reconnect"
    RESTART = 1012, "the server restarts", "reconnect after a random moment, so that not everybody comes at once"
    TOKEN_EXPIRED = 4401, "your token has expired", "reconnect with a new one; send `auth` in time to avoid it"
    REMOVED = 4403, "you were removed from the conversation", "do not reconnect"
    TOO_SLOW = (
        4408,
        "you read too slowly: over `PULSE_OUTBOX_BYTES` waited for you",
        "reconnect with `after`, or `resume`",
    )
    CANNOT_RESUME = 4409, "you cannot resume at this `after`", "load the history afresh, then reconnect"
    FLOODING = (
        4429,
        "you went on sending too much after `rate_limited`, or sent too many pings, pongs or pieces of messages",
        "reconnect, and send more slowly",
    )

    meaning: str
    advice: str

    def __new__(cls, value: int, meaning: str, advice: str) -> Self:
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        code.advice = advice
        return code


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


# --- client → server ---------------------------------------------------------------------------
#
# `conversation_id` says which one is meant on a session's connection, where it is required; on a
# conversation's own connection it may be left out.


class SendMessage(Frame, frozen=True, tag="message"):
    """Store this and deliver it to every member of the conversation."""

    content: Content
    client_id: ClientId | None = None
    conversation_id: UUID | None = None


class EditMessage(Frame, frozen=True, tag="edit"):
    """Give a message of one's own new content. `client_id` is only told back in an error."""

    message_id: UUID
    content: Content
    client_id: ClientId | None = None
    conversation_id: UUID | None = None


class DeleteMessage(Frame, frozen=True, tag="delete"):
    """Delete a message of one's own, or any as the conversation's owner."""

    message_id: UUID
    client_id: ClientId | None = None
    conversation_id: UUID | None = None


class SendTyping(Frame, frozen=True, tag="typing"):
    """Tell the others that this user is typing."""

    conversation_id: UUID | None = None


class SendRead(Frame, frozen=True, tag="read"):
    """Everything up to this seq has been read; a lower one than before changes nothing."""

    seq: Seq
    conversation_id: UUID | None = None


class SendPing(Frame, frozen=True, tag="ping"):
    """Answer with a `pong` (browsers cannot send WebSocket pings)."""


class SendAuth(Frame, frozen=True, tag="auth"):
    """Go on with this token; the old one is about to expire."""

    token: Token


class SendResume(Frame, frozen=True, tag="resume"):
    """The first frame of a session: go on in these conversations after the rev last seen in each."""

    revs: Revs
    epoch: Epoch | None = None


class SendWatch(Frame, frozen=True, tag="watch"):
    """Of a session: tell it who of these is online, now and whenever that changes; in place of those before."""

    user_ids: list[UUID]


ConversationFrame: TypeAlias = SendMessage | EditMessage | DeleteMessage | SendTyping | SendRead
"""What a client sends about one conversation."""

ClientFrame: TypeAlias = ConversationFrame | SendPing | SendAuth | SendResume | SendWatch

_CLIENT_TYPES: Final = "message, edit, delete, typing, read, ping, auth, resume, watch"

# --- server → client ---------------------------------------------------------------------------


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


class Standing(msgspec.Struct, frozen=True):
    """Whether a user is online, and since when that is so; None if they never were."""

    user_id: UUID
    is_online: bool
    last_seen_at: Time | None


class UsersFrame(Frame, frozen=True, tag="users"):
    """Who of those that a session watches is online."""

    users: list[Standing]


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
    client_id: ToldBack | UnsetType = UNSET
    conversation_id: UUID | UnsetType = UNSET


class SessionFrame(Frame, frozen=True, tag="session"):
    """The first frame of a session: whatever is committed from now on will be sent."""

    user_id: UUID
    username: Username
    epoch: Epoch


class ConversationAddedFrame(Frame, frozen=True, tag="conversation_added"):
    """The user of this session has been added to a conversation; what happens there follows."""

    conversation_id: UUID


class ConversationRemovedFrame(Frame, frozen=True, tag="conversation_removed"):
    """The user of this session is not in this conversation any more; nothing of it follows."""

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

SESSION_ONLY: Final = frozenset(
    {SendResume, SendWatch, SessionFrame, UsersFrame, ConversationAddedFrame, ConversationRemovedFrame}
)
"""Frames that a conversation's own connection does not know."""

_encoder = msgspec.json.Encoder()
_KINDS: Final = {frame: str(frame.__struct_config__.tag) for frame in get_args(ServerFrame)}


class Encoded:
    """A frame ready for the wire: encoded once, sent to every member."""

    __slots__ = ("data", "kind", "wire")

    def __init__(self, data: bytes, kind: str = "") -> None:
        self.data = data
        self.kind = kind
        """The `type` of the frame."""
        self.wire = text_header(len(data)) + data
        """The whole WebSocket frame, as a server sends it."""

    @property
    def text(self) -> str:
        """The text of the WebSocket message."""
        return self.data.decode()

    @property
    def size(self) -> int:
        """Bytes of the message, without the WebSocket header."""
        return len(self.data)


def text_header(size: int) -> bytes:
    """What goes before a text message of so many bytes in one frame, unmasked (RFC 6455, section 5.2)."""
    if size <= 125:
        return bytes((0x81, size))
    if size <= 0xFFFF:
        return b"\x81\x7e" + size.to_bytes(2)
    return b"\x81\x7f" + size.to_bytes(8)


def encode(frame: ServerFrame) -> Encoded:
    """The frame as a WebSocket message."""
    return Encoded(_encoder.encode(frame), _KINDS[type(frame)])


def timestamp(moment: datetime) -> str:
    """How a moment is written in frames and in REST: RFC 3339, UTC, microseconds, `Z`."""
    return rfc3339(moment)


class FrameReader:
    """Reads what clients send.

    Args:
        max_content_chars: longest content of a message, in Unicode code points.
    """

    __slots__ = ("_max_content_chars",)

    def __init__(self, max_content_chars: int) -> None:
        self._max_content_chars = max_content_chars

    def read(self, data: str | bytes | None) -> ClientFrame:
        """The frame in one WebSocket message; bytes and None stand for a binary message.

        Raises:
            FrameError: it is not a frame that a client may send; the connection may go on.
        """
        if not isinstance(data, str):
            raise FrameError(ErrorCode.BINARY_FRAME, "Frames are JSON in text messages, not binary ones")
        try:
            value = strict_json.loads(data)
        except strict_json.InvalidJSON as error:
            raise FrameError(ErrorCode.INVALID_JSON, f"Invalid JSON: {error}") from None
        if not isinstance(value, dict):
            raise FrameError(ErrorCode.INVALID_FRAME, "A frame must be a JSON object")
        try:
            return self._read_object(value)
        except FrameError as error:
            error.client_id = _readable_client_id(value)
            error.conversation_id = _readable_conversation_id(value)
            raise

    def _read_object(self, value: dict[str, Any]) -> ClientFrame:
        kind = value.get("type")
        if not isinstance(kind, str):
            raise FrameError(ErrorCode.INVALID_FRAME, "`type` must be a string", field="type")
        match kind:
            case "message":
                return SendMessage(
                    content=self._content(value),
                    client_id=_client_id(value),
                    conversation_id=_conversation_id(value),
                )
            case "edit":
                return EditMessage(
                    message_id=_message_id(value),
                    content=self._content(value),
                    client_id=_client_id(value),
                    conversation_id=_conversation_id(value),
                )
            case "delete":
                return DeleteMessage(
                    message_id=_message_id(value),
                    client_id=_client_id(value),
                    conversation_id=_conversation_id(value),
                )
            case "typing":
                return SendTyping(conversation_id=_conversation_id(value))
            case "read":
                return SendRead(seq=_seq(value), conversation_id=_conversation_id(value))
            case "ping":
                return SendPing()
            case "auth":
                return SendAuth(token=_string(value, "token"))
            case "resume":
                return SendResume(revs=_revs(value), epoch=_epoch(value))
            case "watch":
                return SendWatch(user_ids=_user_ids(value))
        raise FrameError(ErrorCode.UNKNOWN_TYPE, f"Unknown `type`; known are: {_CLIENT_TYPES}", field="type")

    def _content(self, value: dict[str, Any]) -> str:
        content = _string(value, "content", default="")
        problem = content_problem(content, self._max_content_chars)
        if problem is not None:
            raise FrameError(*problem, field="content")
        return content


def content_problem(content: str, max_chars: int) -> tuple[ErrorCode, str] | None:
    """Why a message cannot have this content, or None; the same over WebSocket and REST."""
    if not content or content.isspace():
        return ErrorCode.EMPTY_CONTENT, "Message content cannot be empty"
    if len(content) > max_chars:
        return ErrorCode.CONTENT_TOO_LONG, f"Message content cannot be longer than {max_chars} characters"
    problem = text_problem(content)
    return None if problem is None else (ErrorCode.INVALID_TEXT, f"Message content {problem}")


class FrameError(PulseError):
    """A client's frame was refused.

    `client_id` and `conversation_id` are those the frame carried, when they can be told back.
    """

    client_id: str | None = None
    conversation_id: UUID | None = None


def error_frame(error: PulseError, client_id: str | None = None, conversation_id: UUID | None = None) -> ErrorFrame:
    """How an error is told over WebSocket; with the conversation only to a session."""
    return ErrorFrame(
        content=error.message,
        code=error.code.code,
        field=UNSET if error.field is None else error.field,
        client_id=UNSET if client_id is None else client_id,
        conversation_id=UNSET if conversation_id is None else conversation_id,
    )


def _readable_client_id(value: dict[str, Any]) -> str | None:
    client_id = value.get("client_id")
    if isinstance(client_id, str) and len(client_id) <= CLIENT_ID_MAX_CHARS and text_problem(client_id) is None:
        return client_id
    return None


def _readable_conversation_id(value: dict[str, Any]) -> UUID | None:
    text = value.get("conversation_id")
    return parse_uuid(text) if isinstance(text, str) else None


def _string(value: dict[str, Any], field: str, default: str | None = None) -> str:
    text = value.get(field, default)
    if not isinstance(text, str):
        raise FrameError(ErrorCode.INVALID_FRAME, f"`{field}` must be a string", field=field)
    return text


def _message_id(value: dict[str, Any]) -> UUID:
    key = parse_uuid(_string(value, "message_id"))
    if key is None:
        raise FrameError(ErrorCode.INVALID_FRAME, "`message_id` must be the id of a message", field="message_id")
    return key


def _conversation_id(value: dict[str, Any]) -> UUID | None:
    if value.get("conversation_id") is None:
        return None
    key = parse_uuid(_string(value, "conversation_id"))
    if key is None:
        raise FrameError(
            ErrorCode.INVALID_FRAME, "`conversation_id` must be the id of a conversation", field="conversation_id"
        )
    return key


def _seq(value: dict[str, Any]) -> int:
    seq = value.get("seq")
    if type(seq) is not int or seq < 1:
        raise FrameError(ErrorCode.INVALID_FRAME, "`seq` must be a whole number, 1 or more", field="seq")
    return min(seq, REV_MOST)  # no message has it: the answer is the same


def _user_ids(value: dict[str, Any]) -> list[UUID]:
    texts = value.get("user_ids")
    if not isinstance(texts, list):
        raise FrameError(ErrorCode.INVALID_FRAME, "`user_ids` must be a list of ids of users", field="user_ids")
    keys = [parse_uuid(text) if isinstance(text, str) else None for text in texts]
    if None in keys:
        raise FrameError(ErrorCode.INVALID_FRAME, "`user_ids` must have ids of users only", field="user_ids")
    return list(dict.fromkeys(key for key in keys if key is not None))


def _revs(value: dict[str, Any]) -> dict[UUID, int]:
    entries = value.get("revs")
    if not isinstance(entries, dict):
        raise FrameError(ErrorCode.INVALID_FRAME, "`revs` must be an object of conversation ids and revs", field="revs")
    revs = {}
    for text, rev in entries.items():
        key = parse_uuid(text)
        if key is None:
            raise FrameError(ErrorCode.INVALID_FRAME, "`revs` must have ids of conversations as names", field="revs")
        if type(rev) is not int or not 0 <= rev <= REV_MOST:
            raise FrameError(
                ErrorCode.INVALID_FRAME, "`revs` must have revs as values: whole numbers, 0 or more", field="revs"
            )
        revs[key] = rev
    return revs


def _epoch(value: dict[str, Any]) -> str | None:
    return None if value.get("epoch") is None else _string(value, "epoch")


def _client_id(value: dict[str, Any]) -> str | None:
    client_id = value.get("client_id")
    if client_id is None:
        return None
    if not isinstance(client_id, str) or not 1 <= len(client_id) <= CLIENT_ID_MAX_CHARS:
        raise FrameError(
            ErrorCode.INVALID_FRAME,
            f"`client_id` must be a string of 1 to {CLIENT_ID_MAX_CHARS} characters",
            field="client_id",
        )
    problem = text_problem(client_id)
    if problem is not None:
        raise FrameError(ErrorCode.INVALID_TEXT, f"`client_id` {problem}", field="client_id")
    return client_id
