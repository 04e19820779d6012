"""Request heads to reject: too large, ambiguous, or not a valid handshake."""

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import Final

import h11

MAX_HEADERS: Final = 100  # of a request; browsers and proxies send some 30
KEY_BYTES: Final = 16  # RFC 6455, section 4.1, item 7


def problem(request: h11.Request, max_bytes: int) -> int | None:
    """Returns the status with which a request is rejected by its head alone; None if it is not.

    Args:
        request: the request as h11 read it.
        max_bytes: the bound of its target and headers together.
    """
    names = [name for name, _ in request.headers]
    size = len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
    if request.http_version not in {b"1.0", b"1.1"}:
        return 505
    if size > max_bytes or len(names) > MAX_HEADERS:
        return 431
    # With two lengths another server may believe the other one (RFC 9112, section 6.1).
    if b"transfer-encoding" in names and (b"content-length" in names or request.http_version == b"1.0"):
        return 400
    return None


def values(request: h11.Request, wanted: bytes) -> list[str]:
    """Returns the values of all headers of a name (in lower case), in their order."""
    return [value.decode("latin-1") for name, value in request.headers if name == wanted]


def reject_folded(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Replaces h11's reader of folded header lines, so that they are rejected: proxies disagree on them.

    Raises:
        LocalProtocolError: a line begins with white space, or is empty.
    """
    for line in lines:
        if line[:1] in b" \t":  # also an empty one
            raise h11.LocalProtocolError("a folded header line")
        yield line


def is_websocket_key(key: bytes) -> bool:
    """Returns whether this can be a Sec-WebSocket-Key: 16 bytes in base64 (RFC 6455, section 4.2.1)."""
    try:
        return len(base64.b64decode(key, validate=True)) == KEY_BYTES
    except binascii.Error:
        return False
