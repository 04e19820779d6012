"""The load generator's clients: picows WebSockets (C on uvloop) that tell frames by their first bytes."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import picows

from benchmarks.dialects import Dialect, Lost, Opening, Refused

CONTENT_BYTES = 64

logging.getLogger("picows").setLevel(logging.CRITICAL)  # ejabberd sends two close frames, which it reports each time


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


class Client(picows.WSListener):  # type: ignore[misc]  # a Cython class
    """One connection. `tally` counts its deliveries; `on_ack` is called with each of its messages that comes back.

    One that follows a sender calls `on_ack` with that one's messages.

    Args:
        dialect: the frames of the server.
        room: the conversation that it joins, by its number.
        user: the user, by its number.
        number: a unique number, which its messages contain.
        more: resumes; see `Dialect`.
    """

    def __init__(self, dialect: Dialect, room: int, user: int, number: int, tally: Tally, more: str = "") -> None:
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[bytes] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.transport: Any = None
        self.tally = tally
        self.on_ack: Callable[[Client, float], None] | None = None
        self.sent_at: dict[int, float] = {}
        self._dialect = dialect
        self._counted = dialect.counted
        self._opening: Opening | None = dialect.opening(room, user, number, more)
        self._head, self._tail = dialect.message(room)
        self._typing = dialect.typing(room)
        self._mine = b"~%06d-" % number
        self._next = 0
        self._is_followed = False
        self._closing = False

    @property
    def is_open(self) -> bool:
        """True when the server has let it in."""
        return self._opening is None

    def on_ws_connected(self, transport: Any) -> None:
        self.transport = transport
        assert self._opening is not None
        self._send_all(next(self._opening))

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
        if self._opening is not None:
            if frame.msg_type == picows.WSMsgType.TEXT and not self.ready.done():
                self._open(payload)
        elif payload.startswith(self._counted):
            if self.on_ack is not None:
                self._acknowledge(payload)
            tally.add()
        elif frame.msg_type == picows.WSMsgType.TEXT:
            self._other(payload)

    def _open(self, payload: bytes) -> None:
        """Continues the conversation that opens the connection."""
        assert self._opening is not None
        try:
            self._send_all(self._opening.send(payload))
        except StopIteration:
            self._opening = None
            self.ready.set_result(payload)
        except Refused as error:
            self._closing = True
            self.ready.set_exception(Lost(f"the server does not let a client in: {error}"))
            self.transport.disconnect(False)

    def send(self, frame: bytes) -> None:
        """Sends a frame of the dialect."""
        self.transport.send(picows.WSMsgType.TEXT, frame)

    def _send_all(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            self.send(frame)

    def _acknowledge(self, payload: bytes) -> None:
        at = payload.find(self._mine)
        if at >= 0 and self.on_ack is not None:
            at += len(self._mine)
            sent = self.sent_at.pop(int(payload[at : at + 7]), None)
            if sent is not None:
                self.on_ack(self, time.perf_counter() - sent)

    def _other(self, payload: bytes) -> None:
        answer = self._dialect.answer(payload)
        if answer is not None:
            self.send(answer)
        elif payload.startswith(self._dialect.errors):
            self.tally.fail(Lost(f"the server sent an error: {payload[:300]!r}"))

    def count_typing(self, *, on: bool) -> None:
        """Counts typing frames instead of messages, or messages again."""
        self._counted = self._dialect.typed if on else self._dialect.counted

    def follow(self, sender: "Client") -> None:
        """Calls `on_ack` with the messages of another connection when they come here, instead of its own."""
        self._mine, self.sent_at = sender._mine, sender.sent_at
        sender._is_followed = True

    def say(self) -> None:
        """Sends one message of CONTENT_BYTES."""
        number = self._next = self._next + 1
        content = (self._mine + b"%07d" % number).ljust(CONTENT_BYTES, b".")
        if self.on_ack is not None or self._is_followed:
            self.sent_at[number] = time.perf_counter()
        self.send(self._head + content + self._tail)

    def type(self) -> None:
        """Sends one typing frame."""
        self.send(self._typing)

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


Kind = TypeVar("Kind", bound=Client)


async def connect(
    kind: type[Kind], dialect: Dialect, port: int, room: int, user: int, number: int, tally: Tally, more: str = ""
) -> Kind:
    """Opens a connection of a user to a conversation, as far as the dialect's opening goes.

    Raises:
        Lost: the server does not let the client in.
    """
    _, client = await picows.ws_connect(
        lambda: kind(dialect, room, user, number, tally, more),
        f"ws://127.0.0.1:{port}{dialect.path(room, user, more)}",
        websocket_handshake_timeout=120,
        read_buffer_init_size=4096,
        extra_headers={"Sec-WebSocket-Protocol": dialect.protocol} if dialect.protocol else None,
    )
    await asyncio.wait_for(client.ready, 120)
    return client  # type: ignore[no-any-return]
