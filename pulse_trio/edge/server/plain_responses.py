"""Responses that are sent without the framework, each the last one on its connection."""

import math
import re
from collections.abc import Iterable
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec

from pulse_trio.edge.common_headers import DEFAULTS, CommonHeaders
from pulse_trio.edge.responses import ErrorBody
from pulse_trio.edge.tracing import HEADER, accept_request, begin_request
from pulse_trio.errors import PulseError
from pulse_trio.settings import Settings

_ALIVE_BODY: Final = b'{"status":"ok"}'
_HEAD: Final = re.compile(rb"(?:\r?\n)*HEAD ")
_LINE: Final = re.compile(rb"^(origin|x-request-id):[ \t]*([^\r\n]*?)[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)

Headers = list[tuple[str, str]]


class Asked(NamedTuple):
    """The parts of a request that its answer depends on.

    Attributes:
        origin: its `Origin`, if any.
        request_id: its id.
        is_head: it asks for the headers of an answer only.
    """

    origin: str | None
    request_id: str
    is_head: bool = False

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]], *, is_head: bool = False) -> "Asked":
        """Reads the headers of a request (names in lower case), and begins the request in the log."""
        origin, given = _read(headers)
        return cls(origin, accept_request(given), is_head)

    @classmethod
    def of_present(cls, headers: Iterable[tuple[bytes, bytes]]) -> "Asked":
        """Reads the headers of the request that this task serves, which has its id already."""
        origin, given = _read(headers)
        return cls(origin, begin_request(given))

    @classmethod
    def of_bytes(cls, head: bytes) -> "Asked":
        """Reads the bytes of a request that could not be read as HTTP, or was not meant to be.

        Whatever stands in them, an answer names no origin that is not allowed.
        """
        headers = [(name.lower(), value) for name, value in _LINE.findall(head)]
        return cls.of(headers, is_head=_HEAD.match(head) is not None)


def _read(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str | None, list[str]]:
    """Returns the first `Origin` and all `X-Request-ID` of the headers of a request."""
    found = [(name, value.decode("latin-1")) for name, value in headers if name in {b"origin", b"x-request-id"}]
    origin = next((value for name, value in found if name == b"origin"), None)
    return origin, [value for name, value in found if name == HEADER.lower().encode()]


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


def encode(status: int, headers: Headers, body: bytes, *, is_head: bool = False) -> bytes:
    """Returns a whole response, for a client whose request is not read; without its body if only the head is asked."""
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + (b"" if is_head else body)
