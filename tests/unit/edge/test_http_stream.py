"""A request whose client goes: its handler is cancelled, but not by the end of a whole answer."""

from types import SimpleNamespace
from typing import Any

import pytest
import trio
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.http_stream import ASGIHTTPState

from pulse_trio.edge.server.handler_scope import handler_scope
from pulse_trio.edge.server.http_stream import HttpStream


class Log:
    async def access(self, *_: object) -> None:
        await trio.lowlevel.checkpoint()


def make_stream(put: Any) -> HttpStream:
    config: Any = SimpleNamespace(log=Log())
    context: Any = None
    stream = HttpStream(None, config, context, None, False, None, None, None, 1)
    stream.scope, stream.start_time, stream.app_put = {}, 0.0, put  # type: ignore[typeddict-item]
    return stream


@pytest.mark.parametrize(
    ("state", "is_cancelled"),
    [(ASGIHTTPState.REQUEST, True), (ASGIHTTPState.RESPONSE, True), (ASGIHTTPState.CLOSED, False)],
)
async def test_a_handler_is_cancelled_unless_its_answer_is_complete(state: ASGIHTTPState, is_cancelled: bool) -> None:
    told: list[str] = []

    async def put(message: dict[str, str]) -> None:
        await trio.lowlevel.checkpoint()
        told.append(message["type"])

    stream = make_stream(put)
    scope = handler_scope()
    assert scope is not None
    stream.state = state
    with scope:
        # The handler itself may be the one that finds that the client has gone; its caller must still do all its work.
        await stream.handle(StreamClosed(stream_id=1))
        assert told == ["http.disconnect"]
        assert scope.cancel_called is is_cancelled


async def test_the_end_of_a_connection_is_handled_once() -> None:
    async def put(_: object) -> None:
        await trio.lowlevel.checkpoint()

    stream = make_stream(put)
    for _ in range(2):
        await stream.handle(StreamClosed(stream_id=1))
    assert stream.closed
