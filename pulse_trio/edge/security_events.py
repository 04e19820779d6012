"""Records security events of the request or handshake that this task serves."""

from collections.abc import Callable
from typing import TypeAlias
from uuid import UUID

from quart import has_request_context, request, websocket

from pulse_trio.edge.audit import SecurityEvent
from pulse_trio.edge.services import app_parts

RecordEvent: TypeAlias = Callable[..., None]
"""Takes a `SecurityEvent` and the values of its line by their names."""


def record_event(event: SecurityEvent, *, user_id: UUID | None = None, **fields: object) -> None:
    """Records an event with the client's address; see `Audit.record`.

    Args:
        event: the event.
        user_id: the user who caused it, if known. Without one, the address is its source.
        **fields: further values of the line.
    """
    parts = app_parts()
    client = parts.proxies.client_of(request if has_request_context() else websocket)
    source = client.key if user_id is None else user_id.hex
    user = None if user_id is None else str(user_id)
    parts.audit.record(event, source, address=client.address, user_id=user, **fields)


def event_recorder(user_id: UUID) -> RecordEvent:
    """Returns a function that records events of a user after the handshake, with the address that it came from."""
    parts = app_parts()
    client = parts.proxies.client_of(websocket)

    def record(event: SecurityEvent, **fields: object) -> None:
        parts.audit.record(event, user_id.hex, address=client.address, user_id=str(user_id), **fields)

    return record


def username_digest(username: str) -> str:
    """Returns the digest of a typed username; see `Audit.digest`."""
    return app_parts().audit.digest(username)
