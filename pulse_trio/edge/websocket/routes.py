"""The WebSocket routes: authenticate, subscribe, read frames, close with a reason, leave."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from functools import partial
from typing import TypeAlias
from uuid import UUID

import structlog
import trio
from quart import Blueprint, Response, g, websocket
from quart.wrappers import Websocket

from pulse_trio.auth.tokens import Identity
from pulse_trio.edge.limits import Flow
from pulse_trio.edge.security_events import RecordEvent, event_recorder
from pulse_trio.edge.server.transport import ConnectionEnded, Transport, open_transport
from pulse_trio.edge.services import Services, services
from pulse_trio.edge.tracing import HEADER, bind_request_id
from pulse_trio.edge.websocket.handshake import (
    ResumePoint,
    admit,
    asked_features,
    chosen_subprotocol,
    identify,
    reject_resume_point,
    rejection,
    resume_point,
)
from pulse_trio.edge.websocket.reader import Reader, Receive
from pulse_trio.edge.websocket.reader_scopes import AllConversations, OwnConversation
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import parse_uuid
from pulse_trio.model import Features
from pulse_trio.protocol import (
    CloseCode,
)
from pulse_trio.rooms.connection import CLOSE_TIMEOUT, encode_refusal
from pulse_trio.store.base import NotAMember, StoreError

sockets = Blueprint("sockets", __name__, url_prefix="/api/chat/ws")

Joined: TypeAlias = tuple[Transport, Reader, Callable[[], None]]
"""The transport and the reader of a connection that has joined, and the function by which it leaves."""
Join: TypeAlias = Callable[[], Awaitable[Joined | None]]
"""Joins what a connection is for; returns None after it has closed a connection that cannot be served."""

log = structlog.get_logger(__name__)


@sockets.websocket("")
async def session_socket() -> Response | None:
    """Serves all of a user's conversations on one connection."""
    identity: Identity | None = None
    with ExitStack() as held:
        try:
            service = _running_service()
            identity = await identify(service)
            reject_resume_point()
            features = asked_features(is_session=True)
            slot = service.limits.connections.hold(identity.user.id)
            held.push(slot)
        except (PulseError, StoreError) as error:
            return rejection(error, identity)
        record = event_recorder(identity.user.id)
        transport = await _accept(service)
        held.pop_all()  # from here on `_serve` gives it back
    await _hand_over(transport, slot, partial(_open_session, service, transport, identity, record, features))
    return None


async def _open_session(
    service: Services, transport: Transport, identity: Identity, record: RecordEvent, features: Features
) -> Joined | None:
    lifetime = trio.CancelScope()
    try:
        session = await service.hub.lobby.open(identity.user, transport, on_ended=lifetime.cancel, features=features)
    except StoreError:
        reason = "the conversations cannot be looked up; reconnect"
        await _close(service, transport, CloseCode.INTERNAL_ERROR, reason)
        return None
    flow = Flow(service.settings)
    scope = AllConversations(service, session, flow)
    reader = Reader(service, scope, flow, transport.receive, lifetime, identity, record)
    return transport, reader, partial(service.hub.lobby.close, session)


@sockets.websocket("/<conversation_id>")
async def conversation_socket(conversation_id: str) -> Response | None:
    """Serves one conversation on one connection."""
    identity: Identity | None = None
    with ExitStack() as held:
        try:
            service = _running_service()
            key = parse_uuid(conversation_id)
            identity, member_rev = await admit(service, key)
            point = resume_point()
            features = asked_features(is_session=False)
            slot = service.limits.connections.hold(identity.user.id)
            held.push(slot)
            if key is None or member_rev is None:
                raise PulseError(ErrorCode.NOT_A_MEMBER)
        except (PulseError, StoreError) as error:
            return rejection(error, identity)
        record = event_recorder(identity.user.id)
        transport = await _accept(service)
        held.pop_all()  # from here on `_serve` gives it back
    join = partial(_join_conversation, service, transport, identity, record, key, member_rev, point, features)
    await _hand_over(transport, slot, join)
    return None


