"""The one file that knows Hypercorn's inner classes: what its Trio worker lacks, added from outside.

`install` puts subclasses where Hypercorn's own modules look their classes up. Each remedy has a test
against a real process, which fails when a new Hypercorn changes what it stands on; on a version that
is not known here nothing is installed, and a warning says so.
"""

import base64
import binascii
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import ContextVar
from functools import partial
from importlib.metadata import version
from typing import Any, ClassVar, Final

import h11
import hypercorn.protocol
import hypercorn.protocol.h2
import hypercorn.protocol.h11
import hypercorn.trio.run
import msgspec
import structlog
import trio
from hypercorn.config import Config, Sockets
from hypercorn.events import Closed as ConnectionClosed
from hypercorn.events import Event as ConnectionEvent
from hypercorn.events import RawData
from hypercorn.protocol import ws_stream
from hypercorn.protocol.events import Body, Data, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.ws_stream import ASGIWebsocketState
from hypercorn.trio.run import worker_serve
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.typing import AppWrapper
from hypercorn.utils import wrap_app
from quart import Quart
from wsproto.connection import ConnectionState
from wsproto.events import CloseConnection, Message, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.handshake import WEBSOCKET_VERSION

from pulse_trio.edge.outlet import set_outlet
from pulse_trio.edge.rest.operation import ErrorBody
from pulse_trio.edge.services import services
from pulse_trio.errors import ErrorCode, LaunchError, PulseError, leaves
from pulse_trio.protocol import CloseCode
from pulse_trio.settings import Settings
from pulse_trio.texts import utf8_size

KNOWN_VERSIONS: Final = ("0.18.0",)
KEY_BYTES: Final = 16  # RFC 6455, section 4.1, item 7
LINGER: Final = 1.0  # seconds that a client has to read why its connection ends
LAST_WRITE: Final = 1.0  # seconds that a write may still take when the server ends

_REFUSALS: Final = {
    ErrorCode.BAD_REQUEST: "This is not a handshake of WebSocket version 13",
    ErrorCode.NOT_FOUND: "There is no such thing here",
}

log = structlog.get_logger(__name__)


