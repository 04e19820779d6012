"""Routes for operators' programs: health, readiness, metrics.

They are not in the OpenAPI document, which is for authors of clients.
"""

import secrets
import shutil
from pathlib import Path
from typing import Annotated, Final

import msgspec
import structlog
import trio
from msgspec import Meta
from quart import Blueprint, Quart, Request, Response, Websocket, request
from quart_schema import hide, operation_id

from pulse_trio.auth.tokens import bearer_token
from pulse_trio.authority import parse_authority
from pulse_trio.edge.client_address import parse_address
from pulse_trio.edge.operators.prometheus import exposition, join_families, split_families
from pulse_trio.edge.responses import answer
from pulse_trio.edge.server.gate import Gate, current_gate
from pulse_trio.edge.services import app_parts, app_parts_of, has_failed, services
from pulse_trio.edge.siblings import Family
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.settings import Settings

operators = Blueprint("operators", __name__)

NOT_SERVED: Final = "set PULSE_METRICS_BIND=127.0.0.1:9464, or PULSE_METRICS_TOKEN"

log = structlog.get_logger(__name__)


class Health(msgspec.Struct):
    """The answer of a healthy or ready service.

    Attributes:
        status: `degraded` if it serves, but what other processes send comes late: it is ready all the same.
    """

    status: Annotated[str, Meta(examples=["ok"])] = "ok"


class NotReady(msgspec.Struct):
    """The error of a service that is not ready, with the names of the failing checks."""

    code: str
    message: str
    failing: list[str]


@operators.get("/healthz")
@hide
@operation_id("health")
async def healthz() -> Response:
    """Answers 200 while the process runs, 503 when its service has failed; does not query the database."""
    return _not_ready(["failed"]) if has_failed() else answer(Health())


@operators.get("/readyz")
@hide
@operation_id("ready")
async def readyz() -> Response:
    """Answers 200 if the service can do its work, else 503 with the failing checks.

    Without the bus it is `degraded`: messages are stored, and delivered in the process that took them.
    """
    health = Health()
    try:
        cluster = services().hub.cluster
        if cluster is not None and not cluster.is_connected:
            health.status = "degraded"
        failing = await services().readiness.failing()
    except PulseError:
        failing = ["failed" if has_failed() else "starting"]  # or reopening after a failover
    return _not_ready(failing) if failing else answer(health)


def _not_ready(failing: list[str]) -> Response:
    code = ErrorCode.UNAVAILABLE
    response = answer(NotReady(code.code, f"Not ready: {', '.join(failing)}", failing), code.status)
    response.headers["Retry-After"] = "1"
    return response


@operators.get("/metrics")
@hide
@operation_id("metrics")
async def metrics() -> Response:
    """Returns the metrics for Prometheus."""
    service = services()
    _check_access(service.settings)
    siblings = app_parts().siblings
    accept = request.headers.get("Accept", "")
    text, content_type = await _own_metrics(accept, current_gate(), None if siblings is None else siblings.slot)
    if siblings is not None:
        workers: dict[int, list[Family] | None] = {siblings.slot: split_families(text.decode())}
        workers |= await siblings.ask(accept)
        text = join_families(workers, accept).encode()
    return Response(text, 200, content_type=content_type)


async def _own_metrics(accept: str, gate: Gate | None, slot: int | None) -> tuple[bytes, str]:
    service = services()
    is_up = "database" not in await service.readiness.failing()
    return exposition(
        service.metrics,
        service.hub,
        service.hash_queue,
        app_parts().response_budget,
        gate,
        accept,
        database_answers=is_up,
        free_bytes=await _free_bytes(service.metrics.data_folder),
        slot=slot,
    )


async def serve_siblings(app: Quart, gate: Gate | None) -> None:
    """Answers the other workers that are asked for metrics; see `Siblings.serve`."""
    siblings = app_parts_of(app).siblings
    assert siblings is not None

    async def families(accept: str) -> list[Family]:
        async with app.app_context():
            try:
                text, _ = await _own_metrics(accept, gate, siblings.slot)
            except PulseError:  # it opens again after a failover
                return []
        return split_families(text.decode())

    await siblings.serve(families)


async def _free_bytes(folder: Path | None) -> int | None:
    if folder is None:
        return None
    try:
        usage = await trio.to_thread.run_sync(shutil.disk_usage, folder, abandon_on_cancel=True)
    except OSError:
        return None
    return usage.free


def reject_others(asked: Request | Websocket) -> None:
    """Raises PulseError if a request came to the address of `PULSE_METRICS_BIND`, and is for something else."""
    if asked.blueprint != operators.name and _came_to_metrics(asked):
        raise PulseError(ErrorCode.NOT_FOUND)


def _check_access(settings: Settings) -> None:
    """Raises PulseError if the client may not read the metrics.

    The address of a peer and the headers of its request do not show that it is on this machine: a proxy is on it, too,
    and may hand on the `Host` that its client chose. So there is a token, or an address of its own.
    """
    is_own = _came_to_metrics(request)
    if not settings.metrics or (settings.metrics_bind is not None and not is_own):
        raise PulseError(ErrorCode.NOT_FOUND)
    token = settings.metrics_token
    if token is not None:
        given = bearer_token(request.headers.get("Authorization"))
        if given is None or not secrets.compare_digest(given.encode(), token.get_secret_value().encode()):
            raise PulseError(ErrorCode.NOT_AUTHENTICATED, "`/metrics` requires the token of PULSE_METRICS_TOKEN")
    elif not is_own:
        if app_parts().metrics_samples.take() is not None:
            log.info("metrics are not served", advice=NOT_SERVED)
        raise PulseError(ErrorCode.NOT_FOUND)
    elif _is_rebound():
        raise PulseError(ErrorCode.NOT_FOUND)


def _came_to_metrics(asked: Request | Websocket) -> bool:
    """Returns whether a request came to the address of `PULSE_METRICS_BIND`."""
    gate, server = current_gate(), asked.scope.get("server")
    return gate is not None and server is not None and gate.is_for_metrics(str(server[0]), server[1])


def _is_rebound() -> bool:
    """Returns whether a page of a site whose name resolves to this machine may have sent the request.

    It came to the address of `PULSE_METRICS_BIND`. On another interface a name may be that of the machine.
    """
    server = request.scope.get("server")
    return server is not None and _is_loopback(str(server[0])) and not _names_this_machine()


def _names_this_machine() -> bool:
    """Returns whether `Host` is a name or an address that only this machine has for itself."""
    host = parse_authority(request.headers.get("Host", ""))
    return host is not None and (host.host == "localhost" or _is_loopback(host.host))


def _is_loopback(text: str) -> bool:
    address = parse_address(text)
    return address is not None and address.is_loopback
