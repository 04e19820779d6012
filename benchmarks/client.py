"""The load generator's clients: picows WebSockets (C on uvloop) that tell frames by their first bytes; plain HTTP."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import picows

CONTENT_BYTES = 64


class Lost(Exception):
    """A connection ended unexpectedly, or an answer was an error."""


class Tally:
    """Counts the deliveries of many connections, and resolves a future when the expected number has come.

    `bytes` counts the bytes of all frames.
    """

    __slots__ = ("bytes", "count", "goal", "reached")

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self.goal = -1
        self.reached: asyncio.Future[None] | None = None

    def expect(self, more: int) -> "asyncio.Future[None]":
        """Returns a future that is done after `more` further deliveries."""
        self.goal = self.count + more
        self.reached = asyncio.get_running_loop().create_future()
        return self.reached

    def fail(self, error: Exception) -> None:
        if self.reached is not None and not self.reached.done():
            self.reached.set_exception(error)

    def add(self) -> None:
        self.count += 1
        if self.count == self.goal and self.reached is not None and not self.reached.done():
            self.reached.set_result(None)


class Dialect:
    """The frames and paths of a server: those of the specification."""

    counted = b'{"type":"message"'
    typed = b'{"type":"typing"'

    def path(self, room: str, token: str, more: str = "") -> str:
        return f"/api/chat/ws/{room}?token={token}{more}"

    def opening(self, room: str, token: str) -> tuple[bytes, bytes] | None:
        """Returns a first frame to send, and the start of the server's frame before it; None if there is none."""
        return None

    def message(self, content: bytes) -> bytes:
        return b'{"type":"message","content":"%s"}' % content

    def typing(self) -> bytes:
        return b'{"type":"typing"}'


class SocketIoDialect(Dialect):
    """Engine.IO 4 and Socket.IO 5, over WebSocket only."""

    counted = b'42["message"'
    typed = b'42["typing"'

    def path(self, room: str, token: str, more: str = "") -> str:
        return "/socket.io/?EIO=4&transport=websocket"

    def opening(self, room: str, token: str) -> tuple[bytes, bytes] | None:
        return b'40{"token":"%s","conversation_id":"%s"}' % (token.encode(), room.encode()), b"40"

    def message(self, content: bytes) -> bytes:
        return b'42["message",{"content":"%s"}]' % content

    def typing(self) -> bytes:
        return b'42["typing",{}]'


class Client(picows.WSListener):  # type: ignore[misc]  # a Cython class
    """One connection. `tally` counts its deliveries; `on_ack` is called with each of its messages that comes back.

    Args:
        dialect: the frames of the server.
        number: a unique number, which its messages contain.
        opening: the result of `Dialect.opening`.
    """

    def __init__(self, dialect: Dialect, number: int, opening: tuple[bytes, bytes] | None, tally: Tally) -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[bytes] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.transport: Any = None
        self.tally = tally
        self.on_ack: Callable[[Client, float], None] | None = None
        self.sent_at: dict[int, float] = {}
        self._dialect = dialect
        self._counted = dialect.counted
        self._opening = opening
        self._mine = b"~%06d-" % number
        self._next = 0
        self._closing = False

    def on_ws_connected(self, transport: Any) -> None:
        self.transport = transport

    def on_ws_disconnected(self, transport: Any) -> None:
        if not self.gone.done():
            self.gone.set_result(None)
        if not self._closing:
            code = transport.close_handshake and transport.close_handshake.recv and transport.close_handshake.recv.code
            error = Lost(f"a connection was closed by the server: {code}")
            if not self.ready.done():
                self.ready.set_exception(error)
            self.tally.fail(error)

    def on_ws_frame(self, transport: Any, frame: Any) -> None:
        payload = frame.get_payload_as_bytes()
        tally = self.tally
        tally.bytes += len(payload)
        if payload.startswith(self._counted):
            if self.on_ack is not None:
                self._acknowledge(payload)
            tally.add()
        elif frame.msg_type == picows.WSMsgType.TEXT:
            self._other(payload)

    def _acknowledge(self, payload: bytes) -> None:
        at = payload.find(self._mine)
        if at >= 0 and self.on_ack is not None:
            at += len(self._mine)
            sent = self.sent_at.pop(int(payload[at : at + 7]), None)
            if sent is not None:
                self.on_ack(self, time.perf_counter() - sent)

    def _other(self, payload: bytes) -> None:
        if self._opening is not None:
            reply, _ = self._opening
            self.transport.send(picows.WSMsgType.TEXT, reply)
            self._opening = None
        elif payload == b"2":  # a ping of Engine.IO
            self.transport.send(picows.WSMsgType.TEXT, b"3")
        elif payload.startswith(b'{"type":"error"'):
            error = Lost(f"the server sent an error: {payload[:300]!r}")
            self.tally.fail(error)
        elif not self.ready.done():
            self.ready.set_result(payload)

    def count_typing(self, *, on: bool) -> None:
        """Counts typing frames instead of messages, or messages again."""
        self._counted = self._dialect.typed if on else self._dialect.counted

    def say(self) -> None:
        """Sends one message of CONTENT_BYTES."""
        number = self._next = self._next + 1
        content = (self._mine + b"%07d" % number).ljust(CONTENT_BYTES, b".")
        if self.on_ack is not None:
            self.sent_at[number] = time.perf_counter()
        self.transport.send(picows.WSMsgType.TEXT, self._dialect.message(content))

    def type(self) -> None:
        """Sends one typing frame."""
        self.transport.send(picows.WSMsgType.TEXT, self._dialect.typing())

    async def close(self) -> None:
        """Closes the connection and waits until it is closed."""
        self._closing = True
        if not self.gone.done():
            self.transport.send_close(picows.WSCloseCode.OK)
            try:
                await asyncio.wait_for(asyncio.shield(self.gone), 5)
            except TimeoutError:
                self.transport.disconnect()

    def cut(self) -> None:
        """Ends the connection without a close frame, like a network failure."""
        self._closing = True
        self.transport.disconnect(False)


class Http:
    """One HTTP/1.1 connection for one request at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, path: str, token: str) -> bytes:
        """Requests a path and returns the body of the answer.

        Raises:
            Lost: the answer is not 200.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)
        reader, writer = self._streams
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        )
        body = await reader.readexactly(length)
        if b"connection: close" in head.lower():  # some servers close a connection after a number of requests
            self.close()
            self._streams = None
        if not head.startswith(b"HTTP/1.1 200"):
            raise Lost(f"{head[:40]!r} {body[:200]!r}")
        return body

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


async def connect(
    dialect: Dialect, port: int, room: str, token: str, number: int, tally: Tally, more: str = ""
) -> Client:
    """Opens a connection and waits for the server's first frame."""
    opening = dialect.opening(room, token)
    _, client = await picows.ws_connect(
        lambda: Client(dialect, number, opening, tally),
        f"ws://127.0.0.1:{port}{dialect.path(room, token, more)}",
        websocket_handshake_timeout=120,
        read_buffer_init_size=4096,
    )
    await asyncio.wait_for(client.ready, 120)
    return client  # type: ignore[no-any-return]
