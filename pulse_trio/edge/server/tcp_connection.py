"""One client's TCP connection: reads, writes, pings and closes it, in place of Hypercorn's `TCPServer`."""

import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Final

import structlog
import trio
from hypercorn.events import Closed as ConnectionClosed
from hypercorn.events import Event as ConnectionEvent
from hypercorn.events import RawData, Updated
from hypercorn.protocol.events import StreamClosed
from hypercorn.trio.tcp_server import MAX_RECV
from hypercorn.utils import parse_socket_addr

from pulse_trio.edge.server.client_connection import set_connection
from pulse_trio.edge.server.framework_connection import FrameworkConnection
from pulse_trio.edge.server.gate import LINGER, Gate, Slot, set_gate
from pulse_trio.edge.server.handler_scope import end_handler
from pulse_trio.edge.server.http_protocol import HttpProtocol
from pulse_trio.edge.server.idle_connections import IdleConnections
from pulse_trio.edge.server.poller import PolledSocket, current_poller
from pulse_trio.edge.server.socket_transport import SocketTransport
from pulse_trio.edge.server.stream_writer import PendingWrites, StreamWriter
from pulse_trio.edge.server.websocket_stream import WebSocketStream
from pulse_trio.edge.tracing import begin_connection
from pulse_trio.errors import PulseError
from pulse_trio.exception_groups import flatten_group
from pulse_trio.protocol import CloseCode

PING: Final = b"\x89\x00"  # a WebSocket frame without content
FRESH_SECONDS: Final = 0.5  # that a client which has just connected has for its first request when the server ends

_ENDED: Final = trio.Event()
_ENDED.set()

log = structlog.get_logger(__name__)


class Carried:
    """Stands for the protocol of a connection whose WebSocket is served without the framework."""

    __slots__ = ("_websocket",)

    protocol: Final = None

    def __init__(self, websocket: WebSocketStream) -> None:
        self._websocket = websocket

    async def handle(self, event: ConnectionEvent) -> None:
        """Ends the WebSocket, because the connection has."""
        await self._websocket.handle(StreamClosed(stream_id=1))


