"""Frames: written exactly as the specification says, and read so that nothing a client sends does harm."""

import json
from datetime import UTC, datetime
from typing import Any, get_args
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from pulse_trio.clock import rfc3339
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.protocol import (
    MAX_REV,
    AuthFrame,
    ClientFrame,
    CloseCode,
    DeleteMessage,
    EditMessage,
    Encoded,
    ErrorFrame,
    FrameError,
    FrameReader,
    MessageDeletedFrame,
    MessageFrame,
    MessageUpdatedFrame,
    PongFrame,
    SendAuth,
    SendMessage,
    SendPing,
    SendRead,
    SendResume,
    SendTyping,
    SendWatch,
    ServerFrame,
    SystemFrame,
    TypingFrame,
    encode,
    error_frame,
)
from pulse_trio.protocol.fields import MAX_CLIENT_ID_CHARS

CONVERSATION = UUID("0198c5b6-f8a3-7c1e-9d2e-4b5a6c7d8e9f")
USER = UUID("0198c5b6-f8a3-7c1e-9d2e-4b5a6c7d8ea0")
MESSAGE = UUID("0198c5b6-f8a3-7c1e-9d2e-4b5a6c7d8ea1")
MOMENT = datetime(2026, 2, 4, 10, 30, 0, 123_456, UTC)

READER = FrameReader(4_000)


def written(frame: ServerFrame) -> Any:
    return json.loads(encode(frame).text)


def refusal(data: str | bytes | None, reader: FrameReader = READER) -> FrameError:
    with pytest.raises(FrameError) as caught:
        reader.read(data)
    return caught.value


# --- what the server writes ---


def test_a_message_has_the_fields_of_the_specification_and_its_place() -> None:
    frame = MessageFrame(
        content="Hello, world!",
        sender_id=USER,
        sender_username="john_doe",
        message_id=MESSAGE,
        timestamp=rfc3339(MOMENT),
        is_edited=False,
        conversation_id=CONVERSATION,
        seq=17,
        rev=18,
        client_id="c-1",
    )
    assert written(frame) == {
        "type": "message",
        "content": "Hello, world!",
        "sender_id": str(USER),
        "sender_username": "john_doe",
        "message_id": str(MESSAGE),
        "timestamp": "2026-02-04T10:30:00.123456Z",
        "is_edited": False,
        "conversation_id": str(CONVERSATION),
        "seq": 17,
        "rev": 18,
        "client_id": "c-1",
    }


def test_a_message_without_client_id_does_not_have_the_field() -> None:
    frame = MessageFrame(
        content="x",
        sender_id=USER,
        sender_username="john_doe",
        message_id=MESSAGE,
        timestamp=rfc3339(MOMENT),
        is_edited=True,
        conversation_id=CONVERSATION,
        seq=1,
        rev=2,
    )
    assert "client_id" not in written(frame)
    assert written(frame)["is_edited"] is True


def test_typing_has_the_fields_of_the_specification() -> None:
    frame = TypingFrame(sender_id=USER, sender_username="john_doe", conversation_id=CONVERSATION)
    assert written(frame) == {
        "type": "typing",
        "sender_id": str(USER),
        "sender_username": "john_doe",
        "conversation_id": str(CONVERSATION),
    }


def test_a_system_message_has_the_fields_of_the_specification_and_where_the_conversation_stands() -> None:
    frame = SystemFrame(
        content="User john_doe joined the conversation",
        sender_id=USER,
        active_users=[USER, MESSAGE],
        active_count=2,
        event="joined",
        conversation_id=CONVERSATION,
        last_seq=3,
        last_rev=4,
        epoch="e1",
    )
    assert written(frame) == {
        "type": "system",
        "content": "User john_doe joined the conversation",
        "sender_id": str(USER),
        "active_users": [str(USER), str(MESSAGE)],
        "active_count": 2,
        "event": "joined",
        "conversation_id": str(CONVERSATION),
        "last_seq": 3,
        "last_rev": 4,
        "epoch": "e1",
    }


def test_an_error_has_the_fields_of_the_specification_and_a_code() -> None:
    error = PulseError(ErrorCode.EMPTY_CONTENT, "Message content cannot be empty", field="content")
    assert written(error_frame(error, "c-1")) == {
        "type": "error",
        "content": "Message content cannot be empty",
        "code": "empty_content",
        "field": "content",
        "client_id": "c-1",
    }
    bare = error_frame(PulseError(ErrorCode.NOT_STORED, "No"))
    assert bare == ErrorFrame(content="No", code="not_stored", field=UNSET, client_id=UNSET)
    assert written(bare) == {"type": "error", "content": "No", "code": "not_stored"}


