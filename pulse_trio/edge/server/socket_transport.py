"""The transport of a WebSocket that has its TCP connection to itself: straight to the socket."""

from collections.abc import Awaitable, Callable, Sequence

from pulse_trio.edge.server.client_connection import ClientConnection
from pulse_trio.edge.server.websocket_stream import WebSocketStream
from pulse_trio.protocol import Encoded


class SocketTransport:
    """Writes frames to the socket in the caller's task, and reads messages in the connection's own task.

    `write_nowait`, `flush` and `abandon` are those of the connection's `StreamWriter`, bound here once: they are called
    for every frame of every subscription.
    """

    __slots__ = ("_connection", "_websocket", "_writer", "abandon", "flush", "receive", "write_nowait")

    def __init__(self, connection: ClientConnection, websocket: WebSocketStream) -> None:
        """Takes over the messages of `websocket`, whose handshake must not be answered yet."""
        self._connection = connection
        self._websocket = websocket
        self._writer = writer = connection.writer
        self.write_nowait = writer.write_nowait
        self.flush = writer.flush
        self.abandon = writer.abandon
        self.receive = websocket.divert()

    async def send(self, frames: Sequence[Encoded]) -> None:
        await self._writer.write(b"".join(frame.wire for frame in frames), is_frames=True)

    async def close(self, code: int, reason: str) -> None:
        await self._websocket.close(code, reason)

    def take_by(self, take: Callable[[str], bool] | None) -> None:
        self._websocket.take = take

    async def serve(self, serve: Callable[[], Awaitable[None]]) -> None:
        """Hands `serve` to the connection's own task and returns at once."""
        self._connection.carry_on(serve)
