"""A WebSocket inside Hypercorn that always ends, with a reason, and can be read without the framework."""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, ClassVar, Final

import trio
from hypercorn.protocol import ws_stream
from hypercorn.protocol.events import Body, Data, EndBody, Event, Request, Response, StreamClosed
from hypercorn.protocol.ws_stream import ASGIWebsocketState, Handshake
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import CloseConnection, Message, Ping
from wsproto.frame_protocol import CloseReason

from pulse_trio.edge.server.app_queue import AppQueue
from pulse_trio.edge.server.client_connection import current_connection
from pulse_trio.edge.server.frame_guard import FrameGuard, MessageBuffer, TooBig
from pulse_trio.edge.server.frame_splitter import FrameSplitter
from pulse_trio.edge.server.handler_scope import begin_handler
from pulse_trio.edge.server.transport import ConnectionEnded, set_own_transport
from pulse_trio.edge.server.websocket_handshake import EARLY_DATA, error_response
from pulse_trio.edge.turns import LARGE_BYTES, MESSAGE_BYTES
from pulse_trio.errors import PulseError
from pulse_trio.protocol import CloseCode
from pulse_trio.settings import Settings

MAX_MESSAGES_A_TURN: Final = 16  # messages of one client that are read before other tasks run

# Of all that are served without the framework.
_ANSWERED: Final = trio.Event()
_ANSWERED.set()
_ACCEPTED: Final = Handshake([], "1.1")
_ACCEPTED.accepted = True

_FLOODING: Final = "too many pings or pieces; reconnect and send fewer"


