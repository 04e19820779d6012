"""The bus of a service that has one process: nobody else is there to hear."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import trio

from .base import Bus, BusCounters, BusListener

MAX_ITEM_BYTES: Final = 7_900  # like the smallest of the other engines


class LocalBus(Bus):
    """A bus without an engine. It is connected while it runs.

    Args:
        publisher: this process's id.
    """

    def __init__(self, publisher: UUID) -> None:
        self.publisher = publisher
        self.max_item_bytes = MAX_ITEM_BYTES
        self.counters = BusCounters()

    async def run(
        self, listener: BusListener, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        self.is_connected = True
        self.counters.connects += 1
        self.counters.resyncs += 1
        listener.on_connected(True)
        listener.on_resync("connected")
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            self.is_connected = False

    def publish(self, item: bytes) -> None:
        if not 0 < len(item) <= self.max_item_bytes:
            raise ValueError(f"an item must have 1 to {self.max_item_bytes} bytes, not {len(item)}")

    def change_publisher(self, publisher: UUID) -> None:
        self.publisher = publisher

    def last_heard(self, publisher: UUID) -> float | None:
        return None
