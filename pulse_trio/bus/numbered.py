"""The bus over any transport: numbers, heartbeats, gaps, pacing and reconnecting."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final
from uuid import UUID

import msgspec
import structlog
import trio

from pulse_trio.exception_groups import flatten_group

from .base import HEARTBEAT_INTERVAL, MAX_UNHEARD_HEARTBEATS, Bus, BusCounters, BusListener
from .batches import Outgoing, UnknownVersion, decode
from .publishers import Publishers
from .transport import Link, Transport, TransportError

FLUSH_INTERVAL: Final = 0.002  # seconds between two sends at least: waking the receivers costs more than the items do
CONNECT_TIMEOUT: Final = 5.0  # seconds for an attempt, with all servers that it tries
MIN_DELAY: Final = 0.1  # seconds: a connection that broke is replaced within this
MAX_DELAY: Final = 2.0  # seconds: an engine that comes back is noticed within this
VERSION_RESYNC_INTERVAL: Final = 30.0  # seconds; payloads of another version come all the time during an upgrade
KEPT_HEADS: Final = 8  # former ids of this process whose payloads may still come back

log = structlog.get_logger(__name__)


class NumberedBus(Bus):
    """A bus that numbers its batches.

    Args:
        transport: the engine.
        publisher: this process's id.
        rand: gives the jitter of reconnecting.
    """

    def __init__(self, transport: Transport, publisher: UUID, rand: random.Random | None = None) -> None:
        self.publisher = publisher
        self.counters = BusCounters()
        self._transport = transport
        self._rand = rand or random.Random()  # noqa: S311  # jitter
        self._outgoing = Outgoing(publisher, transport.max_payload_bytes)
        self.max_item_bytes = self._outgoing.max_item_bytes
        self._own_heads: tuple[bytes, ...] = (self._outgoing.head,)
        self._publishers = Publishers(self.counters)
        self._listener: BusListener | None = None
        self._has_work = trio.Event()  # for the sender
        self._has_gap = trio.Event()
        self._is_heartbeat_due = False
        self._unheard_heartbeats = 0
        self._has_heard_itself = False  # since it is connected
        self._logged_state: bool | None = None
        self._next_version_resync = float("-inf")

    def publish(self, item: bytes) -> None:
        if not 0 < len(item) <= self.max_item_bytes:
            raise ValueError(f"an item must have 1 to {self.max_item_bytes} bytes, not {len(item)}")
        if not self.is_connected:
            self._outgoing.note_drop()
            self.counters.dropped_items += 1
        elif self._outgoing.add(item):
            self._has_work.set()
        else:
            self.counters.dropped_items += 1

    def change_publisher(self, publisher: UUID) -> None:
        self.publisher = publisher
        self._outgoing.restart(publisher)
        self._own_heads = (self._outgoing.head, *self._own_heads[:KEPT_HEADS])
        self._is_heartbeat_due = True
        self._has_work.set()

    def last_heard(self, publisher: UUID) -> float | None:
        return self._publishers.last_heard(publisher)

    async def run(
        self, listener: BusListener, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        assert self._listener is None, "a bus runs once at a time"
        self._listener = listener

        def on_tried() -> None:
            task_status.started()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._expire_gaps)
                await self._keep_connected(on_tried)
        finally:
            self._listener = None
            self.is_connected = False
            self.counters.dropped_items += self._outgoing.drop_all()

    async def _keep_connected(self, on_tried: Callable[[], None]) -> None:
        """Connects again and again; calls `on_tried` once, when the first attempt has succeeded or failed."""
        is_started = False
        delay = MIN_DELAY
        while True:
            failure: TransportError
            try:
                with trio.fail_after(CONNECT_TIMEOUT):
                    link = await self._transport.connect()
            except trio.TooSlowError:
                failure = TransportError("the engine does not answer")
            except TransportError as error:
                failure = error
            else:
                try:
                    self._enter_connected()
                    if not is_started:
                        is_started = True
                        on_tried()
                    failure = await self._serve(link)
                finally:
                    link.close()
                if self._has_heard_itself:
                    delay = MIN_DELAY
            self._enter_disconnected(failure)
            if not is_started:
                is_started = True
                on_tried()
            await trio.sleep(delay * self._rand.uniform(0.5, 1.0))
            delay = min(delay * 2, MAX_DELAY)

    def _enter_connected(self) -> None:
        assert self._listener is not None
        self.is_connected = True
        self.counters.connects += 1
        self._unheard_heartbeats = 0
        self._has_heard_itself = False
        if self._logged_state is not True:
            self._logged_state = True
            log.info("bus connected", engine=self._transport.name)
        self._listener.on_connected(True)
        self._resync("connected")

    def _enter_disconnected(self, failure: TransportError) -> None:
        assert self._listener is not None
        if self._logged_state is not False:
            self._logged_state = False
            log.warning("bus disconnected", engine=self._transport.name, reason=str(failure))
        if self.is_connected:
            self.is_connected = False
            self.counters.disconnects += 1
            self.counters.dropped_items += self._outgoing.drop_all()
            self._listener.on_connected(False)

    async def _serve(self, link: Link) -> TransportError:
        """Uses a link until it fails; returns the reason."""
        failures: list[BaseException] = []
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.receive, self._on_payload)
                nursery.start_soon(self._beat)
                await self._send(link)
        except* TransportError as group:
            failures += flatten_group(group)
        # Reached only if nothing else was raised: Cancelled passes, and so does an error of the listener.
        first = failures[0]
        assert isinstance(first, TransportError)
        return first

    async def _beat(self) -> None:
        """Makes heartbeats due.

        Each heartbeat comes back to us as it goes to the others. If none of several does, the engine does not work,
        whatever it answers.
        """
        while self._unheard_heartbeats < MAX_UNHEARD_HEARTBEATS:
            self._unheard_heartbeats += 1
            self._is_heartbeat_due = True
            self._has_work.set()
            await trio.sleep(HEARTBEAT_INTERVAL)
        raise TransportError("heartbeats do not come back")

    async def _send(self, link: Link) -> None:
        not_before = trio.current_time()
        while True:
            if not self._outgoing and not self._is_heartbeat_due:
                self._has_work = trio.Event()
                await self._has_work.wait()
            if trio.current_time() < not_before:
                await trio.sleep_until(not_before)
            not_before = trio.current_time() + FLUSH_INTERVAL
            payloads: list[bytes] = []
            items = 0
            room = self._transport.max_payloads - self._is_heartbeat_due
            while self._outgoing and len(payloads) < room:
                batch, count = self._outgoing.take_batch()
                payloads.append(batch)
                items += count
            batches, size = len(payloads), sum(map(len, payloads))
            if self._is_heartbeat_due:
                self._is_heartbeat_due = False
                payloads.append(self._outgoing.heartbeat())
            try:
                await link.send(payloads)
            except BaseException:
                self.counters.failed_batches += batches
                raise
            self.counters.batches_out += batches
            self.counters.items_out += items
            self.counters.bytes_out += size

    def _on_payload(self, payload: bytes) -> None:
        if payload.startswith(self._own_heads):
            self._unheard_heartbeats = 0
            self._has_heard_itself = True
            return
        now = trio.current_time()
        try:
            batch = decode(payload)
            publisher, reason = self._publishers.hear(batch.p, batch.n, now, is_heartbeat=batch.k is None)
        except UnknownVersion:
            self.counters.unknown_versions += 1
            if now >= self._next_version_resync:
                self._next_version_resync = now + VERSION_RESYNC_INTERVAL
                self._resync("unknown version")
            return
        except (msgspec.MsgspecError, ValueError, RecursionError):
            self.counters.malformed += 1
            return
        if self._publishers.next_deadline != float("inf"):
            self._has_gap.set()
        if reason is not None:
            self._resync(reason)
        if batch.k:
            assert self._listener is not None
            self.counters.batches_in += 1
            self.counters.items_in += len(batch.k)
            self.counters.bytes_in += len(payload)
            self._listener.on_items(publisher, batch.k)

    async def _expire_gaps(self) -> None:
        while True:
            if self._publishers.next_deadline == float("inf"):
                self._has_gap = trio.Event()
                await self._has_gap.wait()
            # Deadlines of later gaps are later.
            await trio.sleep_until(self._publishers.next_deadline)
            if reason := self._publishers.expire(trio.current_time()):
                self._resync(reason)

    def _resync(self, reason: str) -> None:
        assert self._listener is not None
        self.counters.resyncs += 1
        self._listener.on_resync(reason)
