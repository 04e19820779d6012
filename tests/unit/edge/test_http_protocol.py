"""Answers over HTTP/1.1: the head leaves together with what follows it."""

from types import SimpleNamespace
from typing import Any

import h11
import pytest
import trio
from hypercorn.events import RawData

from pulse_trio.edge.server.http_protocol import MAX_JOINED_BYTES, HttpProtocol
from pulse_trio.edge.server.request_turns import RequestTurns
from pulse_trio.rooms.connection import NOT_TAKEN


class Sent:
    """The writes of a connection. `room`: bytes that the network takes at once; None if it must be waited for."""

    def __init__(self, room: int | None) -> None:
        self.writes: list[bytes] = []
        self.writer = self
        self.room = room
        self.kept = b""

    def write_nowait(self, data: bytes) -> int:
        if self.room is None:
            return NOT_TAKEN
        self.writes.append(data[: self.room])
        self.kept = data[self.room :]
        return len(self.kept)

    async def __call__(self, event: Any) -> None:
        await trio.lowlevel.checkpoint()
        assert isinstance(event, RawData)
        kept, self.kept = self.kept, b""
        self.writes.append(kept + event.data)


def make_protocol(method: bytes, room: int | None) -> tuple[HttpProtocol, Sent]:
    protocol, sent = HttpProtocol.__new__(HttpProtocol), Sent(room)
    protocol._connection = sent  # type: ignore[assignment]  # only its writer is used
    protocol.connection = connection = h11.Connection(h11.SERVER)
    protocol.send = sent
    protocol._answer_head = b""
    protocol._has_turn = False
    connection.receive_data(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert isinstance(connection.next_event(), h11.Request)
    assert isinstance(connection.next_event(), h11.EndOfMessage)
    return protocol, sent


@pytest.mark.parametrize("room", [None, 10_000])
@pytest.mark.parametrize(
    ("method", "headers", "pieces", "writes"),
    [
        (b"GET", [(b"content-length", b"4")], [b"body"], [b"body"]),
        (b"GET", [(b"content-length", b"8")], [b"body", b"more"], [b"body", b"more"]),
        (b"GET", [(b"content-length", b"0")], [], [b""]),
        (b"HEAD", [(b"content-length", b"4")], [], [b""]),
        (b"GET", [(b"transfer-encoding", b"chunked")], [b"body"], [b"4\r\nbody\r\n", b"0\r\n\r\n"]),
    ],
)
async def test_the_head_of_an_answer_leaves_with_what_follows(
    method: bytes, headers: list[tuple[bytes, bytes]], pieces: list[bytes], writes: list[bytes], room: int | None
) -> None:
    protocol, sent = make_protocol(method, room)
    await protocol._send_h11_event(h11.Response(status_code=200, headers=headers))
    assert sent.writes == []
    for piece in pieces:
        await protocol._send_h11_event(h11.Data(data=piece))
    await protocol._send_h11_event(h11.EndOfMessage())
    assert len(sent.writes) == len(writes)
    head, _, first = sent.writes[0].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert [first, *sent.writes[1:]] == writes


async def test_what_the_network_does_not_take_at_once_is_waited_for() -> None:
    protocol, sent = make_protocol(b"GET", 20)
    await protocol._send_h11_event(h11.Response(status_code=200, headers=[(b"content-length", b"4")]))
    await protocol._send_h11_event(h11.Data(data=b"body"))
    await protocol._send_h11_event(h11.EndOfMessage())
    assert len(sent.writes) == 2
    assert b"".join(sent.writes).endswith(b"\r\n\r\nbody")


async def test_a_cancelled_handler_writes_nothing() -> None:
    """The server would answer 500 for it when it ends, although what it did may be stored."""
    protocol, sent = make_protocol(b"GET", 10_000)
    await protocol._send_h11_event(h11.Response(status_code=500, headers=[(b"content-length", b"0")]))
    with trio.CancelScope() as scope:
        scope.cancel()
        await protocol._send_h11_event(h11.EndOfMessage())
    assert scope.cancelled_caught
    assert sent.writes == []


async def test_a_turn_is_given_back_before_anything_is_written() -> None:
    """Eight clients whose handshakes were rejected, and who did not close, kept all turns for a second each."""
    protocol, sent = make_protocol(b"GET", None)
    turns = RequestTurns()
    sent.gate = SimpleNamespace(beginning=turns)  # type: ignore[attr-defined]
    while turns.take_nowait():
        pass
    protocol._has_turn = True
    await protocol._send_h11_event(h11.Response(status_code=400, headers=[(b"content-length", b"0")]))
    assert sent.writes == []
    assert turns.take_nowait(), "another request may begin"
    await protocol._send_h11_event(h11.EndOfMessage())
    assert not turns.take_nowait(), "it is given back once"


async def test_a_large_answer_is_not_copied_behind_its_head() -> None:
    """1,000 clients that did not read kept two copies of their answers: 367 MiB."""
    protocol, sent = make_protocol(b"GET", 10_000)
    body = b"x" * (MAX_JOINED_BYTES + 1)
    await protocol._send_h11_event(
        h11.Response(status_code=200, headers=[(b"content-length", str(len(body)).encode())])
    )
    await protocol._send_h11_event(h11.Data(data=body))
    await protocol._send_h11_event(h11.EndOfMessage())
    assert sent.writes[0].endswith(b"\r\n\r\n")
    assert sent.writes[1] is body
