"""Responses that REST, the WebSocket handshake and the operators' pages share, errors above all."""

import math
from typing import Annotated, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType
from quart import Response

from pulse_trio.edge.services import app_parts
from pulse_trio.errors import ErrorCode, PulseError

RETRY_SECONDS: Final = 1.0  # after which a retry may succeed, where nothing more exact is known


class ErrorBody(msgspec.Struct):
    """An error: a stable code, a sentence for a person, and the field that it is about, if any."""

    code: Annotated[str, Meta(extra_json_schema={"enum": sorted(code.code for code in ErrorCode)})]
    message: str
    field: str | UnsetType = UNSET


def answer(value: msgspec.Struct, status: int = 200) -> Response:
    """Returns a JSON response."""
    return Response(msgspec.json.encode(value), status, content_type="application/json")


def empty() -> Response:
    """Returns a response without a body: 204."""
    response = Response(b"", 204)
    response.headers.pop("Content-Type", None)
    return response


def database_away() -> PulseError:
    """Makes the error for a store that failed."""
    return PulseError(ErrorCode.UNAVAILABLE, "The database does not answer; retry in a moment")


def error_answer(error: PulseError) -> Response:
    """Returns the JSON response for an error, and counts it."""
    app_parts().metrics.errors[error.code.code] += 1
    response = answer(ErrorBody(error.code.code, error.message, error.field or UNSET), error.code.status)
    if error.code.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"  # RFC 9110, section 11.6.1
    retry_after = error.retry_after
    if retry_after is None and error.code.status == 503:
        retry_after = RETRY_SECONDS  # all errors of this status are temporary
    if retry_after is not None:
        response.headers["Retry-After"] = str(math.ceil(retry_after))
    return response