def test_an_edited_message_is_the_message_with_when_it_was_edited() -> None:
    fields = {
        "content": "better",
        "sender_id": USER,
        "sender_username": "john_doe",
        "message_id": MESSAGE,
        "timestamp": rfc3339(MOMENT),
        "is_edited": True,
        "conversation_id": CONVERSATION,
        "seq": 1,
        "rev": 2,
    }
    edited = written(MessageUpdatedFrame(**fields, updated_at="2026-02-04T10:31:00.000000Z"))  # type: ignore[arg-type]
    message = written(MessageFrame(**fields))  # type: ignore[arg-type]
    assert edited == {**message, "type": "message_updated", "updated_at": "2026-02-04T10:31:00.000000Z"}


def test_a_deleted_message_is_a_place_without_content() -> None:
    frame = MessageDeletedFrame(
        sender_id=USER,
        sender_username="john_doe",
        message_id=MESSAGE,
        timestamp=rfc3339(MOMENT),
        updated_at=rfc3339(MOMENT),
        conversation_id=CONVERSATION,
        seq=1,
        rev=3,
    )
    assert written(frame) == {
        "type": "message_deleted",
        "sender_id": str(USER),
        "sender_username": "john_doe",
        "message_id": str(MESSAGE),
        "timestamp": "2026-02-04T10:30:00.123456Z",
        "updated_at": "2026-02-04T10:30:00.123456Z",
        "conversation_id": str(CONVERSATION),
        "seq": 1,
        "rev": 3,
    }


def test_the_answer_to_auth_says_how_long_it_lasts() -> None:
    assert written(AuthFrame(expires_in=60)) == {"type": "auth", "expires_in": 60}


def test_pong_is_only_its_type() -> None:
    assert encode(PongFrame()).text == '{"type":"pong"}'


def test_a_frame_knows_its_bytes_on_the_wire() -> None:
    frame = encode(error_frame(PulseError(ErrorCode.NOT_STORED, "€ \N{WAVING HAND SIGN}")))
    assert frame.size == len(frame.text.encode())
    assert frame.size > len(frame.text)


def test_close_codes_are_those_of_the_documents() -> None:
    assert {code.name: code.value for code in CloseCode} == {
        "NORMAL": 1000,
        "PROTOCOL_ERROR": 1002,
        "INVALID_TEXT": 1007,
        "UNFINISHED": 1008,
        "TOO_BIG": 1009,
        "INTERNAL_ERROR": 1011,
        "RESTART": 1012,
        "TOKEN_EXPIRED": 4401,
        "REMOVED": 4403,
        "TOO_SLOW": 4408,
        "CANNOT_RESUME": 4409,
        "FLOODING": 4429,
    }


@given(st.text().filter(lambda text: not text or text.isprintable()))
def test_what_is_written_is_strict_json_that_says_the_same(content: str) -> None:
    frame = error_frame(PulseError(ErrorCode.NOT_STORED, content))
    assert json.loads(encode(frame).text)["content"] == content


# --- what the server reads ---


def test_the_frames_of_the_specification_are_read() -> None:
    assert READER.read('{"type": "message", "content": "Hello, world!"}') == SendMessage(content="Hello, world!")
    assert READER.read('{"type": "typing"}') == SendTyping()
    assert READER.read('{"type": "read", "seq": 7}') == SendRead(seq=7)
    assert READER.read('{"type": "read", "seq": 99999999999999999999}') == SendRead(seq=MAX_REV), "none has it either"
    assert READER.read('{"type": "ping"}') == SendPing()


def test_the_further_frames_are_read() -> None:
    key = str(MESSAGE)
    edit = {"type": "edit", "message_id": key, "content": "better", "client_id": "c1"}
    assert READER.read(json.dumps(edit)) == EditMessage(message_id=MESSAGE, content="better", client_id="c1")
    assert READER.read(json.dumps({"type": "delete", "message_id": key.upper()})) == DeleteMessage(message_id=MESSAGE)
    assert READER.read('{"type": "auth", "token": "t"}') == SendAuth(token="t")


