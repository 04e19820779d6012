"""The one file that knows Hypercorn's inner classes: what its Trio worker lacks, added from outside.

`install` puts subclasses where Hypercorn's own modules look their classes up. Each remedy has a test
against a real process, which fails when a new Hypercorn changes what it stands on; on a version that
is not known here nothing is installed, and a warning says so.
"""

import base64
import binascii
from importlib.metadata import version
from typing import Any, ClassVar, Final

import hypercorn.protocol.h2
import hypercorn.protocol.h11
import hypercorn.trio.run
import structlog
import trio
from hypercorn.config import Config, Sockets
from hypercorn.events import Closed as ConnectionClosed
from hypercorn.events import Event as ConnectionEvent
from hypercorn.events import RawData
from hypercorn.protocol import ws_stream
from hypercorn.protocol.events import Body, Data, Event, StreamClosed
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import AppWrapper
from hypercorn.utils import wrap_app
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping, TextMessage

from pulse_trio.errors import LaunchError
from pulse_trio.protocol import CloseCode
from pulse_trio.settings import Settings

KNOWN_VERSIONS: Final = ("0.18.0",)
KEY_BYTES: Final = 16  # RFC 6455, section 4.1, item 7

log = structlog.get_logger(__name__)


def install(settings: Settings) -> None:
    """Puts the remedies in, for every server that this process starts from now on."""
    found = version("hypercorn")
    if found not in KNOWN_VERSIONS:
        log.warning("this Hypercorn is not known: its faults are not mended", version=found)
        return
    GuardedServer.write_timeout = settings.write_timeout
    GuardedStream.max_message_bytes = settings.max_frame_bytes
    hypercorn.trio.run.TCPServer = GuardedServer  # type: ignore[attr-defined]
    hypercorn.protocol.h11.WSStream = GuardedStream  # type: ignore[attr-defined]
    hypercorn.protocol.h2.WSStream = GuardedStream  # type: ignore[attr-defined]
    ws_stream.Handshake = PlainHandshake  # type: ignore[misc]


def bind(config: Config) -> Sockets:
    """Opens the sockets of a configuration, ready to listen.

    Raises:
        LaunchError: an address is in use, or not this machine's.
    """
    try:
        sockets = config.create_sockets()
        for sock in (*sockets.secure_sockets, *sockets.insecure_sockets):
            sock.listen(config.backlog)
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LaunchError(
            f"cannot listen on {', '.join(config.bind)}: {reason}; "
            "stop what uses it, or choose another with --port or --host"
        ) from None
    return sockets


def wrap(app: object) -> AppWrapper:
    """An ASGI app as Hypercorn's worker takes it."""
    return wrap_app(app, 0, "asgi")  # type: ignore[arg-type]


async def serve(app: AppWrapper, config: Config, sockets: Sockets, shutdown_trigger: object) -> None:
    """Runs Hypercorn's Trio worker in this task, until `shutdown_trigger` returns.

    Cancelled: connections are dropped.
    """
    await hypercorn.trio.run.worker_serve(
        app,
        config,
        sockets=sockets,
        shutdown_trigger=shutdown_trigger,  # type: ignore[arg-type]
    )


class GuardedServer(TCPServer):
    """A connection whose failure is its own, and whose peer cannot hold it for ever."""

    write_timeout: ClassVar[float] = 10.0

    async def run(self) -> None:
        """Serves the connection.

        What it raises would end the whole process: one byte behind an upgrade request did (Hypercorn
        issue 225).
        """
        try:
            await super().run()
        except* Exception as group:
            log.warning("a connection failed", errors=[repr(error) for error in _leaves(group)])

    async def protocol_send(self, event: ConnectionEvent) -> None:
        """As the original, but a peer that does not read is cut off after `write_timeout` seconds.

        The original shields the write with no deadline, past cancellation and past SIGTERM.
        """
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        is_gone = False
        async with self.send_lock:
            scope = trio.move_on_after(self.write_timeout, shield=True)
            try:
                with scope:
                    await self.stream.send_all(event.data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                is_gone = True
            if scope.cancelled_caught:
                is_gone = True
                log.info("a client that does not read was cut off")
                await trio.aclose_forcefully(self.stream)
        if is_gone:
            await self.protocol.handle(ConnectionClosed())


class PlainHandshake(ws_stream.Handshake):
    """No extension is taken: a deflate bomb of 600 KB made 780 MB (Hypercorn issue 307)."""

    def __init__(self, headers: list[tuple[bytes, bytes]], http_version: str) -> None:
        super().__init__(headers, http_version)
        self.extensions = None

    def is_valid(self) -> bool:
        """Also refuses a Sec-WebSocket-Key that is not 16 bytes in base64 (RFC 6455, section 4.2.1)."""
        if self.key is not None:
            try:
                if len(base64.b64decode(self.key, validate=True)) != KEY_BYTES:
                    return False
            except binascii.Error:
                return False
        return super().is_valid()


class ByteBuffer(ws_stream.WebsocketBuffer):
    """Counts bytes, not characters, and before it keeps them."""

    def extend(self, event: Message[Any]) -> None:
        """Adds a fragment. Raises FrameTooLargeError, and keeps nothing of it."""
        data = event.data
        size = len(data.encode()) if isinstance(event, TextMessage) and not data.isascii() else len(data)
        self.length += size
        if self.length > self.max_length:
            raise ws_stream.FrameTooLargeError
        length = self.length
        super().extend(event)
        self.length = length


class GuardedStream(ws_stream.WSStream):
    """A WebSocket that ends when it is told to, and says why."""

    max_message_bytes: ClassVar[int] = 65_536

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.buffer = ByteBuffer(self.max_message_bytes)

    async def handle(self, event: Event) -> None:
        """As the original, but for data before the handshake is answered.

        It is refused once and the application told, instead of answering a second time when it has.
        """
        if isinstance(event, Body | Data) and not self.closed and not self.handshake.accepted:
            self.closed = True
            await self._send_error_response(400)
            if self.app_put is not None:
                await self.app_put({"type": "websocket.disconnect", "code": CloseCode.PROTOCOL_ERROR})
            return
        await super().handle(event)

    async def _handle_events(self) -> None:
        """As the original, but a connection that broke the rules is told how and then closed.

        RFC 6455, section 7.1.7. The original sends 1009 and goes on reading, and for other faults
        sends no close frame at all.
        """
        for event in self.connection.events():
            if isinstance(event, Message):
                try:
                    self.buffer.extend(event)
                except ws_stream.FrameTooLargeError:
                    self.buffer.clear()
                    await self._send_wsproto_event(CloseConnection(code=CloseCode.TOO_BIG))
                    await self.send(StreamClosed(stream_id=self.stream_id))
                    return
                if event.message_finished:
                    assert self.app_put is not None
                    await self.app_put(self.buffer.to_message())
                    self.buffer.clear()
            elif isinstance(event, Ping):
                await self._send_wsproto_event(event.response())
            elif isinstance(event, CloseConnection):
                if self.connection.state is ConnectionState.REMOTE_CLOSING:
                    await self._send_wsproto_event(event.response())
                elif self.connection.state is ConnectionState.OPEN:
                    await self._send_wsproto_event(CloseConnection(code=event.code, reason=event.reason))
                await self.send(StreamClosed(stream_id=self.stream_id))
                return


def _leaves(group: BaseExceptionGroup[Exception]) -> list[Exception]:
    found: list[Exception] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
