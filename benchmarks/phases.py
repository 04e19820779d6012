"""Phases: seconds of load on open connections, during which a server is measured."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.client import Client, Tally
from benchmarks.figures import percentile
from benchmarks.processes import Meter, Usage

STALL = 180.0  # seconds without an answer after which a phase has failed


@dataclass(slots=True)
class Outcome:
    """The result of a phase: the number of operations, their cost, and the latency of each in seconds."""

    operations: int
    usage: Usage
    latencies: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, float]:
        """Returns figures for people: CPU in µs per operation, operations per second, latencies in ms."""
        ordered = sorted(self.latencies)
        count = max(self.operations, 1)
        found = {
            "operations": float(self.operations),
            "cpu_us": self.usage.server / count * 1e6,
            "postgres_us": self.usage.postgres / count * 1e6,
            "rate": self.operations / self.usage.wall,
            "server_share": self.usage.server / self.usage.wall,
            "generator_share": self.usage.generator / self.usage.wall,
        }
        if self.usage.redis is not None:
            found["redis_us"] = self.usage.redis / count * 1e6
        if ordered:
            found |= {"p50_ms": percentile(ordered, 50) * 1e3, "p99_ms": percentile(ordered, 99) * 1e3}
        return found


async def fan_out(meter: Meter, sender: Client, tally: Tally, members: int, burst: int, seconds: float) -> Outcome:
    """Sends `burst` messages at once to a room; the next burst when all are delivered. An operation is a delivery."""
    latencies: list[float] = []
    start = tally.count
    end = time.perf_counter() + seconds
    while (now := time.perf_counter()) < end:
        done = tally.expect(members * burst)
        for _ in range(burst):
            sender.say()
        await asyncio.wait_for(done, STALL)
        latencies.append(time.perf_counter() - now)
    return Outcome(tally.count - start, meter.stop(), latencies)


async def closed_loop(meter: Meter, senders: Sequence[Client], tally: Tally, seconds: float) -> Outcome:
    """Each sender sends its next message when the last has come back. An operation is a message."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    waiting = len(senders)
    finished = tally.expect(2**62)  # fails when a connection is lost

    def on_ack(client: Client, seconds: float) -> None:
        nonlocal waiting
        latencies.append(seconds)
        if time.perf_counter() < end:
            client.say()
            return
        waiting -= 1
        if waiting == 0 and not finished.done():
            finished.set_result(None)

    def begin() -> None:
        for client in senders:
            client.say()

    await _with_acks(senders, on_ack, finished, begin, seconds)
    return Outcome(len(latencies), meter.stop(), latencies)


async def paced(
    meter: Meter,
    senders: Sequence[Client],
    tally: Tally,
    seconds: float,
    rate: float,
    rand: random.Random,
    listeners: Sequence[Client] | None = None,
) -> Outcome:
    """Sends `rate` messages a second at random times, without waiting for answers. An operation is a message.

    Latencies are those of the senders or, if there are any, of the listeners that follow them.
    """
    latencies: list[float] = []
    planned: list[float] = []
    moment = 0.0
    while (moment := moment + rand.expovariate(rate)) < seconds:
        planned.append(moment)
    finished = tally.expect(2**62)

    def on_ack(client: Client, seconds: float) -> None:
        latencies.append(seconds)
        if len(latencies) == len(planned) and not finished.done():
            finished.set_result(None)

    async def send() -> None:
        start = time.perf_counter()
        for number, moment in enumerate(planned):
            while (ahead := start + moment - time.perf_counter()) > 0:
                await asyncio.sleep(ahead)
            senders[number % len(senders)].say()

    tasks: list[asyncio.Task[None]] = []
    readers = senders if listeners is None else listeners
    await _with_acks(readers, on_ack, finished, lambda: tasks.append(asyncio.create_task(send())), seconds)
    return Outcome(len(latencies), meter.stop(), latencies)


async def _with_acks(
    readers: Sequence[Client],
    on_ack: Callable[[Client, float], None],
    finished: asyncio.Future[None],
    begin: Callable[[], object],
    seconds: float,
) -> None:
    for client in readers:
        client.on_ack = on_ack
    try:
        begin()
        await asyncio.wait_for(finished, seconds + STALL)
    finally:
        for client in readers:
            client.on_ack = None
            client.sent_at.clear()


async def idle_latency(meter: Meter, sender: Client, tally: Tally, seconds: float) -> Outcome:
    """One sender sends its next message 5 ms after the last has come back. An operation is a message."""
    latencies: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        done = tally.expect(1)
        now = time.perf_counter()
        sender.say()
        await asyncio.wait_for(done, STALL)
        latencies.append(time.perf_counter() - now)
        await asyncio.sleep(0.005)
    return Outcome(len(latencies), meter.stop(), latencies)


async def typing_storm(
    meter: Meter, members: Sequence[Client], tally: Tally, seconds: float, rate: float
) -> tuple[Outcome, float]:
    """Sends `rate` typing frames a second in a room. Returns also the share delivered. An operation is a delivery."""
    start = tally.count
    sent = 0
    begin = time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        while sent < rate * elapsed:
            members[sent % len(members)].type()
            sent += 1
        await asyncio.sleep(0.005)
    goal = start + sent * (len(members) - 1)
    before = -1
    while tally.count < goal and tally.count != before:  # a server may drop typing frames
        before = tally.count
        await asyncio.sleep(0.3)
    outcome = Outcome(tally.count - start, meter.stop())
    return outcome, (tally.count - start) / (goal - start)
