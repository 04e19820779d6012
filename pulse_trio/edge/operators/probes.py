"""What operators' programs ask: whether the process lives, whether it is ready, and its figures.

Not in the OpenAPI document: it is for those who write clients.
"""

import ipaddress
import secrets
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta
from quart import Blueprint, Response, request
from quart_schema import hide, operation_id

from pulse_trio.auth.tokens import bearer_token
from pulse_trio.edge.operators.prometheus import exposition
from pulse_trio.edge.responses import answer
from pulse_trio.edge.server.gate import current_gate
from pulse_trio.edge.services import app_parts, has_failed, services
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.settings import Settings

operators = Blueprint("operators", __name__)

# Of a request that came through a proxy: whoever is behind it is not this machine.
_FORWARDED: Final = ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via")


class Health(msgspec.Struct):
    """The process lives, and its service has not failed."""

    status: Annotated[str, Meta(examples=["ok"])] = "ok"


class NotReady(msgspec.Struct):
    """An error with the names of the checks that fail."""

    code: str
    message: str
    failing: list[str]


@operators.get("/healthz")
@hide
@operation_id("health")
async def healthz() -> Response:
    """Says that the process lives, and that its service has not failed; asks nobody."""
    return _not_ready(["failed"]) if has_failed() else answer(Health())


@operators.get("/readyz")
@hide
@operation_id("ready")
async def readyz() -> Response:
    """Says whether the service can do its work."""
    try:
        failing = await services().readiness.failing()
    except PulseError:
        failing = ["failed" if has_failed() else "starting"]  # or opening again, after a failover
    return _not_ready(failing) if failing else answer(Health())


def _not_ready(failing: list[str]) -> Response:
    code = ErrorCode.UNAVAILABLE
    response = answer(NotReady(code.code, f"Not ready: {', '.join(failing)}", failing), code.status)
    response.headers["Retry-After"] = "1"
    return response


@operators.get("/metrics")
@hide
@operation_id("metrics")
async def metrics() -> Response:
    """All figures, for Prometheus."""
    parts = services()
    _check_reader(parts.settings)
    is_up = "database" not in await parts.readiness.failing()
    accept = request.headers.get("Accept", "")
    text, content_type = exposition(
        parts.metrics,
        parts.hub,
        parts.hash_queue,
        app_parts().response_budget,
        current_gate(),
        accept,
        database_answers=is_up,
    )
    return Response(text, 200, content_type=content_type)


def _check_reader(settings: Settings) -> None:
    """Raises PulseError when whoever asks may not read the figures."""
    token = settings.metrics_token
    if settings.metrics and token is not None:
        given = bearer_token(request.headers.get("Authorization"))
        if given is not None and secrets.compare_digest(given.encode(), token.get_secret_value().encode()):
            return
        raise PulseError(ErrorCode.NOT_AUTHENTICATED, "The token of PULSE_METRICS_TOKEN is needed here")
    if not settings.metrics or not _is_of_this_machine():
        raise PulseError(ErrorCode.NOT_FOUND, "There is nothing at this address")


def _is_of_this_machine() -> bool:
    """Whether the request was made on this machine, by no page of a browser and through no proxy.

    A proxy on the same machine is a peer on the loopback interface, too: it adds headers, or passes on the `Host` of
    its clients. A page of a site whose name leads here (DNS rebinding) has that name in `Host`.
    """
    peer = request.scope.get("client")
    try:
        host = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    except ValueError:
        return False
    return (
        peer is not None
        and _is_loopback(str(peer[0]))
        and (host == "localhost" or _is_loopback(host))
        and not any(name in request.headers for name in _FORWARDED)
    )


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
