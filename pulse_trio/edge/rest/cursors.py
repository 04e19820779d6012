"""Cursors: where the next page of a conversation's members begins, as a text that means nothing to clients."""

import base64
import hashlib
from typing import Annotated, Final
from uuid import UUID

from msgspec import UNSET, Meta, UnsetType

from pulse_trio.errors import ErrorCode, PulseError

_SUM_BYTES: Final = 8  # of a checksum, which sees what a client made up or took from another conversation

Cursor = Annotated[
    str,
    Meta(max_length=64, description="`next_cursor` of the page before; without it the first page."),
]
NextCursor = Annotated[str | None, Meta(description="For the next page; `null` if this is the last one.")]


def next_cursor(conversation_id: UUID, position: int | None) -> str | None:
    """The cursor of the page that begins after a position; None if there is no such page."""
    return None if position is None else _cursor(conversation_id, position)


def read_cursor(conversation_id: UUID, cursor: str | UnsetType) -> int:
    """The position after which a page begins: 0 for the first page.

    Raises:
        PulseError: it is no cursor of this conversation.
    """
    if cursor is UNSET:
        return 0
    assert isinstance(cursor, str)
    try:
        position = int.from_bytes(base64.urlsafe_b64decode(cursor.encode() + b"==")[:-_SUM_BYTES], "big")
        if _cursor(conversation_id, position) == cursor:
            return position
    except (ValueError, OverflowError):  # no base64, or a number of more than 64 bits
        pass
    raise PulseError(ErrorCode.INVALID_FIELD, "`cursor` is none that a page of this list had", field="cursor")


def _cursor(conversation_id: UUID, position: int) -> str:
    data = position.to_bytes(8, "big", signed=True)
    checksum = hashlib.blake2b(data, digest_size=_SUM_BYTES, key=conversation_id.bytes).digest()
    return base64.urlsafe_b64encode(data + checksum).rstrip(b"=").decode()
