"""PostgreSQL's binary format of the types that prepared statements use; for `TrioConnection.fetch_prepared`.

Lengths and numbers are big-endian. An array is a header (dimensions, a flag for nulls, the type of its elements, their
number, the first index), then for each element its length, -1 for null, and its bytes. The source is PostgreSQL's
`array_send` and `timestamptz_send`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

UUID_OID: Final = 2950
TEXT_OID: Final = 25
INT8_OID: Final = 20
TIMESTAMPTZ_OID: Final = 1184
UUIDS_OID: Final = 2951
TEXTS_OID: Final = 1009
TIMESTAMPTZS_OID: Final = 1185

_header = struct.Struct(">iiIii")
_int4 = struct.Struct(">i")
_int8 = struct.Struct(">q")
_NULL: Final = _int4.pack(-1)
_OF_16: Final = _int4.pack(16)
_OF_8: Final = _int4.pack(8)
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)


def int8(value: int) -> bytes:
    """Encodes a bigint."""
    return _int8.pack(value)


def timestamptz(moment: datetime) -> bytes:
    """Encodes a time with a zone, in microseconds since 2000.

    Raises:
        TypeError: the time has no zone.
    """
    since = moment - _EPOCH
    return _int8.pack((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds)


def text(value: str | None) -> bytes | None:
    """Encodes a text or null.

    Raises:
        UnicodeEncodeError: it has a lone surrogate.
    """
    return None if value is None else value.encode()


def uuids(values: Sequence[UUID]) -> bytes:
    """Encodes an array of ids."""
    parts = [_header.pack(1, 0, UUID_OID, len(values), 1)]
    for value in values:
        parts += (_OF_16, value.bytes)
    return b"".join(parts)


def texts(values: Sequence[str | None]) -> bytes:
    """Encodes an array of texts and nulls.

    Raises:
        UnicodeEncodeError: one has a lone surrogate.
    """
    parts = [_header.pack(1, 1, TEXT_OID, len(values), 1)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            encoded = value.encode()
            parts += (_int4.pack(len(encoded)), encoded)
    return b"".join(parts)


def timestamptzs(moments: Sequence[datetime]) -> bytes:
    """Encodes an array of times with a zone."""
    parts = [_header.pack(1, 0, TIMESTAMPTZ_OID, len(moments), 1)]
    for moment in moments:
        parts += (_OF_8, timestamptz(moment))
    return b"".join(parts)


def read_int8(data: bytes) -> int:
    """Decodes a bigint."""
    value: int = _int8.unpack(data)[0]
    return value


def read_int8s(data: bytes) -> list[int]:
    """Decodes an array of bigints without nulls."""
    length = _length(data)
    return list(struct.unpack_from(f">{'4xq' * length}", data, _header.size)) if length else []


def read_texts(data: bytes) -> list[str]:
    """Decodes an array of texts without nulls."""
    found = []
    start = _header.size
    for _ in range(_length(data)):
        (size,) = _int4.unpack_from(data, start)
        start += 4
        found.append(data[start : start + size].decode())
        start += size
    return found


def _length(data: bytes) -> int:
    """Returns the number of elements of an array; an empty one has no dimension."""
    (dimensions,) = _int4.unpack_from(data)
    if not dimensions:
        return 0
    length: int = _int4.unpack_from(data, 12)[0]
    return length
