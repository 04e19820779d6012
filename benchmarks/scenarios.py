"""The scenarios: each opens connections and measures phases on them, server by server in turn."""

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks import phases
from benchmarks.client import Tally
from benchmarks.crossing import several_processes
from benchmarks.identities import room_id, token
from benchmarks.phases import Outcome
from benchmarks.processes import resident_bytes
from benchmarks.provision import Rooms
from benchmarks.rest import Http
from benchmarks.sending import BIG, WARM_UP, durable, fixed_rates
from benchmarks.stage import Plan, Results, Stage, in_turn, started
from benchmarks.targets import EJABBERD, FASTAPI, NODE, PEERS, SOCKETIO, Running

MAX_USERS = 200  # of the rooms of scenario a

# Numbers of conversations.
CROWDS, RESUMED, LONG = 2_000, 3_000, 4_000
CROWD, RESUMED_MEMBERS, MISSED = 10, 50, 100


async def fan_out(servers: list[Running], plan: Plan, results: Results) -> None:
    """(a) Messages to rooms of several sizes, one at a time and 20 at once."""
    rooms = [Rooms(BIG + index, 1, size, shared=True) for index, size in enumerate(plan.fan_out)]
    async with started(servers, rooms) as stages:
        for index, size in enumerate(plan.fan_out):
            for stage in stages:
                # Connections count here, not users: in a room of 2,000 each of 20 users has 100.
                users = 20 if size > MAX_USERS and stage.running.target.shares_users else size
                await stage.connect_many([(BIG + index, number % users) for number in range(size)])
            for burst in (1, 20):
                await _fan_out(stages, plan, results, burst)
            for stage in stages:
                await stage.close()


async def _fan_out(stages: list[Stage], plan: Plan, results: Results, burst: int) -> None:
    async def run(stage: Stage, seconds: float) -> Outcome:
        sender, size = stage.clients[0], len(stage.clients)
        return await phases.fan_out(stage.meter(), sender, stage.tally, size, burst, seconds)

    async def measured(stage: Stage) -> None:
        name = f"fan-out {len(stage.clients)}" + (f", bursts of {burst}" if burst > 1 else "")
        results.add(name, stage.name, (await run(stage, plan.seconds)).figures())

    for stage in stages:
        await stage.settle()
        await run(stage, WARM_UP)
    await in_turn(stages, plan.rounds, measured)


