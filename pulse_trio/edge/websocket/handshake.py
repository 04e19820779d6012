"""The WebSocket handshake: the origin, the token and the point to resume from are checked before it is accepted."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from quart import Response, websocket

from pulse_trio.auth.tokens import Identity, bearer_token
from pulse_trio.edge.audit import SecurityEvent
from pulse_trio.edge.responses import database_away, error_answer
from pulse_trio.edge.security_events import record_event
from pulse_trio.edge.services import Services, app_parts
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.model import Features
from pulse_trio.protocol import BEARER_PREFIX, SUBPROTOCOL
from pulse_trio.store.base import StoreError

MAX_REV_DIGITS: Final = 18  # below 2**63, the largest number in the database


async def identify(service: Services) -> Identity:
    """Returns the user of a session's handshake.

    Raises:
        PulseError: the origin is not allowed, or the token or ticket is missing, repeated or not valid.
        StoreUnavailable: the user could not be looked up.
    """
    ticket = _ticket()
    if ticket is not None:
        identity, _ = await service.tickets.redeem(ticket, None)
        return identity
    return await service.authenticator.authenticate(_token(service))


async def admit(service: Services, conversation_id: UUID | None) -> tuple[Identity, int | None]:
    """Returns the user of a handshake for a conversation, and the rev of the members as of which they are one of them.

    The rev is None if they are not, or `conversation_id` is None, because there is no such conversation. Raises like
    `identify`.
    """
    ticket = _ticket()
    if ticket is not None:
        return await service.tickets.redeem(ticket, conversation_id)
    token = _token(service)
    if conversation_id is None:
        return await service.authenticator.authenticate(token), None
    return await service.authenticator.admit(token, conversation_id)


def _ticket() -> str | None:
    """Returns the ticket, which is preferred to a token: the client asked for it on purpose."""
    _check_origin()  # first, so that no page of another site can use up a ticket
    return _parameter("ticket")


def chosen_subprotocol() -> str | None:
    """Returns the subprotocol for the response, if the client offers it; never one that carries a token."""
    return SUBPROTOCOL if SUBPROTOCOL in websocket.requested_subprotocols else None


def _token(service: Services) -> str | None:
    """Returns the token from a header, a subprotocol entry, or the URL; None if there is none.

    Raises:
        PulseError: it is in the URL twice, or `PULSE_TOKEN_IN_URL` is off.
    """
    token = bearer_token(websocket.headers.get("Authorization"))
    if token is None:
        entries = websocket.requested_subprotocols
        token = next((e.removeprefix(BEARER_PREFIX) for e in entries if e.startswith(BEARER_PREFIX)), None)
    if token is None:
        token = _parameter("token")
        if token is not None and not service.settings.token_in_url:
            message = "Tokens in the URL are not accepted; use a ticket, a header or a subprotocol entry"
            raise PulseError(ErrorCode.NOT_AUTHENTICATED, message)
    return token


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """The point in a conversation from which a client resumes.

    Args:
        after_rev: the last rev that the client has seen; None if it does not resume.
        epoch: the history that the rev belongs to, if the client knows it.
    """

    after_rev: int | None
    epoch: str | None


def resume_point() -> ResumePoint:
    """Returns the resume point of the handshake.

    Raises:
        PulseError: `after` is not a number, or a parameter is repeated.
    """
    text = _parameter("after")
    if text is not None and not (text.isascii() and text.isdigit() and len(text) <= MAX_REV_DIGITS):
        raise PulseError(ErrorCode.INVALID_FIELD, "`after` must be a rev: a whole number, 0 or more", field="after")
    return ResumePoint(None if text is None else int(text), _parameter("epoch"))


def asked_features(*, is_session: bool) -> Features:
    """Returns the features that the handshake asks for: names with commas in between; unknown ones are ignored.

    Raises:
        PulseError: `features` is repeated.
    """
    text = _parameter("features")
    return Features.of(None if text is None else text.split(","), is_session=is_session)


def _parameter(name: str) -> str | None:
    """Returns a parameter of the address, if it is there.

    Raises:
        PulseError: it is repeated, so that it is not clear which one counts.
    """
    values = websocket.args.getlist(name)
    if len(values) > 1:
        raise PulseError(ErrorCode.INVALID_FIELD, f"`{name}` must be given once", field=name)
    return values[0] if values else None


def reject_resume_point() -> None:
    """Rejects `after` and `epoch` on a session, where they would silently be ignored.

    Raises:
        PulseError: the handshake has one of them.
    """
    for name in ("after", "epoch"):
        if name in websocket.args:
            message = f"`{name}` is for one conversation; a session resumes with a `resume` frame"
            raise PulseError(ErrorCode.INVALID_FIELD, message, field=name)


def _check_origin() -> None:
    headers, origins = websocket.headers, app_parts().origins
    # A browser sends one. If there are several, each must be allowed: the first one does not speak for the others.
    if not all(origins.allows(origin, headers.get("Host")) for origin in headers.getlist("Origin")):
        raise PulseError(ErrorCode.ORIGIN_NOT_ALLOWED)


def rejection(error: PulseError | StoreError, identity: Identity | None) -> Response:
    """Returns the HTTP response that rejects a handshake, and records the rejection.

    Args:
        error: the reason.
        identity: the user, if the token or ticket was valid.
    """
    shown = database_away() if isinstance(error, StoreError) else error
    user_id = None if identity is None else identity.user.id
    record_event(SecurityEvent.HANDSHAKE_REFUSED, user_id=user_id, code=shown.code.code)
    return error_answer(shown)
