"""A bus between the simulated processes: it loses, doubles, delays and reorders, as the seed says.

It keeps the guarantee of the real one: batches are numbered and each process says its number every second. So a process
that misses a batch learns of that within about 1.5 seconds, and compares what it has with the store.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import trio

from pulse_trio.bus.base import BusCounters

BEAT = 1.0  # virtual seconds between two heartbeats
GAP = 0.2  # virtual seconds in which a missing batch may still come
LARGEST = (7_000, 7_000, 500)  # bytes that an item may have: with the last one most go in pieces, or as a rev
SLOW = (0.002, 0.002, 0.02, 0.3, 3.0)  # virtual seconds that a batch is under way at most
FLUSH = 0.003  # virtual seconds in which items gather
LOSSES = (0.0, 0.02, 0.1, 0.3)  # how often a batch is lost


@dataclass(frozen=True)
class _Batch:
    """Items of one publisher; none are a heartbeat, which names the number of the last batch."""

    publisher: UUID
    number: int
    items: tuple[bytes, ...]


class Listener(Protocol):
    """The receiver of what a bus hears."""

    def on_items(self, publisher: UUID, items: Sequence[bytes]) -> None: ...

    def on_resync(self, reason: str) -> None: ...

    def on_connected(self, is_connected: bool) -> None: ...


class Host(Protocol):
    """The process of a bus.

    Attributes:
        bus_outage: it cannot reach the bus: empty, `known`, or `silent` if it does not notice.
    """

    bus_outage: str

    async def wait_running(self) -> None:
        """Waits while the process stands still."""


class Engine:
    """Carries batches between the buses of all processes.

    Args:
        rand: decides how often batches are lost, and how slow they are.
        has_faults: False for a bus that loses nothing.

    Attributes:
        max_item_bytes: bytes that an item may have.
    """

    def __init__(self, rand: random.Random, *, has_faults: bool) -> None:
        self._loss = rand.choice(LOSSES)
        self._slow = rand.choice(SLOW)
        self.max_item_bytes = rand.choice(LARGEST)
        self._has_faults = has_faults
        self._buses: dict[SimulatedBus, None] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carries batches until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._nursery = None

    def calm_down(self) -> None:
        """From now on nothing is lost."""
        self._has_faults = False

    def attach(self, bus: "SimulatedBus") -> None:
        self._buses[bus] = None

    def detach(self, bus: "SimulatedBus") -> None:
        """Removes a bus whose process has ended."""
        self._buses.pop(bus, None)

    def send(self, batch: _Batch, sender: "SimulatedBus", rand: random.Random) -> None:
        """Sends a batch to all other buses."""
        assert self._nursery is not None
        for bus in self._buses:
            if bus is sender or sender.is_cut_off:
                continue
            copies = 1
            if self._has_faults:
                copies = 0 if rand.random() < self._loss else 2 if rand.random() < 0.05 else 1
            for _ in range(copies):
                slow = rand.random() < 0.1 and self._has_faults
                self._nursery.start_soon(self._carry, batch, bus, rand.uniform(0, self._slow if slow else 0.002))

    async def _carry(self, batch: _Batch, bus: "SimulatedBus", seconds: float) -> None:
        await trio.sleep(seconds)
        if bus in self._buses and not bus.is_cut_off:
            bus.put(batch)


class SimulatedBus:
    """The bus of one process, as `create_app` takes it.

    Args:
        engine: connects it with the others.
        host: its process.
        rand: decides what goes wrong with what it sends.
    """

    def __init__(self, engine: Engine, host: Host, rand: random.Random) -> None:
        self.max_item_bytes = engine.max_item_bytes
        self.jitter = f"{rand.random()}"
        self._engine = engine
        self._host = host
        self._random = rand
        self.publisher = UUID(bytes=rand.randbytes(16))
        self.counters = BusCounters()
        self._heard_at: dict[UUID, float] = {}
        self._number = 0
        self._queue: list[bytes] = []
        self._has_items = trio.Event()
        self._send, self._inbox = trio.open_memory_channel[_Batch](math.inf)
        self._listener: Listener | None = None
        self._is_connected = False
        self._highest: dict[UUID, int] = {}
        self._missing: dict[tuple[UUID, int], float] = {}  # batch → when it is given up

    @property
    def is_cut_off(self) -> bool:
        """True while nothing that it sends arrives, and nothing reaches it."""
        return bool(self._host.bus_outage) or not self._is_connected

    def publish(self, item: bytes) -> None:
        assert 0 < len(item) <= self.max_item_bytes
        if self._is_connected:
            self._queue.append(item)
            self._has_items.set()
        else:
            self._number += 1  # the others learn from the number that they lack something

    def last_heard(self, publisher: UUID) -> float | None:
        return self._heard_at.get(publisher)

    async def run(self, listener: Any, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self._listener = listener
        self._engine.attach(self)
        try:
            async with trio.open_nursery() as nursery:
                if not self._host.bus_outage:
                    self.set_connected(True)
                nursery.start_soon(self._flush)
                nursery.start_soon(self._beat)
                nursery.start_soon(self._expire)
                task_status.started()
                async for batch in self._inbox:
                    await self._host.wait_running()
                    self._hear(batch)
        finally:
            self._engine.detach(self)
            self._listener = None

    def set_connected(self, is_connected: bool) -> None:
        """Connects it, or breaks its connection, and says so to the listener."""
        if self._listener is None or is_connected == self._is_connected:
            return
        self._is_connected = is_connected
        if not is_connected:
            self._number += len(self._queue)
            self._queue = []
        self._listener.on_connected(is_connected)
        if is_connected:
            self._listener.on_resync("connected")

    def put(self, batch: _Batch) -> None:
        """Takes a batch of another bus."""
        self._send.send_nowait(batch)

    async def _flush(self) -> None:
        while True:
            await self._has_items.wait()
            await trio.sleep(self._random.uniform(0, FLUSH))
            await self._host.wait_running()
            self._has_items = trio.Event()
            size = self._random.choice((1, 3, 100))
            queue, self._queue = self._queue, []
            for at in range(0, len(queue), size):
                self._number += 1
                batch = _Batch(self.publisher, self._number, tuple(queue[at : at + size]))
                self._engine.send(batch, self, self._random)

    async def _beat(self) -> None:
        while True:
            await self._host.wait_running()
            self._engine.send(_Batch(self.publisher, self._number, ()), self, self._random)
            await trio.sleep(BEAT)

    def _hear(self, batch: _Batch) -> None:
        assert self._listener is not None
        self._heard_at[batch.publisher] = trio.current_time()
        highest = self._highest.get(batch.publisher)
        end = batch.number if batch.items else batch.number + 1
        if highest is None:
            self._listener.on_resync("new publisher")
            highest = batch.number
        for number in range(highest + 1, end):
            self._missing[batch.publisher, number] = trio.current_time() + GAP
        if batch.items:
            self._missing.pop((batch.publisher, batch.number), None)
        self._highest[batch.publisher] = max(highest, batch.number)
        if batch.items:
            self._listener.on_items(batch.publisher, batch.items)

    async def _expire(self) -> None:
        while True:
            await trio.sleep(GAP / 2)
            await self._host.wait_running()
            expired = [key for key, deadline in self._missing.items() if deadline <= trio.current_time()]
            for key in expired:
                del self._missing[key]
            if expired and self._listener is not None:
                self._listener.on_resync("missing batch")
