"""The REST API on an app: its blueprints, its documents, its error shape and the headers of every answer."""

from typing import Any, Final

import structlog
import trio
from quart import Quart, Response, request
from quart_schema import HttpSecurityScheme, Info, OpenAPIProvider, QuartSchema
from quart_schema.typing import Model
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter, Rule

from pulse_trio import __version__
from pulse_trio.edge.rest.accounts import accounts
from pulse_trio.edge.rest.conversations import conversations
from pulse_trio.edge.rest.documents import documents
from pulse_trio.edge.rest.messages import messages
from pulse_trio.edge.rest.operation import error_answer
from pulse_trio.edge.services import services
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
_MESSAGES: Final = {
    ErrorCode.NOT_FOUND: "There is nothing at this address",
    ErrorCode.METHOD_NOT_ALLOWED: "This address does not take this method",
    ErrorCode.REQUEST_TIMEOUT: "The request body did not come in time",
    ErrorCode.TOO_LARGE: "The request body is too large",
}
_SUMMARIES: Final = {
    200: "Done",
    201: "Created",
    204: "Done; no body",
    400: "The request cannot be read",
    401: "No token, or one that is not valid",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "The body did not come in time",
    409: "Not possible as things are",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "A field is not as it should be",
    503: "Try again in a moment",
}

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
        openapi_provider_class=_Documents,
    )
    for blueprint in (accounts, conversations, messages, documents):
        app.register_blueprint(blueprint)
    app.register_error_handler(PulseError, _pulse_error)
    app.register_error_handler(StoreError, _store_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _unexpected_error)
    app.after_request(_finish)


class _Documents(OpenAPIProvider):
    """OpenAPI 3.1 with what every operation may answer, and the formats of ids in paths."""

    def build_paths(self, rule: Rule) -> tuple[dict[str, Any], dict[str, Any]]:
        paths, components = super().build_paths(rule)
        view = self._app.view_functions[rule.endpoint]
        for operations in paths.values():
            for operation in operations.values():
                responses = operation["responses"]
                for status in getattr(view, "pulse_empty", ()):
                    responses[status] = {}
                for status, response in responses.items():
                    response["description"] = _SUMMARIES[int(status)]
                    codes = [c for c in getattr(view, "pulse_codes", ()) if c.status == int(status)]
                    if codes:
                        named = ", ".join(sorted(f"`{code.code}`" for code in codes))
                        response["description"] += f": {named}"
                        example = {"code": codes[0].code, "message": "What was wrong, for a person"}
                        response["content"]["application/json"]["example"] = example
                operation["responses"] = dict(sorted(responses.items(), key=lambda item: int(item[0])))
                if "requestBody" in operation:
                    operation["requestBody"]["required"] = True
        return paths, components

    def build_path_parameter(self, name: str, converter: BaseConverter) -> dict[str, Any]:
        parameter: dict[str, Any] = super().build_path_parameter(name, converter)
        parameter["description"] = "The id of a user, or `me`" if name == "user_id" else "A UUID"
        return parameter

    def build_querystring_parameters(self, model: type[Model]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        parameters, definitions = super().build_querystring_parameters(model)
        for parameter in parameters:
            schema = parameter["schema"]
            if "anyOf" in schema:  # optional in the query means absent: there is no null in it
                parameter["schema"] = next(part for part in schema["anyOf"] if part.get("type") != "null")
                parameter["description"] = parameter["schema"].pop("description", "")
        return parameters, definitions


async def _pulse_error(error: PulseError) -> Response:
    return error_answer(error)


async def _store_error(error: StoreError) -> Response:
    log.warning("the store failed", reason=str(error), error=type(error).__name__)
    return error_answer(PulseError(ErrorCode.UNAVAILABLE, "The database does not answer; try again in a moment"))


async def _http_error(error: HTTPException) -> Response:
    original = error.get_response()
    status = error.code or 500
    if 300 <= status < 400:
        return Response(b"", status, headers={"Location": original.headers["Location"]})
    code = _CODES.get(status, ErrorCode.BAD_REQUEST if status < 500 else ErrorCode.INTERNAL)
    response = error_answer(PulseError(code, _MESSAGES.get(code, "The request cannot be read")))
    if "Allow" in original.headers:
        response.headers["Allow"] = original.headers["Allow"]
    return response


async def _unexpected_error(error: Exception) -> Response:
    # The path and not the query: a token may be in it. What the client sent is not in the log.
    log.error("a request failed", method=request.method, path=request.path, exc_info=error)
    return error_answer(PulseError(ErrorCode.INTERNAL, "Something went wrong here; it has been logged"))


async def _finish(response: Response) -> Response:
    """Headers of every answer: no sniffing, no caching, no referrer, and CORS for the listed origins."""
    await trio.lowlevel.checkpoint()
    headers = response.headers
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "no-referrer"
    headers.setdefault("Cache-Control", "no-store")
    headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    headers.add("Vary", "Origin")
    origin = request.headers.get("Origin")
    if origin is not None and services().origins.is_listed(origin):
        headers["Access-Control-Allow-Origin"] = origin
        if request.method == "OPTIONS":
            headers["Access-Control-Allow-Methods"] = "GET, POST, PATCH, DELETE"
            headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
            headers["Access-Control-Max-Age"] = "600"
    return response
