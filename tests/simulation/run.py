"""Runs seeds: `python -m tests.simulation.run --seeds 2000 --start 1`."""

import argparse
import sys
import time
from collections import Counter
from dataclasses import dataclass

import trio
import trio.testing

from tests.simulation.checker import Checker
from tests.simulation.clients import Administrator, Device
from tests.simulation.history import History
from tests.simulation.sessions import Place, SessionDevice
from tests.simulation.world import World, deterministic

CHAOS = (8.0, 25.0)  # virtual seconds
CALM = 90.0  # virtual seconds in which everything must be well again
CLOSING = 60.0  # virtual seconds after which nothing may be left of a room or a connection
RARE = (
    "a retry after an unknown commit",
    "a skipped rev at resume",
    "a slow client cut",
    "a refused message",
    "a resend",
)
"""Paths that must be taken now and then: else the simulation shows nothing about them."""


@dataclass
class Result:
    """What became of a seed."""

    seed: int
    violations: list[str]
    history: History

    def report(self) -> str:
        """For a person: how it happened, what was broken, how to see it again."""
        broken = "\n".join(self.violations[:10])
        return (
            f"{self.history.tail()}\n\nseed {self.seed}:\n{broken}\n"
            f"again: python -m tests.simulation.run --seeds 1 --start {self.seed} --trace"
        )


def simulate(seed: int, *, with_sessions: bool = False) -> Result:
    """One run; the same seed gives the same run."""
    core = trio._core._run
    before = core._ALLOW_DETERMINISTIC_SCHEDULING, core._r.getstate()
    core._ALLOW_DETERMINISTIC_SCHEDULING = True  # the run order of tasks comes from _r alone
    core._r.seed(seed)
    try:
        return trio.run(_simulate, seed, with_sessions, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        core._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        core._r.setstate(before[1])


async def _simulate(seed: int, with_sessions: bool) -> Result:
    world = World(seed, 0.0)
    rand = world.rand("plan")
    world.fault_rate = rand.choice((0.0, 0.02, 0.08, 0.2))
    with deterministic(world), trio.fail_after(1_000):
        await world.populate(rand.randint(3, 5), rand.choice((1, 1, 2)))
        async with trio.open_nursery() as nursery:
            await nursery.start(world.run_service)
            devices, sessions, runs = _devices(world), _sessions(world) if with_sessions else [], []
            for device in (*devices, *sessions):
                runs.append(trio.Event())
                nursery.start_soon(_tell, device.run, runs[-1])
            places = [place for session in sessions for place in session.places.values()]
            administrators = len(runs)
            for conversation_id in world.conversations:
                administrator = Administrator(world, conversation_id)
                runs.append(trio.Event())
                nursery.start_soon(_tell, administrator.run, runs[-1])
            await _chaos(world)
            world.calm_down()
            for ran in runs[administrators:]:
                await ran.wait()
            await _calm(world, devices, places)
            for device in (*devices, *sessions):
                device.end()
            with trio.move_on_after(CLOSING) as closing:
                for ran in runs:
                    await ran.wait()
                while world.hub._rooms.going() or world.serving:  # noqa: ASYNC110  # the virtual clock jumps
                    await trio.sleep(0.5)
            if closing.cancelled_caught:
                what = f"{world.hub.room_count} rooms and {world.serving} connections are left"
                world.history.add("leak", what=what)
            nursery.cancel_scope.cancel()
        world.note_rows()
    return Result(seed, Checker(world.history).check(), world.history)


def _devices(world: World) -> list[Device]:
    rand = world.rand("devices")
    return [
        Device(world, f"{user.username}.{place}.{number}", user, conversation_id)
        for place, conversation_id in enumerate(world.conversations)
        for user in world.users[:-1]
        for number in range(rand.choice((1, 1, 2)))
    ]


def _sessions(world: World) -> list[SessionDevice]:
    rand = world.rand("sessions")
    return [
        SessionDevice(world, f"{user.username}.s{number}", user, world.conversations)
        for user in world.users[:-1]
        for number in range(rand.choice((0, 0, 1, 1, 2)))
    ]


async def _tell(run: object, done: trio.Event) -> None:
    assert callable(run)
    await run()
    done.set()


async def _chaos(world: World) -> None:
    rand = world.rand("chaos")
    until = trio.current_time() + rand.uniform(*CHAOS)
    while trio.current_time() < until:
        await trio.sleep(min(rand.expovariate(1 / 12), 10))
        if rand.random() < 0.5:
            kill = rand.random() < 0.6
            world.history.count("a kill" if kill else "a restart in order")
            world.stop(kill=kill)


async def _calm(world: World, devices: list[Device], places: list[Place]) -> None:
    def is_well() -> list[str]:
        if not world.is_up:
            return ["the service is down"]
        return [
            f"{device.name}: connected {device.connected}, rev {device.cursor}"
            f" of {world.last_rev(device.conversation_id)}, pending {sorted(device.pending)[:3]}"
            for device in (*devices, *places)
            if device.user.id in world.members(device.conversation_id)
            and not (
                device.connected
                and not device.stalled
                and not device.pending
                and device.cursor == world.last_rev(device.conversation_id)
            )
        ]

    with trio.move_on_after(CALM):
        while is_well():  # noqa: ASYNC110  # the virtual clock jumps
            await trio.sleep(0.5)
    if problems := is_well():
        world.history.add("stuck", what="; ".join(problems))
        return
    await trio.sleep(5)
    for place, conversation_id in enumerate(world.conversations):
        # Somebody comes and goes: whoever missed a frame of presence in the chaos is told anew.
        probe = Device(world, f"probe.{place}", world.users[-1], conversation_id, talks=False)
        done = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_tell, probe.run, done)
            await trio.sleep(5)
            _note_connected(world, [*devices, probe], places, conversation_id)
            probe.end()
            await trio.sleep(5)
        _note_connected(world, devices, places, conversation_id)


def _note_connected(world: World, devices: list[Device], places: list[Place], conversation_id: object) -> None:
    here = [device for device in devices if device.conversation_id == conversation_id and device.connected]
    also = [place for place in places if place.conversation_id == conversation_id and place.connected]
    world.history.add(
        "connected",
        users=sorted({str(device.user.id) for device in (*here, *also)}),
        connections=[device.number for device in here],
    )


def main() -> int:
    """Runs seeds, one after the other, until one fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--start", type=int, default=1)
    parser.add_argument("--trace", action="store_true", help="print everything that happened")
    parser.add_argument("--go-on", action="store_true", help="also after a seed that failed")
    parser.add_argument("--sessions", action="store_true", help="with session connections, too")
    options = parser.parse_args()
    counters: Counter[str] = Counter()
    began = time.perf_counter()
    failed = []
    for seed in range(options.start, options.start + options.seeds):
        result = simulate(seed, with_sessions=options.sessions)
        counters += result.history.counters
        if options.trace:
            print(result.history.tail(10**9))
            print(f"seed {seed}: trace {result.history.digest()[:16]}")
        if result.violations:
            failed.append(seed)
            print(f"seed {seed}: {result.violations[0]}" if options.go_on else result.report())
            if not options.go_on:
                break
    for name, count in sorted(counters.items()):
        print(f"{count:8} {name}")
    ran = seed - options.start + 1
    print(f"{ran} seeds in {time.perf_counter() - began:.1f} s, {len(failed)} failed {failed[:20]}")
    missing = [name for name in RARE if not counters[name]] if ran >= 100 else []
    if missing:
        print(f"never happened: {missing}")
    return 1 if failed or missing else 0


if __name__ == "__main__":
    sys.exit(main())
