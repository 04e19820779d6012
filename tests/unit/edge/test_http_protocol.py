"""Answers over HTTP/1.1: the head leaves together with what follows it."""

from typing import Any

import h11
import pytest
import trio
from hypercorn.events import RawData

from pulse_trio.edge.server.http_protocol import HttpProtocol


class Sent:
    """The writes of a connection."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    async def __call__(self, event: Any) -> None:
        await trio.lowlevel.checkpoint()
        assert isinstance(event, RawData)
        self.writes.append(event.data)


def make_protocol(method: bytes) -> tuple[HttpProtocol, Sent]:
    protocol, sent = HttpProtocol.__new__(HttpProtocol), Sent()
    protocol.connection = connection = h11.Connection(h11.SERVER)
    protocol.send = sent
    protocol._answer_head = b""
    connection.receive_data(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert isinstance(connection.next_event(), h11.Request)
    assert isinstance(connection.next_event(), h11.EndOfMessage)
    return protocol, sent


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
    method: bytes, headers: list[tuple[bytes, bytes]], pieces: list[bytes], writes: list[bytes]
) -> None:
    protocol, sent = make_protocol(method)
    await protocol._send_h11_event(h11.Response(status_code=200, headers=headers))
    assert sent.writes == []
    for piece in pieces:
        await protocol._send_h11_event(h11.Data(data=piece))
    await protocol._send_h11_event(h11.EndOfMessage())
    assert len(sent.writes) == len(writes)
    head, _, first = sent.writes[0].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert [first, *sent.writes[1:]] == writes