async def _join_conversation(
    service: Services,
    transport: Transport,
    identity: Identity,
    record: RecordEvent,
    key: UUID,
    member_rev: int,
    point: ResumePoint,
    features: Features,
) -> Joined | None:
    user = identity.user
    lifetime = trio.CancelScope()
    try:
        member = await service.hub.connect(
            key,
            user,
            transport,
            member_rev=member_rev,
            features=features,
            on_ended=lifetime.cancel,
            after_rev=point.after_rev,
            epoch=point.epoch,
        )
    except NotAMember:
        await _close(service, transport, CloseCode.REMOVED, "removed from the conversation")
    except PulseError as error:
        await transport.send([encode_refusal(service.metrics, error)])
        await _close(service, transport, CloseCode.CANNOT_RESUME, error.message)
    except StoreError:
        await _close(service, transport, CloseCode.INTERNAL_ERROR, "the conversation cannot be opened; reconnect")
    else:
        flow = Flow(service.settings)
        reader = Reader(service, OwnConversation(member), flow, transport.receive, lifetime, identity, record)
        return transport, reader, partial(service.hub.disconnect, key, user.id, transport)
    return None


def _running_service() -> Services:
    """Returns the running service.

    Raises:
        PulseError: it is starting or stopping.
    """
    service = services()
    if service.hub.draining:
        raise PulseError(ErrorCode.UNAVAILABLE, "The server is restarting; reconnect in a moment")
    return service


async def _accept(service: Services) -> Transport:
    """Accepts the handshake."""
    socket: Websocket = websocket._get_current_object()  # type: ignore[attr-defined]  # the one behind the proxy
    transport = open_transport(socket)
    await socket.accept(headers={HEADER: g.request_id}, subprotocol=chosen_subprotocol())
    service.metrics.handshakes[101] += 1
    return transport


async def _hand_over(transport: Transport, slot: AbstractContextManager[object], join: Join) -> None:
    """Serves the connection, in its own task if it has one; the log lines there carry the handshake's request id.

    Args:
        transport: the connection.
        slot: held until the connection has ended.
        join: joins what the connection is for.
    """
    request_id: str = g.request_id

    def begin() -> Awaitable[None]:
        bind_request_id(request_id)
        return _serve(slot, join)

    await transport.serve(begin)


async def _close(service: Services, transport: Transport, code: CloseCode, reason: str) -> None:
    """Closes a connection that was accepted and could not be served."""
    service.metrics.closes[code] += 1
    await transport.close(code, reason)


async def _serve(slot: AbstractContextManager[object], join: Join) -> None:
    """Joins, and reads frames until the connection ends, closes it with the reason, and removes it from the hub.

    All in one frame, as it stays in memory for as long as the connection is open.
    """
    with slot:
        joined = await join()
        del join  # its arguments are not needed any more
        if joined is None:
            return
        transport, reader, leave = joined
        connection = reader.connection
        try:
            with reader.lifetime:
                transport.take_by(reader.take_now)
                await reader.read_frames()
            if reader.is_expired():
                connection.close(CloseCode.TOKEN_EXPIRED, "the token has expired; reconnect with a new one")
        except ConnectionEnded:
            return
        except Exception:
            # Quart would close with 1000, and would log nothing if the client leaves meanwhile.
            log.exception("connection failed", user_id=str(connection.user.id))
            connection.close(CloseCode.INTERNAL_ERROR, "something went wrong here; reconnect")
        finally:
            transport.take_by(None)
            leave()
        await _wait_closed(reader.receive)


async def _wait_closed(receive: Receive) -> None:
    """Waits until the client has answered our close frame or has gone, for at most `CLOSE_TIMEOUT` seconds."""
    with trio.move_on_after(CLOSE_TIMEOUT), suppress(ConnectionEnded):
        while True:
            await receive()
