"""Deadlines of connections that wait."""

import math

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pulse_trio.edge.server.deadlines import GRAIN, MAX_LOOKS_A_TURN, MAX_STALE, Deadlines


class Waiter:
    """Notes when it is looked at; `again` has the next entries that it makes then."""

    def __init__(self, deadlines: Deadlines, *again: float) -> None:
        self.due_at = math.inf
        self.looks: list[float] = []
        self._deadlines = deadlines
        self._again = list(again)

    def on_due(self, now: float) -> None:
        self.looks.append(now)
        if self._again:
            self._deadlines.enter(self, self._again.pop(0))


async def test_each_is_looked_at_when_it_is_due(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    deadlines = Deadlines()
    nursery.start_soon(deadlines.run)
    began = trio.current_time()
    early, late = Waiter(deadlines, began + 30), Waiter(deadlines)
    deadlines.enter(late, began + 20)
    deadlines.enter(early, began + 10)
    await trio.sleep(100)
    assert [look - began for look in early.looks] == [10, 30]
    assert [look - began for look in late.looks] == [20]
    nursery.cancel_scope.cancel()


async def test_an_earlier_entry_takes_the_place_of_a_later_one(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    deadlines = Deadlines()
    nursery.start_soon(deadlines.run)
    began = trio.current_time()
    waiter = Waiter(deadlines)
    await wait_all_tasks_blocked()
    for due in (20, 5, 9, 7):
        deadlines.enter(waiter, began + due)
    await trio.sleep(100)
    assert [look - began for look in waiter.looks] == [5]
    assert not deadlines._heap
    nursery.cancel_scope.cancel()


async def test_entries_of_one_waiter_do_not_pile_up(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """As for a client that begins a message a thousand times a second: each is due later than the one before."""
    deadlines = Deadlines()
    nursery.start_soon(deadlines.run)
    waiter = Waiter(deadlines)
    for _ in range(1_000):
        deadlines.enter(waiter, trio.current_time() + 10)
        await trio.sleep(0.001)
    assert len(deadlines._heap) == 1
    nursery.cancel_scope.cancel()


async def test_many_that_are_due_within_a_grain_are_one_look(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    deadlines = Deadlines()
    nursery.start_soon(deadlines.run)
    began = trio.current_time()
    waiters = [Waiter(deadlines) for _ in range(100)]
    for number, waiter in enumerate(waiters):
        deadlines.enter(waiter, began + 10 + number * GRAIN / 100)
    await trio.sleep(100)
    times = sorted({look for waiter in waiters for look in waiter.looks})
    assert len(times) == 2
    late = [waiter.looks[0] - began - 10 - number * GRAIN / 100 for number, waiter in enumerate(waiters)]
    assert min(late) >= 0
    assert max(late) <= GRAIN + 1e-9
    nursery.cancel_scope.cancel()


async def test_other_tasks_run_between_many_looks(nursery: trio.Nursery, mock_clock: MockClock) -> None:
    deadlines = Deadlines()
    waiters = [Waiter(deadlines) for _ in range(3 * MAX_LOOKS_A_TURN)]
    for waiter in waiters:
        deadlines.enter(waiter, trio.current_time() + 1)
    nursery.start_soon(deadlines.run)
    await wait_all_tasks_blocked()
    mock_clock.jump(2)
    counts: list[int] = []
    while not counts or counts[-1] < len(waiters):
        counts.append(sum(len(waiter.looks) for waiter in waiters))
        await trio.lowlevel.checkpoint()
    assert len({count for count in counts if count}) >= 2
    nursery.cancel_scope.cancel()


async def test_entries_of_those_who_have_left_do_not_gather(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """As for a flood of connections that come and go long before their first ping is due."""
    deadlines = Deadlines()
    nursery.start_soon(deadlines.run)
    began = trio.current_time()
    stays = Waiter(deadlines)
    deadlines.enter(stays, began + 20)
    gone = [Waiter(deadlines) for _ in range(5 * MAX_STALE)]
    for waiter in gone:
        deadlines.enter(waiter, began + 20)
        deadlines.leave(waiter)
        assert len(deadlines._heap) <= MAX_STALE + 2
    await trio.sleep(30)
    assert len(stays.looks) == 1
    assert not any(waiter.looks for waiter in gone)
    assert (deadlines._heap, deadlines._stale) == ([], 0)
    nursery.cancel_scope.cancel()
