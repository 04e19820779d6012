"""The REST API as a part of an app: its resources, its document, its errors and the headers of every answer."""

import re
from typing import Final

import structlog
import trio
from quart import Quart, Request, Response, Websocket, current_app, g, has_request_context, request, websocket
from quart_schema import HttpSecurityScheme, Info, QuartSchema
from quart_schema.openapi import QUART_SCHEMA_OPERATION_ID_ATTRIBUTE
from werkzeug.exceptions import HTTPException
from werkzeug.routing import WebsocketMismatch

from pulse_trio import __version__
from pulse_trio.edge.asgi_connections import has_body
from pulse_trio.edge.common_headers import DEFAULTS
from pulse_trio.edge.compression import compress
from pulse_trio.edge.operators.probes import operators, reject_others
from pulse_trio.edge.response_budget import current_answer
from pulse_trio.edge.responses import database_away, error_answer
from pulse_trio.edge.rest.accounts import accounts
from pulse_trio.edge.rest.conversations import conversations
from pulse_trio.edge.rest.members import members
from pulse_trio.edge.rest.messages import messages
from pulse_trio.edge.rest.openapi import Document
from pulse_trio.edge.rest.presence import presence
from pulse_trio.edge.rest.read_positions import read_positions
from pulse_trio.edge.rest.refusals import refusal
from pulse_trio.edge.services import app_parts, services
from pulse_trio.edge.tracing import HEADER, begin_request
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.store.base import StoreError

_CODES: Final = {
    400: ErrorCode.BAD_REQUEST,
    404: ErrorCode.NOT_FOUND,
    405: ErrorCode.METHOD_NOT_ALLOWED,
    408: ErrorCode.REQUEST_TIMEOUT,
    413: ErrorCode.TOO_LARGE,
    415: ErrorCode.UNSUPPORTED_MEDIA_TYPE,
}
_COMPRESSED: Final = {"openapi", f"{operators.name}.metrics"}  # beside the operations that say so
# %41 to %5A, %61 to %7A, %30 to %39, and those of `-`, `.`, `/`, `_` and `~`.
_OTHER_SPELLING: Final = re.compile(rb"%(?:2[def]|3[0-9]|[46][1-9a-f]|[57][0-9a]|5f|7e)", re.IGNORECASE)
LATE_BODY: Final = 1.0  # seconds to wait for the rest of a body that the answer does not need

log = structlog.get_logger(__name__)


def install(app: Quart) -> None:
    """Adds the REST API to an app."""
    QuartSchema(
        app,
        info=Info(
            title="Pulse on Trio",
            version=__version__,
            description="Accounts, conversations and history. Live messages go over the WebSocket at "
            "`/api/chat/ws/{conversation_id}`. Every error is `{code, message, field?}`.",
        ),
        conversion_preference="msgspec",
        security_schemes={"bearer": HttpSecurityScheme(scheme="bearer", bearer_format="JWT")},
        redoc_ui_path=None,
        scalar_ui_path=None,
        swagger_ui_path=None,
        openapi_provider_class=Document,
    )
    for blueprint in (accounts, presence, conversations, members, messages, read_positions, operators):
        app.register_blueprint(blueprint)
    app.register_error_handler(PulseError, _pulse_error)
    app.register_error_handler(StoreError, _store_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected_error)
    app.before_request(_begin)
    app.before_websocket(_begin_handshake)
    app.after_request(_finish)
    app.after_websocket(_finish_handshake)  # type: ignore[type-var]  # its annotation forgets accepted ones


async def _begin() -> None:
    g.began = trio.current_time()
    g.request_id = begin_request(request.headers.getlist(HEADER))
    _check_spelling(request)
    reject_others(request)


async def _begin_handshake() -> None:
    g.request_id = begin_request(websocket.headers.getlist(HEADER))
    _check_spelling(websocket)
    reject_others(websocket)


def _check_spelling(asked: Request | Websocket) -> None:
    """Refuses other spellings of an address, or a proxy's rule for it could be passed by.

    Raises:
        PulseError: the path has an empty segment, an encoded slash, or an encoded character that needs no encoding
            (RFC 3986, section 2.3).
    """
    path = asked.scope.get("raw_path") or asked.path.encode()
    if b"//" in path or _OTHER_SPELLING.search(path):
        raise PulseError(ErrorCode.NOT_FOUND)


