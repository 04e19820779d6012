"""Frames on the real process: what is refused, how, that the connection lives on, and what is kept."""

import json
import unicodedata
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import trio

from pulse_trio.ids import IdSource
from tests.support.client import Chat, Person
from tests.support.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawClient,
    close_frame,
    connect_in_order,
    frame,
    open_chat,
    resident_bytes,
)
from tests.support.server import Server

MESSAGE = '{"type": "message", "content": %s}'

BAD_FRAMES: list[tuple[str, str | bytes, str, str | None]] = [
    ("empty text", "", "invalid_json", None),
    ("no JSON", "hello", "invalid_json", None),
    ("cut JSON", '{"type": "message"', "invalid_json", None),
    ("two values", '{"type": "ping"} {"type": "ping"}', "invalid_json", None),
    ("byte order mark", '\ufeff{"type": "ping"}', "invalid_json", None),
    ("NaN", '{"type": "message", "content": NaN}', "invalid_json", None),
    ("Infinity", '{"type": "ping", "n": -Infinity}', "invalid_json", None),
    ("repeated name", '{"type": "ping", "type": "message"}', "invalid_json", None),
    ("deep array", "[" * 30_000, "invalid_json", None),
    ("deep object", '{"a":' * 10_000 + "1" + "}" * 10_000, "invalid_json", None),
    ("deep field", '{"type": "message", "content": "x", "more": ' + "[" * 20_000 + "]" * 20_000 + "}", "", None),
    ("huge number", '{"type": "ping", "n": ' + "9" * 5_000 + "}", "invalid_json", None),
    ("control character", '{"type": "message", "content": "a\x01b"}', "invalid_json", None),
    ("array", '["message", "hello"]', "invalid_frame", None),
    ("null", "null", "invalid_frame", None),
    ("string", '"message"', "invalid_frame", None),
    ("number", "1", "invalid_frame", None),
    ("empty object", "{}", "invalid_frame", "type"),
    ("type is a number", '{"type": 1}', "invalid_frame", "type"),
    ("type is a list", '{"type": ["message"]}', "invalid_frame", "type"),
    ("unknown type", '{"type": "shout", "content": "x"}', "unknown_type", "type"),
    ("a server's type", '{"type": "system", "content": "x"}', "unknown_type", "type"),
    ("type in capitals", '{"type": "MESSAGE", "content": "x"}', "unknown_type", "type"),
    ("no content", '{"type": "message"}', "empty_content", "content"),
    ("empty content", MESSAGE % '""', "empty_content", "content"),
    ("blanks", MESSAGE % '"  \\t\\n\\r "', "empty_content", "content"),
    ("other blanks", MESSAGE % json.dumps("\u00a0\u2003\u3000\u2028\u0085"), "empty_content", "content"),
    ("content is null", MESSAGE % "null", "invalid_frame", "content"),
    ("content is a number", MESSAGE % "5", "invalid_frame", "content"),
    ("content is an object", MESSAGE % '{"text": "x"}', "invalid_frame", "content"),
    ("too long", MESSAGE % json.dumps("x" * 4_001), "content_too_long", "content"),
    ("too long, astral", MESSAGE % json.dumps("\U0001f600" * 4_001, ensure_ascii=False), "content_too_long", "content"),
    ("NUL", MESSAGE % '"a\\u0000b"', "invalid_text", "content"),
    ("high surrogate", MESSAGE % '"\\ud800"', "invalid_text", "content"),
    ("low surrogate", MESSAGE % '"x\\udc00x"', "invalid_text", "content"),
    ("surrogates in the wrong order", MESSAGE % '"\\ude00\\ud83d"', "invalid_text", "content"),
    ("client_id is a number", '{"type": "message", "content": "x", "client_id": 1}', "invalid_frame", "client_id"),
    ("client_id is empty", '{"type": "message", "content": "x", "client_id": ""}', "invalid_frame", "client_id"),
    (
        "client_id is too long",
        json.dumps({"type": "message", "content": "x", "client_id": "x" * 65}),
        "invalid_frame",
        "client_id",
    ),
    ("client_id with NUL", '{"type": "message", "content": "x", "client_id": "\\u0000"}', "invalid_text", "client_id"),
    ("client_id surrogate", '{"type": "message", "content": "x", "client_id": "\\ud800"}', "invalid_text", "client_id"),
    ("binary", b'{"type": "ping"}', "binary_frame", None),
    ("binary zeros", b"\x00\x00\xff", "binary_frame", None),
    ("empty binary", b"", "binary_frame", None),
]