class TcpConnection(FrameworkConnection):
    """A connection whose failure ends only itself, and which its client cannot hold for ever.

    Attributes:
        gate: counts the connections of this process.
        writes: the pending writes of all connections.
        idle: the connections that wait for a request.
        load: counts the end of a connection of this worker for the others, if there are others.
    """

    gate: ClassVar[Gate]
    writes: ClassVar[PendingWrites]
    idle: ClassVar[IdleConnections]
    load: ClassVar[AbstractContextManager[None]] = nullcontext()

    __slots__ = (
        "_has_half_closed",
        "_idle_until",
        "_input_ended",
        "_is_fresh",
        "_polled",
        "_reader",
        "_reading",
        "_serve",
        "ping_at",
        "slot",
        "websocket",
        "writer",
    )

    writer: StreamWriter
    slot: Slot
    _reader: trio.lowlevel.Task
    _input_ended: trio.Event  # set when the client has sent its last byte

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        del self.idle_task  # `read` has the deadline: a task for each request would cost a tenth of it
        self.websocket: WebSocketStream | None = None  # over HTTP/1.1, where it has the connection to itself
        self.ping_at = math.inf  # on Trio's clock
        self._reading: trio.CancelScope | None = None  # while the task waits for the socket
        self._idle_until = math.inf  # on Trio's clock: when a connection without a request is closed
        self._is_fresh = True  # it has not had a request yet
        self._polled: PolledSocket | None = None  # while the poller reads the socket
        self._has_half_closed = False  # the client has sent its last byte
        self._serve: Callable[[], Awaitable[None]] | None = None  # the task runs it in place of the framework's work

    async def run(self) -> None:
        """Serves the connection, if the gate admits it.

        Errors are logged here: raised, they would end the whole process, as one byte behind an upgrade request did
        (Hypercorn issue 225).
        """
        with self.load:
            try:
                self.slot = self.gate.admit(self._peer())
            except PulseError as error:
                await self.gate.reject(self.stream, error)
                return
            except OSError:  # the client has gone
                return
            begin_connection()
            set_gate(self.gate)
            self._reader = trio.lowlevel.current_task()
            self._input_ended = trio.Event()
            self.writer = StreamWriter(self.stream, self.send_lock, self.gate, self.writes, self._lose)
            set_connection(self)
            try:
                try:
                    if await self.run_framework() and self._serve is not None:
                        self._drop_framework()
                        await self._carry_on()
                        await self.protocol.handle(ConnectionClosed())
                finally:
                    self._end_idle()
                    self._input_ended.set()
                    # The client may have gone before this task began to serve: run it, so that it cleans up.
                    try:
                        await self._carry_on()  # noqa: ASYNC102  # cancelled or not, it ends at its first wait
                    finally:
                        await self._close()  # noqa: ASYNC102  # like the original
            except* Exception as group:
                log.warning("connection failed", errors=[repr(error) for error in flatten_group(group)])
            finally:
                self.slot.leave()

    def carry_on(self, serve: Callable[[], Awaitable[None]]) -> None:
        """Lets this connection's task run `serve` from now on; the framework's handler may return."""
        assert self.websocket is not None
        self._serve = serve
        is_rejected = self.websocket.closed  # meanwhile, and the answer may be on its way
        self.websocket.leave_framework()
        protocol = self.protocol.protocol
        assert isinstance(protocol, HttpProtocol)
        if not is_rejected:
            protocol.leave_http()
        self.wake()

    def _drop_framework(self) -> None:
        """Forgets what served HTTP: a WebSocket may stay for days, and this is a third of its memory."""
        assert self.websocket is not None
        end_handler()
        self.websocket.send = self._send_data
        self.protocol = Carried(self.websocket)  # type: ignore[assignment]  # all that is used of it
        self.writer.drop_lock()
        self._input_ended = _ENDED  # only this task closes the connection
        del self.send_lock, self._task_group

    async def _send_data(self, event: Any) -> None:
        """Writes the bytes of a WebSocket event, as the protocol of HTTP did."""
        await self.writer.write(event.data)

    async def _carry_on(self) -> None:
        if self._serve is None:
            return
        serving = self._serve()
        self._serve = None
        poller = current_poller()
        stream: object = self.stream
        # Over TLS, and in memory, bytes can be had from the stream alone.
        if poller is not None and isinstance(stream, trio.SocketStream) and stream.socket.fileno() >= 0:
            self._polled = PolledSocket(poller, stream.socket, self)
        try:
            await serving
        finally:
            if self._polled is not None:
                self._polled.close()
                self._polled = None

    def open_transport(self) -> SocketTransport:
        """Opens the transport of the WebSocket, before its handshake is answered."""
        assert self.websocket is not None
        return SocketTransport(self, self.websocket)

    def wake(self) -> None:
        """Makes a waiting `read` return, because its connection has changed."""
        if self._reading is not None:
            self._reading.cancel()
        if self._polled is not None:
            self._polled.wake()

    def _peer(self) -> str | None:
        """Returns the address at the other end. Raises OSError when the client has gone."""
        transport: Any = getattr(self.stream, "transport_stream", self.stream)
        address = parse_socket_addr(transport.socket.family, transport.socket.getpeername())
        return None if address is None else str(address[0])

    async def protocol_send(self, event: ConnectionEvent) -> None:
        """Like the original, but a client that takes nothing for `PULSE_WRITE_TIMEOUT` seconds is disconnected.

        The original shields the write without a deadline, past cancellation and SIGTERM.
        """
        if isinstance(event, Updated):
            # A client that has sent its last byte sends no further request, so do not wait for one.
            if event.idle and not self._input_ended.is_set():
                self._begin_idle()
            else:
                self._is_fresh = False
                self._end_idle()
            return
        if isinstance(event, ConnectionClosed):
            self._end_requests()
        if isinstance(event, RawData):
            await self.writer.write(event.data)
        else:
            await super().protocol_send(event)

    def _begin_idle(self) -> None:
        """Gives the client `keep_alive_timeout` seconds for its next request; none while the server ends."""
        at_end = FRESH_SECONDS if self._is_fresh else 0.0
        seconds = at_end if self.idle.is_closed else self.config.keep_alive_timeout
        self._idle_until = trio.current_time() + seconds
        self.idle.add(self)
        if self._reading is not None:
            self._reading.deadline = min(self._reading.deadline, self._idle_until)

    def _end_idle(self) -> None:
        self._idle_until = math.inf
        self.idle.discard(self)

    def end_idle(self) -> None:
        """Ends the connection, which waits for a request, because the server ends.

        The first request of a client that has just connected may be on its way: it would look as if it was refused.
        """
        fresh_until = trio.current_time() + FRESH_SECONDS
        self._idle_until = min(self._idle_until, fresh_until) if self._is_fresh else -math.inf
        self.wake()

    async def _lose(self) -> None:
        """Ends the connection after a write has found that the client has gone."""
        self.wake()  # the stream may be closed, which the poller does not notice
        await self.protocol.handle(ConnectionClosed())

    def _end_requests(self) -> None:
        """Releases a reader that waits for an answer before it reads the next request."""
        protocol = self.protocol.protocol
        if isinstance(protocol, HttpProtocol):
            protocol.turn.end()

    async def _read_data(self) -> None:
        """Like the original, until the task is to serve a WebSocket without the framework.

        A client that has sent its last byte gets the answer to its request first (RFC 9112, section 9.6).
        """
        try:
            is_open = True
            while is_open and self._serve is None:
                is_open = await self.read()
            protocol = self.protocol.protocol
            if self._has_half_closed and isinstance(protocol, HttpProtocol):
                self._input_ended.set()
                await protocol.wait_answered()
            if self._serve is None:
                await self.protocol.handle(ConnectionClosed())
        finally:
            if self._serve is None:
                self._input_ended.set()
        self._end_idle()  # there are no further requests; the original keeps the connection until `keep_alive_timeout`

    async def read(self) -> bool:
        """Waits for the client and handles what it sends; False when there is nothing more to read.

        Pings a WebSocket when it is due. A client that is silent for `read_timeout` seconds has gone; one that does not
        end a message in time is closed. Returns early after `wake`.
        """
        websocket = self.websocket
        if websocket is not None and websocket.has_unread:
            await websocket.wait_reader()
            return True
        if self._polled is not None:
            return await self._read_polled(self._polled)
        self._reading = scope = trio.CancelScope(deadline=self.deadline)
        try:
            with scope:
                data = await self._receive()
        except (trio.ClosedResourceError, trio.BrokenResourceError, OSError):
            return False
        finally:
            self._reading = None
        now = trio.current_time()
        if scope.cancelled_caught:
            return await self._do_due(now)
        self.writer.active_at = now
        if websocket is not None and websocket.is_carried:
            await websocket.take_data(data)
        else:
            await self.protocol.handle(RawData(data))
        self._has_half_closed = not data
        return bool(data)

    @property
    def deadline(self) -> float:
        """On Trio's clock, when something is due although the client sends nothing."""
        silence = self.config.read_timeout or math.inf
        message_deadline = math.inf if self.websocket is None else self.websocket.guard.deadline
        return min(self.writer.active_at + silence, message_deadline, self.ping_at, self._idle_until)

    async def _do_due(self, now: float) -> bool:
        """Does what is due after a wait that brought nothing; False when there is nothing more to read."""
        websocket = self.websocket
        if websocket is not None and now >= websocket.guard.deadline:
            await websocket.reject(CloseCode.UNFINISHED, "message not finished in time")
            return False
        # It may have taken a piece of an answer meanwhile.
        has_gone = now >= self.writer.active_at + (self.config.read_timeout or math.inf)
        if has_gone or now >= self._idle_until or (websocket is not None and websocket.is_carried and websocket.closed):
            return False
        if now >= self.ping_at:
            await self._ping(now)
        return True

    # --- with the poller ---

    async def _read_polled(self, polled: PolledSocket) -> bool:
        """Like `read`, but the poller reads while this task waits."""
        websocket = self.websocket
        assert websocket is not None
        try:
            await polled.wait()
        except trio.ClosedResourceError:
            return False
        if websocket.has_rest:
            await websocket.take_rest()
            return True
        return not self._has_half_closed and await self._do_due(trio.current_time())

    def on_data(self, data: bytes, now: float) -> bool:
        """Handles the bytes of one read; False if the connection's task must handle something. Called by the poller."""
        websocket, polled = self.websocket, self._polled
        assert websocket is not None
        assert polled is not None
        self._has_half_closed = not data
        self.writer.active_at = now
        if not data or not websocket.take_now(data):
            return False
        if websocket.guard.deadline < polled.due_at:
            polled.watch()
        return True

    def on_deadline(self, now: float) -> bool:
        """Sends the ping that is due; False if the connection's task must do something. Called by the poller."""
        ping_at, self.ping_at = self.ping_at, math.inf
        if self.deadline <= now or self.writer.write_nowait(PING) != 0:
            self.ping_at = ping_at
            return False
        assert self.config.websocket_ping_interval is not None
        self.ping_at = now + self.config.websocket_ping_interval
        return True

    async def _receive(self) -> bytes:
        """Returns some bytes from the client; none when it has sent its last.

        Like the stream's `receive_some`, but waits first: data is seldom there already, and a failed attempt costs as
        much as a read. Also raises OSError.
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
                pass  # a spurious wake-up

    async def _ping(self, now: float) -> None:
        assert self.config.websocket_ping_interval is not None
        self.ping_at = now + self.config.websocket_ping_interval
        left = self.writer.write_nowait(PING)
        if left:
            await self.writer.write(b"" if left > 0 else PING, is_frames=True)

    async def _close(self) -> None:
        """Like the original, but reads and drops what the client still sends, for `LINGER` seconds.

        Closed with unread bytes, a socket sends RST, and the client may lose the answer or the close frame that is on
        its way. Only the task that reads can do this; another one waits for it.
        """
        with trio.move_on_after(LINGER):
            try:
                async with self.writer.lock:  # otherwise a pending write would fail half way
                    await self.stream.send_eof()
                if trio.lowlevel.current_task() is not self._reader:
                    await self._input_ended.wait()
                while await self.stream.receive_some(MAX_RECV):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError, AttributeError):
                pass  # the client has gone, or this is a TLS stream, which has no half-close
        try:
            await self.stream.aclose()
        finally:
            self.wake()