@pytest.mark.parametrize(
    ("frame", "code", "field"),
    [
        ({"type": "edit", "content": "x"}, ErrorCode.INVALID_FRAME, "message_id"),
        ({"type": "edit", "content": "x", "message_id": "msg-456"}, ErrorCode.INVALID_FRAME, "message_id"),
        ({"type": "edit", "content": "x", "message_id": 5}, ErrorCode.INVALID_FRAME, "message_id"),
        ({"type": "edit", "message_id": str(MESSAGE)}, ErrorCode.EMPTY_CONTENT, "content"),
        ({"type": "edit", "message_id": str(MESSAGE), "content": "a\x00"}, ErrorCode.INVALID_TEXT, "content"),
        ({"type": "edit", "message_id": str(MESSAGE), "content": "x" * 4_001}, ErrorCode.CONTENT_TOO_LONG, "content"),
        ({"type": "edit", "message_id": str(MESSAGE), "content": None}, ErrorCode.INVALID_FRAME, "content"),
        ({"type": "delete"}, ErrorCode.INVALID_FRAME, "message_id"),
        ({"type": "delete", "message_id": "\ud800" * 36}, ErrorCode.INVALID_FRAME, "message_id"),
        ({"type": "delete", "message_id": str(MESSAGE), "client_id": ""}, ErrorCode.INVALID_FRAME, "client_id"),
        ({"type": "auth"}, ErrorCode.INVALID_FRAME, "token"),
        ({"type": "auth", "token": None}, ErrorCode.INVALID_FRAME, "token"),
    ],
)
def test_the_further_frames_are_refused_with_the_same_codes(
    frame: dict[str, object], code: ErrorCode, field: str
) -> None:
    error = refusal(json.dumps(frame))
    assert (error.code, error.field) == (code, field)


def test_content_is_taken_as_it_is() -> None:
    content = '  \tHello\n\u202e\u200d\N{FAMILY} \x1f \\ " end  '
    frame = READER.read(json.dumps({"type": "message", "content": content, "client_id": "é-1"}))
    assert frame == SendMessage(content=content, client_id="é-1")


def test_fields_that_clients_may_not_set_are_ignored() -> None:
    frame = {
        "type": "message",
        "content": "x",
        "sender_id": "somebody else",
        "sender_username": "admin",
        "active_users": [],
        "seq": 99,
        "message_id": None,
        "is_edited": True,
    }
    assert READER.read(json.dumps(frame)) == SendMessage(content="x")
    assert READER.read('{"type": "typing", "sender_id": 1, "content": [2]}') == SendTyping()
    assert READER.read('{"type": "ping", "client_id": 5}') == SendPing()


@pytest.mark.parametrize("seq", [0, -1, 1.0, "1", True, None, [1]])
def test_what_is_read_is_a_whole_number_from_one_on(seq: object) -> None:
    error = refusal(json.dumps({"type": "read", "seq": seq, "conversation_id": str(CONVERSATION)}))
    assert (error.code, error.field) == (ErrorCode.INVALID_FRAME, "seq")
    assert str(error.conversation_id) == str(CONVERSATION)


def test_each_user_is_watched_once() -> None:
    texts = [str(USER), str(MESSAGE), str(USER).upper()]
    assert READER.read(json.dumps({"type": "watch", "user_ids": texts})) == SendWatch(user_ids=[USER, MESSAGE])
    assert READER.read('{"type": "watch", "user_ids": []}') == SendWatch(user_ids=[])


@pytest.mark.parametrize("user_ids", [None, "x", {}, [1], ["x"], [None], [[str(USER)]], [str(USER), ""]])
def test_who_is_watched_is_a_list_of_ids(user_ids: object) -> None:
    error = refusal(json.dumps({"type": "watch", "user_ids": user_ids}))
    assert (error.code, error.field) == (ErrorCode.INVALID_FRAME, "user_ids")


@pytest.mark.parametrize("kind", ["typing", "ping"])
def test_a_lone_surrogate_in_an_ignored_name_or_value_does_no_harm(kind: str) -> None:
    READER.read(f'{{"type": "{kind}", "\\ud800": "\\udfff"}}')
    assert READER.read('{"type": "message", "content": "x", "\\ud800": "\\udfff"}') == SendMessage(content="x")


