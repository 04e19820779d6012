"""The WebSocket routes: authenticate, join, always receive, say why when it ends, leave."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial
from uuid import UUID

import structlog
import trio
from quart import Blueprint, Response, g, websocket
from quart.wrappers import Websocket

from pulse_trio.auth.tokens import Identity
from pulse_trio.edge.server.outlet import ConnectionEnded, current_outlet
from pulse_trio.edge.services import Services, services
from pulse_trio.edge.tracing import HEADER, go_on_with
from pulse_trio.edge.websocket.handshake import (
    ResumePoint,
    chosen_subprotocol,
    identify,
    not_a_member,
    refusal,
    refuse_resume_point,
    resume_point,
)
from pulse_trio.edge.websocket.reader import MemberReader, Reader, Receive, SessionReader
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import parse_uuid
from pulse_trio.protocol import (
    CloseCode,
    Encoded,
)
from pulse_trio.rooms.connection import CLOSE_TIMEOUT, encode_refusal
from pulse_trio.rooms.membership import PendingJoin
from pulse_trio.store.base import NotAMember, StoreError

sockets = Blueprint("sockets", __name__, url_prefix="/api/chat/ws")

log = structlog.get_logger(__name__)


@sockets.websocket("")
async def session_socket() -> Response | None:
    """All of a user's conversations on one connection."""
    with ExitStack() as held:
        try:
            parts = _parts()
            identity = await identify(parts, None)
            refuse_resume_point()
            place = parts.limits.connections.hold(identity.user.id)
            held.push(place)
        except (PulseError, StoreError) as error:
            return refusal(error)
        transport = await _accept(parts)
        held.pop_all()  # whoever serves the connection gives it up
    await transport.serve(partial(_serve_session, parts, transport, identity, place))
    return None


async def _serve_session(
    parts: Services, transport: "_Transport", identity: Identity, place: AbstractContextManager[object]
) -> None:
    with place:
        scope = trio.CancelScope()
        try:
            session = await parts.hub.open_session(identity.user, transport, on_ended=scope.cancel)
        except StoreError:
            reason = "the conversations cannot be looked up; reconnect"
            await _close(parts, transport, CloseCode.INTERNAL_ERROR, reason)
            return
        reader = SessionReader(parts, session, transport.receive, scope, identity)
        await _serve(reader, leave=partial(parts.hub.close_session, session))


@sockets.websocket("/<conversation_id>")
async def conversation_socket(conversation_id: str) -> Response | None:
    """One conversation on one connection."""
    with ExitStack() as held:
        try:
            parts = _parts()
            key = parse_uuid(conversation_id)
            identity = await identify(parts, key)
            point = resume_point()
            place = parts.limits.connections.hold(identity.user.id)
            held.push(place)
            if key is None:
                raise not_a_member()
            ticket = parts.hub.pending_join(key, identity.user.id)
            held.push(ticket)
            version = await parts.store.membership(key, identity.user.id)
            if version is None:
                raise not_a_member()
            ticket.version = version
        except (PulseError, StoreError) as error:
            return refusal(error)
        transport = await _accept(parts)
        held.pop_all()  # whoever serves the connection gives them up
    await transport.serve(partial(_serve_conversation, parts, transport, identity, key, point, place, ticket))
    return None


async def _serve_conversation(
    parts: Services,
    transport: "_Transport",
    identity: Identity,
    key: UUID,
    point: ResumePoint,
    place: AbstractContextManager[object],
    ticket: PendingJoin,
) -> None:
    user = identity.user
    scope = trio.CancelScope()
    with place:
        try:
            with ticket:
                member = await parts.hub.connect(
                    key,
                    user,
                    transport,
                    pending=ticket,
                    on_ended=scope.cancel,
                    after_rev=point.after_rev,
                    epoch=point.epoch,
                )
        except NotAMember:
            await _close(parts, transport, CloseCode.REMOVED, "removed from the conversation")
            return
        except PulseError as error:
            await transport.send([encode_refusal(parts.metrics, error)])
            await _close(parts, transport, CloseCode.CANNOT_RESUME, error.message)
            return
        except StoreError:
            await _close(parts, transport, CloseCode.INTERNAL_ERROR, "the conversation cannot be opened; reconnect")
            return
        reader = MemberReader(parts, member, transport.receive, scope, identity)
        await _serve(reader, leave=partial(parts.hub.disconnect, key, user.id, transport))


def _parts() -> Services:
    """The running service.

    Raises:
        PulseError: it starts or stops.
    """
    parts = services()
    if parts.hub.draining:
        raise PulseError(ErrorCode.UNAVAILABLE, "The server is restarting; reconnect in a moment")
    return parts


async def _accept(parts: Services) -> "_Transport":
    """Answers the handshake that is under way."""
    socket: Websocket = websocket._get_current_object()  # type: ignore[attr-defined]  # the one behind the proxy
    transport = _Transport(socket)
    await socket.accept(headers={HEADER: g.request_id}, subprotocol=chosen_subprotocol())
    parts.metrics.handshakes[101] += 1
    return transport


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
    except ConnectionEnded:
        return
    except Exception:
        # Left to Quart this would close with 1000, and disappear if the client leaves meanwhile.
        log.exception("a connection failed", user_id=str(connection.user.id))
        connection.close(CloseCode.INTERNAL_ERROR, "something went wrong here; reconnect")
    finally:
        leave()
    await _wait_for_close(reader.take)


async def _wait_for_close(receive: Receive) -> None:
    """Gives the client a moment to answer our close frame; ends as soon as it has gone."""
    with trio.move_on_after(CLOSE_TIMEOUT), suppress(ConnectionEnded):
        while True:
            await receive()


class _Transport:
    """A member's connection: by its outlet, or over Quart's WebSocket where that has no short way."""

    __slots__ = ("_outlet", "_socket", "abandon", "flush", "receive", "write_now")

    def __init__(self, socket: Websocket) -> None:
        self._outlet = outlet = current_outlet()
        self.write_now = outlet.write_now
        self.flush = outlet.flush
        self.abandon = outlet.abandon
        receive = outlet.divert()
        self.receive: Receive = socket.receive if receive is None else receive
        # Where there is a short way nothing of the framework's is kept for as long as the connection lasts.
        self._socket = socket if receive is None else None

    async def serve(self, serve: Callable[[], Awaitable[None]]) -> None:
        """Runs `serve`, in the connection's own task if it can be: then this returns at once."""
        request_id: str = g.request_id

        def begin() -> Awaitable[None]:
            go_on_with(request_id)
            return serve()

        if not self._outlet.carry_on(begin):
            await serve()

    async def send(self, frames: Sequence[Encoded]) -> None:
        if not await self._outlet.send(b"".join(frame.wire for frame in frames)):
            assert self._socket is not None
            for frame in frames:
                await self._socket.send(frame.text)

    async def close(self, code: int, reason: str) -> None:
        if not await self._outlet.close(code, reason):
            assert self._socket is not None
            await self._socket.close(code, reason)
