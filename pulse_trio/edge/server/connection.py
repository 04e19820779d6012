"""The one file that knows Hypercorn's inner classes: what its Trio worker lacks, added from outside.

`install` puts subclasses where Hypercorn's own modules look their classes up. Each remedy has a test
against a real process, which fails when a new Hypercorn changes what it stands on; on a version that
is not known here nothing is installed, and a warning says so.
"""

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import ContextVar
from functools import partial
from importlib.metadata import version
from typing import Any, ClassVar, Final

import h11
import h11._readers
import hypercorn.protocol
import hypercorn.protocol.h2
import hypercorn.protocol.h11
import hypercorn.trio.run
import structlog
import trio
from hypercorn.events import Closed as ConnectionClosed
from hypercorn.events import Event as ConnectionEvent
from hypercorn.events import RawData, Updated
from hypercorn.protocol import ws_stream
from hypercorn.protocol.events import Body, Data, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection
from hypercorn.protocol.ws_stream import ASGIWebsocketState
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer
from hypercorn.utils import parse_socket_addr
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import CloseConnection, Message, Ping
from wsproto.frame_protocol import CloseReason
from wsproto.handshake import WEBSOCKET_VERSION

from pulse_trio.edge.server import request_heads
from pulse_trio.edge.server.frame_guard import FrameGuard, MessageBuffer, TooBig
from pulse_trio.edge.server.frame_splitter import FrameSplitter
from pulse_trio.edge.server.gate import (
    ALIVE_BODY,
    ALIVE_HEADERS,
    LINGER,
    RESERVED_FILES,
    Gate,
    Place,
    allowed_files,
    error_body,
    error_headers,
    set_gate,
)
from pulse_trio.edge.server.outlet import ConnectionEnded, StreamOutlet, set_outlet
from pulse_trio.edge.server.worker import draining_worker
from pulse_trio.edge.tracing import begin_connection
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.exception_groups import flatten_group
from pulse_trio.protocol import CloseCode
from pulse_trio.settings import Settings

KNOWN_VERSIONS: Final = ("0.18.0",)
PING: Final = b"\x89\x00"  # a frame of WebSocket, without content
TURN: Final = 16  # messages of one client that are read before others have their turn
LAST_WRITE: Final = 1.0  # seconds that a write may still take when the server ends
PIECE: Final = 65_536  # bytes: what a client has to take in `write_timeout` seconds, or it does not read

_FLOODING: Final = "too many pings or pieces; reconnect, and send fewer"
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
    files = allowed_files(settings.max_connections + RESERVED_FILES) if settings.max_connections else None
    GuardedServer.gate = Gate(settings, files=files)
    GuardedStream.settings = settings
    GuardedServer.hurried = False
    worker = partial(draining_worker, stop=stop, guard=guard, hurry=GuardedServer.hurry, delay=settings.stop_delay)
    hypercorn.trio.run.worker_serve = worker
    hypercorn.protocol.H11Protocol = GuardedProtocol  # type: ignore[assignment,attr-defined]
    hypercorn.trio.run.TCPServer = GuardedServer  # type: ignore[assignment,attr-defined]
    hypercorn.protocol.h11.WSStream = GuardedStream  # type: ignore[attr-defined]
    hypercorn.protocol.h2.WSStream = GuardedStream  # type: ignore[attr-defined]
    ws_stream.Handshake = PlainHandshake  # type: ignore[misc]
    h11._readers._obsolete_line_fold = request_heads.unfolded


