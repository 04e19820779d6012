"""Responses that are sent without the framework, each the last one on its connection."""

import math
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec

from pulse_trio.edge.common_headers import DEFAULTS, CommonHeaders
from pulse_trio.edge.responses import ErrorBody
from pulse_trio.edge.tracing import HEADER, accept_request
from pulse_trio.errors import PulseError
from pulse_trio.settings import Settings

_ALIVE_BODY: Final = b'{"status":"ok"}'
_LINE: Final = re.compile(rb"^(origin|x-request-id):[ \t]*([^\r\n]*?)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)

Headers = list[tuple[str, str]]


class Asked(NamedTuple):
    """The parts of a request that the headers of its answer depend on."""

    origin: str | None
    request_id: str

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]]) -> "Asked":
        """Reads the headers of a request (names in lower case), and begins the request in the log."""
        found = [(name, value.decode("latin-1")) for name, value in headers if name in {b"origin", b"x-request-id"}]
        origin = next((value for name, value in found if name == b"origin"), None)
        return cls(origin, accept_request([value for name, value in found if name == HEADER.lower().encode()]))

    @classmethod
    def of_bytes(cls, head: bytes) -> "Asked":
        """Reads the bytes of a request that could not be read as HTTP, or was not meant to be.

        Whatever stands in them, an answer names no origin that is not allowed.
        """
        return cls.of([(name.lower(), value) for name, value in _LINE.findall(head)])


class PlainResponses:
    """Makes the responses, with the headers that every answer has."""

    def __init__(self, settings: Settings) -> None:
        self._common = CommonHeaders(settings)

    def error(self, error: PulseError, asked: Asked) -> tuple[Headers, bytes]:
        """Returns the headers and the body of an error response."""
        body = msgspec.json.encode(ErrorBody(error.code.code, error.message))
        headers = self._headers(body, asked)
        if error.retry_after is not None:
            headers.append(("retry-after", str(math.ceil(error.retry_after))))
        return headers, body

    def alive(self, asked: Asked) -> tuple[Headers, bytes]:
        """Returns the headers and the body of the answer to a liveness probe."""
        return self._headers(_ALIVE_BODY, asked), _ALIVE_BODY

    def _headers(self, body: bytes, asked: Asked) -> Headers:
        common = {**DEFAULTS, **self._common.make(asked.origin, asked.request_id)}
        return [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
            *((name.lower(), value) for name, value in common.items()),
        ]


def encode(status: int, headers: Headers, body: bytes) -> bytes:
    """Returns a whole response, for a client whose request is not read."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body