@pytest.mark.parametrize(
    ("data", "code", "field"),
    [
        (b"", ErrorCode.BINARY_FRAME, None),
        (b'{"type": "ping"}', ErrorCode.BINARY_FRAME, None),
        (None, ErrorCode.BINARY_FRAME, None),
        ("", ErrorCode.INVALID_JSON, None),
        ("hello", ErrorCode.INVALID_JSON, None),
        ('{"type": "ping"', ErrorCode.INVALID_JSON, None),
        ('{"type": "ping"} {"type": "ping"}', ErrorCode.INVALID_JSON, None),
        ('\ufeff{"type": "ping"}', ErrorCode.INVALID_JSON, None),
        ('{"type": "ping", "n": NaN}', ErrorCode.INVALID_JSON, None),
        ('{"type": "ping", "n": -Infinity}', ErrorCode.INVALID_JSON, None),
        ('{"type": "ping", "n": 1e999}', ErrorCode.INVALID_JSON, None),
        ('{"type": "ping", "n": ' + "1" * 5_000 + "}", ErrorCode.INVALID_JSON, None),
        ('{"type": "ping", "type": "message"}', ErrorCode.INVALID_JSON, None),
        ("[" * 100_000, ErrorCode.INVALID_JSON, None),
        ('{"type":' * 100_000, ErrorCode.INVALID_JSON, None),
        ("\x00", ErrorCode.INVALID_JSON, None),
        ("\ud800", ErrorCode.INVALID_JSON, None),
        ("null", ErrorCode.INVALID_FRAME, None),
        ("1", ErrorCode.INVALID_FRAME, None),
        ('"message"', ErrorCode.INVALID_FRAME, None),
        ('[{"type": "ping"}]', ErrorCode.INVALID_FRAME, None),
        ("{}", ErrorCode.INVALID_FRAME, "type"),
        ('{"content": "x"}', ErrorCode.INVALID_FRAME, "type"),
        ('{"type": null}', ErrorCode.INVALID_FRAME, "type"),
        ('{"type": 1}', ErrorCode.INVALID_FRAME, "type"),
        ('{"type": ["ping"]}', ErrorCode.INVALID_FRAME, "type"),
        ('{"type": ""}', ErrorCode.UNKNOWN_TYPE, "type"),
        ('{"type": "Message", "content": "x"}', ErrorCode.UNKNOWN_TYPE, "type"),
        ('{"type": "system", "content": "x"}', ErrorCode.UNKNOWN_TYPE, "type"),
        ('{"type": "pong"}', ErrorCode.UNKNOWN_TYPE, "type"),
        ('{"type": "\\ud800"}', ErrorCode.UNKNOWN_TYPE, "type"),
        ('{"type": "message"}', ErrorCode.EMPTY_CONTENT, "content"),
        ('{"type": "message", "content": ""}', ErrorCode.EMPTY_CONTENT, "content"),
        ('{"type": "message", "content": " \\t\\n\\u3000\\u00a0"}', ErrorCode.EMPTY_CONTENT, "content"),
        ('{"type": "message", "content": null}', ErrorCode.INVALID_FRAME, "content"),
        ('{"type": "message", "content": 5}', ErrorCode.INVALID_FRAME, "content"),
        ('{"type": "message", "content": ["x"]}', ErrorCode.INVALID_FRAME, "content"),
        ('{"type": "message", "content": {"text": "x"}}', ErrorCode.INVALID_FRAME, "content"),
        ('{"type": "message", "content": "' + "x" * 4_001 + '"}', ErrorCode.CONTENT_TOO_LONG, "content"),
        ('{"type": "message", "content": "a\\u0000b"}', ErrorCode.INVALID_TEXT, "content"),
        ('{"type": "message", "content": "a\\ud800b"}', ErrorCode.INVALID_TEXT, "content"),
        ('{"type": "message", "content": "a\\udc00\\ud800b"}', ErrorCode.INVALID_TEXT, "content"),
        ('{"type": "message", "content": "x", "client_id": 5}', ErrorCode.INVALID_FRAME, "client_id"),
        ('{"type": "message", "content": "x", "client_id": ""}', ErrorCode.INVALID_FRAME, "client_id"),
        ('{"type": "message", "content": "x", "client_id": false}', ErrorCode.INVALID_FRAME, "client_id"),
        (
            '{"type": "message", "content": "x", "client_id": "' + "c" * 65 + '"}',
            ErrorCode.INVALID_FRAME,
            "client_id",
        ),
        ('{"type": "message", "content": "x", "client_id": "a\\u0000"}', ErrorCode.INVALID_TEXT, "client_id"),
        ('{"type": "message", "content": "x", "client_id": "\\udfff"}', ErrorCode.INVALID_TEXT, "client_id"),
    ],
    ids=lambda value: repr(value)[:40] if isinstance(value, str | bytes) else None,
)
def test_what_is_not_a_frame_is_refused_with_a_stable_code(
    data: str | bytes | None, code: ErrorCode, field: str | None
) -> None:
    error = refusal(data)
    assert error.code is code
    assert error.field == field
    told = written(error_frame(error, error.client_id))
    assert told["code"] == code.code
    assert told["content"]


