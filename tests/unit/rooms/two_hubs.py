"""Two hubs, or more, on one store, with a bus in memory between them."""

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast
from uuid import UUID

import trio

from pulse_trio.bus.base import BusCounters
from pulse_trio.conversations.core import Core
from pulse_trio.ids import IdSource
from pulse_trio.rooms.cluster import Cluster
from pulse_trio.rooms.hub import Hub
from pulse_trio.settings import Settings
from pulse_trio.store.base import Store
from tests.unit.rooms.world import FaultyStore, World, virtual_now

DELAY = 0.001  # virtual seconds that the bus takes


class MemoryBus:
    """The end of a bus in one process; `peers` are the other ends.

    Attributes:
        loses: called with each item; True to lose it.
        holds: called with each item that is not lost; True to keep it until `let_go`.
        is_frozen: nothing comes in or goes out, not even a sign of life.
    """

    max_item_bytes = 7_000

    def __init__(self, publisher: UUID) -> None:
        self.publisher = publisher
        self.counters = BusCounters()
        self.peers: list[MemoryBus] = []
        self.loses: Callable[[bytes], bool] = lambda _: False
        self.holds: Callable[[bytes], bool] = lambda _: False
        self.is_frozen = False
        self.items: list[bytes] = []
        self._held: list[bytes] = []
        self._heard: dict[UUID, float] = {}
        self._send, self._receive = trio.open_memory_channel[tuple[UUID, bytes]](100_000)  # all of a test

    def publish(self, item: bytes) -> None:
        assert len(item) <= self.max_item_bytes
        self.items.append(item)
        if self.loses(item) or self.is_frozen:
            return
        if self.holds(item):
            self._held.append(item)
        else:
            self._pass_on(item)

    def let_go(self) -> None:
        """Passes on what was held: late, and after what was published since."""
        self.holds = lambda _: False
        held, self._held = self._held, []
        for item in held:
            self._pass_on(item)

    def _pass_on(self, item: bytes) -> None:
        for peer in self.peers:
            peer._send.send_nowait((self.publisher, item))

    def last_heard(self, publisher: UUID) -> float | None:
        return self._heard.get(publisher)

    async def run(self, listener: Cluster, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._beat)
            listener.on_connected(True)
            listener.on_resync("connected")
            task_status.started()
            async for publisher, item in self._receive:
                await trio.sleep(DELAY)
                if not self.is_frozen:
                    listener.on_items(publisher, [item])

    async def _beat(self) -> None:
        while True:
            for peer in self.peers:
                if not peer.is_frozen and not self.is_frozen:
                    self._heard[peer.publisher] = trio.current_time()
            await trio.sleep(1)


def of_kind(*tags: str) -> Callable[[bytes], bool]:
    """Returns a function that returns whether an item has one of these tags."""
    return lambda item: item[2:3].decode() in tags


def nothing(_: bytes) -> bool:
    """Returns False for every item."""
    return False


class SlowStore:
    """A store as one process sees it whose way to the database is slow; for others the store is as fast as ever.

    Attributes:
        seconds: that each answer takes.
    """

    def __init__(self, store: FaultyStore) -> None:
        self._store = store
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not inspect.iscoroutinefunction(found):
            return found

        async def slow(*arguments: object, **options: object) -> object:
            answer = await found(*arguments, **options)
            await trio.sleep(self.seconds)
            return answer

        return slow


@asynccontextmanager
async def two_worlds(
    settings: Settings, *, slow_there: Callable[[SlowStore], object] | None = None
) -> AsyncIterator[tuple[World, World]]:
    """Runs two hubs; the second world shows the same conversation and users through the second hub.

    `slow_there`: called with the store of the second hub, which may become slow.
    """
    async with several_worlds(settings, 2, slow_there=slow_there) as (here, there):
        yield here, there


@asynccontextmanager
async def several_worlds(
    settings: Settings, count: int, *, slow_there: Callable[[SlowStore], object] | None = None
) -> AsyncIterator[list[World]]:
    """Runs several hubs; each world shows the same conversation and users through another hub."""
    store = FaultyStore()
    stores: list[Store] = [store] * count
    if slow_there is not None:
        slow_there(slow := SlowStore(store))
        stores[1] = cast("Store", slow)
    ids = IdSource(virtual_now)
    buses = [MemoryBus(ids()) for _ in range(count)]
    for bus in buses:
        bus.peers = [each for each in buses if each is not bus]
    async with trio.open_nursery() as nursery:
        store.nursery = nursery
        worlds = []
        for bus, hub_store in zip(buses, stores, strict=True):
            hub = Hub(hub_store, settings, clock=virtual_now, bus=bus, boot_clock=trio.current_time)
            await nursery.start(hub.run)
            assert hub.cluster is not None
            await nursery.start(bus.run, hub.cluster)
            worlds.append(World(Core(settings, virtual_now, ids, store, hub), store, nursery))
        here = worlds[0]
        await here.set_up()
        for there in worlds[1:]:
            there.conversation_id, there.alice, there.bob, there.carol = (
                here.conversation_id,
                here.alice,
                here.bob,
                here.carol,
            )
        await trio.sleep(7)  # in the first term no removal is answered
        yield worlds
        nursery.cancel_scope.cancel()


def bus_of(world: World) -> MemoryBus:
    """Returns the bus of a world."""
    cluster = world.hub.cluster
    assert cluster is not None
    assert isinstance(cluster._published._bus, MemoryBus)
    return cluster._published._bus


def cluster_of(world: World) -> Cluster:
    """Returns the cluster of a world."""
    cluster = world.hub.cluster
    assert cluster is not None
    return cluster