async def _alone(server: Server) -> tuple[Person, str]:
    alice = await Person.register(server.base_url, "alice")
    return alice, await alice.create_group()


async def _pair(server: Server) -> tuple[Person, Person, str]:
    alice = await Person.register(server.base_url, "alice")
    bob = await Person.register(server.base_url, "bob")
    return alice, bob, await alice.create_group(bob)


async def _check_alive(chat: Chat, content: str) -> dict[str, Any]:
    """A good message goes through, and is the next thing that comes."""
    await chat.send({"type": "message", "content": content})
    answer = await chat.receive()
    assert (answer["type"], answer["content"]) == ("message", content)
    return answer


async def test_a_bad_frame_is_answered_with_its_code_on_a_living_connection(server: Server) -> None:
    with trio.fail_after(120):
        alice, bob, conversation = await _pair(server)
        async with connect_in_order(conversation, bob, alice) as (b, a):
            stored = 0
            for name, data, code, field in BAD_FRAMES:
                await a.send(data)
                answer = await a.receive()
                if code:
                    assert answer["type"] == "error", name
                    assert answer["code"] == code, (name, answer)
                    assert answer.get("field") == field, name
                    assert isinstance(answer["content"], str), name
                    assert answer["content"], name
                elif answer["type"] == "message":
                    stored += 1  # what is not a field of ours may be anything
                    await b.receive()
                else:
                    assert answer["code"] == "invalid_json", name
                if name == "empty content":
                    assert answer["content"] == "Message content cannot be empty"  # the specification's words
                stored += 1
                message = await _check_alive(a, f"after {name}")
                assert message["seq"] == stored, name
                # Nobody else is told of it.
                assert (await b.receive())["content"] == f"after {name}"
        assert (await alice.history(conversation))["total"] == stored


async def test_an_error_names_the_client_id_that_it_is_about(server: Server) -> None:
    with trio.fail_after(60):
        alice, conversation = await _alone(server)
        async with alice.connect(conversation) as a:
            await a.receive()
            for content in ("", "x" * 4_001, "\x00"):
                await a.send({"type": "message", "content": content, "client_id": "mine"})
                answer = await a.receive()
                assert (answer["type"], answer["client_id"]) == ("error", "mine")
            # The message may be sent again, mended, with the same id.
            await a.send({"type": "message", "content": "mended", "client_id": "mine"})
            assert (await a.receive())["content"] == "mended"