def test_the_words_of_the_specification_for_empty_content() -> None:
    assert refusal('{"type": "message", "content": " "}').message == "Message content cannot be empty"


def test_the_longest_content_is_counted_in_code_points() -> None:
    reader = FrameReader(3)
    hand = "\N{WAVING HAND SIGN}"
    assert reader.read(json.dumps({"type": "message", "content": hand * 3})) == SendMessage(content=hand * 3)
    error = refusal(json.dumps({"type": "message", "content": hand * 4}), reader)
    assert error.code is ErrorCode.CONTENT_TOO_LONG
    assert "3 characters" in error.message


def test_the_longest_client_id_is_taken() -> None:
    longest = "\N{WAVING HAND SIGN}" * MAX_CLIENT_ID_CHARS
    frame = READER.read(json.dumps({"type": "message", "content": "x", "client_id": longest}))
    assert frame == SendMessage(content="x", client_id=longest)
    assert READER.read('{"type": "message", "content": "x", "client_id": null}') == SendMessage(content="x")


@pytest.mark.parametrize(
    ("data", "client_id"),
    [
        ('{"type": "message", "content": "", "client_id": "c1"}', "c1"),
        ('{"type": "message", "content": 5, "client_id": "c1"}', "c1"),
        ('{"type": "nonsense", "client_id": "c1"}', "c1"),
        ('{"client_id": "c1"}', "c1"),
        ('{"type": "message", "content": "", "client_id": "a\\u0000"}', None),
        ('{"type": "message", "content": "", "client_id": "\\ud800"}', None),
        ('{"type": "message", "content": "", "client_id": ["c1"]}', None),
        ('{"type": "message", "content": "", "client_id": "' + "c" * 65 + '"}', None),
        ('{"type": "message", "content": ""}', None),
        ("[]", None),
    ],
)
def test_a_refusal_tells_back_the_client_id_if_it_can_be_told(data: str, client_id: str | None) -> None:
    assert refusal(data).client_id == client_id


def test_a_refusal_does_not_quote_what_was_sent() -> None:
    for data in ('{"type": "hunter2"}', '{"type": "message", "content": "hunter2\\u0000"}', '{"hunter2'):
        assert "hunter2" not in refusal(data).message


frames = st.dictionaries(
    st.sampled_from(["type", "content", "client_id", "x", "\ud800"]),
    st.sampled_from(["message", "typing", "ping", "\ud800", "\x00", ""])
    | st.text(st.characters())
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.lists(st.none(), max_size=2),
).map(json.dumps)


@given(st.text(st.characters()) | st.binary() | st.none() | frames)
def test_nothing_but_frame_errors_is_ever_raised(data: str | bytes | None) -> None:
    try:
        frame = READER.read(data)
    except FrameError as error:
        encode(error_frame(error, error.client_id))
    else:
        assert isinstance(frame, SendMessage | EditMessage | DeleteMessage | SendTyping | SendPing | SendAuth)
        if isinstance(frame, SendMessage):
            assert frame.content.strip()
            assert (frame.content + (frame.client_id or "")).encode()


CONVERSATION = "0190a6bf-01aa-7b3c-8d4e-9f8e7d6c5b4a"


@pytest.mark.parametrize(
    "frame",
    [
        {"type": "message", "content": "x"},
        {"type": "edit", "message_id": CONVERSATION, "content": "x"},
        {"type": "delete", "message_id": CONVERSATION},
        {"type": "typing"},
    ],
    ids=lambda frame: frame["type"],
)
def test_a_frame_may_say_its_conversation(frame: dict[str, object]) -> None:
    read = READER.read(json.dumps({**frame, "conversation_id": CONVERSATION}))
    assert getattr(read, "conversation_id", None) == UUID(CONVERSATION)
    assert getattr(READER.read(json.dumps(frame)), "conversation_id", None) is None
    for wrong in (7, "", "general", [CONVERSATION]):
        with pytest.raises(FrameError) as caught:
            READER.read(json.dumps({**frame, "conversation_id": wrong}))
        assert (caught.value.code, caught.value.field) == (ErrorCode.INVALID_FRAME, "conversation_id")


