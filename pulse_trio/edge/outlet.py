"""The short way out: whole WebSocket frames straight to a connection's socket, when it is free.

The server puts an outlet in place for each connection that can have one; a route finds it here. Where there is
none everything goes the long way, through the ASGI server, with the same outcome.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, Protocol

import trio


class Outlet(Protocol):
    """A connection as far as the short way needs it."""

    @property
    def is_behind(self) -> bool:
        """Whether something that was taken is not out yet."""

    def write_now(self, data: bytes) -> bool:
        """Takes whole frames, if nothing else is on its way to the client and the connection is open.

        What the network does not take at once is kept, `is_behind` is then true, and `flush` must follow.
        """

    async def send(self, data: bytes) -> bool:
        """Writes whole frames, after whatever else is on its way; False where there is no short way.

        A dead connection is not an error.
        """

    async def flush(self) -> None:
        """Writes what was kept; a dead connection is not an error."""

    def abandon(self) -> None:
        """What was kept must not reach the client: the connection is cut if anything was, with no close frame."""

    def divert(self) -> Callable[[], Awaitable[str | bytes]] | None:
        """What returns the client's messages one by one from now on; None: they come as the framework brings them.

        To be asked for before the handshake is answered.
        """


class NoOutlet:
    """Of a connection that has no short way."""

    is_behind = False

    def write_now(self, data: bytes) -> bool:
        return False

    async def send(self, data: bytes) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()

    def abandon(self) -> None:
        pass

    def divert(self) -> None:
        return None


class Server(Protocol):
    """The server's side of one connection."""

    stream: Any
    send_lock: trio.Lock
    websocket: Any

    async def write(self, data: bytes, *, is_frames: bool = False) -> None:
        """Writes to the client, after whatever the outlet has kept; frames only while it is not shut."""


class StreamOutlet:
    """The short way to a client: no task, no lock, no copy, when its connection is free.

    A prepared frame that goes through Quart, ASGI, wsproto and a shielded write costs some 60 µs of CPU; this
    way a few. Over TLS, whose records only the stream can make, there is no short way.
    """

    __slots__ = ("_kept", "_send", "_server", "is_abandoned", "is_shut")

    def __init__(self, server: Server) -> None:
        self._server = server
        self._kept = b""
        self.is_shut = False
        self.is_abandoned = False
        stream: object = server.stream
        if isinstance(stream, trio.SocketStream):
            self._send: Callable[[bytes], int] | None = stream.socket._sock.send  # type: ignore[attr-defined]  # the socket itself
        else:
            self._send = getattr(stream, "send_now", None)  # of streams in memory

    @property
    def is_behind(self) -> bool:
        return bool(self._kept)

    def write_now(self, data: bytes) -> bool:
        if self._send is None or self.is_shut or self._kept or self._server.send_lock.locked():
            return False
        try:
            sent = self._send(data)
        except OSError:  # it would block, or is broken: the long way finds out
            return False
        if sent < len(data):
            self._kept = data[sent:]
        return True

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

    def divert(self) -> Callable[[], Awaitable[str | bytes]] | None:
        websocket = self._server.websocket
        if websocket is None:
            return None
        receive: Callable[[], Awaitable[str | bytes]] = websocket.divert().receive
        return receive

    def take(self) -> bytes:
        """What was kept, for whoever writes next."""
        kept, self._kept = self._kept, b""
        return kept

    def shut(self) -> None:
        """A close frame is on its way, or the connection has ended: no frame may follow."""
        self.is_shut = True


_NONE: Final = NoOutlet()
_current: Final[ContextVar[Outlet]] = ContextVar("outlet", default=_NONE)


def current_outlet() -> Outlet:
    """The outlet of the connection that this task serves."""
    return _current.get()


def set_outlet(outlet: Outlet) -> None:
    """For the tasks that this one starts from now on: what serves this connection finds it."""
    _current.set(outlet)