async def idle(servers: list[Running], plan: Plan, results: Results) -> None:
    """(c) Many connections that do nothing, ten to a room."""
    rooms = [Rooms(CROWDS, plan.idle // CROWD, CROWD)]
    for _ in range(max(1, plan.rounds // 2)):  # each takes long
        for server in servers:
            async with started([server], rooms) as (stage,):
                places = [(CROWDS + number // CROWD, number) for number in range(plan.idle)]
                await stage.connect_many(places[: 5 * CROWD])  # so that a server loads what it needs on first use
                await stage.close()
                await asyncio.sleep(0.5)
                pid = server.process.pid
                before, meter = resident_bytes(pid), stage.meter()
                await stage.connect_many(places)
                connecting = meter.stop()
                await asyncio.sleep(2)
                each = (resident_bytes(pid) - before) / plan.idle
                meter = stage.meter()
                await asyncio.sleep(plan.idle_seconds)
                waiting = meter.stop()
                results.add(
                    f"idle {plan.idle}",
                    stage.name,
                    {
                        "memory_kib": each / 1024,
                        "connect_s": connecting.wall,
                        "connect_cpu_us": connecting.server / plan.idle * 1e6,
                        "idle_cpu_percent": waiting.server / waiting.wall * 100,
                    },
                )


async def resume_storm(servers: list[Running], plan: Plan, results: Results) -> None:
    """(d) All clients reconnect at once after 100 missed messages."""
    count = plan.resuming // RESUMED_MEMBERS
    rooms = [Rooms(RESUMED, count, RESUMED_MEMBERS, messages=MISSED)]
    places = [(RESUMED + number // RESUMED_MEMBERS, number) for number in range(plan.resuming)]
    async with started(servers, rooms) as stages:
        epochs: dict[str, str] = {}
        for stage in stages:
            client = await stage.connect(*places[0])
            found = re.search(rb'"epoch":"(\w+)"', client.ready.result())
            epochs[stage.name] = found[1].decode() if found else ""
            await client.close()

        async def come_back(stage: Stage, room: int, user: int) -> None:
            if stage.running.target.ours:
                tally = Tally()
                done = tally.expect(MISSED)
                more = f"&after=0&epoch={epochs[stage.name]}"
                stage.clients.append(await stage.connect(room, user, more, tally))
                await asyncio.wait_for(done, 300)
                return
            stage.clients.append(await stage.connect(room, user))
            http = Http(stage.running.process.port)
            path = f"/api/chat/conversations/{room_id(room)}/messages?limit={MISSED}&offset=0"
            page = json.loads(await http.get(path, token(user)))
            http.close()
            if len(page["messages"]) != MISSED:
                raise AssertionError("incomplete page")

        async def phase(stage: Stage, *, keep: bool = True) -> None:
            meter, start = stage.meter(), time.perf_counter()
            latencies: list[float] = []

            async def one(room: int, user: int) -> None:
                await come_back(stage, room, user)
                latencies.append(time.perf_counter() - start)

            await asyncio.gather(*(one(*place) for place in places))
            outcome = Outcome(len(places), meter.stop(), latencies)
            if keep:
                figures = outcome.figures()
                figures["all_s"] = max(latencies)
                results.add(f"resume storm {plan.resuming}", stage.name, figures)
            await stage.close()
            await asyncio.sleep(0.5)

        for stage in stages:
            await phase(stage, keep=False)
        await in_turn(stages, plan.rounds, phase)


async def history(servers: list[Running], plan: Plan, results: Results) -> None:
    """(e) Pages of 50 of a long history, at its end and deep in it."""
    rooms = [Rooms(LONG, 1, 1, messages=plan.depth + 100)]
    async with started(servers, rooms) as stages:
        for depth in (0, plan.depth):

            async def phase(stage: Stage, depth: int = depth) -> None:
                http = Http(stage.running.process.port)
                path = f"/api/chat/conversations/{room_id(LONG)}/messages?limit=50&offset={depth}"
                key = token(0)
                await http.get(path, key)
                latencies, meter = [], stage.meter()
                end = time.perf_counter() + plan.seconds
                while (now := time.perf_counter()) < end:
                    await http.get(path, key)
                    latencies.append(time.perf_counter() - now)
                results.add(
                    f"history at depth {depth:,}",
                    stage.name,
                    Outcome(len(latencies), meter.stop(), latencies).figures(),
                )
                http.close()

            await in_turn(stages, plan.rounds, phase)


async def typing(servers: list[Running], plan: Plan, results: Results) -> None:
    """(f) Fifty typing frames a second in one room."""
    rooms = [Rooms(BIG, 1, plan.typists, shared=True)]
    async with started(servers, rooms) as stages:
        for stage in stages:
            await stage.connect_many([(BIG, user) for user in range(plan.typists)])
            await stage.settle()
            for client in stage.clients:
                client.count_typing(on=True)

        async def phase(stage: Stage) -> None:
            outcome, share = await phases.typing_storm(stage.meter(), stage.clients, stage.tally, plan.seconds, 50)
            figures = outcome.figures()
            figures["delivered_percent"] = share * 100
            results.add(f"typing storm {plan.typists}", stage.name, figures)

        await in_turn(stages, plan.rounds, phase)


async def churn(servers: list[Running], plan: Plan, results: Results) -> None:
    """(g) Users come to a full room and leave again, eight at a time. An operation is a coming and going."""
    rooms = [Rooms(BIG, 1, plan.churn + 64, shared=True)]
    async with started(servers, rooms) as stages:
        for stage in stages:
            meter = stage.meter()
            await stage.connect_many([(BIG, user) for user in range(plan.churn)])
            await stage.settle()  # what is told to the others belongs to the price
            filling = meter.stop()
            results.add(
                f"filling a room of {plan.churn}",
                stage.name,
                {"fill_s": filling.wall, "cpu_us": filling.server / plan.churn * 1e6},
            )

        async def phase(stage: Stage) -> None:
            latencies: list[float] = []
            meter = stage.meter()
            end = time.perf_counter() + plan.seconds

            async def one(user: int) -> None:
                while (now := time.perf_counter()) < end:
                    client = await stage.connect(BIG, user)
                    latencies.append(time.perf_counter() - now)
                    await client.close()

            await asyncio.gather(*(one(plan.churn + number) for number in range(8)))
            elapsed = plan.seconds + time.perf_counter() - end
            await stage.settle()
            figures = Outcome(len(latencies), meter.stop(), latencies).figures()
            figures["rate"] = len(latencies) / elapsed
            results.add(f"churn in a room of {plan.churn}", stage.name, figures)

        await in_turn(stages, plan.rounds, phase)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario, and the peers that take part in it (None: all)."""

    run: Callable[[list[Running], Plan, Results], Awaitable[None]]
    peers: frozenset[str] | None = None


_PAGES = frozenset({FASTAPI, NODE, SOCKETIO})  # have the specification's pages of history
_PRESENCE = frozenset({FASTAPI, NODE})  # notify the others when somebody comes or goes
_STORES = _PAGES | {EJABBERD}
_CONNECTED = frozenset({FASTAPI, SOCKETIO})  # have a way to be several processes
_TYPING = frozenset({*PEERS} - {EJABBERD})  # whose typing frames can be told from messages by their first bytes
SCENARIOS = {
    "a": Scenario(fan_out),
    "b": Scenario(durable, _STORES),
    "r": Scenario(fixed_rates, _STORES),
    "c": Scenario(idle, _STORES),
    "d": Scenario(resume_storm, _PAGES),
    "e": Scenario(history, _PAGES),
    "f": Scenario(typing, _TYPING),
    "g": Scenario(churn, _PRESENCE),
    "h": Scenario(several_processes, _CONNECTED),
}
