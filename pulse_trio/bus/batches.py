"""The text of a batch, and the queue of items that wait to be sent.

A batch is one JSON text in UTF-8. Example, the 17th batch of a process, with two items:

    {"v":1,"p":"0198c0de-…","n":17,"k":[{"c":"…","rev":8},{"c":"…","rev":3}]}

`v` is the version of this form, `p` the publisher, `n` the number of the batch, `k` the items. Without `k` it is a
heartbeat: it says that 17 was the latest batch.
"""

from __future__ import annotations

from collections import deque
from typing import Annotated, Final
from uuid import UUID

import msgspec

VERSION: Final = 1
MAX_NUMBER: Final = 2**63 - 1
ENVELOPE_BYTES: Final = len('{"v":1,"p":"","n":,"k":[]}') + 36 + len(str(MAX_NUMBER))

# The queue is for the time that the engine takes to answer: at 5,000 items of 400 bytes in a second, four seconds.
MAX_QUEUED_BYTES: Final = 8 * 2**20
_ITEM_OVERHEAD: Final = 64  # bytes of memory that an item takes beside its own


class Batch(msgspec.Struct, frozen=True, gc=False):
    """A decoded batch or, without items, a heartbeat.

    Attributes:
        v: `VERSION`.
        p: the publisher's id in canonical form.
        n: its number; for a heartbeat that of the latest batch, 0 before the first.
        k: the items, not decoded.
    """

    v: int
    p: Annotated[str, msgspec.Meta(max_length=36)]
    n: Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMBER)]
    k: list[msgspec.Raw] | None = None


class _Version(msgspec.Struct):
    v: int


class UnknownVersion(Exception):
    """A payload of another version than `VERSION`."""


_decode = msgspec.json.Decoder(Batch).decode
_decode_version = msgspec.json.Decoder(_Version).decode


def decode(payload: bytes) -> Batch:
    """Decodes a payload.

    Raises:
        UnknownVersion: it is of another version.
        msgspec.MsgspecError: it is malformed.
        UnicodeDecodeError: the same: a text in it is not UTF-8.
    """
    try:
        batch = _decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        if _decode_version(payload).v != VERSION:
            raise UnknownVersion from None
        raise
    if batch.v != VERSION:
        raise UnknownVersion
    return batch


class Outgoing:
    """The items that wait, and the number of the latest batch.

    A number is skipped for items that were dropped, however many: the others then miss a batch, and resync.

    Args:
        publisher: whose batches these are.
        max_payload_bytes: the longest payload that the engine takes.
    """

    def __init__(self, publisher: UUID, max_payload_bytes: int) -> None:
        self._max_items_bytes: Final = max_payload_bytes - ENVELOPE_BYTES
        self._items: deque[bytes] = deque()
        self._queued_bytes = 0
        self.restart(publisher)

    def restart(self, publisher: UUID) -> None:
        """Begins the numbers again, for another publisher. Items that wait are kept."""
        self._head = f'{{"v":{VERSION},"p":"{publisher}","n":'.encode()
        self._number = 0
        self._has_dropped = False

    @property
    def max_item_bytes(self) -> int:
        """The longest item that fits into a batch."""
        return self._max_items_bytes

    @property
    def head(self) -> bytes:
        """The first bytes of each payload of this publisher."""
        return self._head

    def __bool__(self) -> bool:
        return bool(self._items)

    def add(self, item: bytes) -> bool:
        """Queues an item; returns False, and skips a number, if the queue is full."""
        size = len(item) + _ITEM_OVERHEAD
        if self._queued_bytes + size > MAX_QUEUED_BYTES:
            self._has_dropped = True
            return False
        self._items.append(item)
        self._queued_bytes += size
        return True

    def drop_all(self) -> int:
        """Drops what waits, and skips a number for it; returns how many items that were."""
        count = len(self._items)
        self._has_dropped = self._has_dropped or count > 0
        self._items.clear()
        self._queued_bytes = 0
        return count

    def note_drop(self) -> None:
        """Skips a number for an item that is not queued."""
        self._has_dropped = True

    def take_batch(self) -> tuple[bytes, int]:
        """Returns the next batch, with as many of the items that wait as fit, and their number. There must be one."""
        items = self._items
        taken = [items.popleft()]
        room = self._max_items_bytes - len(taken[0])
        self._queued_bytes -= len(taken[0]) + _ITEM_OVERHEAD
        while items and len(items[0]) + 1 <= room:  # 1: the comma
            item = items.popleft()
            taken.append(item)
            room -= len(item) + 1
            self._queued_bytes -= len(item) + _ITEM_OVERHEAD
        self._number += 1 + self._skip()
        return b'%b%d,"k":[%b]}' % (self._head, self._number, b",".join(taken)), len(taken)

    def heartbeat(self) -> bytes:
        """Returns a payload that says the number of the latest batch."""
        self._number += self._skip()
        return b"%b%d}" % (self._head, self._number)

    def _skip(self) -> int:
        skipped, self._has_dropped = self._has_dropped, False
        return int(skipped)
