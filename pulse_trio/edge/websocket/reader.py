"""What comes in on a WebSocket: each frame is judged, read, and handed to the hub."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

import trio

from pulse_trio.auth.tokens import Identity
from pulse_trio.edge.limits import Flow, Verdict
from pulse_trio.edge.responses import database_away
from pulse_trio.edge.services import Services
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.protocol import (
    AuthFrame,
    ClientFrame,
    CloseCode,
    ConversationFrame,
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
from pulse_trio.rooms.connection import Connection
from pulse_trio.rooms.hub import ForeignConversation
from pulse_trio.rooms.session import Session
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.store.base import StoreError
from pulse_trio.texts import utf8_size

_PONG: Final = encode(PongFrame())


Receive: TypeAlias = Callable[[], Awaitable[str | bytes | None]]
"""Returns the client's next message; None is an empty binary one."""


class Reader:
    """What comes in on a connection, for as long as its token is good.

    `scope` is the one that `receive` runs in: its deadline is the end of the token.
    """

    __slots__ = ("_expires", "_flow", "_parts", "connection", "scope", "take")

    def __init__(
        self, parts: Services, connection: Connection, take: Receive, scope: trio.CancelScope, identity: Identity
    ) -> None:
        self.connection = connection
        self.take = take
        self.scope = scope
        self._parts = parts
        self._flow = Flow(parts.settings)
        self._expires = 0.0
        self._lease(identity)

    def _lease(self, identity: Identity) -> int:
        self._expires = identity.expires
        remaining = identity.expires - self._parts.clock().timestamp()
        self.scope.deadline = trio.current_time() + remaining
        return int(remaining)

    def is_expired(self) -> bool:
        """Whether the token is no longer good: by the wall clock, or by the time that it was good for."""
        is_over = trio.current_time() >= self.scope.deadline
        return is_over or self._parts.clock().timestamp() >= self._expires

    async def receive(self) -> None:
        """Takes what the client sends, one frame after the other, until the connection or the token ends.

        Returns when the token has expired, or when the client floods: the connection is then closed.

        Cancelled: when the client has gone, the connection's task has ended, or the token has expired.
        """
        while not self.is_expired():
            data = await self.take()
            verdict = self._flow.judge(_size(data))
            if verdict is Verdict.CLOSE:
                self.connection.close(CloseCode.FLOODING, "sending too much; reconnect, and send more slowly")
                return
            if verdict is not Verdict.ACCEPT:
                if verdict is Verdict.REFUSE:
                    self._tell_refused(data)
                continue
            try:
                await self._handle(self._parts.frames.read(data))
            except FrameError as error:
                self.connection.refuse(error, error.client_id, error.conversation_id)

    def _tell_refused(self, data: str | bytes | None) -> None:
        """Tells the client that a frame was refused by its rate, whatever is in it."""
        about: object
        try:
            about = self._parts.frames.read(data)
        except FrameError as error:
            about = error
        refused = PulseError(ErrorCode.RATE_LIMITED, "Too much at once; wait a second, and send it again more slowly")
        self.connection.refuse(refused, getattr(about, "client_id", None), getattr(about, "conversation_id", None))

    async def _handle(self, frame: ClientFrame) -> None:
        self._parts.metrics.frames_in[type(frame)] += 1
        match frame:
            case SendPing():
                self.connection.deliver(_PONG, ephemeral=True)
            case SendAuth():
                await self._renew(frame.token)
            case SendResume():
                await self._resume(frame)
            case SendWatch():
                self._watch(frame)
            case _:
                member = self._member(frame) or await self._place(frame)
                if member is None:
                    return
                hub = self._parts.hub
                match frame:
                    case SendMessage():
                        await hub.send_message(member.conversation_id, member, frame)
                    case EditMessage() | DeleteMessage():
                        await hub.send_revision(member.conversation_id, member, frame)
                    case SendTyping():
                        hub.send_typing(member.conversation_id, member)
                    case SendRead():
                        await hub.send_read(member, frame.seq)

    def _member(self, frame: ConversationFrame) -> Subscription | None:
        """The connection's place in the conversation that a frame is about; None if that must be looked up.

        Raises:
            FrameError: it does not say which conversation.
        """
        raise NotImplementedError

    async def _place(self, frame: ConversationFrame) -> Subscription | None:
        """Looks up what `_member` does not know; None if the frame has been refused."""
        raise NotImplementedError

    async def _resume(self, frame: SendResume) -> None:
        raise NotImplementedError

    def _watch(self, frame: SendWatch) -> None:
        raise NotImplementedError

    async def _renew(self, token: str) -> None:
        try:
            identity = await self._parts.authenticator.authenticate(token)
            if identity.user.id != self.connection.user.id:
                raise PulseError(ErrorCode.INVALID_TOKEN, "The token is another user's")
        except PulseError as error:
            self.connection.refuse(error)
        except StoreError:
            self.connection.refuse(database_away())
        else:
            self.connection.deliver(encode(AuthFrame(expires_in=self._lease(identity))))


