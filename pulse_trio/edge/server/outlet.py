"""The short way to a WebSocket: whole frames straight to its socket when it is free, and a task of its own.

The server puts an outlet in place for each connection that can have one; a route finds it here. Where there is
none everything goes the long way, through the ASGI server, with the same outcome.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, Protocol

import trio

NOT_TAKEN: Final = -1
"""What `write_now` answers when a frame must go another way."""


class ConnectionEnded(Exception):
    """The client has gone, or the connection was closed: no message comes any more."""


class Outlet(Protocol):
    """A connection as far as the short way needs it."""

    def write_now(self, data: bytes) -> int:
        """Takes whole frames, if nothing else is on its way to the client and the connection is open.

        Returns how many bytes the network has not taken: those are kept, and if there are any `flush` must follow.
        NOT_TAKEN: nothing was taken, and the frames must be sent.
        """

    async def send(self, data: bytes) -> bool:
        """Writes whole frames, after whatever else is on its way; False where there is no short way.

        A dead connection is not an error.
        """

    async def flush(self) -> None:
        """Writes what was kept; a dead connection is not an error."""

    def abandon(self) -> None:
        """What was kept must not reach the client: the connection is cut if anything was, with no close frame."""

    async def close(self, code: int, reason: str) -> bool:
        """Sends a close frame; False where there is no short way."""

    def divert(self) -> Callable[[], Awaitable[str | bytes]] | None:
        """What returns the client's messages one by one from now on; None: they come as the framework brings them.

        To be asked for before the handshake is answered. It raises ConnectionEnded when no more will come.
        """

    def carry_on(self, serve: Callable[[], Awaitable[None]]) -> bool:
        """Lets the connection's own task run `serve`, whatever becomes of the connection and of the caller.

        After `divert`. The framework's handler may return then, and with it goes all that it held. False: there is
        no such task, and the handler itself must run it.
        """


class NoOutlet:
    """Of a connection that has no short way."""

    def write_now(self, data: bytes) -> int:
        return NOT_TAKEN

    async def send(self, data: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()

    def abandon(self) -> None:
        pass

    async def close(self, code: int, reason: str) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    def divert(self) -> None:
        return None

    def carry_on(self, serve: Callable[[], Awaitable[None]]) -> bool:
        return False


class WebSocketStream(Protocol):
    """The server's side of a WebSocket that has its connection for itself."""

    def divert(self) -> Callable[[], Awaitable[str | bytes]]: ...

    async def close(self, code: int, reason: str) -> None: ...


class Server(Protocol):
    """The server's side of one connection."""

    stream: Any

    @property
    def websocket(self) -> WebSocketStream | None: ...

    async def write(self, data: bytes, *, is_frames: bool = False) -> None:
        """Writes to the client, after whatever the outlet has kept; frames only while it is not shut."""

    def abandon_frames(self) -> None:
        """Frames that are being written must not reach the client: if there are any, nothing else does."""

    def carry_on(self, serve: Callable[[], Awaitable[None]]) -> None:
        """See `Outlet.carry_on`."""


class StreamOutlet:
    """The short way to a client: no task, no lock, no copy, when its connection is free.

    A prepared frame that goes through Quart, ASGI, wsproto and a shielded write costs some 60 µs of CPU; this
    way a few. Over TLS, whose records only the stream can make, frames take `send`.
    """

    __slots__ = ("_kept", "_send", "_server", "_writers", "is_abandoned", "is_free", "is_shut")

    def __init__(self, server: Server) -> None:
        self._server = server
        self._kept = b""
        self._writers = 0  # who writes to the stream, or waits for it
        self.is_shut = False
        self.is_abandoned = False
        stream: object = server.stream
        if isinstance(stream, trio.SocketStream):
            self._send: Callable[[bytes], int] | None = stream.socket._sock.send  # type: ignore[attr-defined]  # the socket itself
        else:
            self._send = getattr(stream, "send_now", None)  # of streams in memory
        self.is_free = self._send is not None  # whether frames can go straight to the socket

    def _look(self) -> None:
        """Sees again whether frames can go straight to the socket: asked for every frame of every member."""
        self.is_free = self._send is not None and not (self._kept or self._writers or self.is_shut)

    def write_now(self, data: bytes) -> int:
        if not self.is_free:
            return NOT_TAKEN
        try:
            left = len(data) - self._send(data)  # type: ignore[misc]  # free: there is one
        except OSError:  # it would block, or is broken: the long way finds out
            return NOT_TAKEN
        if left:
            self._kept = data[-left:]
            self._look()
        return left

    async def send(self, data: bytes) -> bool:
        await self._server.write(data, is_frames=True)
        return True

    async def flush(self) -> None:
        if self._kept:
            await self._server.write(b"")
        else:
            await trio.lowlevel.checkpoint()

    def abandon(self) -> None:
        if self._kept:
            self._kept = b""
            self.is_abandoned = self.is_shut = True
            self._look()
        else:
            self._server.abandon_frames()

    async def close(self, code: int, reason: str) -> bool:
        websocket = self._server.websocket
        if websocket is None:
            await trio.lowlevel.checkpoint()
            return False
        await websocket.close(code, reason)
        return True

    def divert(self) -> Callable[[], Awaitable[str | bytes]] | None:
        websocket = self._server.websocket
        return None if websocket is None else websocket.divert()

    def carry_on(self, serve: Callable[[], Awaitable[None]]) -> bool:
        if self._server.websocket is None:
            return False
        self._server.carry_on(serve)
        return True

    # --- for whoever writes to the stream ---

    def take(self) -> bytes:
        """What was kept, for whoever writes next."""
        kept, self._kept = self._kept, b""
        return kept

    def begin_write(self) -> None:
        """Somebody is about to write to the stream, or to wait for it; `end_write` must follow."""
        self._writers += 1
        self.is_free = False

    def end_write(self) -> None:
        """Ends a `begin_write`."""
        self._writers -= 1
        self._look()

    def shut(self) -> None:
        """A close frame is on its way, or the connection has ended: no frame may follow."""
        self.is_shut = True
        self.is_free = False


_NONE: Final = NoOutlet()
_current: Final[ContextVar[Outlet]] = ContextVar("outlet", default=_NONE)


def current_outlet() -> Outlet:
    """The outlet of the connection that this task serves."""
    return _current.get()


def set_outlet(outlet: Outlet) -> None:
    """For the tasks that this one starts from now on: what serves this connection finds it."""
    _current.set(outlet)
