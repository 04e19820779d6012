"""Turns of requests: a burst of one address does not delay the others, and no turn is lost."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pulse_trio.edge.server.request_turns import RequestTurns


class Requests:
    """Requests that take a turn, begin in the next turn of the loop, and give it back."""

    def __init__(self, most: int) -> None:
        self.turns = RequestTurns(most)
        self.begun: list[str] = []
        self.beginning = self.most = 0

    async def begin(self, address: str) -> None:
        await self.turns.take(address)
        self.beginning += 1
        self.most = max(self.most, self.beginning)
        self.begun.append(address)
        try:
            await trio.lowlevel.checkpoint()
        finally:
            self.beginning -= 1
            self.turns.give_back()


async def test_a_burst_begins_a_few_at_a_time(autojump_clock: MockClock) -> None:
    requests = Requests(4)
    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(requests.begin, "a")
    assert requests.most == 4
    assert len(requests.begun) == 100
    assert all(requests.turns.take_nowait() for _ in range(4))
    assert not requests.turns.take_nowait()


async def test_another_address_waits_for_one_request_of_each_line(autojump_clock: MockClock) -> None:
    requests = Requests(1)
    await requests.turns.take("held")
    async with trio.open_nursery() as nursery:
        for address in ("a", "b"):
            for _ in range(50):
                nursery.start_soon(requests.begin, address)
                await wait_all_tasks_blocked()
        nursery.start_soon(requests.begin, "late")
        await wait_all_tasks_blocked()
        requests.turns.give_back()
    assert requests.begun[:5] == ["a", "b", "late", "a", "b"]
    assert requests.most == 1


@pytest.mark.parametrize("is_given", [False, True])
async def test_a_request_that_is_cancelled_takes_no_turn(autojump_clock: MockClock, is_given: bool) -> None:
    turns = RequestTurns(1)
    assert turns.take_nowait()
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def wait() -> None:
            with scope:
                await turns.take("a")
                turns.give_back()

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        if is_given:
            turns.give_back()  # to the one that waits, which is cancelled before it runs
        scope.cancel()
    if not is_given:
        turns.give_back()
    assert turns.take_nowait()
    assert not turns.take_nowait()
