"""The WebSocket routes: authenticate, join, always receive, say why when it ends, leave."""

from collections.abc import Callable, Sequence
from uuid import UUID

import structlog
import trio
from quart import Blueprint, Response, g, websocket
from quart.wrappers import Websocket

from pulse_trio.edge.auth import Identity
from pulse_trio.edge.handshake import chosen_subprotocol, identify, not_a_member, refusal, resume_point
from pulse_trio.edge.outlet import current_outlet
from pulse_trio.edge.reader import MemberReader, Reader, Receive, SessionReader
from pulse_trio.edge.services import Services, services
from pulse_trio.edge.tracing import HEADER
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import parse_uuid
from pulse_trio.protocol import (
    CloseCode,
    Encoded,
    encode,
    error_frame,
)
from pulse_trio.rooms.connection import CLOSE_TIMEOUT
from pulse_trio.store.base import NotAMember, StoreError

sockets = Blueprint("sockets", __name__, url_prefix="/api/chat/ws")

log = structlog.get_logger(__name__)


@sockets.websocket("")
async def session_socket() -> Response | None:
    """All of a user's conversations on one connection."""
    socket: Websocket = websocket._get_current_object()  # type: ignore[attr-defined]  # the one behind the proxy
    try:
        parts = _parts()
        identity = await identify(parts, None)
        place = parts.limits.connections.hold(identity.user.id)
    except (PulseError, StoreError) as error:
        return refusal(error)
    with place:
        transport = _Transport(socket)
        await _accept(socket, parts)
        scope = trio.CancelScope()
        try:
            session = await parts.hub.open_session(identity.user, transport, on_ended=scope.cancel)
        except StoreError:
            reason = "the conversations cannot be looked up; reconnect"
            await _close(parts, transport, CloseCode.INTERNAL_ERROR, reason)
            return None
        reader = SessionReader(parts, session, transport.receive, scope, identity)
        await _serve(reader, leave=lambda: parts.hub.close_session(session))
    return None


@sockets.websocket("/<conversation_id>")
async def conversation_socket(conversation_id: str) -> Response | None:
    """One conversation on one connection."""
    socket: Websocket = websocket._get_current_object()  # type: ignore[attr-defined]  # the one behind the proxy
    try:
        parts = _parts()
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
        transport = _Transport(socket)
        await _accept(socket, parts)
        scope = trio.CancelScope()
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
            await _close(parts, transport, CloseCode.REMOVED, "removed from the conversation")
            return None
        except PulseError as error:
            parts.metrics.errors[error.code.code] += 1
            await transport.send([encode(error_frame(error))])
            await _close(parts, transport, CloseCode.CANNOT_RESUME, error.message)
            return None
        except StoreError:
            await _close(parts, transport, CloseCode.INTERNAL_ERROR, "the conversation cannot be opened; reconnect")
            return None
    reader = MemberReader(parts, member, transport.receive, scope, identity)
    await _serve(reader, leave=lambda: parts.hub.disconnect(key, user.id, transport))
    return None


async def _accept(socket: Websocket, parts: Services) -> None:
    """Answers a handshake that is accepted."""
    await socket.accept(headers={HEADER: g.request_id}, subprotocol=chosen_subprotocol())
    parts.metrics.handshakes[101] += 1


def _parts() -> Services:
    """The running service.

    Raises:
        PulseError: it starts or stops.
    """
    parts = services()
    if parts.hub.draining:
        raise PulseError(ErrorCode.UNAVAILABLE, "The server is restarting; reconnect in a moment")
    return parts


async def _close(parts: Services, transport: "_Transport", code: CloseCode, reason: str) -> None:
    """Closes a connection that nothing was served on."""
    parts.metrics.closes[code] += 1
    await transport.close(code, reason)


async def _serve(reader: Reader, *, leave: Callable[[], None]) -> None:
    """Reads from a connection until it ends, says why, and takes it out of the hub."""
    connection = reader.connection
    try:
        with reader.scope:
            await reader.receive()
        if reader.is_expired():
            connection.close(CloseCode.TOKEN_EXPIRED, "the token has expired; reconnect with a new one")
    except Exception:
        # Left to Quart this would close with 1000, and disappear if the client leaves meanwhile.
        log.exception("a connection failed", user_id=str(connection.user.id))
        connection.close(CloseCode.INTERNAL_ERROR, "something went wrong here; reconnect")
    finally:
        leave()
    await _wait_for_close(reader.take)


async def _wait_for_close(receive: Receive) -> None:
    """Gives the client a moment to answer our close frame; ends as soon as it has gone."""
    with trio.move_on_after(CLOSE_TIMEOUT):
        while True:
            await receive()


class _Transport:
    """A member's connection over Quart's WebSocket."""

    __slots__ = ("_outlet", "_socket", "abandon", "flush", "receive", "write_now")

    def __init__(self, socket: Websocket) -> None:
        self._socket = socket
        self._outlet = outlet = current_outlet()
        self.write_now = outlet.write_now  # bound here, once: it is called for every frame of every member
        self.flush = outlet.flush
        self.abandon = outlet.abandon
        self.receive: Receive = outlet.divert() or socket.receive

    @property
    def is_behind(self) -> bool:
        return self._outlet.is_behind

    async def send(self, frames: Sequence[Encoded]) -> None:
        if not await self._outlet.send(b"".join(frame.wire for frame in frames)):
            for frame in frames:
                await self._socket.send(frame.text)

    async def close(self, code: int, reason: str) -> None:
        await self._socket.close(code, reason)
