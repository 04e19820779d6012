"""Scenario (h): messages within one process, and across two."""

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks import phases
from benchmarks.bars import ACROSS, ALONE, WITHIN, name_of
from benchmarks.client import Client, Tally
from benchmarks.phases import STALL, Outcome
from benchmarks.placement import Placement, Seat
from benchmarks.processes import Meter
from benchmarks.provision import Rooms
from benchmarks.several import PROCESSES, started_redis, variants
from benchmarks.stage import Plan, Results, Stage, started
from benchmarks.targets import Running

WARM_UP = 0.5  # seconds
RATE = 500  # messages a second
HOT_MEMBERS, PAIRS, CROWD_USERS = 32, 100, 20

# Numbers of conversations; those of two placements follow each other.
HOT, IDLE, CROWD, WITHIN_PAIRS, ACROSS_PAIRS = 1, 3, 5, 1_000, 2_000

Run = Callable[[float], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class Column:
    """A server in this scenario. `processes`: how many of its processes serve."""

    stage: Stage
    placement: Placement
    processes: int

    @property
    def kinds(self) -> tuple[str, ...]:
        """The placements of its connections that are compared."""
        return (ALONE,) if self.processes == 1 else (WITHIN, ACROSS)


async def several_processes(servers: list[Running], plan: Plan, results: Results) -> None:
    """(h) Messages within one process and across two: one hot room, 100 rooms of two, one at a time, a crowd."""
    cores = os.sched_getaffinity(0) | set(range(os.cpu_count() or 1))
    async with started_redis(servers[0].logs, cores) as redis:
        clusters, left_out = variants(servers, redis)
        for reason in left_out:
            print(f"  Leaving out {reason}.", flush=True)
        rooms = [
            Rooms(HOT, 2, HOT_MEMBERS, shared=True),
            Rooms(IDLE, 2, 2, shared=True),
            Rooms(CROWD, 1, CROWD_USERS, shared=True),
            Rooms(WITHIN_PAIRS, PAIRS, 2),
            Rooms(ACROSS_PAIRS, PAIRS, 2),
        ]
        async with started([*servers, *clusters], rooms) as stages:
            columns = []
            for stage in stages:
                processes = 1 if stage.running in servers else PROCESSES
                columns.append(Column(stage, Placement(stage, processes), processes))
                await columns[-1].placement.wait_processes(HOT, 0)
            for part in (_idle, _hot_room, _pairs, _crowd):
                await part(columns, plan, results)
                for stage in stages:
                    await stage.close()


async def _idle(columns: Sequence[Column], plan: Plan, results: Results) -> None:
    """One sender, 5 ms between messages; how soon another member has each."""
    runs: list[tuple[str, Column, Run]] = []
    for column in columns:
        for number, kind in enumerate(column.kinds):
            heard, room = Tally(), IDLE + number
            there = 1 if kind == ACROSS else 0
            sender, _ = await column.placement.connect([Seat(room, 0, 0), Seat(room, 1, there, heard)])

            async def run(
                seconds: float, column: Column = column, sender: Client = sender, heard: Tally = heard
            ) -> Outcome:
                meter = column.stage.meter()
                return await phases.idle_latency(meter, sender, heard, 2 * seconds)

            runs.append((name_of("one at a time", kind), column, run))
    await _alternate(runs, plan, results)


async def _hot_room(columns: Sequence[Column], plan: Plan, results: Results) -> None:
    """All members of one room send as fast as they can; then half of them at a fixed rate, the others listen."""
    fast: list[tuple[str, Column, Run]] = []
    paced: list[tuple[str, Column, Run]] = []
    for column in columns:
        for number, kind in enumerate(column.kinds):
            away = 1 if kind == ACROSS else 0
            # Users 0 and 1, 2 and 3 … are a sender and its listener.
            seats = [Seat(HOT + number, user, (user // 2 + user) % 2 * away) for user in range(HOT_MEMBERS)]
            members = await column.placement.connect(seats)
            fast.append((name_of("hot room", kind), column, _full(column, members, HOT_MEMBERS)))
            name = name_of(f"hot room, {RATE} messages a second", kind)
            paced.append((name, column, _at_rate(column, members, HOT_MEMBERS)))
    await _alternate(fast, plan, results)
    await _alternate(paced, plan, results)


async def _pairs(columns: Sequence[Column], plan: Plan, results: Results) -> None:
    """Many rooms of a sender and a listener: as fast as they can, and at a fixed rate."""
    fast: list[tuple[str, Column, Run]] = []
    paced: list[tuple[str, Column, Run]] = []
    for column in columns:
        for kind in column.kinds:
            first = ACROSS_PAIRS if kind == ACROSS else WITHIN_PAIRS
            away = 1 if kind == ACROSS else 0
            seats = [
                Seat(first + pair, 2 * pair + member, (pair + member * away) % column.processes)
                for pair in range(PAIRS)
                for member in (0, 1)
            ]
            members = await column.placement.connect(seats)
            fast.append((name_of(f"{PAIRS} pairs", kind), column, _full(column, members[::2], 2)))
            name = name_of(f"{PAIRS} pairs, {RATE} messages a second", kind)
            paced.append((name, column, _at_rate(column, members, 2)))
    await _alternate(fast, plan, results)
    await _alternate(paced, plan, results)


def _full(column: Column, senders: Sequence[Client], size: int) -> Run:
    """Returns a phase in which each sender sends its next message when the last has come back.

    Args:
        column: the server.
        senders: who sends.
        size: members of a room, all of which get a message.
    """

    async def load(meter: Meter, seconds: float) -> Outcome:
        return await phases.closed_loop(meter, senders, column.stage.tally, seconds)

    return partial(_delivered, column.stage, size, load)


def _at_rate(column: Column, members: Sequence[Client], size: int) -> Run:
    """Returns a phase at a fixed rate, with the latency from a sender to its listener.

    Args:
        column: the server.
        members: a sender and its listener, the next sender and its listener …
        size: members of a room, all of which get a message.
    """
    senders, listeners = members[::2], members[1::2]
    rand = random.Random(RATE)  # the same moments for every server

    async def load(meter: Meter, seconds: float) -> Outcome:
        for sender, listener in zip(senders, listeners, strict=True):
            listener.follow(sender)
        return await phases.paced(meter, senders, column.stage.tally, seconds, RATE, rand, listeners)

    return partial(_delivered, column.stage, size, load)


async def _crowd(columns: Sequence[Column], plan: Plan, results: Results) -> None:
    """One room with the same number of members in each process: single messages, and bursts."""
    single: list[tuple[str, Column, Run]] = []
    bursts: list[tuple[str, Column, Run]] = []
    for column in columns:
        count = plan.crowd * column.processes
        seats = [Seat(CROWD, number % CROWD_USERS, number % column.processes) for number in range(count)]
        members = await column.placement.connect(seats)
        kind = column.kinds[-1]
        for burst, runs in ((1, single), (20, bursts)):

            async def run(
                seconds: float, column: Column = column, members: list[Client] = members, burst: int = burst
            ) -> Outcome:
                stage = column.stage
                return await phases.fan_out(stage.meter(), members[0], stage.tally, len(members), burst, seconds)

            what = f"fan-out to {plan.crowd} in each process" + (f", bursts of {burst}" if burst > 1 else "")
            runs.append((name_of(what, kind), column, run))
    await _alternate(single, plan, results)
    await _alternate(bursts, plan, results)


async def _delivered(
    stage: Stage, members: int, load: Callable[[Meter, float], Awaitable[Outcome]], seconds: float
) -> Outcome:
    """Runs a load, and measures until each of its messages has reached all members."""
    meter, start = stage.meter(), stage.tally.count
    outcome = await load(stage.meter(), seconds)
    late = start + outcome.operations * members - stage.tally.count
    if late > 0:
        await asyncio.wait_for(stage.tally.expect(late), STALL)
    return Outcome(outcome.operations, meter.stop(), outcome.latencies)


async def _alternate(runs: Sequence[tuple[str, Column, Run]], plan: Plan, results: Results) -> None:
    """Runs all phases once after the other, round by round; waits for late frames in between."""
    for _, column, run in runs:
        await column.stage.settle()
        await run(WARM_UP)
    for _ in range(plan.rounds):
        for name, column, run in runs:
            outcome = await run(plan.seconds)
            results.add(name, column.stage.name, outcome.figures())
            await column.stage.settle()