class GuardedServer(TCPServer):
    """A connection whose failure is its own, and whose peer cannot hold it for ever."""

    write_timeout: ClassVar[float] = 10.0
    gate: ClassVar[Gate]
    hurried: ClassVar[bool] = False
    _writes: ClassVar[set[trio.CancelScope]] = set()  # those under way, of all connections

    __slots__ = (
        "_frames",
        "_heard_at",
        "_is_cut",
        "_read_out",
        "_reader",
        "_reading",
        "_serve",
        "outlet",
        "ping_at",
        "place",
        "websocket",
    )

    outlet: StreamOutlet
    place: Place
    _reader: trio.lowlevel.Task
    _read_out: trio.Event  # set when the client has sent its last

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.websocket: GuardedStream | None = None  # of HTTP/1.1, where it has the connection for itself
        self.ping_at = math.inf  # on Trio's clock: when the next ping is due
        self._heard_at = trio.current_time()  # when the client sent something last, or took a piece of an answer
        self._reading: trio.CancelScope | None = None  # while the socket is waited for
        self._frames: trio.CancelScope | None = None  # while frames are being written
        self._is_cut = False
        self._serve: Callable[[], Awaitable[None]] | None = None  # what this task does in place of the framework's

    @classmethod
    def hurry(cls) -> None:
        """The server ends: who does not read is not waited for any longer than `LAST_WRITE`."""
        cls.hurried = True
        for scope in cls._writes:
            scope.deadline = min(scope.deadline, trio.current_time() + LAST_WRITE)

    async def run(self) -> None:
        """Serves the connection, if there is a place for it.

        What it raises would end the whole process: one byte behind an upgrade request did (Hypercorn
        issue 225).
        """
        try:
            self.place = self.gate.admit(self._peer())
        except PulseError as error:
            await self.gate.turn_away(self.stream, error)
            return
        except OSError:  # it has gone already
            return
        begin_connection()
        set_gate(self.gate)
        self._reader = trio.lowlevel.current_task()
        self._read_out = trio.Event()
        self.outlet = StreamOutlet(self)
        _server.set(self)
        try:
            try:
                await super().run()
            finally:
                # The client may have gone before: what was set up for it is taken down.
                await self._carry_on()  # noqa: ASYNC102  # cancelled or not, it ends at its first wait
        except* Exception as group:
            log.warning("a connection failed", errors=[repr(error) for error in flatten_group(group)])
        finally:
            self.place.leave()

    def carry_on(self, serve: Callable[[], Awaitable[None]]) -> None:
        """Lets this connection's task, which reads from it, run `serve` from now on; see `Outlet.carry_on`."""
        assert self.websocket is not None
        self._serve = serve
        self.websocket.leave_framework()
        protocol = self.protocol.protocol
        assert isinstance(protocol, GuardedProtocol)
        protocol.leave_http()
        self.wake()

    async def _carry_on(self) -> None:
        if self._serve is not None:
            serving = self._serve()
            self._serve = None
            await serving

    def wake(self) -> None:
        """Whoever waits for the socket sees whether there is still something to wait for."""
        if self._reading is not None:
            self._reading.cancel()

    def _peer(self) -> str | None:
        """The address at the other end. Raises OSError when it has gone."""
        transport: Any = getattr(self.stream, "transport_stream", self.stream)
        address = parse_socket_addr(transport.socket.family, transport.socket.getpeername())
        return None if address is None else str(address[0])

    async def protocol_send(self, event: ConnectionEvent) -> None:
        """As the original, but a peer that takes nothing for `write_timeout` seconds is cut off.

        The original shields the write with no deadline, past cancellation and past SIGTERM.
        """
        if isinstance(event, Updated) and self._read_out.is_set():
            event = Updated(idle=False)  # nor is there anything to wait for after this request
        if isinstance(event, ConnectionClosed):
            self._end_requests()
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        await self.write(event.data)

    async def write(self, data: bytes, *, is_frames: bool = False) -> None:
        """Writes to the client, after whatever its outlet has kept; cuts off one that does not read.

        Args:
            data: what to write.
            is_frames: they are of no use any more when a close frame has gone before them.
        """
        self.outlet.begin_write()
        try:
            async with self.send_lock:
                is_gone = await self._write(data, is_frames=is_frames)
        finally:
            self.outlet.end_write()
        if is_gone:
            self.outlet.shut()
            await self.protocol.handle(ConnectionClosed())

    def _end_requests(self) -> None:
        """Begins the connection's end: its reader waits no more for an answer before it reads the next request."""
        protocol = self.protocol.protocol
        if isinstance(protocol, GuardedProtocol):
            protocol.turn.end()

    async def _write(self, data: bytes, *, is_frames: bool) -> bool:
        """Writes, under the lock; returns whether the client has gone."""
        kept = self.outlet.take()
        data = kept + (b"" if is_frames and self.outlet.is_shut else data)
        if self.outlet.is_abandoned:  # in the middle of a frame: nothing can follow
            await trio.aclose_forcefully(self.stream)
            return True
        scope = trio.move_on_after(LAST_WRITE if self.hurried else self.write_timeout, shield=True)
        self._writes.add(scope)
        self._frames = scope if kept or is_frames else None
        try:
            with scope:
                await self._send_pieces(data, scope)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return True
        finally:
            self._writes.discard(scope)
            self._frames = None
        if scope.cancelled_caught:
            if not self._is_cut:
                self.gate.stalled += 1
                log.info("a client that does not read was cut off")
            await trio.aclose_forcefully(self.stream)
        return scope.cancelled_caught

    async def _send_pieces(self, data: bytes, scope: trio.CancelScope) -> None:
        """Writes piece by piece: whoever takes one has the same time for the next, until the server ends."""
        if len(data) <= PIECE:
            await self.stream.send_all(data)
            return
        with memoryview(data) as view:
            for start in range(0, len(data), PIECE):
                if start and not self.hurried:
                    self._heard_at = trio.current_time()  # who takes something is there, though it says nothing
                    scope.deadline = self._heard_at + self.write_timeout
                await self.stream.send_all(view[start : start + PIECE])

    def abandon_frames(self) -> None:
        """Frames that are being written must not reach the client: what the network did not take yet is dropped."""
        if self._frames is not None:
            self._is_cut = True
            self._frames.cancel()

    async def _read_data(self) -> None:
        """As the original, until there is something better to do: serve a WebSocket without the framework."""
        try:
            is_open = True
            while is_open and self._serve is None:
                is_open = await self.read()
            await self._carry_on()
            await self.protocol.handle(ConnectionClosed())
        finally:
            self._read_out.set()
        # There will be no further request: the original keeps the connection until `keep_alive_timeout`.
        await self.idle_task.stop()

    async def read(self) -> bool:
        """Waits for the client, and handles what it sends; False when nothing more will come.

        A client that is silent for `read_timeout`, or does not bring a message to its end, has gone; it is pinged
        in between. Returns early when it was woken (`wake`).
        """
        websocket = self.websocket
        begun = math.inf
        if websocket is not None:
            if websocket.has_no_taker:
                await websocket.wait_for_taker()
                return True
            begun = websocket.guard.deadline
        silence = self.config.read_timeout or math.inf
        self._reading = scope = trio.CancelScope(deadline=min(self._heard_at + silence, begun, self.ping_at))
        try:
            with scope:
                data = await self._receive()
        except (trio.ClosedResourceError, trio.BrokenResourceError, OSError):
            return False
        finally:
            self._reading = None
        now = trio.current_time()
        if not scope.cancelled_caught:
            self._heard_at = now
            if websocket is not None and websocket.is_carried:
                await websocket.take(data)
            else:
                await self.protocol.handle(RawData(data))
            return bool(data)
        if websocket is not None and now >= begun:
            await websocket.cut(CloseCode.UNFINISHED, "a message did not come to its end")
            return False
        is_gone = now >= self._heard_at + silence  # looked up again: it may have taken a piece of an answer meanwhile
        if is_gone or (websocket is not None and websocket.is_carried and websocket.closed):
            return False
        if now >= self.ping_at:
            await self._ping(now)
        return True

    async def _receive(self) -> bytes:
        """Some bytes of the client's; none when it has sent its last.

        As the stream's `receive_some`, but it waits first: here there is seldom something already, and to find that
        out costs as much as to read. Raises also OSError.
        """
        stream: object = self.stream
        if not isinstance(stream, trio.SocketStream):
            return bytes(await self.stream.receive_some(MAX_RECV))
        socket = stream.socket
        while True:
            if socket.fileno() < 0:
                raise trio.ClosedResourceError
            await trio.lowlevel.wait_readable(socket)
            try:
                return socket._sock.recv(MAX_RECV)  # type: ignore[attr-defined,no-any-return]  # the socket itself
            except BlockingIOError:
                pass  # it only seemed so

    async def _ping(self, now: float) -> None:
        assert self.config.websocket_ping_interval is not None
        self.ping_at = now + self.config.websocket_ping_interval
        left = self.outlet.write_now(PING)
        if left:
            await self.write(b"" if left > 0 else PING, is_frames=True)

    async def _close(self) -> None:
        """As the original, but what the client still sends is read and thrown away for a moment.

        Closed with bytes unread, a socket sends RST, and the client may lose the answer or the close frame
        that is on its way to it. Only the task that reads can do this; another one waits for it.
        """
        with trio.move_on_after(LINGER):
            try:
                async with self.send_lock:  # whoever writes at this moment would fail, and what they write be cut
                    await self.stream.send_eof()
                if trio.lowlevel.current_task() is not self._reader:
                    await self._read_out.wait()
                while await self.stream.receive_some(MAX_RECV):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError, AttributeError):
                pass  # it has gone, or is a TLS stream, which has no end but the last
        await self.stream.aclose()


