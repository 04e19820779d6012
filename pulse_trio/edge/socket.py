"""The WebSocket route: authenticate, join, always receive, say why when it ends, leave."""

from typing import Final
from uuid import UUID

import structlog
import trio
from quart import Blueprint, Response, websocket
from quart.wrappers import Websocket

from pulse_trio.edge.auth import bearer_token
from pulse_trio.edge.rest.operation import error_answer
from pulse_trio.edge.services import Services, services
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import parse_uuid
from pulse_trio.protocol import (
    BEARER_PREFIX,
    SUBPROTOCOL,
    CloseCode,
    FrameError,
    PongFrame,
    SendMessage,
    SendTyping,
    encode,
    error_frame,
)
from pulse_trio.rooms.member import CLOSE_TIMEOUT, Member
from pulse_trio.store.base import NotAMember, StoreError

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
        _check_origin(parts)
        user = await parts.authenticator.authenticate(_token())
    except (PulseError, StoreError) as error:
        return _refusal(error)
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
            member = await parts.hub.connect(key, user, transport, ticket=ticket, on_ended=scope.cancel)
        except NotAMember:
            await transport.close(CloseCode.REMOVED, "removed from the conversation")
            return None
        except StoreError:
            await transport.close(CloseCode.INTERNAL_ERROR, "the conversation cannot be opened; reconnect")
            return None
    try:
        with scope:
            await _receive(parts, key, member)
    except Exception:
        # Left to Quart this would close with 1000, and disappear if the client leaves meanwhile.
        log.exception("a connection failed", conversation_id=str(key), user_id=str(user.id))
        member.close(CloseCode.INTERNAL_ERROR, "something went wrong here; reconnect")
    finally:
        parts.hub.disconnect(key, user.id, transport)
    await _wait_for_close(socket)
    return None


async def _receive(parts: Services, conversation_id: UUID, member: Member) -> None:
    """Takes what the client sends, one frame after the other, until the connection ends.

    Cancelled: when the client has gone, or the member's task has ended.
    """
    while True:
        data = await websocket.receive()
        try:
            frame = parts.frames.read(data)
        except FrameError as error:
            member.deliver(encode(error_frame(error, error.client_id)))
            continue
        if isinstance(frame, SendMessage):
            await parts.hub.send_message(conversation_id, member, frame)
        elif isinstance(frame, SendTyping):
            parts.hub.send_typing(conversation_id, member)
        else:
            member.deliver(_PONG, ephemeral=True)


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


def _token() -> str | None:
    """The token, from where a client can put it: a header, a subprotocol entry, or the URL."""
    token = bearer_token(websocket.headers.get("Authorization"))
    if token is None:
        entries = websocket.requested_subprotocols
        token = next((e.removeprefix(BEARER_PREFIX) for e in entries if e.startswith(BEARER_PREFIX)), None)
    return websocket.args.get("token") if token is None else token


def _check_origin(parts: Services) -> None:
    headers = websocket.headers
    if not parts.origins.allows(headers.get("Origin"), headers.get("Host")):
        raise PulseError(ErrorCode.ORIGIN_NOT_ALLOWED, "Pages of this origin may not connect")


def _not_a_member() -> PulseError:
    return PulseError(ErrorCode.NOT_A_MEMBER, "You are not a member of this conversation, or it does not exist")


def _refusal(error: PulseError | StoreError) -> Response:
    """The HTTP answer that takes the place of the upgrade."""
    if isinstance(error, StoreError):
        error = PulseError(ErrorCode.UNAVAILABLE, "The database does not answer; try again in a moment")
    response = error_answer(error)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
