"""HTTP/1.1 on one connection: requests are checked and counted before the framework sees them."""

from contextlib import suppress
from typing import Any, ClassVar, Final

import h11
import trio
from hypercorn.events import Closed as ConnectionClosed
from hypercorn.events import Event as ConnectionEvent
from hypercorn.events import RawData
from hypercorn.protocol.events import Data
from hypercorn.protocol.h11 import H11Protocol, H11WSConnection
from hypercorn.typing import H11SendableEvent

from pulse_trio.edge.server import request_head
from pulse_trio.edge.server.body_pieces import GuardedParser, PieceGuard
from pulse_trio.edge.server.client_connection import current_connection
from pulse_trio.edge.server.gate import LINGER
from pulse_trio.edge.server.plain_responses import Asked, Headers
from pulse_trio.edge.server.transport import ConnectionEnded
from pulse_trio.edge.server.websocket_stream import WebSocketStream
from pulse_trio.edge.tracing import end_request
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.settings import Settings

_PROBES: Final = {b"/healthz", b"/readyz"}
MAX_JOINED_BYTES: Final = 16_384  # of a piece of an answer that leaves together with its head

_SENTENCES: Final = {
    431: "The head of the request is too large",
    501: "The method or the transfer coding is not supported; methods are in upper case",
    505: "This server speaks HTTP/1.1 and HTTP/1.0",
}


class Turn:
    """Hypercorn's event that lets the reader wait until a request is answered; it also ends with the connection.

    With pipelined requests the original waits for ever when an answer cannot be written.
    """

    def __init__(self) -> None:
        self._event = trio.Event()
        self.has_ended = False

    def end(self) -> None:
        """Releases the reader, because no further request will be answered."""
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
        end_request()

    def is_set(self) -> bool:
        return self._event.is_set()


