"""Frames from clients, read."""

from typing import Any, Final
from uuid import UUID

from pulse_trio import strict_json
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import parse_uuid
from pulse_trio.protocol.client_frames import (
    ClientFrame,
    DeleteMessage,
    EditMessage,
    SendAuth,
    SendMessage,
    SendPing,
    SendRead,
    SendResume,
    SendTyping,
    SendWatch,
)
from pulse_trio.protocol.fields import CLIENT_ID_MAX_CHARS, REV_MOST
from pulse_trio.texts import text_problem

_CLIENT_TYPES: Final = "message, edit, delete, typing, read, ping, auth, resume, watch"


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
