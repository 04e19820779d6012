"""The choice of a WebSocket's transport, and the one through the framework."""

from typing import Any

import trio

from pulse_trio.edge.server.transport import FrameworkTransport, open_transport, set_own_transport
from pulse_trio.protocol import PongFrame, encode
from pulse_trio.rooms.connection import NOT_TAKEN


class Socket:
    """Keeps what Quart's WebSocket would send."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.closed: tuple[int, str] | None = None

    async def send(self, text: str) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(text)

    async def close(self, code: int, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        self.closed = code, reason

    async def receive(self) -> str:
        await trio.lowlevel.checkpoint()
        return "a message"


async def test_the_framework_transport_sends_receives_and_closes_through_quart() -> None:
    socket: Any = Socket()
    transport, frame = FrameworkTransport(socket), encode(PongFrame())
    assert transport.write_nowait(frame.wire) == NOT_TAKEN
    transport.abandon()
    await transport.flush()
    await transport.send([frame, frame])
    assert socket.sent == [frame.text, frame.text]
    assert await transport.receive() == "a message"
    await transport.close(1012, "restarting")
    assert socket.closed == (1012, "restarting")


async def test_the_framework_transport_serves_in_the_callers_task() -> None:
    socket: Any = Socket()
    tasks: list[trio.lowlevel.Task] = []

    async def serve() -> None:
        await trio.lowlevel.checkpoint()
        tasks.append(trio.lowlevel.current_task())

    await FrameworkTransport(socket).serve(serve)
    assert tasks == [trio.lowlevel.current_task()]


async def test_a_connection_that_is_not_shared_has_its_own_transport() -> None:
    socket: Any = Socket()
    own = FrameworkTransport(socket)
    found: list[object] = []

    async def serve_own() -> None:
        set_own_transport(lambda: own)
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task that it starts inherits the transport
            nursery.start_soon(look)

    async def look() -> None:
        await trio.lowlevel.checkpoint()
        found.append(open_transport(socket))

    async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # a task of its own: this one inherits nothing
        nursery.start_soon(serve_own)
    await look()
    assert found[0] is own
    assert isinstance(found[1], FrameworkTransport)
    assert found[1] is not own
