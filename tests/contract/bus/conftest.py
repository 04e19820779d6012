"""The buses under contract: every test with the fixture `kind` runs on each engine."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TypeAlias
from uuid import UUID, uuid4

import pytest
import trio

from pulse_trio.bus.base import Bus
from tests.support.bus import Recorder
from tests.support.bus_kinds import BusKind, MemoryKind, PostgresKind, RedisClusterKind, RedisKind

LIMIT = 90  # seconds for a test

Start: TypeAlias = Callable[[], Awaitable[tuple[Bus, Recorder]]]


@pytest.fixture(scope="session")
def bus_on_postgres() -> Iterator[BusKind]:
    kind = PostgresKind()
    yield kind
    kind.remove()


@pytest.fixture(scope="session")
def bus_on_redis() -> Iterator[BusKind]:
    kind = RedisKind()
    yield kind
    kind.remove()


@pytest.fixture(scope="session")
def bus_on_redis_tls() -> Iterator[BusKind]:
    kind = RedisKind(tls=True)
    yield kind
    kind.remove()


@pytest.fixture(scope="session")
def bus_on_redis_cluster() -> Iterator[BusKind]:
    kind = RedisClusterKind()
    yield kind
    kind.remove()


@pytest.fixture(params=["memory", "postgres", "redis", "redis_tls", "redis_cluster"])
async def kind(request: pytest.FixtureRequest, nursery: trio.Nursery) -> AsyncIterator[BusKind]:
    """An engine that runs. The test must end within LIMIT."""

    async def limit() -> None:
        with trio.fail_after(LIMIT):
            await trio.sleep_forever()

    nursery.start_soon(limit)
    if request.param == "memory":
        yield MemoryKind(nursery)
        return
    found: BusKind = request.getfixturevalue(f"bus_on_{request.param}")
    yield found
    found.start()  # for the next test


@pytest.fixture
def start(kind: BusKind, nursery: trio.Nursery) -> Start:
    """Starts a bus, with an id of its own."""

    async def start_one() -> tuple[Bus, Recorder]:
        bus, recorder = kind.new_bus(uuid4()), Recorder()
        await nursery.start(bus.run, recorder)
        return bus, recorder

    return start_one


def others(bus: Bus, *buses: Bus) -> list[UUID]:
    """Returns the ids of all but one."""
    return [each.publisher for each in buses if each is not bus]
