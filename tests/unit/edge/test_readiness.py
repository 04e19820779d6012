"""Readiness on the virtual clock: one ping for many probes, never for long, and probes may be cancelled."""

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from pulse_trio.edge.readiness import PING_FRESH, PING_TIMEOUT, Readiness
from pulse_trio.store.base import StoreUnavailable
from pulse_trio.store.memory import MemoryStore


class AskedStore(MemoryStore):
    """Counts its pings. `outcome`: "ok", "fail" or "hang"."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.outcome = "ok"

    async def ping(self) -> None:
        self.asked += 1
        await trio.sleep(0.1)
        if self.outcome == "hang":
            await trio.sleep_forever()
        if self.outcome == "fail":
            raise StoreUnavailable


@pytest.fixture
def store() -> AskedStore:
    return AskedStore()


@pytest.fixture
def readiness(store: AskedStore) -> Readiness:
    hub: Any = SimpleNamespace(draining=False)
    return Readiness(store, hub)


async def test_many_probes_at_once_cost_one_ping(
    store: AskedStore, readiness: Readiness, autojump_clock: object
) -> None:
    answers: list[list[str]] = []

    async def ask() -> None:
        answers.append(await readiness.failing())

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(ask)
    await ask()
    assert answers == [[]] * 101
    assert store.asked == 1
    store.outcome = "fail"
    await ask()
    assert answers[-1] == [], "for a moment"
    await trio.sleep(PING_FRESH)
    await ask()
    await ask()
    assert answers[-2:] == [["database"]] * 2
    assert store.asked == 2
    store.outcome = "ok"
    await trio.sleep(PING_FRESH)
    await ask()
    assert answers[-1] == []


async def test_a_hanging_store_delays_no_probe_for_long(
    store: AskedStore, readiness: Readiness, autojump_clock: object
) -> None:
    store.outcome = "hang"
    took: list[float] = []

    async def ask(after: float) -> None:
        await trio.sleep(after)
        began = trio.current_time()
        assert await readiness.failing() == ["database"]
        took.append(trio.current_time() - began)

    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(ask, number * 0.05)
    assert max(took) <= PING_TIMEOUT + 0.001
    assert store.asked <= 200 * 0.05 / PING_TIMEOUT + 2


async def test_a_cancelled_probe_leaves_the_ping_to_the_next(
    store: AskedStore, readiness: Readiness, autojump_clock: object
) -> None:
    answers: list[list[str]] = []

    async def ask() -> None:
        answers.append(await readiness.failing())

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.05):
            async with trio.open_nursery() as leaving:
                leaving.start_soon(readiness.failing)
                await trio.sleep(0.01)
                nursery.start_soon(ask)
    assert answers == [[]]
    assert store.asked == 2


async def test_a_stopping_service_is_never_ready(readiness: Readiness, autojump_clock: object) -> None:
    readiness.stopping = True
    assert await readiness.failing() == ["stopping"]
    readiness.stopping = False
    readiness._hub.draining = True
    assert await readiness.failing() == ["stopping"]
