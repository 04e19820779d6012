"""Reads client frames by their structs: one table maps the type of a field to the function that reads it.

A new client frame needs no code here, and a new kind of field needs one function and one line of the table. msgspec
could decode the structs itself, but clients match the codes and sentences of the errors here, and msgspec's differ.
"""

from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, Final, TypeAlias, get_args, get_type_hints
from uuid import UUID

import msgspec
from msgspec import UNSET

from pulse_trio import strict_json
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import parse_uuid
from pulse_trio.protocol.client_frames import ClientFrame
from pulse_trio.protocol.fields import (
    MAX_CLIENT_ID_CHARS,
    MAX_REV,
    ClientId,
    Content,
    ConversationId,
    Epoch,
    FeatureNames,
    MeRev,
    MessageId,
    Revs,
    Seq,
    Token,
    UserIds,
)
from pulse_trio.texts import text_problem

FieldReader: TypeAlias = Callable[[Any, str], Any]
"""Converts a JSON value into the value of a field, given the field's name; the value is UNSET if the field is missing.

Raises `FrameError` if the value is not valid.
"""

_Field: TypeAlias = tuple[str, FieldReader, Any]
"""Name, reader, and the value of a missing field: UNSET if it is required, None if it may be missing or null."""


class FrameError(PulseError):
    """A client's frame was rejected.

    `client_id` and `conversation_id` are those of the frame, where it has valid ones.
    """

    client_id: str | None = None
    conversation_id: UUID | None = None


