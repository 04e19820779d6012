"""The conversations that the frames of a connection may be about: its own one, or all of a session."""

from typing import Protocol
from uuid import UUID

from pulse_trio.edge.limits import Flow
from pulse_trio.edge.services import Services
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.protocol import (
    AboutConversation,
    ClientFrame,
    CloseCode,
    FrameError,
    SendResume,
    SendTyping,
    SendWatch,
)
from pulse_trio.rooms.connection import Connection
from pulse_trio.rooms.member_updates import ForeignConversation
from pulse_trio.rooms.session import Session
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.store.base import StoreError


class Scope(Protocol):
    """The conversations of a connection, as its reader uses them."""

    @property
    def connection(self) -> Connection:
        """The connection."""

    def before(self, frame: ClientFrame) -> None:
        """Prepares for a frame, before it is handled."""

    async def subscription(self, frame: AboutConversation) -> Subscription | None:
        """Finds the connection's subscription of the conversation that a frame is about.

        Returns:
            The subscription; None if there is none, and the frame was refused if it must be.

        Raises:
            FrameError: the frame names a wrong conversation, or none.
        """

    def known_subscription(self, frame: AboutConversation) -> Subscription | None:
        """Returns the subscription if it is known and `before` has nothing to do; else None, with nothing done."""

    async def handle_session_frame(self, frame: SendResume | SendWatch) -> None:
        """Handles a frame about the session. Raises FrameError on a conversation's own connection."""


class OwnConversation:
    """The one conversation of a connection."""

    __slots__ = ("_own", "connection")

    def __init__(self, own: Subscription) -> None:
        self._own = own
        self.connection = own.connection

    def before(self, frame: ClientFrame) -> None:
        pass

    async def subscription(self, frame: AboutConversation) -> Subscription | None:
        if frame.conversation_id is not None and frame.conversation_id != self._own.conversation_id:
            raise _conversation_error(frame, "`conversation_id` is not this connection's conversation; leave it out")
        return self._own

    def known_subscription(self, frame: AboutConversation) -> Subscription | None:
        is_own = frame.conversation_id is None or frame.conversation_id == self._own.conversation_id
        return self._own if is_own else None

    async def handle_session_frame(self, frame: SendResume | SendWatch) -> None:
        name, advice = ("resume", "; use `after` here") if isinstance(frame, SendResume) else ("watch", "")
        raise FrameError(ErrorCode.INVALID_FRAME, f"`{name}` is for session connections{advice}", field="type")


class AllConversations:
    """All conversations of a session's user. The connection's first frame starts the session.

    Args:
        service: the running service.
        session: the session.
        flow: pays for look-ups: of conversations that the user is not in, and of watched users.
    """

    __slots__ = ("_flow", "_service", "_session", "connection")

    def __init__(self, service: Services, session: Session, flow: Flow) -> None:
        self._service = service
        self._session = session
        self._flow = flow
        self.connection = session.connection

    def before(self, frame: ClientFrame) -> None:
        if not isinstance(frame, SendResume):  # which starts the session after it has resumed
            self._session.start()

    async def subscription(self, frame: AboutConversation) -> Subscription | None:
        key = frame.conversation_id
        if key is None:
            raise _conversation_error(frame, "`conversation_id` is missing: name the conversation")
        return self._session.subscriptions.get(key) or await self._look_up(frame, key)

    def known_subscription(self, frame: AboutConversation) -> Subscription | None:
        key = frame.conversation_id
        return None if key is None or not self._session.is_started else self._session.subscriptions.get(key)

    async def _look_up(self, frame: AboutConversation, key: UUID) -> Subscription | None:
        try:
            return await self._service.hub.members.find_subscription(self._session, key)
        except ForeignConversation as error:
            if error.was_looked_up:
                self._flow.charge(self._service.settings.foreign_frame_cost - 1)
            refused: PulseError = error
        except PulseError as error:
            if isinstance(frame, SendTyping):
                return None  # ephemeral: no error for it
            refused = error
        self.connection.refuse(refused, getattr(frame, "client_id", None), key)
        return None

    async def handle_session_frame(self, frame: SendResume | SendWatch) -> None:
        match frame:
            case SendResume():
                await self._resume(frame)
            case SendWatch():
                self._flow.charge(len(frame.user_ids) // self._service.settings.watched_users_per_frame)
                self._watch(frame)

    async def _resume(self, frame: SendResume) -> None:
        try:
            await self._service.hub.lobby.resume(self._session, frame)
        except PulseError as error:
            self.connection.refuse(error)
            self._session.start()
        except StoreError:
            reason = "the conversations cannot be looked up; reconnect"
            self.connection.close(CloseCode.INTERNAL_ERROR, reason)

    def _watch(self, frame: SendWatch) -> None:
        try:
            self._service.hub.watches.watch(self._session.connection, frame.user_ids)
        except PulseError as error:
            self.connection.refuse(error)


def _conversation_error(frame: AboutConversation, message: str) -> FrameError:
    error = FrameError(ErrorCode.INVALID_FRAME, message, field="conversation_id")
    error.client_id = getattr(frame, "client_id", None)
    error.conversation_id = frame.conversation_id
    return error
