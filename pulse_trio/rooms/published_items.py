"""The items that this process publishes: they fit the bus, and no read position comes twice.

An item that is too large goes in parts, or as the rev that others must come to.
"""

from collections.abc import Sequence
from typing import Final, Protocol
from uuid import UUID

import msgspec

from pulse_trio.rooms.peer_items import (
    CreatedItem,
    Item,
    MembersItem,
    MessagesItem,
    PropertiesItem,
    ReadItem,
    RevItem,
    encode_item,
)

MAX_READ_SEQS: Final = 10_000  # read positions whose repeats are not published: 3 MB


class PublishingBus(Protocol):
    """A bus as a publisher uses it; see `pulse_trio.bus.base`."""

    @property
    def max_item_bytes(self) -> int:
        """The bytes that an item may have."""

    def publish(self, item: bytes) -> None:
        """Publishes an item to the other processes, or drops it; returns at once."""


class PublishedItems:
    """The items that this process publishes.

    Args:
        bus: takes them.
    """

    def __init__(self, bus: PublishingBus) -> None:
        self._bus = bus
        self._read_seqs: dict[tuple[UUID, UUID], int] = {}  # conversation, user: as published last, oldest first

    def publish(self, item: Item) -> None:
        """Publishes an item, in smaller ones if it is too large for the bus."""
        data = encode_item(item)
        if len(data) <= self._bus.max_item_bytes:
            self._bus.publish(data)
        else:
            for part in _smaller(item):
                self.publish(part)

    def publish_read(self, conversation_id: UUID, positions: Sequence[tuple[UUID, int, int]]) -> None:
        """Publishes read positions: user, seq, and the rev in the user's own sequence; leaves repeats out."""
        moved = [each for each in positions if self._note_read(conversation_id, each)]
        if moved:
            self.publish(ReadItem(conversation_id, moved))

    def _note_read(self, conversation_id: UUID, position: tuple[UUID, int, int]) -> bool:
        """Returns whether a position is another one than was published last: each opens a room in other processes."""
        user_id, seq, _ = position
        key = conversation_id, user_id
        if self._read_seqs.pop(key, None) == seq:
            self._read_seqs[key] = seq
            return False
        self._read_seqs[key] = seq
        if len(self._read_seqs) > MAX_READ_SEQS:
            del self._read_seqs[next(iter(self._read_seqs))]
        return True


def _smaller(item: Item) -> list[Item]:
    """Returns items in place of one that is too large for the bus."""
    if isinstance(item, MessagesItem | MembersItem) and len(item.rows) > 1:
        half = len(item.rows) // 2
        return [msgspec.structs.replace(item, rows=rows) for rows in (item.rows[:half], item.rows[half:])]
    if isinstance(item, MessagesItem):
        return [RevItem(item.conversation_id, item.rows[-1].rev)]
    if isinstance(item, PropertiesItem):
        return [RevItem(item.conversation_id, item.row.rev)]
    if isinstance(item, ReadItem) and len(item.positions) > 1:
        half = len(item.positions) // 2
        return [ReadItem(item.conversation_id, part) for part in (item.positions[:half], item.positions[half:])]
    if isinstance(item, CreatedItem) and item.members:
        return [CreatedItem(item.conversation_id, [])]
    raise ValueError("an item is too large for the bus")
