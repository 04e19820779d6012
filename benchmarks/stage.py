"""Common parts of the scenarios: the plan, running servers with connections, the results."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from benchmarks.client import Client, Tally, connect
from benchmarks.processes import Meter
from benchmarks.provision import Rooms
from benchmarks.targets import Running

Figures = dict[str, float]
AT_ONCE = 64  # connections opened at the same time


@dataclass(frozen=True, slots=True)
class Plan:
    """The amount of load and the number of rounds.

    Attributes:
        rounds: measurements of each phase for each server.
        seconds: duration of a phase.
        fan_out: sizes of rooms.
        idle: number of idle connections.
        idle_seconds: duration of their measurement; 20 seconds is one interval of pings.
        resuming: clients of the resume storm.
        depth: messages of the long history.
        typists: members of the typing storm's room.
        churn: members of the room where other users connect and disconnect.
        rates: messages a second of the scenario with fixed rates.
        crowd: members of a room in one process; a room in two processes has twice as many.
    """

    rounds: int = 5
    seconds: float = 2.0
    fan_out: tuple[int, ...] = (10, 200, 2_000)
    idle: int = 5_000
    idle_seconds: float = 20.0
    resuming: int = 1_000
    depth: int = 1_000_000
    typists: int = 200
    churn: int = 2_000
    rates: tuple[int, ...] = (200, 500, 1_000)
    crowd: int = 200


QUICK = Plan(2, 0.8, (10, 200), 1_000, 5.0, 200, 100_000, 200, 200, (500,), 100)


@dataclass(slots=True)
class Results:
    """Figures by scenario, server and round, and the settings of PostgreSQL."""

    figures: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    postgres: dict[str, str] = field(default_factory=dict)

    def add(self, scenario: str, server: str, figures: Figures) -> None:
        self.figures.setdefault(scenario, {}).setdefault(server, []).append(figures)
        shown = ", ".join(f"{name} {value:,.4g}" for name, value in figures.items())
        print(f"  {scenario:28} {server:16} {shown}", flush=True)


class Stage:
    """One running server and the connections to it."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.name = running.target.name
        self.clients: list[Client] = []
        self.tally = Tally()
        self._number = 0

    def meter(self) -> Meter:
        return Meter(self.running.process.pid, self.running.cluster.pid, self.running.redis_pid)

    async def connect(self, room: int, user: int, more: str = "", tally: Tally | None = None) -> Client:
        """Opens a connection of a user to a conversation."""
        self._number += 1
        target = self.running.target
        number, used = self._number, self.tally if tally is None else tally
        return await connect(Client, target.dialect, self.running.process.port, room, user, number, used, more)

    async def connect_many(self, places: list[tuple[int, int]]) -> list[Client]:
        """Opens connections, a few at a time. `places`: conversation and user of each."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(room: int, user: int) -> Client:
            async with gate:
                return await self.connect(room, user)

        found = await asyncio.gather(*(one(room, user) for room, user in places))
        self.clients += found
        return list(found)

    async def settle(self) -> None:
        """Waits until no more frames arrive."""
        before = -1
        while before != self.tally.bytes:
            before = self.tally.bytes
            await asyncio.sleep(0.1)

    async def close(self) -> None:
        """Closes all connections."""
        clients, self.clients = self.clients, []
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(client: Client) -> None:
            async with gate:
                await client.close()

        await asyncio.gather(*(one(client) for client in clients))


@asynccontextmanager
async def started(servers: list[Running], rooms: list[Rooms]) -> AsyncIterator[list[Stage]]:
    """Runs the servers for the block, each on a new database with these conversations."""
    try:
        for server in servers:
            await server.start(rooms)
        stages = [Stage(server) for server in servers]
        yield stages
        for stage in stages:
            await stage.close()
    finally:
        for server in servers:
            server.stop()


async def in_turn(stages: list[Stage], rounds: int, phase: Callable[[Stage], Awaitable[None]]) -> None:
    """Runs a phase on servers A B C, A B C …, so that rounds are comparable; waits for late frames in between."""
    for _ in range(rounds):
        for stage in stages:
            await phase(stage)
            await stage.settle()
