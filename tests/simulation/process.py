"""One process of the simulated service: the app behind Hypercorn's connection class, its store and its bus."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from hypercorn.config import Config
from hypercorn.trio.worker_context import WorkerContext

from pulse_trio.app import create_app
from pulse_trio.edge.server import wrap
from pulse_trio.edge.server.tcp_connection import TcpConnection
from pulse_trio.edge.services import Services
from pulse_trio.rooms.hub import Hub
from tests.simulation.bus import SimulatedBus
from tests.simulation.faults import FaultyStore
from tests.simulation.streams import Connection

if TYPE_CHECKING:
    from tests.simulation.world import World

DOWN_FOR = (0.1, 3.0)  # seconds between a restart's two halves
LETS_GO = 75.0  # virtual seconds in which a client that has vanished is noticed: no ping was answered in 50
DISRUPTED_EVERY = 6.0  # virtual seconds between two disruptions of a process, on average
DISRUPTED_FOR = (0.05, 5.0)  # virtual seconds
DISRUPTIONS = ("stop", "stop", "bus lost", "bus silent", "store refuses", "store hangs")


class Process:
    """A process that is killed, drained and started again, and stands still at times.

    Args:
        world: the world.
        number: its number, from 0.

    Attributes:
        number: its number.
        store: its store; None before its first start.
        is_up: it accepts connections.
        serving: how many connections are served.
        bus_outage: it cannot reach the bus: empty, `known`, or `silent` if it does not notice.
        store_outage: it cannot reach the database: empty, `refuse` or `hang`.
    """

    def __init__(self, world: World, number: int) -> None:
        self.number = number
        self.store: FaultyStore | None = None
        self.is_up = False
        self.serving = 0
        self.bus_outage = ""
        self.store_outage = ""
        self._world = world
        self._starts = 0
        self._nursery: trio.Nursery | None = None
        self._parts: Services | None = None
        self._bus: SimulatedBus | None = None
        self._opened = 0
        self._runs_on: trio.Event | None = None  # while it stands still
        self._connections: dict[int, Connection] = {}
        self._kill = False

    def rand(self, name: str) -> random.Random:
        """Returns a source of chance of its own; the first process has the names of a process that is alone."""
        return self._world.rand(f"{name} of process {self.number}" if self.number else name)

    @property
    def generation(self) -> str:
        """A name for it until its next start."""
        return f"{self.number}.{self._starts}"

    @property
    def hub(self) -> Hub:
        """The hub of the service that is open, or was last: it opens again when its lease is lost."""
        assert self._parts is not None
        self._parts = self._extensions["pulse_trio"] or self._parts
        return self._parts.hub

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs the service until it is to end; then again, for as long as the world runs."""
        rand = self.rand("restarts")
        while True:
            await self._run_once(task_status)
            task_status = trio.TASK_STATUS_IGNORED
            await trio.sleep(rand.uniform(*DOWN_FOR))

    async def _run_once(self, task_status: trio.TaskStatus[None]) -> None:
        world, history = self._world, self._world.history
        self._starts += 1
        store = self.store = self._make_store()

        @asynccontextmanager
        async def open_store() -> AsyncIterator[FaultyStore]:
            yield store

        make_bus = self._make_bus if world.is_cluster else None
        app = create_app(
            world.settings,
            open_store,
            clock=world.clock,
            ids=world.ids,
            make_bus=make_bus,
            boot_clock=trio.current_time,
        )
        to_app, from_world = trio.open_memory_channel[dict[str, str]](1)
        told: dict[str, trio.Event] = {
            "lifespan.startup.complete": trio.Event(),
            "lifespan.shutdown.complete": trio.Event(),
        }

        async def send(message: Any) -> None:
            await trio.lowlevel.checkpoint()
            told[message["type"]].set()

        self._stop = trio.Event()
        async with trio.open_nursery() as process:
            store.nursery = process
            process.start_soon(app, {"type": "lifespan", "asgi": {"version": "3.0"}}, from_world.receive, send)
            await to_app.send({"type": "lifespan.startup"})
            await told["lifespan.startup.complete"].wait()
            self._extensions = app.extensions
            self._parts = app.extensions["pulse_trio"]
            config = Config.from_toml(world.hypercorn_toml)
            config.errorlog = None
            self._served = (wrap(app), config, WorkerContext(None))
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self.is_up = True
                history.add("up")
                task_status.started()
                await self._stop.wait()
                self.is_up = False
                if self._kill:
                    history.add("killed")
                    store.die()
                    for connection in self._connections.values():
                        connection.cut()
                else:
                    history.add("drained")
                    await self.hub.drain()
                nursery.cancel_scope.cancel()
            if not self._kill:
                await to_app.send({"type": "lifespan.shutdown"})
                await told["lifespan.shutdown.complete"].wait()
            process.cancel_scope.cancel()
        self._parts = None
        history.add("down")

    def _make_store(self) -> FaultyStore:
        world, starts = self._world, self._starts
        rate = 0.0 if world.calm else world.fault_rate
        late_rate = 0.0 if world.calm else world.late_rate
        return FaultyStore(
            world.data,
            world.history,
            self.rand(f"faults {starts}"),
            self.rand(f"breaks {starts}"),
            self.rand(f"late {starts}") if world.plan.has("late") else None,
            rate,
            late_rate,
            soon=self.rand(f"soon {starts}") if world.soon_rate else None,
            soon_rate=world.soon_rate,
            host=self,
        )

    def _make_bus(self) -> SimulatedBus:
        self._opened += 1  # the service opens again when its lease is lost
        self._bus = SimulatedBus(self._world.engine, self, self.rand(f"bus {self._starts} {self._opened}"))
        return self._bus

    def stop(self, *, kill: bool) -> None:
        """Ends it: as SIGKILL does, or in order."""
        if self.is_up:
            self._kill = kill
            self._stop.set()

    def calm_down(self) -> None:
        """From now on its store does not fail."""
        if self.store is not None:
            self.store.rate = self.store.late_rate = 0.0

    # --- its connections ---

    def accept(self, number: int, rand: random.Random) -> Connection:
        """Makes a connection, and serves it."""
        assert self._nursery is not None
        connection = self._connections[number] = Connection(rand, lambda: self._runs_on is not None)
        self._nursery.start_soon(self._serve, number, connection)
        return connection

    async def _serve(self, number: int, connection: Connection) -> None:
        app, config, context = self._served
        world = self._world
        self.serving += 1
        try:
            await TcpConnection(app, config, context, {}, connection.server).run()  # type: ignore[arg-type]
        finally:
            self.serving -= 1
            del self._connections[number]
            world.connections.pop(number).cut()  # as the system does for a process that ends
            since = world.vanished.pop(number, None)
            if since is not None and self.is_up:
                world.history.count("a half-open client let go")
                if trio.current_time() - since > LETS_GO:
                    world.history.add("leak", what=f"connection {number} stayed after its client had vanished")

    # --- disruptions ---

    async def wait_running(self) -> None:
        """Waits while it stands still."""
        while self._runs_on is not None:
            await self._runs_on.wait()

    async def disrupt(self, until: float) -> None:
        """Lets it stand still, and lose the bus and the database for a while, now and then."""
        rand, world = self.rand("disruptions"), self._world
        with trio.move_on_at(until):
            while True:
                await trio.sleep(rand.expovariate(1 / DISRUPTED_EVERY))
                what, seconds = rand.choice(DISRUPTIONS), rand.uniform(*DISRUPTED_FOR)
                if not world.plan.has("stops" if what == "stop" else "partitions"):
                    continue
                world.history.count(f"a disruption: {what}")
                world.history.add("disrupted", process=self.number, what=what, seconds=seconds)
                try:
                    self._begin(what)
                    await trio.sleep(seconds)
                finally:
                    self._end()
                    world.history.add("undisrupted", process=self.number)

    def _begin(self, what: str) -> None:
        if what == "stop":
            self._runs_on = trio.Event()
        elif what == "bus silent":
            self.bus_outage = "silent"
        elif what == "bus lost":
            self.bus_outage = "known"
            if self._bus is not None:
                self._bus.set_connected(False)
        else:
            self.store_outage = "refuse" if "refuse" in what else "hang"

    def _end(self) -> None:
        self.bus_outage = self.store_outage = ""
        if self._bus is not None:
            self._bus.set_connected(True)
        if self._runs_on is not None:
            self._runs_on.set()
            self._runs_on = None
            for connection in self._connections.values():
                connection.wake()
