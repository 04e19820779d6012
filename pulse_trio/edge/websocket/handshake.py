"""What a WebSocket handshake must show before it is accepted: origin, token, where to resume."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from quart import Response, websocket

from pulse_trio.auth.tokens import Identity, bearer_token
from pulse_trio.edge.responses import database_away, error_answer
from pulse_trio.edge.services import Services, app_parts
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.protocol import BEARER_PREFIX, SUBPROTOCOL
from pulse_trio.store.base import StoreError

REV_MOST_DIGITS: Final = 18  # below 2**63, what the database counts to


async def identify(parts: Services, conversation_id: UUID | None) -> Identity:
    """Whose handshake it is; `conversation_id` is what it asks for, None for a session.

    Raises:
        PulseError: the origin may not connect, or the token or ticket is missing or no good.
        StoreUnavailable: the user could not be looked up.
    """
    _check_origin()  # first, so that no page of another site uses a ticket up
    ticket = websocket.args.get("ticket")
    if ticket is not None:  # whatever else there is: who draws one means it
        return parts.tickets.redeem(ticket, conversation_id)
    return await parts.authenticator.authenticate(_token(parts))


def chosen_subprotocol() -> str | None:
    """The subprotocol that the answer names, if the client offers it; never one that carries a token."""
    return SUBPROTOCOL if SUBPROTOCOL in websocket.requested_subprotocols else None


def _token(parts: Services) -> str | None:
    """The token, from where a client can put it: a header, a subprotocol entry, or the URL.

    Raises:
        PulseError: it is in the URL, and must not be.
    """
    token = bearer_token(websocket.headers.get("Authorization"))
    if token is None:
        entries = websocket.requested_subprotocols
        token = next((e.removeprefix(BEARER_PREFIX) for e in entries if e.startswith(BEARER_PREFIX)), None)
    if token is None:
        token = websocket.args.get("token")
        if token is not None and not parts.settings.token_in_url:
            message = "A token in the URL is not taken here; use a ticket, a header or a subprotocol entry"
            raise PulseError(ErrorCode.NOT_AUTHENTICATED, message)
    return token


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a client wants to resume.

    Args:
        after_rev: the last rev that it has seen; None: it does not resume.
        epoch: the history that it belongs to, if the client knows it.
    """

    after_rev: int | None
    epoch: str | None


def resume_point() -> ResumePoint:
    """What the handshake says of resuming.

    Raises:
        PulseError: its `after` is not a number.
    """
    text = websocket.args.get("after")
    if text is not None and not (text.isascii() and text.isdigit() and len(text) <= REV_MOST_DIGITS):
        raise PulseError(ErrorCode.INVALID_FIELD, "`after` must be a rev: a whole number, 0 or more", field="after")
    return ResumePoint(None if text is None else int(text), websocket.args.get("epoch"))


def refuse_resume_point() -> None:
    """For a handshake that cannot have one: its client would believe that it goes on there, and miss what it missed.

    Raises:
        PulseError: it has.
    """
    for name in ("after", "epoch"):
        if name in websocket.args:
            message = f"`{name}` is for one conversation; a session goes on with a `resume` frame"
            raise PulseError(ErrorCode.INVALID_FIELD, message, field=name)


def _check_origin() -> None:
    headers, origins = websocket.headers, app_parts().origins
    # A browser sends one. Of several each must be allowed: whoever comes first must not speak for the others.
    if not all(origins.allows(origin, headers.get("Host")) for origin in headers.getlist("Origin")):
        raise PulseError(ErrorCode.ORIGIN_NOT_ALLOWED, "Pages of this origin may not connect")


def not_a_member() -> PulseError:
    return PulseError(ErrorCode.NOT_A_MEMBER, "You are not a member of this conversation, or it does not exist")


def refusal(error: PulseError | StoreError) -> Response:
    """The HTTP answer that takes the place of the upgrade."""
    response = error_answer(database_away() if isinstance(error, StoreError) else error)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
