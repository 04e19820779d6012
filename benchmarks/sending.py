"""Scenarios of messages that are stored: as many as possible, and at given rates."""

import random

from benchmarks import phases
from benchmarks.figures import spread
from benchmarks.phases import Outcome
from benchmarks.provision import Rooms
from benchmarks.stage import Plan, Results, Stage, in_turn, started
from benchmarks.targets import Running

WARM_UP = 0.5  # seconds
MAX_BEHIND = 1.5  # a server that needs longer than this for messages that were sent in one second does not keep up

# Numbers of conversations.
BIG, SPREAD_OUT = 1, 1_000
SPREAD_ROOMS = 200


async def durable(servers: list[Running], plan: Plan, results: Results) -> None:
    """(b) One room with 32 senders; 200 rooms with one each; how soon a message is acknowledged."""
    rooms = [Rooms(BIG, 1, 32, shared=True), Rooms(SPREAD_OUT, SPREAD_ROOMS, 1), Rooms(BIG + 1, 1, 1)]
    async with started(servers, rooms) as stages:
        await _durable(stages, plan, results, "idle", [(BIG + 1, 0)])
        await _durable(stages, plan, results, "hot room", [(BIG, user) for user in range(32)])
        spread_out = [(SPREAD_OUT + number, number) for number in range(SPREAD_ROOMS)]
        await _durable(stages, plan, results, "200 rooms", spread_out)


async def _durable(stages: list[Stage], plan: Plan, results: Results, kind: str, places: list[tuple[int, int]]) -> None:
    """The users at `places` send as fast as they can, then at half that rate; a single user sends with pauses."""
    name, rand = f"durable, {kind}", random.Random(kind)
    is_idle = len(places) == 1

    async def full(stage: Stage, seconds: float) -> Outcome:
        if is_idle:
            return await phases.idle_latency(stage.meter(), stage.clients[0], stage.tally, 2 * seconds)
        return await phases.closed_loop(stage.meter(), stage.clients, stage.tally, seconds)

    async def measured(stage: Stage) -> None:
        results.add(name, stage.name, (await full(stage, plan.seconds)).figures())

    async def half(stage: Stage) -> None:
        rate = spread(figures["rate"] for figures in results.figures[name][stage.name]).median / 2
        outcome = await phases.paced(stage.meter(), stage.clients, stage.tally, plan.seconds, rate, rand)
        results.add(f"{name} at half", stage.name, outcome.figures())

    for stage in stages:
        await stage.connect_many(places)
        await stage.settle()
        await full(stage, WARM_UP)
    await in_turn(stages, plan.rounds, measured)
    if not is_idle:
        await in_turn(stages, plan.rounds, half)
    for stage in stages:
        await stage.close()


async def fixed_rates(servers: list[Running], plan: Plan, results: Results) -> None:
    """(r) How soon messages are acknowledged at rates that do not depend on the server."""
    rooms = [Rooms(BIG, 1, 32, shared=True), Rooms(SPREAD_OUT, SPREAD_ROOMS, 1)]
    async with started(servers, rooms) as stages:
        for kind, places in (
            ("hot room", [(BIG, user) for user in range(32)]),
            ("200 rooms", [(SPREAD_OUT + number, number) for number in range(SPREAD_ROOMS)]),
        ):
            for stage in stages:
                await stage.connect_many(places)
                await stage.settle()
            able = stages
            for rate in plan.rates:
                able = await _fixed_rate(able, plan, results, kind, rate)
            for stage in stages:
                await stage.close()


async def _fixed_rate(stages: list[Stage], plan: Plan, results: Results, kind: str, rate: int) -> list[Stage]:
    """Sends `rate` messages a second, at the same moments to each server. Returns the servers that keep up with it."""
    moments = {stage.name: random.Random(f"{kind} {rate}") for stage in stages}

    async def run(stage: Stage, seconds: float) -> Outcome:
        return await phases.paced(stage.meter(), stage.clients, stage.tally, seconds, rate, moments[stage.name])

    async def measured(stage: Stage) -> None:
        results.add(f"{kind}, {rate} messages a second", stage.name, (await run(stage, plan.seconds)).figures())

    able = []
    for stage in stages:
        outcome = await run(stage, WARM_UP)
        if outcome.usage.wall > MAX_BEHIND * WARM_UP:  # its latencies would grow with the length of the phase
            print(f"  {stage.name} does not keep up with {rate} messages a second in {kind}.", flush=True)
        else:
            able.append(stage)
        await stage.settle()
    await in_turn(able, plan.rounds, measured)
    return able
