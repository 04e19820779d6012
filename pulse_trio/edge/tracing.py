"""Ids that tie log lines to a request and to a connection, kept in the context of the tasks that serve them.

Tasks inherit them: the lines of a request carry its `request_id`, those of a WebSocket the `request_id` of its
handshake, and both the `connection_id` of their TCP connection.
"""

import re
import secrets
from contextvars import ContextVar
from typing import Final

from structlog.contextvars import bind_contextvars, unbind_contextvars

HEADER: Final = "X-Request-ID"

_accepted: Final[ContextVar[str | None]] = ContextVar("accepted_request", default=None)
_VALID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


def begin_connection() -> None:
    """Gives an id to the connection that this task serves."""
    bind_contextvars(connection_id=secrets.token_hex(6))


def bind_request_id(request_id: str) -> None:
    """Binds the id of a handshake in the task that serves its WebSocket from now on."""
    bind_contextvars(request_id=request_id)


def accept_request(given: list[str]) -> str:
    """Begins a request in the server: returns its id, which `begin_request` of its tasks returns as well."""
    _accepted.set(None)
    request_id = begin_request(given)
    _accepted.set(request_id)
    return request_id


def end_request() -> None:
    """Ends the request that this task served: what comes next on its connection has another id."""
    _accepted.set(None)
    unbind_contextvars("request_id")


def begin_request(given: list[str]) -> str:
    """Returns the id of the request that this task serves: the given one if it is valid, else a new one.

    Args:
        given: its `X-Request-ID` headers. Only a single short word is valid, because it goes into the log and into the
            response.
    """
    request_id = _accepted.get()
    if request_id is None:
        request_id = given[0] if len(given) == 1 and _VALID.fullmatch(given[0]) else secrets.token_hex(16)
    bind_contextvars(request_id=request_id)
    return request_id