class FrameReader:
    """Reads the frames of clients.

    Args:
        max_content_chars: longest content of a message, in Unicode code points.
    """

    __slots__ = ("_plans",)

    def __init__(self, max_content_chars: int) -> None:
        readers = {**_READERS, Content: _content_reader(max_content_chars)}
        self._plans: dict[str, tuple[Callable[..., ClientFrame], list[_Field]]] = {
            _tag(frame): (frame, _fields(frame, readers)) for frame in get_args(ClientFrame)
        }

    def read(self, data: str | bytes | None) -> ClientFrame:
        """Reads the frame in one WebSocket message; bytes and None stand for a binary message.

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
            error.client_id = _echoed_client_id(value)
            error.conversation_id = _echoed_conversation_id(value)
            raise

    def _read_object(self, value: dict[str, Any]) -> ClientFrame:
        tag = value.get("type")
        if not isinstance(tag, str):
            raise FrameError(ErrorCode.INVALID_FRAME, "`type` must be a string", field="type")
        plan = self._plans.get(tag)
        if plan is None:
            known = ", ".join(self._plans)
            raise FrameError(ErrorCode.UNKNOWN_TYPE, f"Unknown `type`; known are: {known}", field="type")
        frame, fields = plan
        values = []
        for name, read, default in fields:
            given = value.get(name, default)
            values.append(None if given is None and default is None else read(given, name))
        return frame(*values)  # by position: twice as fast as by name


def content_problem(content: str, max_chars: int) -> tuple[ErrorCode, str] | None:
    """Returns the error for content that a message cannot have, or None; the same over WebSocket and REST."""
    if not content or content.isspace():
        return ErrorCode.EMPTY_CONTENT, "Message content cannot be empty"
    if len(content) > max_chars:
        return ErrorCode.CONTENT_TOO_LONG, f"Message content cannot be longer than {max_chars} characters"
    problem = text_problem(content)
    return None if problem is None else (ErrorCode.INVALID_TEXT, f"Message content {problem}")


# --- readers of fields ---


def _content_reader(max_chars: int) -> FieldReader:
    def read_content(value: Any, field: str) -> str:
        content = "" if value is UNSET else value  # missing content is reported as empty
        if not isinstance(content, str):
            raise _invalid(field, "must be a string")
        problem = content_problem(content, max_chars)
        if problem is not None:
            raise FrameError(*problem, field=field)
        return content

    return read_content


def _read_string(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise _invalid(field, "must be a string")
    return value


def _read_client_id(value: Any, field: str) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_CLIENT_ID_CHARS:
        raise _invalid(field, f"must be a string of 1 to {MAX_CLIENT_ID_CHARS} characters")
    problem = text_problem(value)
    if problem is not None:
        raise FrameError(ErrorCode.INVALID_TEXT, f"`{field}` {problem}", field=field)
    return value


def _id_reader(noun: str) -> FieldReader:
    def read_id(value: Any, field: str) -> UUID:
        if not isinstance(value, str):
            raise _invalid(field, "must be a string")
        key = parse_uuid(value)
        if key is None:
            raise _invalid(field, f"must be the id of a {noun}")
        return key

    return read_id


def _read_seq(value: Any, field: str) -> int:
    if type(value) is not int or value < 1:
        raise _invalid(field, "must be a whole number, 1 or more")
    return min(value, MAX_REV)  # no message has either seq, so the answer is the same


def _read_user_ids(value: Any, field: str) -> list[UUID]:
    if not isinstance(value, list):
        raise _invalid(field, "must be a list of ids of users")
    keys = [parse_uuid(text) if isinstance(text, str) else None for text in value]
    if None in keys:
        raise _invalid(field, "must have ids of users only")
    return list(dict.fromkeys(key for key in keys if key is not None))


def _read_revs(value: Any, field: str) -> dict[UUID, int]:
    if not isinstance(value, dict):
        raise _invalid(field, "must be an object of conversation ids and revs")
    revs = {}
    for text, rev in value.items():
        key = parse_uuid(text)
        if key is None:
            raise _invalid(field, "must have ids of conversations as names")
        if type(rev) is not int or not 0 <= rev <= MAX_REV:
            raise _invalid(field, "must have revs as values: whole numbers, 0 or more")
        revs[key] = rev
    return revs


def _read_me_rev(value: Any, field: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_REV:
        raise _invalid(field, "must be a rev: a whole number, 0 or more")
    return value


def _read_feature_names(value: Any, field: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise _invalid(field, "must be a list of names")
    return value


def _invalid(field: str, rule: str) -> FrameError:
    return FrameError(ErrorCode.INVALID_FRAME, f"`{field}` {rule}", field=field)


_READERS: Final[Mapping[Any, FieldReader]] = {
    ClientId: _read_client_id,
    ConversationId: _id_reader("conversation"),
    Epoch: _read_string,
    FeatureNames: _read_feature_names,
    MeRev: _read_me_rev,
    MessageId: _id_reader("message"),
    Revs: _read_revs,
    Seq: _read_seq,
    Token: _read_string,
    UserIds: _read_user_ids,
}
"""Type of a field → its reader. `Content` is added by `FrameReader`, which knows the limit."""


# --- fields of structs ---


def _fields(frame: type[ClientFrame], readers: Mapping[Any, FieldReader]) -> list[_Field]:
    """Lists the fields of a frame in its order, which is the order in which errors are found."""
    fields: list[_Field] = []
    types = get_type_hints(frame, include_extras=True)
    for field in msgspec.structs.fields(frame):
        kind = types[field.name]
        if field.required:
            fields.append((field.name, readers[kind], UNSET))
        else:
            (inner,) = (part for part in get_args(kind) if part is not NoneType)
            fields.append((field.name, readers[inner], None))
    return fields


def _tag(frame: type[ClientFrame]) -> str:
    return str(frame.__struct_config__.tag)


# --- ids that an error carries back ---


def _echoed_client_id(value: dict[str, Any]) -> str | None:
    client_id = value.get("client_id")
    if isinstance(client_id, str) and len(client_id) <= MAX_CLIENT_ID_CHARS and text_problem(client_id) is None:
        return client_id
    return None


def _echoed_conversation_id(value: dict[str, Any]) -> UUID | None:
    text = value.get("conversation_id")
    return parse_uuid(text) if isinstance(text, str) else None
