"""Events as lines, for people and for scripts."""

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

from pulse_trio.client import (
    Event,
    Joined,
    MembersChanged,
    Message,
    MessageDeleted,
    MessageEdited,
    Offline,
    ReadPositions,
    Reset,
)
from pulse_trio.terminal.lines import Lines, Style
from pulse_trio.terminal.tail import line_of

NOON = datetime(2026, 2, 4, 12, 0, 0, 123456, tzinfo=UTC)


def message(content: str, *, at: datetime = NOON, username: str = "bob", **fields: object) -> Message:
    values = {"seq": 1, "rev": 1, **fields}
    return Message(
        id=UUID(int=1),
        conversation_id=UUID(int=2),
        sender_id=UUID(int=3),
        sender_username=username,
        content=content,
        created_at=at,
        updated_at=at,
        **values,  # type: ignore[arg-type]
    )


def lines(columns: int = 0, *, colors: bool = False) -> Lines:
    return Lines(Style(colors), lambda: columns, lambda moment: moment)


def test_a_day_has_one_separator() -> None:
    shown = lines()
    said = [message("one"), message("two", at=NOON + timedelta(hours=2)), message("three", at=NOON + timedelta(days=1))]
    assert [line for m in said for line in shown.of(m)] == [
        "── Wednesday, 4 February 2026 ──",
        "12:00 bob one",
        "14:00 bob two",
        "── Thursday, 5 February 2026 ──",
        "12:00 bob three",
    ]


def test_long_and_multiline_messages_are_indented() -> None:
    shown = lines(40).of(message("the quick brown fox jumps over the lazy dog\nagain"))[1:]
    assert shown == [
        "12:00 bob the quick brown fox jumps over",
        "          the lazy dog",
        "          again",
    ]


def test_what_others_wrote_is_safe() -> None:
    bad = "\x1b]0;owned\x07"
    shown = lines()
    events: list[Event] = [
        message(bad),
        message("x", username=bad),
        MessageEdited(message(bad)),
        MessageDeleted(message("", username=bad, is_deleted=True)),
        Joined(UUID(int=3), bad),
        Offline(bad, 1.0),
    ]
    for event in events:
        found = shown.of(event)
        assert found
        assert "\x1b" not in "".join(found)


def test_changes() -> None:
    shown = lines()
    shown.of(message("one"))
    later = NOON + timedelta(minutes=5)
    edited = Message(**{**_fields(message("better", is_edited=True)), "updated_at": later})  # type: ignore[arg-type]
    assert shown.of(MessageEdited(edited)) == ["12:05 bob edited the message of 12:00: better"]
    gone = Message(**{**_fields(message("", is_deleted=True)), "updated_at": later})  # type: ignore[arg-type]
    assert shown.of(MessageDeleted(gone)) == ["12:05 · the message of bob of 12:00 was deleted"]
    assert shown.message(gone) == []
    assert shown.message(edited) == ["12:00 bob (edited) better"]


def _fields(record: Message) -> dict[str, object]:
    return {field: getattr(record, field) for field in record.__struct_fields__}


def test_colors() -> None:
    assert lines(colors=True).of(message("hi"))[1].startswith("\x1b[2m12:00\x1b[0m \x1b[1;")


def test_a_message_as_json_is_the_frame_of_the_protocol() -> None:
    frame = json.loads(line_of(message("héllo", client_id="m-1")))
    assert frame == {
        "type": "message",
        "content": "héllo",
        "sender_id": str(UUID(int=3)),
        "sender_username": "bob",
        "message_id": str(UUID(int=1)),
        "timestamp": "2026-02-04T12:00:00.123456Z",
        "is_edited": False,
        "conversation_id": str(UUID(int=2)),
        "seq": 1,
        "rev": 1,
        "client_id": "m-1",
    }
    assert json.loads(line_of(message("héllo", client_id="m-1"), epoch="e")) == {**frame, "epoch": "e"}
    assert "héllo" in line_of(message("héllo"))
    assert json.loads(line_of(MessageEdited(message("x"))))["type"] == "message_updated"
    assert "content" not in json.loads(line_of(MessageDeleted(message("", is_deleted=True))))
    assert json.loads(line_of(Reset(1, 2, "e"))) == {"type": "reset", "last_seq": 1, "last_rev": 2, "epoch": "e"}
    many = json.loads(line_of(MembersChanged("added", UUID(int=3), "text", (UUID(int=3), UUID(int=4)), 200)))
    assert (many["user_ids"], many["user_count"]) == ([str(UUID(int=3)), str(UUID(int=4))], 200)
    assert "user_ids" not in json.loads(line_of(MembersChanged("renamed", UUID(int=3), "text")))
    nobody = json.loads(line_of(MembersChanged("renamed", None, "text")))
    assert nobody == {"type": "renamed", "text": "text"}
    ids = tuple(UUID(int=number) for number in range(1_000))
    thousand = json.loads(line_of(MembersChanged("added", ids[0], "text", ids, 1_000)))
    assert (len(thousand["user_ids"]), thousand["user_count"]) == (100, 1_000)
    assert json.loads(line_of(ReadPositions({UUID(int=3): 7})))["positions"] == [
        {"user_id": str(UUID(int=3)), "seq": 7}
    ]


def test_json_has_nothing_that_a_terminal_obeys_and_keeps_every_character() -> None:
    text = "".join(map(chr, range(0x100))) + "\u202e\u2066\u2028\n日本"
    line = line_of(message(text))
    assert line.count("\n") == 1
    assert not any(c < " " or "\x7f" <= c <= "\x9f" for c in line[:-1])
    assert json.loads(line)["content"] == text
