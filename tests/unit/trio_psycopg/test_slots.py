"""The slots of a pool: bounds, shares, and the order in which tasks get them."""

import random
from collections.abc import Hashable

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pulse_trio.trio_psycopg.slots import Share, Slots


class Tasks:
    """Tasks that wait for slots in order; each holds its slot until it is released by name."""

    def __init__(self, slots: Slots, nursery: trio.Nursery) -> None:
        self.slots = slots
        self.running: list[str] = []
        self._nursery = nursery
        self._scopes: dict[str, trio.CancelScope] = {}

    async def start(self, *names: str) -> None:
        """Starts tasks named "kind key"."""
        for name in names:
            self._nursery.start_soon(self._run, name, trio.CancelScope())
            await wait_all_tasks_blocked()

    async def _run(self, name: str, scope: trio.CancelScope) -> None:
        kind, _, key = name.partition(" ")
        self._scopes[name] = scope
        with scope:
            await self.slots.acquire(kind, key.rstrip("0123456789"))
            self.running.append(name)
            try:
                await trio.sleep_forever()
            finally:
                self.slots.release(kind)
                self.running.remove(name)

    async def end(self, name: str) -> None:
        self._scopes[name].cancel()
        await wait_all_tasks_blocked()


async def test_each_kind_finds_what_is_reserved_for_it(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    kinds = ("a", "b", "c", "d")
    tasks = Tasks(Slots(10, {kind: Share(1, 5) for kind in kinds}), nursery)
    await tasks.start(*[f"a {n}" for n in range(20)])
    assert len(tasks.running) == 5, "half of them"
    await tasks.start(*[f"b {n}" for n in range(20)])
    assert len(tasks.running) == 8, "without those of c and d"
    tasks.slots.acquire_nowait("c")
    with pytest.raises(trio.WouldBlock):
        tasks.slots.acquire_nowait("c")
    with pytest.raises(trio.WouldBlock):
        tasks.slots.acquire_nowait()  # of no kind
    tasks.slots.acquire_nowait("d")
    assert tasks.slots.value == 0
    nursery.cancel_scope.cancel()


async def test_a_freed_slot_goes_to_those_who_may_have_it(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    tasks = Tasks(Slots(4, {"a": Share(1, 2), "b": Share(1, 2), "c": Share(0, 2)}), nursery)
    await tasks.start("a x1", "a x2", "a x3", "c x1", "c x2")
    assert tasks.running == ["a x1", "a x2", "c x1"], "the last one is kept for b"
    await tasks.end("a x1")
    assert tasks.running == ["a x2", "c x1", "c x2"] or tasks.running == ["a x2", "c x1", "a x3"]
    await tasks.start("b x1")
    assert tasks.running[-1] == "b x1"
    nursery.cancel_scope.cancel()


async def test_keys_of_a_kind_have_their_turns(autojump_clock: MockClock, nursery: trio.Nursery) -> None:
    tasks = Tasks(Slots(1), nursery)
    await tasks.start("a first", "a many1", "a many2", "a many3", "a one", "b other1", "b other2")
    order = []
    while tasks.running:
        order += tasks.running
        await tasks.end(tasks.running[0])
    assert order == ["a first", "a many1", "b other1", "a one", "b other2", "a many2", "a many3"]
    assert (tasks.slots.value, tasks.slots._waiting) == (1, {})


async def test_a_slot_given_to_a_cancelled_task_is_handed_on(autojump_clock: MockClock) -> None:
    slots = Slots(1)
    got: list[str] = []

    async def wait(name: str) -> None:
        await slots.acquire(name)
        got.append(name)
        slots.release(name)

    async with trio.open_nursery() as nursery:
        slots.acquire_nowait("holder")
        with trio.CancelScope() as scope:
            nursery.start_soon(wait, "next")
            async with trio.open_nursery() as cancelled:
                cancelled.start_soon(wait, "cancelled")
                await wait_all_tasks_blocked()
                slots.release("holder")  # to one of them
                scope.cancel()
    assert "next" in got
    assert (slots.value, slots._waiting) == (1, {})


@pytest.mark.parametrize("seed", range(20))
async def test_bounds_hold_whatever_is_cancelled(seed: int, autojump_clock: MockClock) -> None:
    rand = random.Random(seed)
    shares = {"a": Share(1, 3), "b": Share(2, 4), "c": Share(0, 6)}
    slots = Slots(6, shares)
    held = dict.fromkeys([*shares, None], 0)

    async def work(kind: Hashable, key: int) -> None:
        with trio.move_on_after(rand.uniform(0, 3)):
            await slots.acquire(kind, key)
            held[kind] += 1  # type: ignore[index]
            try:
                assert held["a"] <= 3
                assert held["b"] <= 4
                assert sum(held.values()) <= 6
                assert held["c"] + held[None] <= 6 - 3
                await trio.sleep(rand.uniform(0, 1))
            finally:
                held[kind] -= 1  # type: ignore[index]
                slots.release(kind)

    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(work, rand.choice(list(held)), rand.randrange(3))
            await trio.sleep(rand.uniform(0, 0.1))
    assert (slots.value, slots._waiting, +slots._held) == (6, {}, {})


def test_more_reserved_than_there_is_is_an_error() -> None:
    with pytest.raises(ValueError, match="reserved"):
        Slots(3, {"a": Share(2, 2), "b": Share(2, 2)})
