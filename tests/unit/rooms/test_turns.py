"""Turns: a bounded number of each user, in the order of asking."""

from uuid import UUID

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pulse_trio.rooms.turns import Turns

ALICE, BOB = UUID(int=1), UUID(int=2)


async def test_turns_of_a_user_are_bounded_and_in_order(autojump_clock: MockClock) -> None:
    turns, log = Turns(2), list[str]()

    async def work(user_id: UUID, name: str) -> None:
        async with turns.turn(user_id):
            log.append(name)
            await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(work, ALICE, f"alice {number}")
            await wait_all_tasks_blocked()
        assert log == ["alice 0", "alice 1"]
        nursery.start_soon(work, BOB, "bob")
        await wait_all_tasks_blocked()
        assert log[2:] == ["bob"]
    assert sorted(log[3:5]) == ["alice 2", "alice 3"], "at the same time"
    assert log[5:] == ["alice 4"]
    assert trio.current_time() == 3.0


async def test_a_cancelled_wait_takes_no_turn(autojump_clock: MockClock) -> None:
    turns = Turns(1)
    await turns.acquire(ALICE)
    with trio.move_on_after(1) as scope:
        await turns.acquire(ALICE)
    assert scope.cancelled_caught
    turns.release(ALICE)
    with trio.fail_after(1):
        async with turns.turn(ALICE):
            pass
    assert not turns._lines
