"""The contract of the bus."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

import msgspec
import trio

HEARTBEAT_INTERVAL: Final = 1.0  # seconds between two heartbeats of a process
GAP_TIMEOUT: Final = 0.2  # seconds that a missing batch may still arrive
MAX_UNHEARD_HEARTBEATS: Final = 3  # own heartbeats in a row that do not come back; then the connection is replaced


class BusListener(Protocol):
    """The receiver of what a bus hears. Its methods must not block; an exception from one ends the bus."""

    def on_items(self, publisher: UUID, items: Sequence[msgspec.Raw | bytes]) -> None:
        """Takes the items of one batch of another publisher, in the order of their publication.

        Args:
            publisher: the process that published them.
            items: JSON values, not decoded. They share the memory of their batch: copy one that is kept for long.
        """

    def on_resync(self, reason: str) -> None:
        """Notes that items may have been lost: compare the store with what is known.

        It may be called several times a second, as when an engine comes back. Do not start a second comparison beside
        a running one: let another follow it.

        Args:
            reason: `connected`, `new publisher`, `missing batch` or `unknown version`.
        """

    def on_connected(self, is_connected: bool) -> None:
        """Notes that the connection to the engine was made or lost."""


@dataclass(slots=True)
class BusCounters:
    """Figures of a bus since its process started.

    Attributes:
        batches_out: batches that the engine took.
        items_out: items in them.
        bytes_out: bytes in them, as sent.
        batches_in: batches of others.
        items_in: items in them.
        bytes_in: bytes in them, as received.
        dropped_items: items that were not sent: the queue was full, or there was no connection.
        failed_batches: batches that were sent without an answer; others may or may not have them.
        gaps: batches of others that did not arrive in time.
        resyncs: calls of `on_resync`.
        connects: connections made.
        disconnects: connections lost.
        malformed: payloads that cannot be decoded.
        unknown_versions: payloads of a version that this one does not know.
    """

    batches_out: int = 0
    items_out: int = 0
    bytes_out: int = 0
    batches_in: int = 0
    items_in: int = 0
    bytes_in: int = 0
    dropped_items: int = 0
    failed_batches: int = 0
    gaps: int = 0
    resyncs: int = 0
    connects: int = 0
    disconnects: int = 0
    malformed: int = 0
    unknown_versions: int = 0


class Bus(ABC):
    """Sends items to all other processes of the service, and hears theirs.

    Guarantee: at most once, in any order, duplicates allowed. A batch may be lost, doubled, late or out of order; its
    items stay together and in order. Loss is noticed: every other process gets `on_resync`

    - at most `HEARTBEAT_INTERVAL + GAP_TIMEOUT` (1.2 seconds) plus the engine's delay after a batch was lost or an
      item dropped, while both are connected;
    - otherwise when the connection is back. A connection that is silent is given up after `MAX_UNHEARD_HEARTBEATS`
      (about four seconds).

    Publishing never blocks and never fails because of the engine. Commit first, then publish: whoever compares with
    the store after `on_resync` then finds what was lost.

    Attributes:
        publisher: this process's id, by which others tell its numbers apart.
        max_item_bytes: the longest item that `publish` takes.
        is_connected: the engine takes and delivers items.
        counters: figures for metrics.
    """

    publisher: UUID
    max_item_bytes: int
    is_connected: bool = False
    counters: BusCounters

    @abstractmethod
    async def run(
        self, listener: BusListener, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Keeps a connection to the engine until cancelled; calls `listener` in this task or its children.

        It is started once the first attempt to connect has succeeded or failed. It calls `on_connected` at each change,
        and `on_resync` after each connect. An outage of the engine never raises.

        Cancelled: the connection is closed at once; items that wait are dropped.
        """

    @abstractmethod
    def publish(self, item: bytes) -> None:
        """Queues an item for all other processes. It is dropped without a connection, or if the queue is full.

        Args:
            item: one JSON value in UTF-8. It is not checked: a malformed one spoils its batch, which counts as lost.

        Raises:
            ValueError: it is empty, or longer than `max_item_bytes`.
        """

    @abstractmethod
    def change_publisher(self, publisher: UUID) -> None:
        """Continues under another id, with a new lease. Its numbers begin again, so that all others resync."""

    @abstractmethod
    def last_heard(self, publisher: UUID) -> float | None:
        """Returns when a publisher was heard last, as of `trio.current_time()`; None: never, or long ago.

        A process at work is heard every `HEARTBEAT_INTERVAL`.
        """