def test_an_error_carries_the_conversation_of_its_frame() -> None:
    with pytest.raises(FrameError) as caught:
        READER.read(json.dumps({"type": "message", "content": "", "client_id": "a", "conversation_id": CONVERSATION}))
    assert (caught.value.client_id, caught.value.conversation_id) == ("a", UUID(CONVERSATION))


def test_resume() -> None:
    frame = READER.read(json.dumps({"type": "resume", "revs": {CONVERSATION: 7}, "epoch": "e"}))
    assert frame == SendResume(revs={UUID(CONVERSATION): 7}, epoch="e")
    assert READER.read('{"type": "resume", "revs": {}}') == SendResume(revs={})


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "revs"),
        ({"revs": []}, "revs"),
        ({"revs": {"general": 1}}, "revs"),
        ({"revs": {CONVERSATION: -1}}, "revs"),
        ({"revs": {CONVERSATION: 10**18}}, "revs"),
        ({"revs": {CONVERSATION: 1.0}}, "revs"),
        ({"revs": {CONVERSATION: True}}, "revs"),
        ({"revs": {CONVERSATION: "1"}}, "revs"),
        ({"revs": {}, "epoch": 5}, "epoch"),
    ],
)
def test_a_wrong_resume_names_the_field(fields: dict[str, object], field: str) -> None:
    with pytest.raises(FrameError) as caught:
        READER.read(json.dumps({"type": "resume", **fields}))
    assert (caught.value.code, caught.value.field) == (ErrorCode.INVALID_FRAME, field)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 100_000])
def test_the_frame_on_the_wire_is_one_that_wsproto_reads(size: int) -> None:
    encoded = Encoded(b"x" * size)
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(encoded.wire)
    (event,) = client.events()
    assert event == TextMessage(data="x" * size, frame_finished=True, message_finished=True)
    assert (encoded.text, encoded.size) == ("x" * size, size)


ANY_ID = str(MESSAGE)


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        ({"type": "message", "content": 5}, "`content` must be a string"),
        ({"type": "message"}, "Message content cannot be empty"),
        ({"type": "message", "content": "a\x00"}, "Message content must not contain the NUL character"),
        (
            {"type": "message", "content": "x", "client_id": ""},
            "`client_id` must be a string of 1 to 64 characters",
        ),
        (
            {"type": "message", "content": "x", "client_id": "\ud800"},
            "`client_id` must not contain a lone surrogate",
        ),
        ({"type": "edit", "content": "x"}, "`message_id` must be a string"),
        ({"type": "edit", "message_id": "1", "content": ""}, "`message_id` must be the id of a message"),
        ({"type": "delete", "message_id": ANY_ID, "conversation_id": 1}, "`conversation_id` must be a string"),
        ({"type": "typing", "conversation_id": "x"}, "`conversation_id` must be the id of a conversation"),
        ({"type": "read"}, "`seq` must be a whole number, 1 or more"),
        ({"type": "auth"}, "`token` must be a string"),
        ({"type": "resume"}, "`revs` must be an object of conversation ids and revs"),
        ({"type": "resume", "revs": {"x": 1}}, "`revs` must have ids of conversations as names"),
        ({"type": "resume", "revs": {ANY_ID: -1}}, "`revs` must have revs as values: whole numbers, 0 or more"),
        ({"type": "resume", "revs": {}, "epoch": 1}, "`epoch` must be a string"),
        ({"type": "watch"}, "`user_ids` must be a list of ids of users"),
        ({"type": "watch", "user_ids": ["x"]}, "`user_ids` must have ids of users only"),
        ({"type": 1}, "`type` must be a string"),
        (
            {"type": "x"},
            "Unknown `type`; known are: message, edit, delete, typing, read, ping, auth, resume, watch",
        ),
    ],
)
def test_the_sentence_of_an_error_says_what_the_field_must_be(frame: dict[str, object], sentence: str) -> None:
    assert refusal(json.dumps(frame)).message == sentence


def test_optional_fields_of_client_frames_are_none_by_default() -> None:
    for frame in get_args(ClientFrame):
        for field in msgspec.structs.fields(frame):
            assert field.required or field.default is None, (frame, field.name)