class MemberReader(Reader):
    """Of a conversation's own connection."""

    __slots__ = ("_own",)

    def __init__(
        self, parts: Services, member: Subscription, take: Receive, scope: trio.CancelScope, identity: Identity
    ) -> None:
        super().__init__(parts, member.connection, take, scope, identity)
        self._own = member

    def _member(self, frame: ConversationFrame) -> Subscription | None:
        if frame.conversation_id is not None and frame.conversation_id != self._own.conversation_id:
            raise _frame_error(frame, "`conversation_id` is another than this connection's; leave it out")
        return self._own

    async def _resume(self, frame: SendResume) -> None:
        raise FrameError(ErrorCode.INVALID_FRAME, "`resume` is for session connections; use `after` here", field="type")

    def _watch(self, frame: SendWatch) -> None:
        raise FrameError(ErrorCode.INVALID_FRAME, "`watch` is for session connections", field="type")


class SessionReader(Reader):
    """Of a session's connection. Its first frame starts it."""

    __slots__ = ("_session",)

    def __init__(
        self, parts: Services, session: Session, take: Receive, scope: trio.CancelScope, identity: Identity
    ) -> None:
        super().__init__(parts, session.connection, take, scope, identity)
        self._session = session

    async def _handle(self, frame: ClientFrame) -> None:
        if not isinstance(frame, SendResume):
            self._session.start()
        await super()._handle(frame)

    def _member(self, frame: ConversationFrame) -> Subscription | None:
        if frame.conversation_id is None:
            raise _frame_error(frame, "`conversation_id` must say which conversation is meant")
        return self._session.subscriptions.get(frame.conversation_id)

    async def _place(self, frame: ConversationFrame) -> Subscription | None:
        assert frame.conversation_id is not None
        try:
            return await self._parts.hub.place(self._session, frame.conversation_id)
        except ForeignConversation as error:
            if error.was_looked_up:
                self._flow.charge(self._parts.settings.foreign_frame_cost - 1)
            refused: PulseError = error
        except PulseError as error:
            if isinstance(frame, SendTyping):
                return None  # it may be missed
            refused = error
        self.connection.refuse(refused, getattr(frame, "client_id", None), frame.conversation_id)
        return None

    async def _resume(self, frame: SendResume) -> None:
        try:
            await self._parts.hub.resume(self._session, frame)
        except PulseError as error:
            self.connection.refuse(error)
            self._session.start()
        except StoreError:
            reason = "the conversations cannot be looked up; reconnect"
            self.connection.close(CloseCode.INTERNAL_ERROR, reason)

    def _watch(self, frame: SendWatch) -> None:
        try:
            self._parts.hub.watch(self._session, frame.user_ids)
        except PulseError as error:
            self.connection.refuse(error)


def _frame_error(frame: ConversationFrame, message: str) -> FrameError:
    error = FrameError(ErrorCode.INVALID_FRAME, message, field="conversation_id")
    error.client_id = getattr(frame, "client_id", None)
    error.conversation_id = frame.conversation_id
    return error


def _size(data: str | bytes | None) -> int:
    """Bytes of a message as it came."""
    if data is None:  # an empty binary one
        return 0
    return utf8_size(data) if isinstance(data, str) else len(data)
