"""The WebSocket handshake: stricter than Hypercorn's, and with an error body."""

from collections.abc import Iterable
from typing import Final

from hypercorn.protocol import ws_stream
from wsproto.handshake import WEBSOCKET_VERSION

from pulse_trio.edge.server import request_head
from pulse_trio.edge.server.plain_responses import Asked, PlainResponses
from pulse_trio.errors import ErrorCode, PulseError

EARLY_DATA: Final = PulseError(
    ErrorCode.BAD_REQUEST, "Data came before the handshake was answered; send frames after the 101 response"
)
_ERRORS: Final = {
    400: PulseError(ErrorCode.BAD_REQUEST, "This is not a handshake of WebSocket version 13"),
    404: PulseError(ErrorCode.NOT_FOUND),
}


class PlainHandshake(ws_stream.Handshake):
    """Negotiates no extension: a deflate bomb of 600 KB took 780 MB of memory (Hypercorn issue 307)."""

    def __init__(self, headers: list[tuple[bytes, bytes]], http_version: str) -> None:
        super().__init__(headers, http_version)
        self.extensions = None

    def is_valid(self) -> bool:
        """Like the original, but also rejects a Sec-WebSocket-Key that is not 16 bytes in base64 (RFC 6455, 4.2.1)."""
        if self.key is not None and not request_head.is_websocket_key(self.key):
            return False
        return super().is_valid()


def error_response(
    status: int, request: Iterable[tuple[bytes, bytes]], responses: PlainResponses, error: PulseError | None = None
) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Returns the headers and the body of the answer to a handshake that the server rejects itself.

    Args:
        status: the status of the answer.
        request: the headers of the handshake.
        responses: makes the answer.
        error: the reason, if it is not the usual one for this status.
    """
    found = error or _ERRORS.get(status) or PulseError(ErrorCode.INTERNAL)
    made, body = responses.error(found, Asked.of_present(request))
    headers = [(name.encode(), value.encode("latin-1")) for name, value in made]
    if found is _ERRORS[400]:
        headers.append((b"sec-websocket-version", WEBSOCKET_VERSION))  # RFC 6455, section 4.4
    return headers, body
