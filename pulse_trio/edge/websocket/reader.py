"""The reader of a WebSocket: it limits, decodes and handles each frame of the client."""

from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from typing import Final, TypeAlias

import trio

from pulse_trio.auth.tokens import Identity
from pulse_trio.conversations import messages
from pulse_trio.edge.audit import SecurityEvent, deletion_fields
from pulse_trio.edge.limits import Flow, Verdict
from pulse_trio.edge.responses import database_away
from pulse_trio.edge.security_events import RecordEvent
from pulse_trio.edge.services import Services
from pulse_trio.edge.websocket.reader_scopes import Scope
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.model import Change, Message
from pulse_trio.protocol import (
    AuthFrame,
    ClientFrame,
    CloseCode,
    DeleteMessage,
    EditMessage,
    FrameError,
    PongFrame,
    SendAuth,
    SendMessage,
    SendPing,
    SendRead,
    SendResume,
    SendTyping,
    SendWatch,
    encode,
)
from pulse_trio.rooms.senders import OnStored
from pulse_trio.store.base import StoreError
from pulse_trio.texts import utf8_size

_PONG: Final = encode(PongFrame())
_TAG: Final = '"message"'  # a `type` that is written otherwise takes the long way, with the same outcome


Receive: TypeAlias = Callable[[], Awaitable[str | bytes | None]]
"""Returns the client's next message; None is an empty binary one."""


class Reader:
    """Reads the frames of one connection, for as long as its token is valid.

    Args:
        service: the running service.
        scope: the conversations that frames may be about.
        flow: the rate limit of the connection.
        receive: returns the client's next message.
        lifetime: the cancel scope that `read_frames` runs in; its deadline is the end of the token.
        identity: the user and the end of the token.
        record: records security events of the user.
    """

    __slots__ = ("_expires", "_flow", "_record", "_scope", "_service", "connection", "lifetime", "receive")

    def __init__(
        self,
        service: Services,
        scope: Scope,
        flow: Flow,
        receive: Receive,
        lifetime: trio.CancelScope,
        identity: Identity,
        record: RecordEvent,
    ) -> None:
        self.connection = scope.connection
        self.receive = receive
        self.lifetime = lifetime
        self._service = service
        self._scope = scope
        self._flow = flow
        self._record = record
        self._expires = 0.0
        self._accept_token(identity)

    def _accept_token(self, identity: Identity) -> int:
        """Ends the connection when this token expires; returns the seconds until then."""
        self._expires = identity.expires
        remaining = identity.expires - self._service.clock().timestamp()
        self.lifetime.deadline = trio.current_time() + remaining
        return int(remaining)

    def is_expired(self) -> bool:
        """Returns whether the token has expired, by the wall clock or by Trio's clock."""
        is_over = trio.current_time() >= self.lifetime.deadline
        return is_over or self._service.clock().timestamp() >= self._expires

    async def read_frames(self) -> None:
        """Handles the client's frames one after the other, until the connection or the token ends.

        What `take_now` has accepted does not come here. Returns when the token has expired, or when the client floods:
        the connection is then closed.

        Cancelled: when the client has gone, the connection's task has ended, or the token has expired.
        """
        while not self.is_expired():
            data = await self.receive()
            if self.is_expired():
                return
            verdict = self._flow.judge(_size(data))
            if verdict is Verdict.CLOSE:
                self.connection.close(CloseCode.FLOODING, "rate limit exceeded; reconnect and send more slowly")
                return
            if verdict is not Verdict.ACCEPT:
                if verdict is Verdict.REFUSE:
                    self._refuse_excess(data)
                continue
            try:
                await self._handle(self._service.frames.read(data))
            except FrameError as error:
                self.connection.refuse(error, error.client_id, error.conversation_id)

    def take_now(self, text: str) -> bool:
        """Submits a plain message in this call; False, with nothing done, if `read_frames` must handle the text.

        It must if anything has to be waited for, or refused, and for every other frame.
        """
        if _TAG not in text or not self.connection.is_open or self.is_expired():
            return False
        size = utf8_size(text)
        if not self._flow.take_now(size):
            return False
        if not self._submit_now(text):
            self._flow.give_back(size)
            return False
        self._service.metrics.frames_in[SendMessage] += 1
        return True

    def _submit_now(self, text: str) -> bool:
        try:
            frame = self._service.frames.read(text)
        except FrameError:
            return False
        if not isinstance(frame, SendMessage):
            return False
        subscription = self._scope.known_subscription(frame)
        return subscription is not None and messages.send_now(self._service, subscription, frame)

    def _refuse_excess(self, data: str | bytes | None) -> None:
        """Sends an error for a frame that exceeds the rate limit, whatever it contains."""
        about: object
        try:
            about = self._service.frames.read(data)
        except FrameError as error:
            about = error
        excess = PulseError(ErrorCode.RATE_LIMITED)
        self.connection.refuse(excess, getattr(about, "client_id", None), getattr(about, "conversation_id", None))

    async def _handle(self, frame: ClientFrame) -> None:
        self._scope.before(frame)
        self._service.metrics.frames_in[type(frame)] += 1
        match frame:
            case SendPing():
                self.connection.deliver(_PONG, ephemeral=True)
            case SendAuth():
                await self._renew(frame.token)
            case SendResume() | SendWatch():
                await self._scope.handle_session_frame(frame)
            case _:
                subscription = await self._scope.subscription(frame)
                if subscription is None:
                    return
                service = self._service
                match frame:
                    case SendMessage():
                        await messages.send(service, subscription, frame)
                    case EditMessage():
                        await messages.revise(service, subscription, frame)
                    case DeleteMessage():
                        await messages.revise(service, subscription, frame, self._deletion_recorder())
                    case SendTyping():
                        await service.hub.send_typing(subscription)
                    case SendRead():
                        await service.hub.read_positions.request_read(subscription, frame.seq)

    def _deletion_recorder(self) -> OnStored:
        """Returns a function that records the deletion of a message of somebody else, by the conversation's owner."""
        context = copy_context()  # the room calls it, in a task whose log lines have no request id

        def record(changes: Sequence[Change]) -> None:
            for change in changes:
                if isinstance(change, Message) and change.sender_id != self.connection.user.id:
                    context.run(self._record, SecurityEvent.MESSAGE_REMOVED, **deletion_fields(change))

        return record

    async def _renew(self, token: str) -> None:
        """Accepts a newer token of the same user, and answers with the seconds until it expires."""
        try:
            identity = await self._service.authenticator.authenticate(token)
            if identity.user.id != self.connection.user.id:
                raise PulseError(ErrorCode.INVALID_TOKEN, "The token is another user's")
        except PulseError as error:
            self._record(SecurityEvent.RENEWAL_REFUSED, code=error.code.code)
            self.connection.refuse(error)
        except StoreError:
            self.connection.refuse(database_away())
        else:
            self._record(SecurityEvent.RENEWAL)
            self.connection.deliver(encode(AuthFrame(expires_in=self._accept_token(identity))))


def _size(data: str | bytes | None) -> int:
    """Returns the bytes of a message."""
    if data is None:  # an empty binary one
        return 0
    return utf8_size(data) if isinstance(data, str) else len(data)
