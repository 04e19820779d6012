"""Cursors: the positions at which pages of a conversation's members begin, as opaque text for clients."""

import base64
import hashlib
from typing import Annotated, Final
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from pulse_trio.errors import ErrorCode, PulseError

_CHECKSUM_BYTES: Final = 8  # detects cursors that a client made up or took from another conversation

Cursor = Annotated[
    str,
    Meta(max_length=64, description="`next_cursor` of the previous page; without it, the first page."),
]
NextCursor = Annotated[str | None, Meta(description="The cursor of the next page; `null` on the last one.")]


def next_cursor(conversation_id: UUID, position: int | None) -> str | None:
    """Returns the cursor of the page that begins after a position; None if there is no such page."""
    return None if position is None else _cursor(conversation_id, position)


def read_cursor(conversation_id: UUID, cursor: str | UnsetType) -> int:
    """Returns the position after which a page begins: 0 for the first page.

    Raises:
        PulseError: it is not a cursor of this conversation.
    """
    if cursor is UNSET:
        return 0
    assert isinstance(cursor, str)
    try:
        position = int.from_bytes(base64.urlsafe_b64decode(cursor.encode() + b"==")[:-_CHECKSUM_BYTES], "big")
        if _cursor(conversation_id, position) == cursor:
            return position
    except (ValueError, OverflowError):  # not base64, or a number of more than 64 bits
        pass
    message = "`cursor` must be the `next_cursor` of a page of this list"
    raise PulseError(ErrorCode.INVALID_FIELD, message, field="cursor")


def _cursor(conversation_id: UUID, position: int) -> str:
    data = position.to_bytes(8, "big", signed=True)
    checksum = hashlib.blake2b(data, digest_size=_CHECKSUM_BYTES, key=conversation_id.bytes).digest()
    return base64.urlsafe_b64encode(data + checksum).rstrip(b"=").decode()