async def _pulse_error(error: PulseError) -> Response:
    response = error_answer(error)
    if error.code is ErrorCode.UNSUPPORTED_MEDIA_TYPE:  # RFC 9110, section 12.5.3
        response.headers["Accept-Encoding"] = "identity"
    return response


async def _store_error(error: StoreError) -> Response:
    refused = refusal(error)
    if refused is not None:
        return error_answer(refused)
    try:
        outages = services().hub.outages
    except PulseError as closed:  # the service that had the request opens again, and has closed its store
        return error_answer(closed)
    outages.record("the store failed", error)
    return error_answer(database_away())


async def _http_error(error: HTTPException) -> Response:
    original = error.get_response()
    status = error.code or 500
    if isinstance(error, WebsocketMismatch) and has_request_context():
        response = error_answer(PulseError(ErrorCode.UPGRADE_REQUIRED))
        if request.http_version != "2":
            response.headers["Upgrade"] = "websocket"  # RFC 9110, sections 7.8 and 15.5.22
            response.headers["Connection"] = "upgrade"
        return response
    code = _CODES.get(status, ErrorCode.BAD_REQUEST if status < 500 else ErrorCode.INTERNAL)
    response = error_answer(PulseError(code))
    if "Allow" in original.headers:
        response.headers["Allow"] = original.headers["Allow"]
    return response


async def _unexpected_error(error: Exception) -> Response:
    # Without the query, which may hold a token, and without the body.
    failed = request if has_request_context() else websocket  # handshakes come here, too
    log.error("a request failed", method=failed.method, path=failed.path, exc_info=error)
    return error_answer(PulseError(ErrorCode.INTERNAL))


async def _finish(response: Response) -> Response:
    """Counts an answer and adds the common headers: no sniffing, no caching, no referrer, CORS for listed origins."""
    response = _settle_answer(response)
    if _is_compressible():
        await compress(response, request)
        current_answer().settle(response.content_length or 0, may_refuse=False)
    headers = response.headers
    if not await _read_rest_of_body() and request.http_version.startswith("1"):
        headers["Connection"] = "close"
    _add_common_headers(response, request)
    metrics, operation = app_parts().metrics, _operation()
    metrics.requests[operation, response.status_code] += 1
    metrics.request_seconds[operation].observe(trio.current_time() - g.began)
    return response


def _add_common_headers(response: Response, asked: Request | Websocket) -> None:
    is_preflight = has_request_context() and request.method == "OPTIONS"
    made = app_parts().headers.make(asked.headers.get("Origin"), g.request_id, is_preflight=is_preflight)
    for name, value in DEFAULTS.items():
        response.headers.setdefault(name, value)
    for name, value in made.items():
        if name == "Vary":
            response.vary.add(value)
        else:
            response.headers[name] = value


def _settle_answer(response: Response) -> Response:
    """Counts the bytes of an answer; returns an error in its place if the response budget has no room for it.

    Errors are never replaced, nor are answers to changes, which are made already, nor those for operators.
    """
    is_good = response.status_code < 400
    may_refuse = is_good and request.method in {"GET", "HEAD"} and request.blueprint != operators.name
    try:
        current_answer().settle(response.content_length or 0, may_refuse=may_refuse)
    except PulseError as error:
        return error_answer(error)
    return response


async def _finish_handshake(response: Response | None) -> Response | None:
    """Counts a refused handshake; an accepted one comes here without a response, when its connection has ended."""
    if response is not None:
        _add_common_headers(response, websocket)
        app_parts().metrics.handshakes[response.status_code] += 1
    return response


def _is_compressible() -> bool:
    """Returns whether the answer may be compressed; see `compression`."""
    endpoint = request.endpoint
    if endpoint is None:
        return False
    view = current_app.view_functions[endpoint]
    return endpoint in _COMPRESSED or request.blueprint == "documents" or getattr(view, "pulse_compressed", False)


def _operation() -> str:
    """Returns the name of the operation: one of a bounded number, whatever the path is."""
    endpoint = request.endpoint
    if endpoint is None:
        return "none"
    view = current_app.view_functions[endpoint]
    return str(getattr(view, QUART_SCHEMA_OPERATION_ID_ATTRIBUTE, endpoint))


async def _read_rest_of_body() -> bool:
    """Reads the rest of the body, so that the client can use the connection again; False if it did not arrive."""
    if not has_body(request.scope):
        return True
    await trio.lowlevel.checkpoint()
    with trio.move_on_after(LATE_BODY) as scope:
        try:
            await request.body
        except HTTPException:  # the body is too large
            return False
    return not scope.cancelled_caught