def install(
    settings: Settings,
    *,
    stop: Callable[[], Awaitable[None]] | None = None,
    guard: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Puts the remedies in, for every server that this process starts from now on.

    Args:
        settings: the bounds of connections.
        stop: returns when the process is asked to end, for a server that is started without such a trigger
            (Hypercorn does not look at SIGTERM itself with `workers = 0`).
        guard: what the server runs in; it may change how its failure ends the process.
    """
    found = version("hypercorn")
    if found not in KNOWN_VERSIONS:
        log.warning("this Hypercorn is not known: its faults are not mended", version=found)
        return
    GuardedServer.write_timeout = settings.write_timeout
    GuardedStream.max_message_bytes = settings.max_frame_bytes
    hypercorn.trio.run.worker_serve = partial(draining_worker, stop=stop, guard=guard)
    hypercorn.protocol.H11Protocol = GuardedProtocol  # type: ignore[attr-defined]
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


async def draining_worker(
    app: AppWrapper,
    config: Config,
    *,
    stop: Callable[[], Awaitable[None]] | None,
    guard: Callable[[], AbstractContextManager[None]],
    shutdown_trigger: Callable[[], Awaitable[None]] | None = None,
    **options: Any,
) -> None:
    """Hypercorn's Trio worker, but WebSockets are closed in order before their connections are dropped.

    The original tells the application of the end only when `graceful_timeout` is over and all
    connections are gone: clients see 1006, five seconds late.
    """

    asked = stop if shutdown_trigger is None else shutdown_trigger

    async def drained() -> None:
        assert asked is not None
        await asked()
        GuardedServer.hurry()
        await _drain(app)

    GuardedServer.hurried = False
    with guard():
        await worker_serve(app, config, shutdown_trigger=None if asked is None else drained, **options)


async def _drain(app: AppWrapper) -> None:
    """Closes the WebSockets of our app with 1012, and stores what was taken from them."""
    inner = getattr(app, "app", None)
    if not isinstance(inner, Quart):
        return
    async with inner.app_context():
        try:
            hub = services().hub
        except PulseError:
            return  # it has not started, or has failed
        await hub.drain()


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
    hurried: ClassVar[bool] = False
    _writes: ClassVar[set[trio.CancelScope]] = set()  # those under way, of all connections

    outlet: "StreamOutlet"
    _reader: trio.lowlevel.Task
    _read_out: trio.Event  # set when the client has sent its last

    @classmethod
    def hurry(cls) -> None:
        """The server ends: who does not read is not waited for any longer than `LAST_WRITE`."""
        cls.hurried = True
        for scope in cls._writes:
            scope.deadline = min(scope.deadline, trio.current_time() + LAST_WRITE)

    async def run(self) -> None:
        """Serves the connection.

        What it raises would end the whole process: one byte behind an upgrade request did (Hypercorn
        issue 225).
        """
        self._reader = trio.lowlevel.current_task()
        self._read_out = trio.Event()
        self.outlet = StreamOutlet(self)
        _server.set(self)
        try:
            await super().run()
        except* Exception as group:
            log.warning("a connection failed", errors=[repr(error) for error in leaves(group)])

    async def protocol_send(self, event: ConnectionEvent) -> None:
        """As the original, but a peer that does not read is cut off after `write_timeout` seconds.

        The original shields the write with no deadline, past cancellation and past SIGTERM.
        """
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        await self.write(event.data)

    async def write(self, data: bytes) -> None:
        """Writes to the client, after whatever its outlet has kept; cuts off one that does not read."""
        is_gone = False
        async with self.send_lock:
            data = self.outlet.take() + data
            if self.outlet.is_abandoned:  # in the middle of a frame: nothing can follow
                is_gone = True
                await trio.aclose_forcefully(self.stream)
            scope = trio.move_on_after(LAST_WRITE if self.hurried else self.write_timeout, shield=True)
            self._writes.add(scope)
            try:
                with scope:
                    await self.stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                is_gone = True
            finally:
                self._writes.discard(scope)
            if scope.cancelled_caught:
                is_gone = True
                log.info("a client that does not read was cut off")
                await trio.aclose_forcefully(self.stream)
        if is_gone:
            self.outlet.shut()
            await self.protocol.handle(ConnectionClosed())

    async def _read_data(self) -> None:
        try:
            await super()._read_data()
        finally:
            self._read_out.set()

    async def _close(self) -> None:
        """As the original, but what the client still sends is read and thrown away for a moment.

        Closed with bytes unread, a socket sends RST, and the client may lose the answer or the close frame
        that is on its way to it. Only the task that reads can do this; another one waits for it.
        """
        with trio.move_on_after(LINGER):
            try:
                await self.stream.send_eof()
                if trio.lowlevel.current_task() is not self._reader:
                    await self._read_out.wait()
                while await self.stream.receive_some(MAX_RECV):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError, AttributeError):
                pass  # it has gone, or is a TLS stream, which has no end but the last
        await super()._close()


class StreamOutlet:
    """The short way to a client: no task, no lock, no copy, when its connection is free.

    A prepared frame that goes through Quart, ASGI, wsproto and a shielded write costs some 60 µs of CPU; this
    way a few. Over TLS, whose records only the stream can make, there is no short way.
    """

    __slots__ = ("_is_shut", "_kept", "_send", "_server", "is_abandoned")

    def __init__(self, server: GuardedServer) -> None:
        self._server = server
        self._kept = b""
        self._is_shut = False
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
        if self._send is None or self._is_shut or self._kept or self._server.send_lock.locked():
            return False
        try:
            sent = self._send(data)
        except OSError:  # it would block, or is broken: the long way finds out
            return False
        if sent < len(data):
            self._kept = data[sent:]
        return True

    async def flush(self) -> None:
        if self._kept:
            await self._server.write(b"")
        else:
            await trio.lowlevel.checkpoint()

    def abandon(self) -> None:
        if self._kept:
            self._kept = b""
            self.is_abandoned = self._is_shut = True

    def take(self) -> bytes:
        """What was kept, for whoever writes next."""
        kept, self._kept = self._kept, b""
        return kept

    def shut(self) -> None:
        """A close frame is on its way, or the connection has ended: no frame may follow."""
        self._is_shut = True


_server: Final[ContextVar[GuardedServer]] = ContextVar("server")


class GuardedProtocol(H11Protocol):
    """HTTP/1.1 and nothing else, with headers of a bounded size."""

    async def _check_protocol(self, event: h11.Request) -> None:
        """The original changes to HTTP/2 over clear text when a client asks for it."""

    async def _create_stream(self, request: h11.Request) -> None:
        """As the original, but it applies the limit to headers that come in one piece, too."""
        size = len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
        if request.http_version not in {b"1.0", b"1.1"}:
            await self._refuse(505)
        elif size > self.config.h11_max_incomplete_size:
            await self._refuse(431)
        else:
            set_outlet(_server.get().outlet)  # over HTTP/2 a WebSocket shares its connection with others
            await super()._create_stream(request)

    async def _maybe_recycle(self) -> None:
        """As the original, but a connection that is of no more use is closed, whoever is cancelled meanwhile.

        When a request was answered before its body had come, the application's end cancelled this task
        before it closed: the connection stayed for as long as the client did.
        """
        with trio.move_on_after(GuardedServer.write_timeout + LINGER, shield=True):
            await super()._maybe_recycle()

    async def _refuse(self, status: int) -> None:
        await self._send_error_response(status)
        await self.send(ConnectionClosed())


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
        self.length += utf8_size(data) if isinstance(event, TextMessage) else len(data)
        if self.length > self.max_length:
            raise ws_stream.FrameTooLargeError
        length, self.length = self.length, 0  # the original adds characters to it, and checks that
        super().extend(event)
        self.length = length


class GuardedStream(ws_stream.WSStream):
    """A WebSocket that ends when it is told to, and says why."""

    max_message_bytes: ClassVar[int] = 65_536

    def __init__(self, *args: object, **kwargs: object) -> None:
        self._gone = trio.Event()
        self._answering = False
        self._app_ended = False
        self._puts: set[trio.CancelScope] = set()
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.buffer = ByteBuffer(self.max_message_bytes)

    @property
    def closed(self) -> bool:
        """Whether nothing more is sent, nor taken."""
        return self._gone.is_set()

    @closed.setter
    def closed(self, value: bool) -> None:
        if value:
            self._gone.set()
            _server.get().outlet.shut()

    async def handle(self, event: Event) -> None:
        """As the original, but with a clear end.

        Data before the handshake is answered is refused once (the original answers a second time when it
        has answered, which is an error). A connection that is refused is closed. And who notices that the
        connection has ended does not wait for the application to hear of it.
        """
        if self.closed:
            return
        if isinstance(event, Body | Data) and not self.handshake.accepted:
            if self._answering:
                return  # a refusal is on its way
            self._end(CloseCode.PROTOCOL_ERROR)  # first: from here on the application cannot answer, too
            await self._send_error_response(400)
            await self.send(StreamClosed(stream_id=self.stream_id))
        elif isinstance(event, StreamClosed):
            is_closed = self.state in {ASGIWebsocketState.HTTPCLOSED, ASGIWebsocketState.CLOSED}
            self._end(CloseReason.NORMAL_CLOSURE if is_closed else CloseReason.ABNORMAL_CLOSURE)
        else:
            await super().handle(event)
            if isinstance(event, Request):
                if self.app_put is None:  # refused: nobody else will close this
                    await self.send(StreamClosed(stream_id=self.stream_id))
                else:
                    self.app_put = self._releasing(self.app_put)

    def _end(self, code: int) -> None:
        self.closed = True
        if self.app_put is not None:
            # In a task of its own: its queue may be full, and whoever calls this may be cancelled.
            with suppress(RuntimeError, AttributeError):  # or the connection's tasks have ended: nobody to tell
                self.task_group.spawn(self.app_put, {"type": "websocket.disconnect", "code": int(code)})

    def _releasing(self, put: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
        """`put`, but nobody waits for an application that has ended.

        The original does, for ever, when its queue is full, and the connection with all its tasks stays.
        """

        async def put_or_drop(message: Any) -> None:
            if self._app_ended:
                await trio.lowlevel.checkpoint()
                return
            scope = trio.CancelScope()
            self._puts.add(scope)
            try:
                with scope:
                    await put(message)
            finally:
                self._puts.discard(scope)

        return put_or_drop

    async def _send_wsproto_event(self, event: Any) -> None:
        if isinstance(event, CloseConnection):
            _server.get().outlet.shut()
        await super()._send_wsproto_event(event)

    async def app_send(self, message: Any) -> None:
        """As the original, but a loop that goes on sending to a closed connection lets others run."""
        if message is None:
            self._app_ended = True
            for scope in self._puts:
                scope.cancel()
        if self.closed:
            await trio.lowlevel.checkpoint()
            return
        await super().app_send(message)

    async def _accept(self, message: Any) -> None:
        self._answering = True
        await super()._accept(message)

    async def _send_rejection(self, message: Any) -> None:
        self._answering = True
        await super()._send_rejection(message)

    async def _send_error_response(self, status_code: int) -> None:
        """As the original, but at most once, with words, and the version that RFC 6455, section 4.4 asks for."""
        if self._answering:
            return
        self._answering = True
        code = {400: ErrorCode.BAD_REQUEST, 404: ErrorCode.NOT_FOUND}.get(status_code, ErrorCode.INTERNAL)
        body = msgspec.json.encode(ErrorBody(code.code, _REFUSALS.get(code, "Something went wrong here")))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        if status_code == 400:
            headers.append((b"sec-websocket-version", WEBSOCKET_VERSION))
        await self.send(Response(stream_id=self.stream_id, status_code=status_code, headers=headers))
        await self.send(Body(stream_id=self.stream_id, data=body))
        await self.send(EndBody(stream_id=self.stream_id))
        answer: Any = {"status": status_code, "headers": []}
        await self.config.log.access(self.scope, answer, time.time() - self.start_time)

    async def _send_pings(self) -> None:
        """As the original, but it ends with the connection, which would otherwise stay until the next ping."""
        interval = self.config.websocket_ping_interval
        assert interval is not None
        while not self.closed:
            await self._send_wsproto_event(Ping())
            with trio.move_on_after(interval):
                await self._gone.wait()

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
