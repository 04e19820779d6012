"""The WebSocket route: authenticate, join, always receive, say why when it ends, leave."""

from typing import Final
from uuid import UUID

import structlog
import trio
from quart import Blueprint, Response, websocket
from quart.wrappers import Websocket

from pulse_trio.edge.auth import Identity, bearer_token
from pulse_trio.edge.limits import Flow, Verdict
from pulse_trio.edge.rest.operation import database_away, error_answer
from pulse_trio.edge.services import Services, services
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import parse_uuid
from pulse_trio.protocol import (
    BEARER_PREFIX,
    SUBPROTOCOL,
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

REV_MOST_DIGITS: Final = 18  # below 2**63, what the database counts to

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
        _check_origin(parts)
        identity = await parts.authenticator.authenticate(_token())
        after_rev = _after()
        place = parts.limits.connections.hold(identity.user.id)
    except (PulseError, StoreError) as error:
        return _refusal(error)
    with place:
        return await _converse(socket, parts, identity, conversation_id, after_rev)


async def _converse(
    socket: Websocket, parts: Services, identity: Identity, conversation_id: str, after_rev: int | None
) -> Response | None:
    user = identity.user
    key = parse_uuid(conversation_id)
    if key is None:
        return _refusal(_not_a_member())
    with parts.hub.joining(key, user.id) as ticket:
        try:
            if not await parts.store.is_member(key, user.id):
                raise _not_a_member()
        except (PulseError, StoreError) as error:
            return _refusal(error)
        chosen = SUBPROTOCOL if SUBPROTOCOL in socket.requested_subprotocols else None
        await socket.accept(subprotocol=chosen)
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


def _token() -> str | None:
    """The token, from where a client can put it: a header, a subprotocol entry, or the URL."""
    token = bearer_token(websocket.headers.get("Authorization"))
    if token is None:
        entries = websocket.requested_subprotocols
        token = next((e.removeprefix(BEARER_PREFIX) for e in entries if e.startswith(BEARER_PREFIX)), None)
    return websocket.args.get("token") if token is None else token


def _after() -> int | None:
    """Where the client wants to resume: the last rev that it has seen.

    Raises:
        PulseError: it is not a number.
    """
    text = websocket.args.get("after")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= REV_MOST_DIGITS):
        raise PulseError(ErrorCode.INVALID_FIELD, "`after` must be a rev: a whole number, 0 or more", field="after")
    return int(text)


def _check_origin(parts: Services) -> None:
    headers = websocket.headers
    # A browser sends one. Of several each must be allowed: whoever comes first must not speak for the others.
    if not all(parts.origins.allows(origin, headers.get("Host")) for origin in headers.getlist("Origin")):
        raise PulseError(ErrorCode.ORIGIN_NOT_ALLOWED, "Pages of this origin may not connect")


def _not_a_member() -> PulseError:
    return PulseError(ErrorCode.NOT_A_MEMBER, "You are not a member of this conversation, or it does not exist")


def _refusal(error: PulseError | StoreError) -> Response:
    """The HTTP answer that takes the place of the upgrade."""
    response = error_answer(database_away() if isinstance(error, StoreError) else error)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
