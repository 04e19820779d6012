"""Request heads: which to reject, and one form for those that may be written in several."""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator
from typing import Final

import h11
from h11._readers import maybe_read_from_IDLE_client
from h11._receivebuffer import ReceiveBuffer

MAX_HEADERS: Final = 100  # of a request; browsers and proxies send some 30
KEY_BYTES: Final = 16  # RFC 6455, section 4.1, item 7

_EMPTY_LINES: Final = re.compile(rb"(?:\r?\n)*")
_ABSOLUTE: Final = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)


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
    if not request.target.startswith(b"/") and request.target != b"*" and not _ABSOLUTE.fullmatch(request.target):
        return 400  # the form of CONNECT (RFC 9112, section 3.2.3), or none at all
    if request.method != request.method.upper():
        return 501  # methods are case-sensitive (RFC 9110, section 9.1): proxies have rules for `GET`, not for `get`
    return None


def normalize(request: h11.Request) -> h11.Request:
    """Returns the request in the form that the framework understands.

    An absolute target becomes a path, and its host replaces the `Host` header (RFC 9112, section 3.2.2). The lists of
    `Upgrade` and `Connection` become one word each if they ask for a WebSocket (RFC 9110, section 7.8).
    """
    target, headers = request.target, list(request.headers)
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is not None:
        rest = absolute[2]
        target = rest if rest.startswith(b"/") else b"/" + rest
        headers = [(b"host", absolute[1]), *(header for header in headers if header[0] != b"host")]
    if asks_for_websocket(request) and not _is_plain_handshake(request):
        headers = [header for header in headers if header[0] not in {b"upgrade", b"connection"}]
        headers += [(b"connection", b"Upgrade"), (b"upgrade", b"websocket")]
    elif absolute is None:
        return request
    return h11.Request(method=request.method, target=target, headers=headers, http_version=request.http_version)


def _is_plain_handshake(request: h11.Request) -> bool:
    upgrades = [value.strip().lower() for value in values(request, b"upgrade")]
    return upgrades == ["websocket"] and len(values(request, b"connection")) == 1


def asks_for_websocket(request: h11.Request) -> bool:
    """Returns whether the connection is asked to become a WebSocket."""
    return (
        request.method == b"GET"
        and _has_word(request, b"connection", "upgrade")
        and _has_word(request, b"upgrade", "websocket")
    )


def _has_word(request: h11.Request, name: bytes, word: str) -> bool:
    """Returns whether a word is in a list that one or several headers hold."""
    return any(part.strip().lower() == word for value in values(request, name) for part in value.split(","))


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


def read_request(buffer: ReceiveBuffer) -> h11.Request | None:
    """Replaces h11's reader of requests, so that empty lines before one are ignored (RFC 9112, section 2.2)."""
    empty = _EMPTY_LINES.match(buffer._data)
    assert empty is not None
    buffer.maybe_extract_at_most(empty.end())
    if bytes(buffer._data[:2]) in {b"", b"\r"}:  # a CR may be half of another empty line
        return None
    return maybe_read_from_IDLE_client(buffer)


def is_websocket_key(key: bytes) -> bool:
    """Returns whether this can be a Sec-WebSocket-Key: 16 bytes in base64 (RFC 6455, section 4.2.1)."""
    try:
        return len(base64.b64decode(key, validate=True)) == KEY_BYTES
    except binascii.Error:
        return False