_server: Final[ContextVar[GuardedServer]] = ContextVar("server")


class _Turn:
    """Lets the reader wait until a request is answered, as Hypercorn's event does, but not past the connection's end.

    With further requests in hand the original waited for ever when the answer could not be written.
    """

    def __init__(self) -> None:
        self._event = trio.Event()
        self.has_ended = False

    def end(self) -> None:
        self.has_ended = True
        self._event.set()

    async def set(self) -> None:
        self._event.set()

    async def clear(self) -> None:
        self._event = trio.Event()

    async def wait(self) -> None:
        """Returns when the request is answered. Raises ConnectionEnded when no further one will be."""
        if not self.has_ended:
            await self._event.wait()
        if self.has_ended:
            raise ConnectionEnded

    def is_set(self) -> bool:
        return self._event.is_set()


class GuardedProtocol(H11Protocol):
    """HTTP/1.1 and nothing else, with headers of a bounded size."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.can_read = self.turn = _Turn()

    async def _check_protocol(self, event: h11.Request) -> None:
        """The original changes to HTTP/2 over clear text when a client asks for it."""

    async def _create_stream(self, request: h11.Request) -> None:
        """As the original, but it applies the limit to headers that come in one piece, too.

        And it takes no request that a proxy before it may have read differently, and not too many of one address.
        """
        server = _server.get()
        status = request_heads.problem(request, self.config.h11_max_incomplete_size)
        if status is not None:
            await self._refuse(status)
        else:
            forwarded = request_heads.values(request, b"x-forwarded-for")
            is_websocket = bool(request_heads.values(request, b"sec-websocket-key"))
            try:
                server.place.ask(forwarded, is_websocket=is_websocket)
            except PulseError as error:
                if request.method == b"GET" and request.target == b"/healthz":
                    await self._send_answer(200, ALIVE_HEADERS, ALIVE_BODY)  # see `Gate.turn_away`
                    await self.send(ConnectionClosed())
                else:
                    await self._refuse(error.code.status, error)
                return
            set_outlet(server.outlet)  # over HTTP/2 a WebSocket shares its connection with others
            await super()._create_stream(request)

    async def handle(self, event: ConnectionEvent) -> None:
        """As the original, but what comes on a WebSocket is not looked at by the parser of HTTP."""
        if isinstance(event, RawData) and self.stream is not None and isinstance(self.connection, H11WSConnection):
            await self.stream.handle(Data(stream_id=1, data=event.data))
            return
        if isinstance(event, ConnectionClosed):
            self.turn.end()
        elif self.turn.has_ended:
            return  # nobody answers it
        await super().handle(event)

    async def _handle_events(self) -> None:
        with suppress(ConnectionEnded):
            await super()._handle_events()

    def leave_http(self) -> None:
        """A WebSocket has the connection for good: what HTTP has kept of it goes."""
        assert isinstance(self.connection, H11WSConnection)
        del self.connection.h11_connection

    async def _maybe_recycle(self) -> None:
        """As the original, but a connection that is of no more use is closed, whoever is cancelled meanwhile.

        When a request was answered before its body had come, the application's end cancelled this task
        before it closed: the connection stayed for as long as the client did.
        """
        with trio.move_on_after(GuardedServer.write_timeout + LINGER, shield=True):
            await super()._maybe_recycle()

    async def _refuse(self, status: int, error: PulseError | None = None) -> None:
        """Answers a request that is not taken, and ends the connection."""
        if error is None:
            await self._send_error_response(status)
        else:
            await self._answer(status, error)
        await self.send(ConnectionClosed())

    async def _send_error_response(self, status_code: int) -> None:
        """As the original, but with the JSON that every error has."""
        is_large = status_code == 431
        text = "The head of the request is too large" if is_large else "The request is not good HTTP/1.1"
        await self._answer(status_code, PulseError(ErrorCode.TOO_LARGE if is_large else ErrorCode.BAD_REQUEST, text))

    async def _answer(self, status: int, error: PulseError) -> None:
        body = error_body(error)
        await self._send_answer(status, error_headers(error, body), body)

    async def _send_answer(self, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> None:
        encoded = [(name.encode(), value.encode()) for name, value in headers]
        await self._send_h11_event(h11.Response(status_code=status, headers=encoded))
        if not (isinstance(self.connection, h11.Connection) and self.connection._request_method == b"HEAD"):
            await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())


class PlainHandshake(ws_stream.Handshake):
    """No extension is taken: a deflate bomb of 600 KB made 780 MB (Hypercorn issue 307)."""

    def __init__(self, headers: list[tuple[bytes, bytes]], http_version: str) -> None:
        super().__init__(headers, http_version)
        self.extensions = None

    def is_valid(self) -> bool:
        """Also refuses a Sec-WebSocket-Key that is not 16 bytes in base64 (RFC 6455, section 4.2.1)."""
        if self.key is not None and not request_heads.is_key(self.key):
            return False
        return super().is_valid()


class GuardedStream(ws_stream.WSStream):
    """A WebSocket that ends when it is told to, and says why."""

    __slots__ = (
        "_answering",
        "_app_ended",
        "_has_parsed",
        "_is_gone",
        "_message",
        "_messages",
        "_parser",
        "_puts",
        "_server",
        "_since_turn",
        "_splitter",
        "_taken",
        "_taker",
        "guard",
        "is_carried",
    )

    settings: ClassVar[Settings]

    def __init__(self, *args: object, **kwargs: object) -> None:
        self._server = _server.get()
        self._is_gone = False
        self._answering = False
        self._app_ended = False
        self._puts: set[trio.CancelScope] = set()
        self._messages: list[str | bytes] | None = None  # what one read brought, once they do not go to ASGI
        self._taken = 0  # of those
        self._parser: Connection | None = None
        self._has_parsed = False  # whether it may be in the middle of something
        self._taker: trio.Event | None = None
        self.is_carried = False  # whether the connection's own task serves it
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.guard = FrameGuard(self.settings)
        self._splitter = FrameSplitter(self.settings.max_frame_bytes)
        self._message = MessageBuffer(self.settings.max_frame_bytes)
        self._since_turn = 0

    @property
    def connection(self) -> Connection:
        """The parser that knows every rule: there when it is needed, which for most connections is at their end."""
        if self._parser is None:
            self._parser = Connection(ConnectionType.SERVER)
        return self._parser

    @connection.setter
    def connection(self, value: Connection) -> None:
        self._parser = value

    @property
    def closed(self) -> bool:
        """Whether nothing more is sent, nor taken."""
        return self._is_gone

    @closed.setter
    def closed(self, value: bool) -> None:
        if value:
            self._is_gone = True
            self._server.outlet.shut()
            if self.is_carried:
                self._server.wake()

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
        elif isinstance(event, Body | Data):
            await self.take(event.data)
        else:
            if isinstance(event, Request) and event.http_version == "1.1":
                self._server.websocket = self  # over HTTP/2 it shares its connection with others
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
            self._server.outlet.shut()
        await super()._send_wsproto_event(event)

    async def app_send(self, message: Any) -> None:
        """As the original, but a loop that goes on sending to a closed connection lets others run."""
        if message is None:
            self._app_ended = True
            for scope in self._puts:
                scope.cancel()
            self._taken_over()
        if self.closed or self.is_carried:
            await trio.lowlevel.checkpoint()
            return
        await super().app_send(message)

    async def _accept(self, message: Any) -> None:
        self._answering = True
        interval = self.config.websocket_ping_interval
        if interval is not None and self._server.websocket is self:
            self._server.ping_at = trio.current_time() + interval
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
        error = PulseError(code, _REFUSALS.get(code, "Something went wrong here"))
        body = error_body(error)
        headers = [(name.encode(), value.encode()) for name, value in error_headers(error, body)]
        if status_code == 400:
            headers.append((b"sec-websocket-version", WEBSOCKET_VERSION))
        await self.send(Response(stream_id=self.stream_id, status_code=status_code, headers=headers))
        await self.send(Body(stream_id=self.stream_id, data=body))
        await self.send(EndBody(stream_id=self.stream_id))
        answer: Any = {"status": status_code, "headers": []}
        await self.config.log.access(self.scope, answer, time.time() - self.start_time)

    async def _send_pings(self) -> None:
        """As the original, but only where others share the connection: else its own task pings it.

        And it ends with the WebSocket, and the first one comes after the interval: at once it would get in the way of
        the first frames.
        """
        interval = self.config.websocket_ping_interval
        assert interval is not None
        while self._server.websocket is not self:
            await trio.sleep(interval)
            if self.closed:
                return
            await self._send_wsproto_event(Ping())

    async def cut(self, code: int, reason: str | None = None) -> None:
        """Ends a connection that broke a rule: its client is told how, and nothing more is taken from it."""
        self._server.gate.cuts[int(code)] += 1
        self._message.clear()
        await self._send_wsproto_event(CloseConnection(code=code, reason=reason))
        await self._finish()

    async def close(self, code: int, reason: str) -> None:
        """Sends a close frame."""
        self.state = ASGIWebsocketState.CLOSED
        await self._send_wsproto_event(CloseConnection(code=code, reason=reason))

    async def _finish(self) -> None:
        """It has come to its end; whoever serves it ends first, and then the connection."""
        if self.is_carried:
            self.closed = True
        else:
            await self.send(StreamClosed(stream_id=self.stream_id))

    # --- past the framework ---

    def divert(self) -> Callable[[], Awaitable[str | bytes]]:
        """From now on messages are taken here, past ASGI and the framework, which spends three tasks on each.

        Before the handshake is answered: no message is on the other way.
        """
        self._messages = []
        return self._next_message

    def leave_framework(self) -> None:
        """The connection's own task serves it from now on; what was kept for the framework goes."""
        self.is_carried = True
        self.app_put = None
        self.scope = {}  # type: ignore[typeddict-item]
        self.handshake.subprotocols = None
        if not self._has_parsed:
            self._parser = None
        self._taken_over()

    @property
    def has_no_taker(self) -> bool:
        """Whether there are messages that nobody takes yet: then no more are read."""
        return bool(self._messages) and not (self.is_carried or self._app_ended)

    async def wait_for_taker(self) -> None:
        """Returns when somebody takes messages, or nobody ever will."""
        self._taker = trio.Event()
        await self._taker.wait()

    def _taken_over(self) -> None:
        if self._taker is not None:
            self._taker.set()
            self._taker = None

    async def _next_message(self) -> str | bytes:
        """The client's next message: for the connection's own task.

        Raises:
            ConnectionEnded: no more will come.
        """
        messages = self._messages
        assert messages is not None
        if messages and self._since_turn < TURN:  # of one read, which may bring thousands
            self._since_turn += 1
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._since_turn = 0
            if messages:
                await trio.lowlevel.checkpoint()
        while not messages:
            if self.closed or not await self._server.read():
                raise ConnectionEnded
        message = messages[self._taken]
        self._taken += 1
        if self._taken == len(messages):
            messages.clear()
            self._taken = 0
        return message

    async def take(self, data: bytes) -> None:
        """Takes what one read brought: whole texts at once, all else through the parser that knows every rule.

        As the original, but a connection that broke the rules is told how and then closed (RFC 6455,
        section 7.1.7). The original sends 1009 and goes on reading, for other faults sends no close frame at all,
        and takes any number of frames that are no messages.
        """
        frames = 0
        for item in self._splitter.feed(data):
            if isinstance(item, str):
                frames += 1
                if not await self._put(item):
                    return
            elif item is None:
                frames += 1
                if not self.guard.take():
                    await self.cut(CloseCode.FLOODING, _FLOODING)
                    return
            else:
                self._has_parsed = True
                self.connection.receive_data(item)
                for event in self.connection.events():
                    frames += 1
                    if not await self._handle_event(event):
                        return
        if not self.guard.end_read(frames=frames, is_inside=self._message.is_begun or self._splitter.is_inside):
            await self.cut(CloseCode.FLOODING, _FLOODING)

    async def _put(self, message: str | bytes) -> bool:
        """Hands a message to the application; False when the connection has come to its end."""
        self.guard.end_message()
        # After our close frame nobody else counts messages.
        is_closing = self._parser is not None and self._parser.state is not ConnectionState.OPEN
        if is_closing and not self.guard.take():
            await self.cut(CloseCode.FLOODING, _FLOODING)
            return False
        if self._messages is not None:
            self._messages.append(message)
        else:
            is_text = isinstance(message, str)
            assert self.app_put is not None
            await self.app_put(
                {
                    "type": "websocket.receive",
                    "text": message if is_text else None,
                    "bytes": None if is_text else message,
                }
            )
        return not self.closed

    async def _handle_event(self, event: Any) -> bool:
        """Handles what the full parser found; False when the connection has come to its end."""
        if isinstance(event, CloseConnection):
            if self.connection.state is ConnectionState.REMOTE_CLOSING:
                await self._send_wsproto_event(event.response())
            elif self.connection.state is ConnectionState.OPEN:
                self._server.gate.cuts[int(event.code)] += 1  # what wsproto found wrong
                await self._send_wsproto_event(CloseConnection(code=event.code, reason=event.reason))
            await self._finish()
            return False
        is_message = isinstance(event, Message) and event.message_finished
        if not is_message and not self.guard.take():
            await self.cut(CloseCode.FLOODING, _FLOODING)
            return False
        if isinstance(event, Message):
            try:
                self._message.extend(event.data)
            except TooBig:
                await self.cut(CloseCode.TOO_BIG)
                return False
            if is_message:
                return await self._put(self._message.take())
        elif isinstance(event, Ping):
            await self._send_wsproto_event(event.response())
        return True
