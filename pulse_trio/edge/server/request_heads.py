"""What the head of a request must not be: too large, in doubt, or a handshake that is none."""

import base64
import binascii
from collections.abc import Iterable, Iterator
from typing import Final

import h11

HEADERS_MOST: Final = 100  # of a request; browsers and proxies send some 30
KEY_BYTES: Final = 16  # RFC 6455, section 4.1, item 7


def problem(request: h11.Request, most_bytes: int) -> int | None:
    """The status with which a request is refused by its head alone; None if it is not.

    Args:
        request: as h11 read it.
        most_bytes: how large its target and headers may be.
    """
    names = [name for name, _ in request.headers]
    size = len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
    if request.http_version not in {b"1.0", b"1.1"}:
        return 505
    if size > most_bytes or len(names) > HEADERS_MOST:
        return 431
    # Of two lengths another server may believe the other one (RFC 9112, section 6.1).
    if b"transfer-encoding" in names and (b"content-length" in names or request.http_version == b"1.0"):
        return 400
    return None


def values(request: h11.Request, wanted: bytes) -> list[str]:
    """What the headers of a name (in lower case) say, in the order they came."""
    return [value.decode("latin-1") for name, value in request.headers if name == wanted]


def unfolded(lines: Iterable[bytes]) -> Iterator[bytes]:
    """In place of h11's reader of folded header lines, which two servers may read differently: there are none."""
    for line in lines:
        if line[:1] in b" \t":  # also an empty one
            raise h11.LocalProtocolError("a folded header line")
        yield line


def is_key(key: bytes) -> bool:
    """Whether it can be a Sec-WebSocket-Key: 16 bytes in base64 (RFC 6455, section 4.2.1)."""
    try:
        return len(base64.b64decode(key, validate=True)) == KEY_BYTES
    except binascii.Error:
        return False