class WebSocketStream(ws_stream.WSStream):
    """A WebSocket, which has its connection to itself.

    Until `divert` its messages go to the ASGI application, as Hypercorn's do. After it the connection's own task takes
    them from here, past ASGI and the framework, which spends three tasks on each.
    """

    __slots__ = (
        "_answering",
        "_app_ended",
        "_app_queue",
        "_connection",
        "_handler",
        "_has_parsed",
        "_is_gone",
        "_message",
        "_messages",
        "_parser",
        "_reader_came",
        "_rest",
        "_since_turn",
        "_splitter",
        "_taken",
        "answered",
        "guard",
        "is_carried",
        "take",
    )

    settings: ClassVar[Settings]

    def __init__(self, *args: object, **kwargs: object) -> None:
        self._connection = current_connection()
        self._handler: trio.CancelScope | None = begin_handler()  # until the framework is left
        self._is_gone = False
        self._answering = False  # the handshake has been answered, or is being
        self.answered = trio.Event()  # the handshake has been accepted or rejected, or the connection has ended
        self._app_ended = False
        self._app_queue: AppQueue | None = None
        self._messages: list[str | bytes] | None = None  # of one read, once they do not go to ASGI
        self._taken = 0  # how many of those
        self._parser: Connection | None = None
        self._has_parsed = False  # the parser may be in the middle of a message
        self._reader_came: trio.Event | None = None
        self.is_carried = False  # the connection's own task serves this
        # Has each whole text first, in the call that reads it; False leaves the text to `divert`'s function.
        self.take: Callable[[str], bool] | None = None
        # What `take_now` left of one read, and the number of frames before it.
        self._rest: tuple[list[str | bytes | None], int] | None = None
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.guard = FrameGuard(self.settings)
        self._splitter = FrameSplitter(self.settings.max_frame_bytes)
        self._message = MessageBuffer(self.settings.max_frame_bytes)
        self._since_turn = 0

    @property
    def connection(self) -> Connection:
        """The full parser, made at its first use, which for most connections is at their end."""
        if self._parser is None:
            self._parser = Connection(ConnectionType.SERVER)
        return self._parser

    @connection.setter
    def connection(self, value: Connection) -> None:
        self._parser = value

    @property
    def closed(self) -> bool:
        """True when nothing more is sent or taken."""
        return self._is_gone

    @closed.setter
    def closed(self, value: bool) -> None:
        if value:
            self._is_gone = True
            self._connection.writer.shut()
            if self.is_carried:
                self._connection.wake()

    async def handle(self, event: Event) -> None:
        """Like the original, but with a definite end.

        Data before the handshake is answered is rejected once (the original answers a second time, which is an error).
        A rejected connection is closed. The end of the connection does not wait for the application.
        """
        if self.closed:
            return
        if isinstance(event, Body | Data) and not self.handshake.accepted:
            if self._answering or not event.data:
                return  # a rejection is being sent, or the client has sent its last byte
            self._end(CloseCode.PROTOCOL_ERROR)  # first: from here on the application cannot answer either
            await self._send_error_response(400, EARLY_DATA)
            await self.send(StreamClosed(stream_id=self.stream_id))
        elif isinstance(event, StreamClosed):
            is_closed = self.state in {ASGIWebsocketState.HTTPCLOSED, ASGIWebsocketState.CLOSED}
            self._end(CloseReason.NORMAL_CLOSURE if is_closed else CloseReason.ABNORMAL_CLOSURE)
        elif isinstance(event, Body | Data):
            await self.take_data(event.data)
        elif isinstance(event, Request):
            await self._handle_request(event)
        else:
            await super().handle(event)

    async def _handle_request(self, event: Request) -> None:
        if event.http_version == "1.1":
            self._connection.websocket = self
            set_own_transport(self._connection.open_transport)
        await super().handle(event)
        if self.app_put is None:  # rejected: nothing else will close this
            await self.send(StreamClosed(stream_id=self.stream_id))
        else:
            self.app_put = self._app_queue = AppQueue(self.app_put)
            if self._app_ended:
                self._app_queue.end()

    def _end(self, code: int) -> None:
        self.closed = True
        self.answered.set()
        if self._handler is not None:
            self._handler.cancel()
        if self.app_put is not None:
            # In a task of its own: the queue may be full, and the caller may be cancelled.
            with suppress(RuntimeError, AttributeError):  # the connection's tasks have ended, the application with them
                self.task_group.spawn(self.app_put, {"type": "websocket.disconnect", "code": int(code)})

    async def _send_wsproto_event(self, event: Any) -> None:
        if isinstance(event, CloseConnection):
            self._connection.writer.shut()
        await super()._send_wsproto_event(event)

    async def app_send(self, message: Any) -> None:
        """Like the original, but with a checkpoint when the connection is closed, for a loop that sends on."""
        if message is None:
            self._app_ended = True
            if self._app_queue is not None:
                self._app_queue.end()
            self._notify_reader_came()
        if self.closed or self.is_carried:
            await trio.lowlevel.checkpoint()
            return
        await super().app_send(message)

    async def _accept(self, message: Any) -> None:
        self._answering = True
        interval = self.config.websocket_ping_interval
        if interval is not None and self._connection.websocket is self:
            self._connection.ping_at = trio.current_time() + interval
        await super()._accept(message)
        self.answered.set()

    async def _send_rejection(self, message: Any) -> None:
        self._answering = True
        await super()._send_rejection(message)
        if not message.get("more_body", False):
            self.answered.set()

    async def _send_error_response(self, status_code: int, error: PulseError | None = None) -> None:
        """Like the original, but at most once and with an error body."""
        if self._answering:
            return
        self._answering = True
        headers, body = error_response(status_code, self.scope["headers"], self._connection.gate.responses, error)
        await self.send(Response(stream_id=self.stream_id, status_code=status_code, headers=headers))
        await self.send(Body(stream_id=self.stream_id, data=body))
        await self.send(EndBody(stream_id=self.stream_id))
        self.answered.set()
        answer: Any = {"status": status_code, "headers": []}
        await self.config.log.access(self.scope, answer, time.time() - self.start_time)

    async def _send_pings(self) -> None:
        """Does nothing: the connection's own task pings, and not at once, which would delay the first frames."""

    async def reject(self, code: int, reason: str | None = None) -> None:
        """Closes a connection that broke a rule, with the code for it; nothing more is taken from the client."""
        self._connection.gate.violations[int(code)] += 1
        self._message.clear()
        await self._send_wsproto_event(CloseConnection(code=code, reason=reason))
        await self._finish()

    async def close(self, code: int, reason: str) -> None:
        """Sends a close frame."""
        self.state = ASGIWebsocketState.CLOSED
        await self._send_wsproto_event(CloseConnection(code=code, reason=reason))

    async def _finish(self) -> None:
        """Ends the WebSocket: first the task that serves it, then the connection."""
        if self.is_carried:
            self.closed = True
        else:
            await self.send(StreamClosed(stream_id=self.stream_id))

    # --- past the framework ---

    def divert(self) -> Callable[[], Awaitable[str | bytes]]:
        """Returns the function that receives messages from now on.

        Call it before the handshake is answered, while no message is on its way to ASGI.
        """
        self._messages = []
        return self._receive

    def leave_framework(self) -> None:
        """Lets the connection's own task serve this from now on, and drops what was kept for the framework."""
        self.is_carried = True
        if self._app_queue is not None:
            self._app_queue.end()
        self.app_put = self._app_queue = self._handler = None
        self.scope = {}  # type: ignore[typeddict-item]
        self.handshake, self.answered = _ACCEPTED, _ANSWERED
        del self.buffer, self.context, self.task_group
        if not self._has_parsed:
            self._parser = None
        self._notify_reader_came()

    @property
    def has_unread(self) -> bool:
        """True while messages are queued and nothing reads them yet; the connection reads no more until then."""
        return bool(self._messages) and not (self.is_carried or self._app_ended)

    async def wait_reader(self) -> None:
        """Returns when a task reads the messages, or none ever will."""
        self._reader_came = trio.Event()
        await self._reader_came.wait()

    def _notify_reader_came(self) -> None:
        if self._reader_came is not None:
            self._reader_came.set()
            self._reader_came = None

    async def _receive(self) -> str | bytes:
        """Returns the client's next message; for the connection's own task.

        Raises:
            ConnectionEnded: there are no further messages.
        """
        messages = self._messages
        assert messages is not None
        if messages and self._since_turn < MAX_MESSAGES_A_TURN:  # one read may bring thousands
            self._since_turn += 1
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            self._since_turn = 0
            if messages:
                await trio.lowlevel.checkpoint()
                await self._take_turn(MAX_MESSAGES_A_TURN * MESSAGE_BYTES)
        while not messages:
            if self.closed or not await self._connection.read():
                raise ConnectionEnded
        message = messages[self._taken]
        if len(message) >= LARGE_BYTES:
            await self._take_turn(len(message))
        self._taken += 1
        if self._taken == len(messages):
            messages.clear()
            self._taken = 0
        return message

    async def _take_turn(self, size: int) -> None:
        await self._connection.gate.turns.take(size, self._connection.slot.client)

    async def take_data(self, data: bytes) -> None:
        """Handles the bytes of one read: whole text messages at once, everything else through the full parser.

        Like the original, but a connection that breaks a rule gets a close code and is closed (RFC 6455,
        section 7.1.7). The original sends 1009 and reads on, sends no close frame for other faults, and accepts any
        number of frames that are no messages.
        """
        if not self.take_now(data):
            await self.take_rest()

    def take_now(self, data: bytes) -> bool:
        """Handles the bytes of one read as far as nothing must be waited for; if False, `take_rest` must follow.

        These are pongs, and small texts that `take` accepts. What comes after anything else is left, too: nothing
        overtakes.
        Call it only while the connection's task holds no message.
        """
        frames = texts = 0
        items = self._splitter.feed(data)
        for item in items:
            if isinstance(item, str):
                if self.take is None or texts == MAX_MESSAGES_A_TURN or self._is_closing or len(item) >= LARGE_BYTES:
                    break
                if not self.take(item):
                    break
                self.guard.end_message()
                texts += 1
            elif item is not None or not self.guard.take():
                break
            frames += 1
        else:
            if self._end_read(frames):
                return True
        self._rest = items[frames:], frames
        return False

    @property
    def has_rest(self) -> bool:
        """True when `take_rest` must follow."""
        return self._rest is not None

    async def take_rest(self) -> None:
        """Handles what `take_now` left."""
        assert self._rest is not None
        (items, frames), self._rest = self._rest, None
        for item in items:
            if isinstance(item, str):
                frames += 1
                if not await self._put(item):
                    return
            elif item is None:
                frames += 1
                if not self.guard.take():
                    await self.reject(CloseCode.FLOODING, _FLOODING)
                    return
            else:
                self._has_parsed = True
                self.connection.receive_data(item)
                for event in self.connection.events():
                    frames += 1
                    if not await self._handle_event(event):
                        return
        if not self._end_read(frames):
            await self.reject(CloseCode.FLOODING, _FLOODING)

    def _end_read(self, frames: int) -> bool:
        """Ends one read of the socket; False when there are too many that end no frame."""
        return self.guard.end_read(frames=frames, is_inside=self._message.is_begun or self._splitter.is_inside)

    @property
    def _is_closing(self) -> bool:
        """True once a close frame was sent or received."""
        return self._parser is not None and self._parser.state is not ConnectionState.OPEN

    async def _put(self, message: str | bytes) -> bool:
        """Queues a message for the application; False when the connection has ended."""
        self.guard.end_message()
        # After our close frame nothing else counts messages.
        if self._is_closing and not self.guard.take():
            await self.reject(CloseCode.FLOODING, _FLOODING)
            return False
        if self._messages is not None:
            self._messages.append(message)
        else:
            is_text = isinstance(message, str)
            event = {"text": message if is_text else None, "bytes": None if is_text else message}
            assert self.app_put is not None
            await self.app_put({"type": "websocket.receive", **event})
        return not self.closed

    async def _handle_event(self, event: Any) -> bool:
        """Handles an event of the full parser; False when the connection has ended."""
        if isinstance(event, CloseConnection):
            if self.connection.state is ConnectionState.REMOTE_CLOSING:
                await self._send_wsproto_event(event.response())
            elif self.connection.state is ConnectionState.OPEN:
                self._connection.gate.violations[int(event.code)] += 1  # the parser found it
                await self._send_wsproto_event(CloseConnection(code=event.code, reason=event.reason))
            await self._finish()
            return False
        is_message = isinstance(event, Message) and event.message_finished
        if not is_message and not self.guard.take():
            await self.reject(CloseCode.FLOODING, _FLOODING)
            return False
        if isinstance(event, Message):
            try:
                self._message.extend(event.data)
            except TooBig:
                await self.reject(CloseCode.TOO_BIG)
                return False
            if is_message:
                return await self._put(self._message.take())
        elif isinstance(event, Ping):
            await self._send_wsproto_event(event.response())
        return True
