"""One run of the simulated service, from a seed and a plan."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple
from uuid import UUID

import trio
import trio.testing

from tests.simulation.checker import Checker
from tests.simulation.clients import FEATURES, Device, Namer, Poster, Rival, Walker
from tests.simulation.history import History
from tests.simulation.plan import Plan
from tests.simulation.process import Process
from tests.simulation.sessions import SESSION_FEATURES, Place, SessionDevice
from tests.simulation.world import World, deterministic

R = TypeVar("R")
Arguments = TypeVarTuple("Arguments")

CHAOS = (8.0, 25.0)  # virtual seconds
CALM = 90.0  # virtual seconds in which the service must recover
STALL = 20.0  # virtual seconds in which an idle client continues, or reconnects
SOON = 5.0  # virtual seconds in which changes of presence reach all clients
RIVALS = 2  # in each conversation
ALONE = 0.3  # of the runs have sessions only
ALONE_OF_SEVERAL = 0.6  # of those with several processes
CONVERSATIONS = (1, 2, 4)  # with several processes
CROWD = 3  # users with no device
QUIET = 2  # conversations with no device
# Users of other processes are not in `active_users` yet, nor online for those who watch them.
PRESENCE_ACROSS_PROCESSES = True
ONLINE_ACROSS_PROCESSES = True
CLOSING = 90.0  # virtual seconds after which no room and no connection may remain
RARE = (
    "a retry after an unknown commit",
    "a resend that was stored already",
    "a resume over a gap",
    "a gap was filled",
    "a room failed",
    "a kill",
    "a restart in order",
    "removal 204",
    "removal 503",
    "addition 200",
    "a skipped rev at resume",
    "a slow client cut",
    "a refused message",
    "a resend",
    "told who is online",
    "a mark of an unknown seq",
    "a mark behind",
    "a token renewed",
    "a token expired",
    "a half-open client let go",
    "a session resumed",
    "a slow session cut",
    "added while connected",
    "removed while connected",
    "the token of a session renewed",
    "the token of a session expired",
    "a post 201",
    "a post 200",
    "a post 404",
    "a post 503",
    "a post made again",
    "a conversation loaded afresh by a session",
    "a change of members asked for again",
    "late: AddMembers",
    "late: RemoveMember",
    "late: memberships",
    "late: user_changes",
    "a commit after its connection was lost",
    "a handover",
    "a handover to carry out alone",
    "a handover that outlasted its deadline",
    "a session resumed with me",
    "a skipped me_rev",
    "a careful edit 200",
    "a careful edit 409",
    "a change of properties 200",
    "a walk through conversations",
    "a walk through members",
    "a walk through messages",
)
"""Paths that some runs must take: otherwise the simulation shows nothing about them."""

RARE_OF_CLUSTERS = (
    "a gap closed by the bus",
    "a gap that the bus did not close",
    "a comparison that found something",
    "a room opened for a change of another process",
    "an addition that the bus had lost",
    "an addition that no room delivers",
    "a session ahead of the index",
    "a session found before the bus said so",
    "a list that was looked up during a comparison",
    "an item too large for the bus",
    "a user removed ahead of the order",
    "a disruption: stop",
    "a disruption: bus lost",
    "a disruption: bus silent",
    "a disruption: store refuses",
    "a disruption: store hangs",
)
"""The same of runs with several processes."""


@dataclass
class Result:
    """The result of one seed."""

    seed: int
    plan: Plan
    violations: list[str]
    history: History
    devices: list[str]  # their names
    chaos: float  # its duration in virtual seconds
    processes: int

    def report(self) -> str:
        """Returns a report for people: the last events, the broken promises, the command that repeats the run."""
        broken = "\n".join(self.violations[:10])
        return (
            f"{self.history.tail()}\n\nseed {self.seed}:\n{broken}\n"
            f"again: python -m tests.simulation --seeds 1 --start {self.seed} {self.plan.options()} --trace"
        )


EVERYTHING = Plan()


def simulate(seed: int, plan: Plan = EVERYTHING) -> Result:
    """One run; the same seed and plan give the same run."""
    return reproducibly(seed, _simulate, seed, plan)


def reproducibly(seed: int, run: Callable[[*Arguments], Awaitable[R]], *arguments: *Arguments) -> R:
    """Runs a function on a virtual clock, with a schedule that the seed decides."""
    core = trio._core._run
    before = core._ALLOW_DETERMINISTIC_SCHEDULING, core._r.getstate()
    core._ALLOW_DETERMINISTIC_SCHEDULING = True  # the run order of tasks comes from _r alone
    core._r.seed(seed)
    try:
        return trio.run(run, *arguments, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        core._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        core._r.setstate(before[1])


async def _simulate(seed: int, plan: Plan) -> Result:
    world = World(seed, plan, 0.0)
    rand = world.rand("plan")
    fault_rate = rand.choice((0.0, 0.02, 0.08, 0.2)) if plan.fault_rate is None else plan.fault_rate
    world.fault_rate = fault_rate if plan.has("faults") else 0.0
    with deterministic(world), trio.fail_after(1_000):
        users, conversations = rand.randint(3, 5), rand.choice((1, 1, 2))
        if world.is_cluster:
            conversations = world.rand("conversations").choice(CONVERSATIONS)
        await world.populate(users, conversations, CROWD, QUIET)
        async with trio.open_nursery() as nursery:
            await nursery.start(world.run_service)
            devices, sessions, runs = _devices(world), _sessions(world), []
            names = [device.name for device in (*devices, *sessions)]
            devices = [device for device in devices if plan.has(device.name)]
            sessions = [session for session in sessions if plan.has("sessions") and plan.has(session.name)]
            for device in (*devices, *sessions):
                runs.append(trio.Event())
                nursery.start_soon(tell, device.run, runs[-1])
            places = [place for session in sessions for place in session.places.values()]
            first_of_rest = len(runs)
            for client in _rest_clients(world):
                runs.append(trio.Event())
                nursery.start_soon(tell, client.run, runs[-1])
            chaos = await _chaos(world)
            world.calm_down()
            with trio.move_on_after(CALM) as waiting:
                for ran in runs[first_of_rest:]:
                    await ran.wait()
            if waiting.cancelled_caught:
                world.history.add("stuck", what="a request over REST is not answered for good")
            await _calm(world, devices, places, sessions)
            last = next((device for device in devices if device.connected), None)
            if last is not None and plan.has("vanish") and world.rand("last").random() < 0.2:
                world.vanish(last.number)  # only pings show that its client is gone
            for device in (*devices, *sessions):
                device.end()
            await note_leaks(world, runs)
            nursery.cancel_scope.cancel()
        world.note_rows()
    return Result(seed, plan, Checker(world.history).check(), world.history, names, chaos, len(world.processes))


async def note_leaks(world: World, runs: list[trio.Event]) -> None:
    """Checks that no room and no connection remains after all clients have ended."""
    with trio.move_on_after(CLOSING) as closing:
        for ran in runs:
            await ran.wait()
        while _left(world):  # noqa: ASYNC110  # the virtual clock jumps
            await trio.sleep(0.5)
    if closing.cancelled_caught:
        world.history.add("leak", what=_left(world))


def _left(world: World) -> str:
    """Returns what is left in memory; empty for nothing."""
    hubs = [process.hub for process in world.processes]
    rooms = sum(len(hub.rooms.running()) for hub in hubs)
    indexed = sum(len(hub.cluster._index) for hub in hubs if hub.cluster is not None)
    if not rooms and not indexed and not world.serving:
        return ""
    return f"{rooms} rooms, {world.serving} connections and {indexed} indexed conversations"


def _devices(world: World) -> list[Device]:
    rand, features = world.rand("devices"), world.rand("features")
    if world.rand("alone").random() < (ALONE_OF_SEVERAL if world.is_cluster else ALONE):
        return []  # sessions only: rooms open and end all the time
    return [
        Device(
            world,
            f"{user.username}.{place}.{number}",
            user,
            conversation_id,
            features=features.choice(FEATURES) if world.plan.has("features") else None,
        )
        for place, conversation_id in enumerate(world.conversations)
        for user in world.users[:-1]
        for number in range(rand.choice((1, 1, 2)))
    ]


def _rest_clients(world: World) -> list[Rival | Namer | Poster | Walker]:
    """Clients that use REST alone."""
    clients: list[Rival | Namer | Poster | Walker] = []
    for conversation_id in world.conversations:
        if world.plan.has("rivals"):
            clients += [Rival(world, conversation_id, number) for number in range(RIVALS)]
        if world.plan.has("namers"):
            clients.append(Namer(world, conversation_id))
        if world.plan.has("posters"):
            clients.append(Poster(world, conversation_id))
    return [*clients, Walker(world)] if world.plan.has("walkers") else clients


def _sessions(world: World) -> list[SessionDevice]:
    rand, features = world.rand("sessions"), world.rand("features of sessions")
    return [
        SessionDevice(
            world,
            f"{user.username}.s{number}",
            user,
            world.conversations,
            features.choice(SESSION_FEATURES) if world.plan.has("features") else None,
        )
        for user in world.users[:-1]
        for number in range(rand.choice((0, 0, 1, 1, 2)) + (world.is_cluster and rand.random() < 0.5))
    ]


async def tell(run: object, done: trio.Event) -> None:
    """Runs a function, and sets an event when it has ended."""
    assert callable(run)
    await run()
    done.set()


async def _chaos(world: World) -> float:
    """Returns the planned duration in virtual seconds."""
    rand = world.rand("chaos")
    seconds = min(rand.uniform(*CHAOS), world.plan.seconds)
    until = trio.current_time() + seconds
    async with trio.open_nursery() as nursery:
        for process in world.processes if world.is_cluster else ():
            nursery.start_soon(process.disrupt, until)
        for process in world.processes[1:]:
            nursery.start_soon(_restart, world, process, process.rand("chaos"), until)
        await _restart(world, world.processes[0], rand, until)
    return seconds


async def _restart(world: World, process: Process, rand: random.Random, until: float) -> None:
    """Kills and drains a process now and then; it starts again."""
    while trio.current_time() < until:
        await trio.sleep(min(rand.expovariate(1 / 12), 10, until - trio.current_time() + 0.01))
        if rand.random() < 0.5 and world.plan.has("restarts"):
            kill = rand.random() < 0.6
            world.history.count("a kill" if kill else "a restart in order")
            process.stop(kill=kill)


async def _calm(world: World, devices: list[Device], places: list[Place], sessions: list[SessionDevice]) -> None:
    def is_well() -> list[str]:
        if not world.is_up:
            return ["the service is down"]
        applying = sum(process.store.applying for process in world.processes if process.store is not None)
        if applying:  # the database knows more than anybody was told
            return [f"{applying} commands are in progress"]
        return (
            [
                f"{device.name}: connected {device.connected}, rev {device.cursor}"
                f" of {world.last_rev(device.conversation_id, device.kinds)}, pending {sorted(device.pending)[:3]}"
                for device in (*devices, *places)
                if device.user.id in world.members(device.conversation_id)
                and not (
                    device.connected
                    and not device.stalled
                    and not device.pending
                    and device.cursor == world.last_rev(device.conversation_id, device.kinds)
                )
            ]
            + [
                f"{device.name} is connected and no member"
                for device in (*devices, *places)
                if device.connected and device.user.id not in world.members(device.conversation_id)
            ]
            + [
                f"{session.name} has me_rev {session.me} of {world.last_me_rev(session.user)}"
                for session in sessions
                if session.has_me and session.me != world.last_me_rev(session.user)
            ]
        )

    with trio.move_on_after(CALM):
        while is_well():  # noqa: ASYNC110  # the virtual clock jumps
            await trio.sleep(0.5)
    for device in (*devices, *places):
        if device.connected and device.user.id in world.members(device.conversation_id):
            world.history.add("settled", device=device.name, connection=device.number)
    for session in sessions:
        if session.connected and session.me is not None:
            world.history.add("me_settled", device=session.name, user=str(session.user.id))
    if problems := is_well():
        world.history.add("stuck", what="; ".join(problems))
        return
    world.well = True
    with trio.move_on_after(STALL):
        while not all(session.has_asked_anew and session.is_told for session in sessions):  # noqa: ASYNC110  # as above
            await trio.sleep(0.5)
    await trio.sleep(5)
    for place, conversation_id in enumerate(world.conversations):
        for process in world.processes if world.is_cluster and not PRESENCE_ACROSS_PROCESSES else (None,):
            await _probe(world, devices, places, sessions, (place, conversation_id), process)
    for device in (*devices, *places):
        if device.connected and device.user.id in world.members(device.conversation_id):
            about = {"user": str(device.user.id), "conversation": str(device.conversation_id)}
            world.history.add("has_read", device=device.name, **about, seq=device.newest, told=device.read_up_to)


async def _probe(
    world: World,
    devices: list[Device],
    places: list[Place],
    sessions: list[SessionDevice],
    at: tuple[int, UUID],
    process: Process | None,
) -> None:
    """Lets a user come and leave: clients that missed a presence frame in the chaos get the current list."""
    place, conversation_id = at
    probe = Device(world, f"probe.{place}", world.users[-1], conversation_id, talks=False, process=process)
    done = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell, probe.run, done)
        await trio.sleep(5)
        _note_connected(world, [*devices, probe], places, conversation_id, process)
        await _note_watched(world, [*devices, probe], sessions)
        probe.end()
        await trio.sleep(5)
    _note_connected(world, devices, places, conversation_id, process)
    await _note_watched(world, devices, sessions)


async def _note_watched(world: World, devices: list[Device], sessions: list[SessionDevice]) -> None:
    """Records the presence that sessions have received, when it agrees with the service, or after a while."""

    def online_for(session: SessionDevice) -> list[str]:
        everybody = [each for each in (*devices, *sessions) if each.connected]
        if not ONLINE_ACROSS_PROCESSES:
            process = world.process_of(session.number)
            everybody = [each for each in everybody if world.process_of(each.number) is process]
        return sorted({str(each.user.id) for each in everybody})

    def asked() -> list[SessionDevice]:
        return [each for each in sessions if each.connected and each.has_asked_anew and each.is_told]

    def agrees() -> bool:
        return all(
            is_online == (user in online_for(each)) for each in asked() for user, is_online in each.watched.items()
        )

    with trio.move_on_after(SOON):
        while not agrees():  # noqa: ASYNC110  # the virtual clock jumps
            await trio.sleep(0.1)
    for session in asked():
        world.history.count("told who is online")
        told = session.watched.copy()
        about = {"device": session.name, "user": str(session.user.id)}
        asked_for = [str(user.id) for user in world.users]
        world.history.add("watched", **about, online=online_for(session), told=told, asked_for=asked_for)


def _note_connected(
    world: World, devices: list[Device], places: list[Place], conversation_id: UUID, process: Process | None
) -> None:
    """Records who is connected to a conversation, and its connections; of one process if it is named."""

    def is_here(device: Device | Place) -> bool:
        is_in = device.conversation_id == conversation_id and device.connected
        return is_in and (process is None or world.process_of(device.number) is process)

    here = [device for device in devices if is_here(device)]
    members = world.members(conversation_id)  # a stalled session has not read its removal yet
    also = [place for place in places if is_here(place) and place.user.id in members]
    world.history.add(
        "connected",
        users=sorted({str(device.user.id) for device in (*here, *also)}),
        connections=[device.number for device in here],
    )
