"""Cursors: the places at which pages of lists begin, as opaque text for clients.

A cursor holds the position and a checksum that is keyed with the list, so that one from another list, or a damaged one,
is refused and not followed. The key is no secret: a forged cursor names another position of the same list, which its
user may read from anywhere, and is refused if it is no position at all.
"""

import base64
import hashlib
from typing import Annotated, Final

from msgspec import UNSET, Meta, UnsetType

from pulse_trio.errors import ErrorCode, PulseError

_CHECKSUM_BYTES: Final = 8
_NUMBER_BYTES: Final = 8
MAX_CURSOR_CHARS: Final = 1_024  # a username of 50 characters may take 4 bytes each, and more when normalized

Cursor = Annotated[
    str,
    Meta(max_length=MAX_CURSOR_CHARS, description="`next_cursor` of the previous page; without it, the first page."),
]
NextCursor = Annotated[str | None, Meta(description="The cursor of the next page; `null` on the last one.")]


def next_cursor(of_list: bytes, position: int | str | None) -> str | None:
    """Returns the cursor of the page that begins after a position; None if there is no such page.

    `of_list`: names the list, at most 64 bytes.
    """
    if position is None:
        return None
    if isinstance(position, int):
        return _encode(of_list, position.to_bytes(_NUMBER_BYTES, "big", signed=True))
    return _encode(of_list, position.encode())


def number_of(of_list: bytes, cursor: str | UnsetType) -> int | None:
    """Returns the position in a list whose positions are numbers; None for the first page.

    Raises:
        PulseError: it is not a cursor of this list.
    """
    if cursor is UNSET:
        return None
    data = _data(of_list, cursor)
    if len(data) != _NUMBER_BYTES:
        raise _not_a_cursor()
    return int.from_bytes(data, "big", signed=True)


def text_of(of_list: bytes, cursor: str | UnsetType) -> str | None:
    """Returns the position in a list whose positions are texts; None for the first page.

    Raises:
        PulseError: it is not a cursor of this list.
    """
    if cursor is UNSET:
        return None
    try:
        text = _data(of_list, cursor).decode()
    except UnicodeDecodeError:
        raise _not_a_cursor() from None
    if "\0" in text:  # which PostgreSQL does not take
        raise _not_a_cursor()
    return text


def reject_offset(cursor: str | UnsetType, offset: int) -> None:
    """Refuses a page that is asked for by both. Raises PulseError."""
    if offset and cursor is not UNSET:
        message = "`offset` cannot be combined with `cursor`"
        raise PulseError(ErrorCode.INVALID_FIELD, message, field="offset")


def _data(of_list: bytes, cursor: str | UnsetType) -> bytes:
    assert isinstance(cursor, str)
    try:
        data = base64.urlsafe_b64decode(cursor.encode() + b"==")[:-_CHECKSUM_BYTES]
        if _encode(of_list, data) == cursor:  # the one text for it
            return data
    except ValueError:  # not base64
        pass
    raise _not_a_cursor()


def _not_a_cursor() -> PulseError:
    message = "`cursor` must be the `next_cursor` of a page of this list"
    return PulseError(ErrorCode.INVALID_FIELD, message, field="cursor")


def _encode(of_list: bytes, data: bytes) -> str:
    checksum = hashlib.blake2b(data, digest_size=_CHECKSUM_BYTES, key=of_list).digest()
    return base64.urlsafe_b64encode(data + checksum).rstrip(b"=").decode()
