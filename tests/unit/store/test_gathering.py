"""Questions that share statements: each is answered, and the failure of one harms no other."""

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pulse_trio.store.base import StoreRefused, StoreUnavailable
from pulse_trio.store.postgres import gathering
from pulse_trio.store.postgres.gathering import LANES, Gathering


class Database:
    """Answers a number with its square; keeps the statements."""

    def __init__(self) -> None:
        self.statements: list[list[int]] = []
        self.answering = 0
        self.most = 0  # statements at a time
        self.gate: trio.Event | None = None
        self.failure: Exception | None = None
        self.refused: set[int] = set()

    async def answer_all(self, asked: Sequence[int]) -> list[int | None]:
        self.statements.append(list(asked))
        self.answering += 1
        self.most = max(self.most, self.answering)
        try:
            await trio.lowlevel.checkpoint()
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.answering -= 1
        if self.failure is not None:
            raise self.failure
        if self.refused & set(asked):
            raise StoreRefused("a value")
        return [number**2 if number >= 0 else None for number in asked]


async def ask_all(asker: Gathering[int, int], numbers: Sequence[int]) -> dict[int, int | str | None]:
    found: dict[int, int | str | None] = {}

    async def ask(number: int) -> None:
        try:
            found[number] = await asker.ask(number)
        except (StoreRefused, StoreUnavailable) as error:
            found[number] = type(error).__name__

    async with trio.open_nursery() as nursery:
        for number in numbers:
            nursery.start_soon(ask, number)
    return found


async def test_questions_of_one_moment_share_statements(autojump_clock: MockClock) -> None:
    database = Database()
    asker = Gathering(database.answer_all)
    async with trio.open_nursery() as nursery:
        await nursery.start(asker.run)
        numbers = range(-5, 200)
        assert await ask_all(asker, numbers) == {n: n**2 if n >= 0 else None for n in numbers}
        assert sorted(number for statement in database.statements for number in statement) == list(numbers)
        assert len(database.statements) < 20
        assert max(map(len, database.statements)) == gathering.MAX_STATEMENT
        assert database.most <= LANES + 1
        nursery.cancel_scope.cancel()


async def test_a_question_alone_is_asked_at_once(autojump_clock: MockClock) -> None:
    database = Database()
    asker = Gathering(database.answer_all)
    assert await asker.ask(3) == 9  # also while no lanes run
    async with trio.open_nursery() as nursery:
        await nursery.start(asker.run)
        assert await asker.ask(4) == 16
        nursery.cancel_scope.cancel()
    assert database.statements == [[3], [4]]


async def test_a_rejected_value_fails_its_own_question_only(autojump_clock: MockClock) -> None:
    database = Database()
    database.refused = {7, 23}
    asker = Gathering(database.answer_all)
    async with trio.open_nursery() as nursery:
        await nursery.start(asker.run)
        found = await ask_all(asker, range(40))
        nursery.cancel_scope.cancel()
    assert found == {n: "StoreRefused" if n in database.refused else n**2 for n in range(40)}


async def test_a_database_that_is_away_fails_all_and_is_asked_again(autojump_clock: MockClock) -> None:
    database = Database()
    database.failure = StoreUnavailable("away")
    asker = Gathering(database.answer_all)
    async with trio.open_nursery() as nursery:
        await nursery.start(asker.run)
        assert set((await ask_all(asker, range(50))).values()) == {"StoreUnavailable"}
        database.failure = None
        assert await ask_all(asker, range(50)) == {n: n**2 for n in range(50)}
        nursery.cancel_scope.cancel()


async def test_a_cancelled_question_is_not_asked(autojump_clock: MockClock) -> None:
    database = Database()
    database.gate = trio.Event()
    asker = Gathering(database.answer_all)
    async with trio.open_nursery() as nursery:
        await nursery.start(asker.run)
        for number in range(1 + LANES):  # the first one asks itself, the lanes take one each
            nursery.start_soon(asker.ask, number)
            await wait_all_tasks_blocked()
        with trio.move_on_after(1):
            await asker.ask(99)
        database.gate.set()
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [99] not in database.statements


async def test_questions_fail_when_the_lanes_end(autojump_clock: MockClock) -> None:
    database = Database()
    database.gate = trio.Event()
    asker = Gathering(database.answer_all)
    found: list[type[Exception]] = []

    async def ask(number: int) -> None:
        try:
            await asker.ask(number)
        except StoreUnavailable as error:
            found.append(type(error))

    async with trio.open_nursery() as outer:
        async with trio.open_nursery() as nursery:
            await nursery.start(asker.run)
            for number in range(6):
                outer.start_soon(ask, number)
                await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        await wait_all_tasks_blocked()
        assert found == [StoreUnavailable] * 5  # all but the first, which asked itself
        database.gate.set()


@pytest.mark.parametrize("queued", [1, 2])
async def test_a_full_queue_makes_tasks_wait(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, queued: int
) -> None:
    monkeypatch.setattr(gathering, "MAX_QUEUED", queued)
    asker = Gathering(Database().answer_all)
    async with trio.open_nursery() as nursery:
        await nursery.start(asker.run)
        assert await ask_all(asker, range(100)) == {n: n**2 for n in range(100)}
        nursery.cancel_scope.cancel()
