"""The WebSocket handshake: stricter than Hypercorn's, and with an error body."""

from typing import Final

from hypercorn.protocol import ws_stream
from wsproto.handshake import WEBSOCKET_VERSION

from pulse_trio.edge.server import request_head
from pulse_trio.edge.server.plain_responses import error_body, error_headers
from pulse_trio.errors import ErrorCode, PulseError

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


def error_response(status: int) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Returns the headers and the body of the answer to a handshake that Hypercorn rejects."""
    error = _ERRORS.get(status) or PulseError(ErrorCode.INTERNAL)
    body = error_body(error)
    headers = [(name.encode(), value.encode()) for name, value in error_headers(error, body)]
    if status == 400:
        headers.append((b"sec-websocket-version", WEBSOCKET_VERSION))  # RFC 6455, section 4.4
    return headers, body
