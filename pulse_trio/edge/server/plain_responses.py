"""Responses that are sent without the framework, each the last one on its connection."""

import math
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

import msgspec

from pulse_trio.edge.responses import ErrorBody
from pulse_trio.errors import PulseError

ALIVE_BODY: Final = b'{"status":"ok"}'
ALIVE_HEADERS: Final = [
    ("content-type", "application/json"),
    ("content-length", str(len(ALIVE_BODY))),
    ("connection", "close"),
]


def error_body(error: PulseError) -> bytes:
    """Returns the JSON of an error."""
    return msgspec.json.encode(ErrorBody(error.code.code, error.message))


def error_headers(error: PulseError, body: bytes) -> list[tuple[str, str]]:
    """Returns the headers of an error response with which the connection ends."""
    headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
    if error.retry_after is not None:
        headers.append(("retry-after", str(math.ceil(error.retry_after))))
    return headers


def error_response(error: PulseError) -> bytes:
    """Returns a whole error response, for a client whose request is not read."""
    body = error_body(error)
    return _response(HTTPStatus(error.code.status), error_headers(error, body), body)


def _response(status: HTTPStatus, headers: Sequence[tuple[str, str]], body: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


ALIVE: Final = _response(HTTPStatus.OK, ALIVE_HEADERS, ALIVE_BODY)
