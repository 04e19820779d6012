"""What ties lines of the log to a request and to a connection: ids in the context of the tasks that serve them.

Tasks inherit them: a request's lines carry its `request_id`, everything about a WebSocket that of its handshake, and
both the `connection_id` of the TCP connection that they came on.
"""

import re
import secrets
from typing import Final

from structlog.contextvars import bind_contextvars

HEADER: Final = "X-Request-ID"

_VALID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


def begin_connection() -> None:
    """Gives the connection that this task serves an id."""
    bind_contextvars(connection_id=secrets.token_hex(6))


def go_on_with(request_id: str) -> None:
    """This task serves a WebSocket from now on: the one whose handshake was this request."""
    bind_contextvars(request_id=request_id)


def begin_request(given: list[str]) -> str:
    """The id of the request that this task serves: the one given with it, if it is a good one, or a new one.

    Args:
        given: its `X-Request-ID` headers. Whatever else than one short word they are is not taken: it goes into the
            log and into the answer.
    """
    request_id = given[0] if len(given) == 1 and _VALID.fullmatch(given[0]) else secrets.token_hex(16)
    bind_contextvars(request_id=request_id)
    return request_id
