"""The transport of a WebSocket: straight to its socket, or through the framework.

`SocketTransport` (socket_transport.py) serves a WebSocket, which has its TCP connection to itself. `FrameworkTransport`
serves one on an unsupported version of Hypercorn, if `PULSE_ALLOW_ANY_HYPERCORN` is set. The outcome is the same;
the second one costs some 60 µs of CPU a frame and three tasks a connection more.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Final, Protocol

import trio
from quart.wrappers import Websocket

from pulse_trio.protocol import Encoded
from pulse_trio.rooms import connection
from pulse_trio.rooms.connection import NOT_TAKEN


class ConnectionEnded(Exception):
    """The client has gone, or the connection was closed: there are no further messages."""


class Transport(connection.Transport, Protocol):
    """A `rooms.Transport` that also receives, as the routes need it."""

    @property
    def receive(self) -> Callable[[], Awaitable[str | bytes | None]]:
        """Waits for the client's next message; None is an empty binary one.

        Raises:
            ConnectionEnded: there are no further messages.
        """

    def take_by(self, take: Callable[[str], bool] | None) -> None:
        """Lets `take` have each text of the client first, in the call that reads it; None ends that.

        A text for which it returns False goes to `receive`, and so do all that come before that one is received. `take`
        is an offer: a transport need not call it.
        """

    async def serve(self, serve: Callable[[], Awaitable[None]]) -> None:
        """Runs `serve`, which must survive the end of the caller: it may run in the connection's own task.

        In that case this returns at once, so that the framework can free all that it holds for the request.
        """


class FrameworkTransport:
    """Sends and receives through Quart and ASGI, where every send may wait."""

    __slots__ = ("_socket", "receive")

    def __init__(self, socket: Websocket) -> None:
        self._socket = socket
        self.receive: Callable[[], Awaitable[str | bytes | None]] = socket.receive

    def write_nowait(self, data: bytes) -> int:
        return NOT_TAKEN

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()

    def abandon(self) -> None:
        """Does nothing, because `write_nowait` takes nothing."""

    async def send(self, frames: Sequence[Encoded]) -> None:
        for frame in frames:
            await self._socket.send(frame.text)

    async def close(self, code: int, reason: str) -> None:
        await self._socket.close(code, reason)

    def take_by(self, take: Callable[[str], bool] | None) -> None:
        """Does nothing, because the framework's queue stands between the socket and `receive`."""

    async def serve(self, serve: Callable[[], Awaitable[None]]) -> None:
        await serve()


_open_own: Final[ContextVar[Callable[[], Transport]]] = ContextVar("open_own_transport")


def set_own_transport(open_own: Callable[[], Transport]) -> None:
    """Lets the tasks that this one starts from now on find the transport of a connection that is not shared."""
    _open_own.set(open_own)


def open_transport(socket: Websocket) -> Transport:
    """Opens the transport of the WebSocket that this task serves. Call it before the handshake is answered."""
    open_own = _open_own.get(None)
    return FrameworkTransport(socket) if open_own is None else open_own()