async def test_what_a_client_says_of_itself_is_not_believed(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, conversation = await _pair(server)
        async with connect_in_order(conversation, bob, alice) as (b, a):
            spoofed = {
                "sender_id": bob.id,
                "sender_username": "bob",
                "message_id": str(IdSource()()),
                "timestamp": "1999-01-01T00:00:00Z",
                "is_edited": True,
                "seq": 1_000,
                "rev": 1_000,
                "active_users": [],
                "event": "removed",
                "code": "internal",
                "last_seq": 5,
            }
            await a.send({**spoofed, "type": "message", "content": "hello"})
            message = await b.receive_type("message")
            assert message["sender_id"] == alice.id
            assert message["sender_username"] == "alice"
            assert message["conversation_id"] == conversation
            assert message["message_id"] != spoofed["message_id"]
            assert (message["seq"], message["rev"], message["is_edited"]) == (1, 1, False)
            assert not message["timestamp"].startswith("1999")
            assert set(message) == {
                "type",
                "content",
                "sender_id",
                "sender_username",
                "message_id",
                "timestamp",
                "is_edited",
                "conversation_id",
                "seq",
                "rev",
            }
            await a.send({**spoofed, "type": "typing"})
            typing = await b.receive_type("typing")
            assert typing["sender_id"] == alice.id
            assert set(typing) == {"type", "sender_id", "sender_username", "conversation_id"}
            await a.receive_type("message")
            await a.send({**spoofed, "type": "ping"})
            assert await a.receive() == {"type": "pong"}


async def test_a_resent_message_is_stored_once_and_told_to_its_sender_only(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, conversation = await _pair(server)
        async with connect_in_order(conversation, bob, alice) as (b, a):
            await a.send({"type": "message", "content": "once", "client_id": "c1"})
            first = await a.receive_type("message")
            assert first["client_id"] == "c1"
            assert await b.receive_type("message") == first
            await a.send({"type": "message", "content": "once", "client_id": "c1"})
            assert await a.receive() == first
        async with alice.connect(conversation) as a:  # on another connection, after the room may have gone
            await a.receive_type("system")
            await a.send({"type": "message", "content": "once", "client_id": "c1"})
            assert await a.receive() == first
            await a.send({"type": "message", "content": "other", "client_id": "c1"})
            refused = await a.receive()
            assert (refused["type"], refused["code"], refused["client_id"]) == ("error", "client_id_reused", "c1")
            # The id is the sender's own: bob may use the same.
            async with bob.connect(conversation) as b:
                await b.receive_type("system")
                await b.send({"type": "message", "content": "bob's", "client_id": "c1"})
                told = await b.receive_type("message", "error")
                assert (told["content"], told["seq"]) == ("bob's", 2)
        assert (await alice.history(conversation))["total"] == 2


async def test_resends_in_one_go_are_stored_once(server: Server) -> None:
    with trio.fail_after(60):
        alice, conversation = await _alone(server)
        async with open_chat(alice, conversation) as client:
            one = frame({"type": "message", "content": "same", "client_id": "c1"})
            await client.send(one * 20)
            answers = [await client.read_json() for _ in range(20)]
            assert all(answer == answers[0] for answer in answers)
            assert (answers[0]["type"], answers[0]["seq"]) == ("message", 1)
        assert (await alice.history(conversation))["total"] == 1


async def test_messages_just_at_the_limits_are_taken(start_server: Callable[..., Server]) -> None:
    server = start_server(PULSE_MAX_CONTENT_CHARS="700", PULSE_MAX_FRAME_BYTES="4096")
    with trio.fail_after(60):
        alice, conversation = await _alone(server)
        async with alice.connect(conversation) as a:
            await a.receive()
            for character in ("x", "é", "€", "\U0001f600"):
                text = json.dumps({"type": "message", "content": character * 700}, ensure_ascii=False)
                await a.send(text)
                assert (await a.receive())["content"] == character * 700
                long = {"type": "message", "content": character * 701, "client_id": "x" * 64}
                await a.send(json.dumps(long, ensure_ascii=False))
                refused = await a.receive()
                assert (refused["code"], refused["client_id"]) == ("content_too_long", "x" * 64)
            await a.send({"type": "message", "content": "x", "client_id": "i" * 64})
            assert (await a.receive())["client_id"] == "i" * 64
            exact = '{"type": "ping", "padding": "'.ljust(4_096 - 2, "p") + '"}'
            assert len(exact) == 4_096
            await a.send(exact)
            assert await a.receive() == {"type": "pong"}


@pytest.mark.parametrize("character", ["x", "€", "\U0001f600"])
@pytest.mark.parametrize("pieces", [1, 7])
async def test_a_message_over_the_limit_in_bytes_ends_the_connection_with_1009(
    start_server: Callable[..., Server], character: str, pieces: int
) -> None:
    server = start_server(PULSE_MAX_FRAME_BYTES="1024")
    with trio.fail_after(60):
        alice, conversation = await _alone(server)
        count = 1_025 // len(character.encode()) + 1
        assert len(character * count) <= 1_026
        payload = (character * count).encode()
        assert len(payload) > 1_024
        async with open_chat(alice, conversation) as client:
            step = -(-len(payload) // pieces)
            parts = [payload[start : start + step] for start in range(0, len(payload), step)]
            for number, part in enumerate(parts):
                opcode = TEXT if number == 0 else CONTINUATION
                await client.send(frame(part, opcode, fin=number == len(parts) - 1))
            assert await client.read_close() == 1009
            with trio.fail_after(10):
                await client.wait_gone()
        async with alice.connect(conversation) as a:  # the server and the room go on
            await a.receive()
            await _check_alive(a, "hello")


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_a_client_that_goes_on_after_1009_is_cut_and_costs_no_memory(server: Server, opcode: int) -> None:
    with trio.fail_after(120):
        alice, conversation = await _alone(server)
        async with open_chat(alice, conversation) as client:
            chunk = b"x" * 65_000
            before = resident_bytes(server.process.pid)
            await client.send(frame(chunk, opcode, fin=False))
            sent = 0
            codes = []

            async def read() -> None:
                codes.append(await client.read_close())

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                while await client.send_some(frame(chunk, CONTINUATION, fin=False)):
                    sent += len(chunk)
                    await trio.lowlevel.checkpoint()
            assert codes == [1009]
            assert sent > 0
            assert resident_bytes(server.process.pid) - before < 20_000_000
        async with alice.connect(conversation) as a:
            await a.receive()
            await _check_alive(a, "hello")


async def test_a_frame_that_announces_more_than_the_limit_is_not_waited_for(server: Server) -> None:
    with trio.fail_after(60):
        alice, conversation = await _alone(server)
        async with open_chat(alice, conversation) as client:
            before = resident_bytes(server.process.pid)
            await client.send(frame(b"x" * 70_000, announced=2**62))
            assert await client.read_close() == 1009
            await client.wait_gone()
            assert resident_bytes(server.process.pid) - before < 20_000_000


TEXTS = [
    "plain",
    " leading, trailing and  double  blanks ",
    "lines\nand\r\nmore\tand\x0bothers\x0c",
    "\x01\x02\x1f\x7f\x80\x9f",
    "\"quotes\" 'and' \\backslashes\\ / and </script><script>alert(1)</script>",
    "'; DROP TABLE messages; --",
    "%s %(name)s {} {0} $1 :name",
    "null",
    "e\u0301 is not \u00e9",
    "\u1e9b\u0323 \u212b \ufb01",  # texts that normal forms would change
    "Z\u0351\u036b\u0343a\u0310l\u0304g\u0306o\u0310",
    "\N{FAMILY}\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f44d\U0001f3fd \U0001f1e9\U0001f1ea",
    "\u2764\ufe0f \u2764\ufe0e",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627 \u202eright to left\u202c \u200f\u200e\u2066x\u2069",
    "日本語 中文 한국어 ไทย हिन्दी தமிழ்",
    "\u200b\u200c\u200d\ufeff zero width",
    "\ufffe\uffff\ufffd noncharacters \ufdd0",
    "\u2028 \u2029 \u0085 separators",
    "\U00010000\U0010ffff\U0001f600 astral",
    "\ue000\uf8ff\U000f0000 private use",
    "a" * 4_000,
    "\U0001f600" * 4_000,
]


async def test_every_text_comes_back_as_it_was_sent(server: Server) -> None:
    assert all("\x00" not in text for text in TEXTS)
    assert any(unicodedata.normalize("NFC", text) != text for text in TEXTS)
    with trio.fail_after(60):
        alice, bob, conversation = await _pair(server)
        async with connect_in_order(conversation, bob, alice) as (b, a):
            for escaped in (True, False):
                for text in TEXTS:
                    await a.send(json.dumps({"type": "message", "content": text}, ensure_ascii=escaped))
                    for chat in (a, b):
                        assert (await chat.receive_type("message", "error")).get("content") == text
        found = await alice.history(conversation, limit=200)
    assert [message["content"] for message in found["messages"]] == (TEXTS * 2)[::-1]


async def test_messages_and_a_close_in_one_go_leave_no_holes(server: Server) -> None:
    with trio.fail_after(120):
        alice, bob, conversation = await _pair(server)
        total = 0
        async with bob.connect(conversation) as b:
            await b.receive()
            for round_number in range(10):
                texts = [f"{round_number}: {n}" for n in range(10)]
                frames = [frame({"type": "message", "content": text, "client_id": text}) for text in texts]
                answers: list[dict[str, Any]] = []
                async with open_chat(alice, conversation) as client:
                    await client.send(b"".join(frames) + close_frame())
                    while True:
                        opcode, payload = await client.read_frame()
                        if opcode == CLOSE:
                            break
                        answers.append(json.loads(payload))
                    await client.wait_gone()
                # `left` comes when the connection's task has ended: whatever was taken is on its way.
                told = []
                while (heard := await b.receive())["type"] != "system" or heard["event"] != "left":
                    told.append(heard)
                async with alice.connect(conversation) as again:
                    # After it nothing of the old connection can come: messages are stored in the order taken.
                    await again.send({"type": "message", "content": f"{round_number}: end"})
                    while (await again.receive_type("message"))["content"] != f"{round_number}: end":
                        pass
                history = (await alice.history(conversation, limit=200))["messages"]
                stored = [m["content"] for m in reversed(history) if m["content"].startswith(f"{round_number}:")]
                assert stored.pop() == f"{round_number}: end"
                assert stored == texts[: len(stored)]
                acknowledged = [answer["content"] for answer in answers if answer["type"] == "message"]
                assert acknowledged == texts[: len(acknowledged)]
                assert len(acknowledged) <= len(stored)
                total += len(stored) + 1
                assert [message["seq"] for message in history] == list(range(total, 0, -1))[:200]
                while (await b.receive()).get("event") != "left":
                    pass


async def test_a_row_of_another_program_closes_nobodys_connection(server: Server, database: str) -> None:
    odd = ["", " ", "\u2028\u202e\ufeff\uffff", "x" * 100_000, "\U0001f600\x01\x7f", '{"type": "error"}\n\n']
    with trio.fail_after(60):
        alice, bob, conversation = await _pair(server)
        async with connect_in_order(conversation, bob, alice) as (b, a):
            with psycopg.connect(database) as connection:
                for number, content in enumerate(odd, 1):
                    connection.execute(
                        "INSERT INTO messages (id, conversation_id, sender_id, content, created_at, updated_at,"
                        " seq, rev, client_id) VALUES (%s, %s, %s, %s, 'epoch', now(), %s, %s, %s)",
                        (IdSource()(), conversation, bob.id, content, number, number, f"\u202e{number}\x01"),
                    )
                connection.execute(
                    "UPDATE conversations SET last_seq = %s, last_rev = %s WHERE id = %s",
                    (len(odd), len(odd), conversation),
                )
            await a.send({"type": "message", "content": "and now"})
            for chat in (a, b):
                heard = [(await chat.receive())["content"] for _ in range(len(odd) + 1)]
                assert heard == [*odd, "and now"]
            await a.send({"type": "message", "content": "and then"})
            for chat in (a, b):
                assert (await chat.receive())["content"] == "and then"
        assert [m["content"] for m in (await alice.history(conversation))["messages"]][::-1] == [
            *odd,
            "and now",
            "and then",
        ]
        async with bob.connect(conversation) as b:
            assert (await b.receive())["last_seq"] == len(odd) + 2


async def test_a_websocket_ping_is_answered_with_what_it_holds(server: Server) -> None:
    with trio.fail_after(60):
        alice, conversation = await _alone(server)
        async with open_chat(alice, conversation) as client:

            async def next_pong(client: RawClient) -> bytes:
                while True:
                    opcode, payload = await client.read_frame()
                    if opcode == PONG:
                        return payload
                    assert opcode == PING  # the server's own

            for payload in (b"", b"hello", bytes(range(125))):
                await client.send(frame(payload, PING))
                assert await next_pong(client) == payload
            # In the middle of a fragmented message, too.
            await client.send(frame('{"type": ', TEXT, fin=False) + frame(b"now", PING))
            assert await next_pong(client) == b"now"
            await client.send(frame('"ping"}', CONTINUATION))
            assert await client.read_json() == {"type": "pong"}


async def test_a_message_in_pieces_of_one_byte_is_one_message(server: Server) -> None:
    text = json.dumps({"type": "message", "content": "in pieces: \U0001f600 €"}, ensure_ascii=False).encode()
    with trio.fail_after(60):
        alice, conversation = await _alone(server)
        async with open_chat(alice, conversation) as client:
            last = len(text) - 1
            for number in range(len(text)):
                opcode = TEXT if number == 0 else CONTINUATION
                await client.send(frame(text[number : number + 1], opcode, fin=number == last))
            assert (await client.read_json())["content"] == "in pieces: \U0001f600 €"
            for byte in frame(text):  # and one frame, a byte at a time
                await client.send(bytes([byte]))
            assert (await client.read_json())["content"] == "in pieces: \U0001f600 €"
