"""The WebSocket route: authenticate, join, always receive, say why when it ends, leave."""

from typing import Final
from uuid import UUID

import structlog
import trio
from quart import Blueprint, Response, websocket
from quart.wrappers import Websocket

from pulse_trio.edge.auth import Identity
from pulse_trio.edge.handshake import chosen_subprotocol, identify, not_a_member, refusal, resume_point
from pulse_trio.edge.limits import Flow, Verdict
from pulse_trio.edge.rest.operation import database_away
from pulse_trio.edge.services import Services, services
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import parse_uuid
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
    SendTyping,
    encode,
    error_frame,
)
from pulse_trio.rooms.member import CLOSE_TIMEOUT, Member
from pulse_trio.store.base import NotAMember, StoreError
from pulse_trio.texts import utf8_size

sockets = Blueprint("sockets", __name__, url_prefix="/api/chat/ws")

_PONG: Final = encode(PongFrame())

log = structlog.get_logger(__name__)


@sockets.websocket("/<conversation_id>")
async def conversation_socket(conversation_id: str) -> Response | None:
    """One conversation on one connection."""
    socket: Websocket = websocket._get_current_object()  # type: ignore[attr-defined]  # the one behind the proxy
    try:
        parts = services()
        if parts.hub.draining:
            raise PulseError(ErrorCode.UNAVAILABLE, "The server is restarting; reconnect in a moment")
        key = parse_uuid(conversation_id)
        identity = await identify(parts, key)
        after_rev = resume_point()
        place = parts.limits.connections.hold(identity.user.id)
    except (PulseError, StoreError) as error:
        return refusal(error)
    with place:
        return await _converse(socket, parts, identity, key, after_rev)


async def _converse(
    socket: Websocket, parts: Services, identity: Identity, key: UUID | None, after_rev: int | None
) -> Response | None:
    user = identity.user
    if key is None:
        return refusal(not_a_member())
    with parts.hub.joining(key, user.id) as ticket:
        try:
            if not await parts.store.is_member(key, user.id):
                raise not_a_member()
        except (PulseError, StoreError) as error:
            return refusal(error)
        await socket.accept(subprotocol=chosen_subprotocol())
        scope = trio.CancelScope()
        transport = _Transport(socket)
        try:
            member = await parts.hub.connect(
                key,
                user,
                transport,
                ticket=ticket,
                on_ended=scope.cancel,
                after_rev=after_rev,
                epoch=socket.args.get("epoch"),
            )
        except NotAMember:
            await transport.close(CloseCode.REMOVED, "removed from the conversation")
            return None
        except PulseError as error:
            await transport.send(encode(error_frame(error)).text)
            await transport.close(CloseCode.CANNOT_RESUME, error.message)
            return None
        except StoreError:
            await transport.close(CloseCode.INTERNAL_ERROR, "the conversation cannot be opened; reconnect")
            return None
    connection = _Connection(parts, key, member, scope, identity)
    try:
        with scope:
            await connection.receive()
        if connection.is_expired():
            member.close(CloseCode.TOKEN_EXPIRED, "the token has expired; reconnect with a new one")
    except Exception:
        # Left to Quart this would close with 1000, and disappear if the client leaves meanwhile.
        log.exception("a connection failed", conversation_id=str(key), user_id=str(user.id))
        member.close(CloseCode.INTERNAL_ERROR, "something went wrong here; reconnect")
    finally:
        parts.hub.disconnect(key, user.id, transport)
    await _wait_for_close(socket)
    return None


class _Connection:
    """What comes in on a connection to one conversation, for as long as its token is good.

    `scope` is the one that `receive` runs in: its deadline is the end of the token.
    """

    __slots__ = ("_conversation_id", "_expires", "_flow", "_member", "_parts", "_scope")

    def __init__(
        self, parts: Services, conversation_id: UUID, member: Member, scope: trio.CancelScope, identity: Identity
    ) -> None:
        self._parts = parts
        self._conversation_id = conversation_id
        self._member = member
        self._scope = scope
        self._flow = Flow(parts.settings)
        self._expires = 0.0
        self._lease(identity)

    def _lease(self, identity: Identity) -> int:
        self._expires = identity.expires
        remaining = identity.expires - self._parts.clock().timestamp()
        self._scope.deadline = trio.current_time() + remaining
        return int(remaining)

    def is_expired(self) -> bool:
        """Whether the token is no longer good: by the wall clock, or by the time that it was good for."""
        is_over = trio.current_time() >= self._scope.deadline
        return is_over or self._parts.clock().timestamp() >= self._expires

    async def receive(self) -> None:
        """Takes what the client sends, one frame after the other, until the connection or the token ends.

        Returns when the token has expired, or when the client floods: its member is then closed.

        Cancelled: when the client has gone, the member's task has ended, or the token has expired.
        """
        while not self.is_expired():
            data = await websocket.receive()
            verdict = self._flow.judge(_size(data))
            if verdict is Verdict.CLOSE:
                self._member.close(CloseCode.FLOODING, "sending too much; reconnect, and send more slowly")
                return
            if verdict is not Verdict.TAKE:
                if verdict is Verdict.REFUSE_ALOUD:
                    self._tell_refused(data)
                continue
            try:
                await self._handle(self._parts.frames.read(data))
            except FrameError as error:
                self._member.deliver(encode(error_frame(error, error.client_id)))

    def _tell_refused(self, data: str | bytes | None) -> None:
        """Tells the client that a frame was refused by its rate, whatever is in it."""
        try:
            client_id = getattr(self._parts.frames.read(data), "client_id", None)
        except FrameError as error:
            client_id = error.client_id
        refused = PulseError(ErrorCode.RATE_LIMITED, "Too much at once; wait a second, and send it again more slowly")
        self._member.deliver(encode(error_frame(refused, client_id)))

    async def _handle(self, frame: ClientFrame) -> None:
        hub, member = self._parts.hub, self._member
        match frame:
            case SendMessage():
                await hub.send_message(self._conversation_id, member, frame)
            case EditMessage() | DeleteMessage():
                await hub.send_revision(self._conversation_id, member, frame)
            case SendTyping():
                hub.send_typing(self._conversation_id, member)
            case SendPing():
                member.deliver(_PONG, ephemeral=True)
            case SendAuth():
                await self._renew(frame.token)

    async def _renew(self, token: str) -> None:
        try:
            identity = await self._parts.authenticator.authenticate(token)
            if identity.user.id != self._member.user.id:
                raise PulseError(ErrorCode.INVALID_TOKEN, "The token is another user's")
        except PulseError as error:
            self._member.deliver(encode(error_frame(error)))
        except StoreError:
            self._member.deliver(encode(error_frame(database_away())))
        else:
            self._member.deliver(encode(AuthFrame(expires_in=self._lease(identity))))


async def _wait_for_close(socket: Websocket) -> None:
    """Gives the client a moment to answer our close frame; ends as soon as it has gone."""
    with trio.move_on_after(CLOSE_TIMEOUT):
        while True:
            await socket.receive()


class _Transport:
    """A member's connection over Quart's WebSocket."""

    __slots__ = ("_socket",)

    def __init__(self, socket: Websocket) -> None:
        self._socket = socket

    async def send(self, text: str) -> None:
        await self._socket.send(text)

    async def close(self, code: int, reason: str) -> None:
        await self._socket.close(code, reason)


def _size(data: str | bytes | None) -> int:
    """Bytes of a message as it came."""
    if data is None:  # an empty binary one
        return 0
    return utf8_size(data) if isinstance(data, str) else len(data)