class HttpProtocol(H11Protocol):
    """HTTP/1.1 without upgrades to HTTP/2, and with headers of a bounded size.

    Attributes:
        settings: the bounds on pieces of requests.
    """

    settings: ClassVar[Settings]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._connection = current_connection()
        self.can_read = self.turn = Turn()
        self._forwarded: list[str] = []  # of the latest request
        self._pieces = PieceGuard(self.settings, self._count_request)
        self.connection = GuardedParser(self._pieces, self.config.h11_max_incomplete_size)
        self._answered = trio.Event()  # of the present request
        self._asked: Asked | None = None  # by the present request, once its head is complete and until it is answered
        self._answer_head = b""  # leaves with what follows it
        self._has_turn = False  # of the gate's `beginning`

    def _count_request(self) -> None:
        self._connection.slot.count_request(self._forwarded, is_websocket=False)

    async def _check_protocol(self, event: h11.Request) -> None:
        """Ignores the wish for HTTP/2 over clear text, which the original grants."""

    async def _create_stream(self, request: h11.Request) -> None:
        """Like the original, but rejects heads that are too large or ambiguous, and counts requests per address.

        The original does not bound headers that arrive in one piece.
        """
        self._answered = trio.Event()
        # They are read ten times, and h11's sequence makes each pair anew: 50 µs of CPU.
        object.__setattr__(request, "headers", list(request.headers))
        self._asked = Asked.of(request.headers, is_head=request.method == b"HEAD")
        status = request_head.problem(request, self.config.h11_max_incomplete_size)
        if status is not None:
            await self._reject(status)
            return
        self._forwarded = request_head.values(request, b"x-forwarded-for")
        self._pieces.begin_request()
        is_websocket = request_head.asks_for_websocket(request)
        try:
            self._connection.slot.count_request(self._forwarded, is_websocket=is_websocket)
        except PulseError as error:
            if request.method == b"GET" and request.target == b"/healthz":
                headers, body = self._connection.gate.responses.alive(self._asked)  # see `Gate.reject`
                await self._send_answer(200, self._asked, headers, body)
                await self.send(ConnectionClosed())
            else:
                await self._reject(error.code.status, error)
            return
        request = request_head.normalize(request)
        host = next(iter(request_head.values(request, b"host")), None)
        try:
            self._connection.gate.hosts.check(host, request.target.partition(b"?")[0])
        except PulseError as error:
            await self._reject(error.code.status, error)
            return
        await self._begin(request, has_early_data=is_websocket and bool(self.connection.trailing_data[0]))

    async def _begin(self, request: h11.Request, *, has_early_data: bool) -> None:
        """Starts the handler of a request when it is its turn; a probe's at once.

        The turn ends in the next turn of the loop, when the handler has begun. A handshake with data behind it is
        rejected for that before its handler begins, which could accept it in its first turn.
        """
        if request.target in _PROBES:
            await super()._create_stream(request)
            return
        turns = self._connection.gate.beginning
        if not turns.take_nowait():
            await turns.take(self._connection.slot.address(self._forwarded))
        self._has_turn = True
        try:
            await super()._create_stream(request)
            if not has_early_data:
                await trio.lowlevel.checkpoint()
        finally:
            self._end_turn()

    def _end_turn(self) -> None:
        """Gives back the turn, if there is one: before anything is written, for which a client may take its time."""
        if self._has_turn:
            self._has_turn = False
            self._connection.gate.beginning.give_back()

    async def wait_answered(self) -> None:
        """Returns when the request that has arrived is answered: a client may send its last byte and read on.

        RFC 9112, section 9.6. A WebSocket is answered when its handshake is.
        """
        if isinstance(self.stream, WebSocketStream):
            await self.stream.answered.wait()
        elif self.stream is not None:
            await self._answered.wait()

    async def _close_stream(self) -> None:
        await super()._close_stream()
        self._answered.set()

    async def handle(self, event: ConnectionEvent) -> None:
        """Like the original, but the data of a WebSocket does not pass through the parser of HTTP."""
        if isinstance(event, RawData) and self.stream is not None and isinstance(self.connection, H11WSConnection):
            await self.stream.handle(Data(stream_id=1, data=event.data))
            return
        if isinstance(event, RawData) and self.connection.their_state is h11.IDLE:
            end_request()
        if isinstance(event, ConnectionClosed):
            self.turn.end()
        elif self.turn.has_ended:
            return  # nothing answers it any more
        parser = self.connection
        if isinstance(event, RawData) and event.data and isinstance(parser, GuardedParser):
            before = parser.events
            await super().handle(event)
            if parser.events == before:
                await self._count_piece(parser)
        else:
            await super().handle(event)

    async def _count_piece(self, parser: GuardedParser) -> None:
        """Counts a read that brought no event, because a client may send its request byte by byte."""
        try:
            self._pieces.take()
        except PulseError as error:
            if parser.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                await self._send_error(error.code.status, error)
            await self.send(ConnectionClosed())

    async def _handle_events(self) -> None:
        with suppress(ConnectionEnded):
            await super()._handle_events()

    async def _send_h11_event(self, event: H11SendableEvent) -> None:
        """Like the original, but the head of an answer leaves together with what follows it, in one write."""
        self._end_turn()
        try:
            data = self.connection.send(event)
        except h11.LocalProtocolError:
            if self.connection.their_state != h11.ERROR:
                raise
            return
        if isinstance(event, h11.Response):
            self._answer_head = data or b""
            return
        head, self._answer_head = self._answer_head, b""
        data = data or b""
        if head and len(data) > MAX_JOINED_BYTES:  # a client that does not read would cost a second copy
            await trio.lowlevel.checkpoint_if_cancelled()  # as below
            await self.send(RawData(data=head))
            head = b""
        data = head + data
        left = len(data)
        if head or isinstance(event, h11.InformationalResponse):
            # Once for a request: nearly always the network takes all, which saves a lock, a scope and a turn. But the
            # 500 that the original sends for a handler that was cancelled with the server must not leave: what the
            # handler did may be stored.
            await trio.lowlevel.checkpoint_if_cancelled()
            left = self._connection.writer.write_nowait(data)
            data = b"" if left > 0 else data  # what was not taken is kept, and is written first
        if left:
            await self.send(RawData(data=data))

    def leave_http(self) -> None:
        """Drops the state of HTTP once the connection has become a WebSocket."""
        assert isinstance(self.connection, H11WSConnection)
        del self.connection.h11_connection, self._pieces

    async def _maybe_recycle(self) -> None:
        """Like the original, but shielded, with a deadline.

        When a request was answered before its body had arrived, the application's end cancelled this task before it
        could close the connection, which then stayed for as long as the client did.
        """
        self._asked = None  # what is sent from now on answers another request
        with trio.move_on_after(self._connection.writer.timeout + LINGER, shield=True):
            await super()._maybe_recycle()

    async def _reject(self, status: int, error: PulseError | None = None) -> None:
        """Answers a request with an error and ends the connection."""
        if error is None:
            await self._send_error_response(status)
        else:
            await self._send_error(status, error)
        await self.send(ConnectionClosed())

    async def _send_error_response(self, status_code: int) -> None:
        """Like the original, but with the JSON body that every error has."""
        if self._pieces.problem is not None:
            await self._send_error(status_code, self._pieces.problem)
            return
        is_large = status_code == 431
        text = _SENTENCES.get(status_code, "The request is not valid HTTP/1.1")
        code = ErrorCode.TOO_LARGE if is_large else ErrorCode.BAD_REQUEST
        await self._send_error(status_code, PulseError(code, text))

    async def _send_error(self, status: int, error: PulseError) -> None:
        asked = self._asked
        if asked is None:  # the head of the request has not come, or is malformed
            begun = self.connection.begun if isinstance(self.connection, GuardedParser) else b""
            asked = Asked.of_bytes(begun)
        await self._send_answer(status, asked, *self._connection.gate.responses.error(error, asked))

    async def _send_answer(self, status: int, asked: Asked, headers: Headers, body: bytes) -> None:
        encoded = [(name.encode(), value.encode()) for name, value in headers]
        await self._send_h11_event(h11.Response(status_code=status, headers=encoded))
        if not asked.is_head:
            await self._send_h11_event(h11.Data(data=body))
        elif self._asked is None:
            # h11 does not know that it was a HEAD, and would miss the body.
            head, self._answer_head = self._answer_head, b""
            await self.send(RawData(data=head))
            return
        await self._send_h11_event(h11.EndOfMessage())
