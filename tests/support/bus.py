"""A listener that keeps what a bus hears, and an engine in memory that loses, doubles, delays and reorders."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import msgspec
import trio

from pulse_trio.bus.transport import Link, Transport, TransportError


class Recorder:
    """A listener.

    Attributes:
        items: publisher and value of each item, in the order of their arrival.
        batches: the number of items in each batch.
        resyncs: time and reason of each.
        states: what `on_connected` was called with.
    """

    def __init__(self) -> None:
        self.items: list[tuple[UUID, Any]] = []
        self.batches: list[int] = []
        self.resyncs: list[tuple[float, str]] = []
        self.states: list[bool] = []
        self._change = trio.Event()

    @property
    def reasons(self) -> list[str]:
        return [reason for _, reason in self.resyncs]

    def values(self, publisher: UUID) -> list[Any]:
        return [value for sender, value in self.items if sender == publisher]

    def on_items(self, publisher: UUID, items: Sequence[msgspec.Raw | bytes]) -> None:
        self.items += [(publisher, json.loads(bytes(item))) for item in items]
        self.batches.append(len(items))
        self._notify()

    def on_resync(self, reason: str) -> None:
        self.resyncs.append((trio.current_time(), reason))
        self._notify()

    def on_connected(self, is_connected: bool) -> None:
        self.states.append(is_connected)
        self._notify()

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Returns when something was heard that makes this true."""
        while not condition():
            await self._change.wait()

    def _notify(self) -> None:
        change, self._change = self._change, trio.Event()
        change.set()


class MemoryEngine:
    """An engine in memory.

    Args:
        nursery: for what arrives late.
        seed: of its faults.

    Attributes:
        loss: the share of deliveries that are lost.
        doubling: the share that come twice.
        max_delay: seconds; each delivery takes up to this long, so that they overtake one another.
        is_heartbeat_safe: faults do not concern heartbeats, and what comes back to its own link.
        refusal: why connections are refused; empty: they are not.
        sent: every payload, with its time.
        links: the open links.
    """

    def __init__(self, nursery: trio.Nursery, seed: int = 0) -> None:
        self._nursery = nursery
        self._rand = random.Random(seed)
        self.loss = 0.0
        self.doubling = 0.0
        self.max_delay = 0.0
        self.is_heartbeat_safe = True
        self.refusal = ""
        self.works = trio.Event()
        self.works.set()
        self.sent: list[tuple[float, bytes]] = []
        self.links: set[MemoryLink] = set()
        self.attempts: list[float] = []

    def stop(self) -> None:
        """Makes it stand still: what is sent neither arrives nor is answered, until `resume`."""
        self.works = trio.Event()

    def resume(self) -> None:
        self.works.set()

    def drop_connections(self) -> None:
        """Ends all links."""
        for link in list(self.links):
            link.close()

    def inject(self, payload: bytes) -> None:
        """Delivers a payload that no link has sent."""
        for link in self.links:
            link.deliver(payload)

    def carry(self, sender: "MemoryLink", payload: bytes) -> None:
        self.sent.append((trio.current_time(), payload))
        is_safe = self.is_heartbeat_safe and b'"k":' not in payload
        for link in self.links:
            if is_safe or link is sender:
                link.deliver(payload)
                continue
            if self._rand.random() < self.loss:
                continue
            for _ in range(1 + (self._rand.random() < self.doubling)):
                delay = self._rand.uniform(0, self.max_delay)
                if delay:
                    self._nursery.start_soon(self._deliver_late, link, payload, delay)
                else:
                    link.deliver(payload)

    async def _deliver_late(self, link: "MemoryLink", payload: bytes, delay: float) -> None:
        await trio.sleep(delay)
        link.deliver(payload)


class MemoryTransport(Transport):
    """A transport over a `MemoryEngine`."""

    name = "memory"

    def __init__(self, engine: MemoryEngine, max_payload_bytes: int = 1_000, max_payloads: int = 4) -> None:
        self._engine = engine
        self.max_payload_bytes = max_payload_bytes
        self.max_payloads = max_payloads

    async def connect(self) -> Link:
        self._engine.attempts.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self._engine.refusal:
            raise TransportError(self._engine.refusal)
        link = MemoryLink(self._engine, self)
        self._engine.links.add(link)
        return link


class MemoryLink(Link):
    """A link of a `MemoryTransport`."""

    def __init__(self, engine: MemoryEngine, transport: MemoryTransport) -> None:
        self._engine = engine
        self._transport = transport
        self._inside, self._outside = trio.open_memory_channel[bytes](10_000)
        self.is_open = True

    def deliver(self, payload: bytes) -> None:
        if self.is_open:
            self._inside.send_nowait(payload)

    async def send(self, payloads: Sequence[bytes]) -> None:
        await trio.lowlevel.checkpoint()
        await self._engine.works.wait()
        if not self.is_open:
            raise TransportError("dropped")
        assert len(payloads) <= self._transport.max_payloads
        for payload in payloads:
            assert len(payload) <= self._transport.max_payload_bytes
            self._engine.carry(self, payload)

    async def receive(self, on_payload: Callable[[bytes], None]) -> None:
        async for payload in self._outside:
            on_payload(payload)
        raise TransportError("dropped")

    def close(self) -> None:
        self.is_open = False
        self._inside.close()
        self._engine.links.discard(self)
