"""Group commit: several rooms share a statement, and one room's failure affects no other."""

import dataclasses
import gc
import weakref
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pulse_trio.model import Message, Post
from pulse_trio.store.base import Answer, Outcome, StoreError, StoreRefused, StoreUnavailable
from pulse_trio.store.postgres.group_commit import (
    LANES,
    MAX_QUEUED,
    MAX_STATEMENT_CHARS,
    MAX_STATEMENT_COMMANDS,
    GroupCommit,
    Outcomes,
    StoreBusy,
    max_running,
)
from tests.contract.people import messages
from tests.support.handovers import Handed

NOW = datetime(2026, 2, 4, tzinfo=UTC)
SENDER = UUID(int=1)


def new(room: int, number: int = 1) -> Post:
    return Post(
        id=UUID(int=room * 1_000_000 + number),
        conversation_id=UUID(int=room),
        actor_id=SENDER,
        at=NOW,
        content=f"{room}.{number}",
    )


def stored(new: Post) -> Outcome:
    return (Message(new.id, new.conversation_id, SENDER, "x", new.content, False, False, NOW, NOW, 1, 1, None),)


class Statements:
    """Stands in for PostgreSQL: a statement waits for `gate`, and fails if it has a message of a `poison` room."""

    def __init__(self) -> None:
        self.rooms: list[list[int]] = []
        self.isolated: list[int] = []
        self.running = self.max_running = 0  # without those of isolated rooms
        self.gate: trio.Event | None = None
        self.poison: dict[int, StoreError] = {}

    async def apply(self, messages: Sequence[Post]) -> Outcomes:
        self.running += 1
        self.max_running = max(self.max_running, self.running)
        try:
            return await self._apply(messages)
        finally:
            self.running -= 1

    async def apply_isolated(self, messages: Sequence[Post]) -> Outcomes:
        self.isolated.append(messages[0].conversation_id.int)
        return await self._apply(messages)

    async def _apply(self, messages: Sequence[Post]) -> Outcomes:
        self.rooms.append([message.conversation_id.int for message in messages])
        if self.gate is not None:
            await self.gate.wait()
        await trio.lowlevel.checkpoint()
        for message in messages:
            if message.conversation_id.int in self.poison:
                raise self.poison[message.conversation_id.int]
        return [stored(message) for message in messages]


class Writers:
    """Writers of several rooms, and the outcome of each."""

    def __init__(self, group_commit: GroupCommit[Post], nursery: trio.Nursery) -> None:
        self.group_commit = group_commit
        self.nursery = nursery
        self.outcomes: dict[int, list[str] | StoreError] = {}
        self.scopes: list[trio.CancelScope] = []

    def start(self, room: int, count: int = 1) -> trio.CancelScope:
        scope = trio.CancelScope()
        self.scopes.append(scope)
        self.nursery.start_soon(self._append, room, count, scope)
        return scope

    async def _append(self, room: int, count: int, scope: trio.CancelScope) -> None:
        with scope:
            try:
                outcomes = await self.group_commit.apply([new(room, number) for number in range(count)])
            except StoreError as error:
                self.outcomes[room] = error
            else:
                self.outcomes[room] = [message.content for message in messages(outcomes)]


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Statements, Writers]]:
    statements = Statements()
    group_commit = GroupCommit(statements.apply, statements.apply_isolated)
    async with trio.open_nursery() as nursery:
        await nursery.start(group_commit.run)
        yield statements, Writers(group_commit, nursery)
        nursery.cancel_scope.cancel()


async def occupy(statements: Statements, writers: Writers) -> trio.Event:
    """Starts as many statements as may run at a time; they end when the returned event is set."""
    statements.gate = trio.Event()
    for number in range(max_running(LANES)):
        writers.start(900 + number)
        await wait_all_tasks_blocked()
    return statements.gate


async def test_a_single_append_does_not_wait(autojump_clock: MockClock) -> None:
    async with running() as (statements, writers):
        writers.start(1, 2)
        await wait_all_tasks_blocked()
        assert statements.rooms == [[1, 1]]
        assert writers.outcomes == {1: ["1.0", "1.1"]}
        assert trio.current_time() == 0


async def test_appends_during_a_commit_share_the_next_one(autojump_clock: MockClock) -> None:
    async with running() as (statements, writers):
        gate = await occupy(statements, writers)
        for room in range(1, 6):
            writers.start(room, room)
        await wait_all_tasks_blocked()
        assert writers.outcomes == {}
        gate.set()
        await wait_all_tasks_blocked()
        shared = statements.rooms[max_running(LANES) :]
        assert len(shared) <= LANES
        assert sorted(room for statement in shared for room in statement) == [r for r in range(1, 6) for _ in range(r)]
        for room in range(1, 6):
            assert writers.outcomes[room] == [f"{room}.{number}" for number in range(room)]


async def test_the_size_of_a_statement_is_bounded(autojump_clock: MockClock) -> None:
    async with running() as (statements, writers):
        gate = await occupy(statements, writers)
        for room in range(1, 31):
            writers.start(room, 100)
        await wait_all_tasks_blocked()
        gate.set()
        await wait_all_tasks_blocked()
        assert max(len(statement) for statement in statements.rooms) <= MAX_STATEMENT_COMMANDS + 100
        assert all(len(writers.outcomes[room]) == 100 for room in range(1, 31))  # type: ignore[arg-type]


async def test_the_texts_of_a_statement_are_bounded(autojump_clock: MockClock) -> None:
    """50 rooms with 32 messages of 12 KB made one statement: it blocked the loop for 0.4 s, and everybody waited."""
    async with running() as (statements, writers):
        gate = await occupy(statements, writers)
        for room in range(100, 110):
            text = "x" * (MAX_STATEMENT_CHARS // 4)
            writers.nursery.start_soon(writers.group_commit.apply, [dataclasses.replace(new(room), content=text)])
        await wait_all_tasks_blocked()
        gate.set()
        await wait_all_tasks_blocked()
        sizes = [len(rooms) for rooms in statements.rooms[max_running(LANES) :]]
        assert sum(sizes) == 10
        assert max(sizes) == 4


async def test_a_statement_has_one_request_of_a_conversation(autojump_clock: MockClock) -> None:
    """The second may resend a message of the first, and a batch must not have one client_id twice."""
    async with running() as (statements, writers):
        gate = await occupy(statements, writers)
        for room in (1, 2, 1, 3):
            writers.start(room)
        await wait_all_tasks_blocked()
        gate.set()
        await wait_all_tasks_blocked()
        for statement in statements.rooms:
            assert len(set(statement)) == len(statement)
        assert sorted(room for statement in statements.rooms[max_running(LANES) :] for room in statement) == [
            1,
            1,
            2,
            3,
        ]


@pytest.mark.parametrize("error", [StoreRefused("poison"), StoreBusy("locked")], ids=["refused", "locked"])
async def test_a_failing_room_affects_no_other(error: StoreError, autojump_clock: MockClock) -> None:
    async with running() as (statements, writers):
        statements.poison[3] = error
        gate = await occupy(statements, writers)
        for room in range(1, 6):
            writers.start(room)
        await wait_all_tasks_blocked()
        gate.set()
        await wait_all_tasks_blocked()
        for room in (1, 2, 4, 5):
            assert writers.outcomes[room] == [f"{room}.0"]
        assert type(writers.outcomes[3]) is type(error)

        # It stays isolated, and delays no other room, until it succeeds.
        del statements.rooms[:]
        gate = await occupy(statements, writers)
        writers.start(3)
        writers.start(4)
        await wait_all_tasks_blocked()
        assert statements.rooms[max_running(LANES) :] == [[3]]
        gate.set()
        await wait_all_tasks_blocked()
        assert writers.outcomes[4] == ["4.0"]
        del statements.poison[3]
        writers.start(3)
        await wait_all_tasks_blocked()
        assert writers.outcomes[3] == ["3.0"]
        gate = await occupy(statements, writers)
        before = len(statements.rooms)
        writers.start(3)
        await wait_all_tasks_blocked()
        assert len(statements.rooms) == before  # it shares statements again
        gate.set()


async def test_an_unavailable_store_fails_all_appends_at_once(autojump_clock: MockClock) -> None:
    async with running() as (statements, writers):
        gate = await occupy(statements, writers)
        statements.poison[2] = StoreUnavailable("away")
        for room in range(1, 4):
            writers.start(room)
        await wait_all_tasks_blocked()
        gate.set()
        await wait_all_tasks_blocked()
        assert len(statements.rooms) <= max_running(LANES) + LANES
        failed = [room for room in range(1, 4) if isinstance(writers.outcomes[room], StoreUnavailable)]
        assert 2 in failed


async def test_an_append_cancelled_before_its_statement_is_not_stored(autojump_clock: MockClock) -> None:
    async with running() as (statements, writers):
        gate = await occupy(statements, writers)
        scope = writers.start(1)
        writers.start(2)
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        gate.set()
        await wait_all_tasks_blocked()
        assert [1] not in statements.rooms
        assert sorted(room for statement in statements.rooms[max_running(LANES) :] for room in statement) == [2]


async def test_an_append_cancelled_during_its_statement_affects_no_other(autojump_clock: MockClock) -> None:
    async with running() as (statements, writers):
        statements.gate = trio.Event()
        scope = writers.start(1)
        await wait_all_tasks_blocked()
        scope.cancel()
        await wait_all_tasks_blocked()
        writers.start(2)
        statements.gate.set()
        await wait_all_tasks_blocked()
        assert writers.outcomes == {2: ["2.0"]}


async def test_isolated_rooms_use_no_connection_of_the_others(autojump_clock: MockClock) -> None:
    """Statements that wait for locked rows have connections of their own."""
    async with running() as (statements, writers):
        locked = range(1, 7)
        statements.poison = {room: StoreBusy("locked") for room in locked}
        for room in locked:
            writers.start(room)
        await wait_all_tasks_blocked()
        assert all(isinstance(writers.outcomes[room], StoreBusy) for room in locked)
        statements.isolated.clear()
        statements.gate = trio.Event()
        for room in (*locked, *range(11, 20)):
            writers.start(room)
            await wait_all_tasks_blocked()
        assert statements.isolated == list(locked)
        assert statements.max_running <= statements.running == max_running(LANES)
        statements.gate.set()
        await wait_all_tasks_blocked()
        assert [writers.outcomes[room] for room in range(11, 20)] == [[f"{room}.0"] for room in range(11, 20)]


async def test_queued_appends_fail_when_the_lanes_end(autojump_clock: MockClock) -> None:
    statements = Statements()
    group_commit = GroupCommit(statements.apply, statements.apply_isolated)
    async with trio.open_nursery() as nursery:
        writers = Writers(group_commit, nursery)
        async with trio.open_nursery() as lanes:
            await lanes.start(group_commit.run)
            gate = await occupy(statements, writers)
            writers.start(1)
            await wait_all_tasks_blocked()
            lanes.cancel_scope.cancel()
        await wait_all_tasks_blocked()
        assert len(writers.outcomes) == LANES + 1
        assert all(isinstance(outcome, StoreUnavailable) for outcome in writers.outcomes.values())
        gate.set()
        await wait_all_tasks_blocked()
        assert writers.outcomes[900] == ["900.0"], "it runs its own statement, not on a lane"


async def test_a_postponed_append_fails_when_the_lanes_end(autojump_clock: MockClock) -> None:
    statements = Statements()
    group_commit = GroupCommit(statements.apply, statements.apply_isolated)
    lanes = trio.CancelScope()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        with lanes:
            await group_commit.run(task_status=task_status)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            writers, others = Writers(group_commit, nursery), Writers(group_commit, nursery)
            before = statements.gate = trio.Event()
            for room in range(10, 10 + max_running(LANES)):
                writers.start(room)
                await wait_all_tasks_blocked()
            for same_room in (writers, others):
                same_room.start(1)
                await wait_all_tasks_blocked()
            statements.gate = trio.Event()
            before.set()
            await wait_all_tasks_blocked()
            assert statements.rooms[-1] == [1], "the second request of the room waits for the next statement"
            lanes.cancel()
    assert isinstance(writers.outcomes[1], StoreUnavailable)
    assert isinstance(others.outcomes[1], StoreUnavailable)


# --- handovers: no task waits ---


async def test_handovers_of_one_turn_share_a_statement(autojump_clock: MockClock) -> None:
    async with running() as (statements, writers):
        await wait_all_tasks_blocked()
        handed = [Handed(new(room), new(room, 2)) for room in range(1, 31)]
        assert all(writers.group_commit.apply_soon(each) for each in handed)
        assert [each.takings for each in handed] == [0] * 30
        await wait_all_tasks_blocked()
        assert statements.rooms == [[room for room in range(1, 31) for _ in range(2)]], "one lane is woken, not both"
        assert [each.takings for each in handed] == [1] * 30
        for room, each in enumerate(handed, 1):
            assert each.answers == [[stored(new(room)), stored(new(room, 2))]]


async def test_handovers_are_taken_when_their_statement_begins(autojump_clock: MockClock) -> None:
    """Messages sent while others commit are in the next statement, although the handover was queued before."""
    async with running() as (statements, writers):
        gate = await occupy(statements, writers)
        handed, ended = Handed(new(1)), Handed(new(2))
        assert writers.group_commit.apply_soon(handed)
        assert writers.group_commit.apply_soon(ended)
        await wait_all_tasks_blocked()
        handed.posts = (new(1), new(1, 2))
        ended.posts = ()
        gate.set()
        await wait_all_tasks_blocked()
        assert statements.rooms[max_running(LANES) :] == [[1, 1]]
        assert handed.answers == [[stored(new(1)), stored(new(1, 2))]]
        assert ended.answers == []


async def test_an_answered_handover_is_not_kept(autojump_clock: MockClock) -> None:
    """The lane that had carried it out kept it while it waited, and with it a room and its connections."""
    async with running() as (_, writers):
        handed = [Handed(new(room), seconds=1) for room in range(1, 5)]
        kept = [weakref.ref(each) for each in handed]
        assert all(writers.group_commit.apply_soon(each) for each in handed)
        await trio.sleep(5)
        assert all(each.answers for each in handed)
        del handed
        gc.collect()
        assert [each for each in kept if each() is not None] == []


@pytest.mark.parametrize("error", [StoreRefused("poison"), StoreBusy("locked")], ids=["refused", "locked"])
async def test_a_room_whose_handover_fails_uses_apply_until_it_succeeds(
    error: StoreError, autojump_clock: MockClock
) -> None:
    async with running() as (statements, writers):
        statements.poison[3] = error
        handed = [Handed(new(room)) for room in range(1, 5)]
        assert all(writers.group_commit.apply_soon(each) for each in handed)
        await wait_all_tasks_blocked()
        assert [each.answers for each in handed] == [[None]] * 4, "the statement failed: each is carried out separately"
        alone = Handed(new(3))
        assert not any(writers.group_commit.apply_soon(Handed(new(room))) for room in range(1, 5))
        for room in range(1, 5):
            writers.start(room)
        await wait_all_tasks_blocked()
        assert sorted(statements.isolated) == [1, 2, 3, 4]
        assert writers.group_commit.apply_soon(Handed(new(1))), "it shares statements again"
        assert not writers.group_commit.apply_soon(alone)
        await wait_all_tasks_blocked()
        alone = Handed(new(5))
        statements.poison[5] = error
        assert writers.group_commit.apply_soon(alone)
        await wait_all_tasks_blocked()
        assert [type(answer) for answer in alone.answers] == [type(error)]
        assert not writers.group_commit.apply_soon(Handed(new(5)))


async def test_each_handover_is_answered_at_its_own_deadline(autojump_clock: MockClock) -> None:
    """A statement hangs: those in it, and those behind it, are not kept longer than they ask for."""
    async with running() as (statements, writers):
        statements.gate = trio.Event()
        answered: dict[int, float] = {}

        class Noted(Handed):
            def on_answer(self, answer: Answer) -> None:
                super().on_answer(answer)
                answered[self.conversation_id.int] = trio.current_time()

        deadlines = {1: 10.0, 2: 4.0, 3: 7.5, 4: 10.0, 5: 3.0, 6: 9.0}
        handed = {}
        for room, seconds in deadlines.items():
            handed[room] = Noted(new(room), seconds=seconds)
            assert writers.group_commit.apply_soon(handed[room])
            if room in {2, 3}:
                await wait_all_tasks_blocked()  # the next ones come in a statement of their own, then in none
        await trio.sleep(20)
        assert answered == pytest.approx(deadlines)
        assert all(isinstance(each.answers[0], StoreUnavailable) for each in handed.values())
        assert handed[5].takings == 0
        statements.gate.set()
        await wait_all_tasks_blocked()
        assert all(len(each.answers) == 1 for each in handed.values()), "a late answer is none"
        assert statements.rooms == [[1, 2], [3], [4, 6]], "what was not taken is not carried out"


async def test_a_statement_is_cancelled_when_nobody_waits_for_it(autojump_clock: MockClock) -> None:
    """So a connection that hangs does not keep its lane."""
    async with running() as (statements, writers):
        statements.gate = trio.Event()
        for room in range(1, LANES + 1):
            assert writers.group_commit.apply_soon(Handed(new(room), seconds=5))
            await wait_all_tasks_blocked()
        assert statements.running == LANES
        await trio.sleep(5.1)
        assert statements.running == 0
        statements.gate = None
        later = Handed(new(1))
        assert writers.group_commit.apply_soon(later)
        await wait_all_tasks_blocked()
        assert later.answers == [[stored(new(1))]]


async def test_a_statement_goes_on_for_those_who_wait(autojump_clock: MockClock) -> None:
    async with running() as (statements, writers):
        statements.gate = trio.Event()
        early, late = Handed(new(1), seconds=5), Handed(new(2), seconds=9)
        assert writers.group_commit.apply_soon(early)
        assert writers.group_commit.apply_soon(late)
        await trio.sleep(6)
        statements.gate.set()
        await wait_all_tasks_blocked()
        assert isinstance(early.answers[0], StoreUnavailable)
        assert late.answers == [[stored(new(2))]]


async def test_handovers_are_answered_when_the_lanes_end(autojump_clock: MockClock) -> None:
    statements = Statements()
    group_commit = GroupCommit(statements.apply, statements.apply_isolated)
    assert not group_commit.apply_soon(Handed(new(1))), "there are no lanes"
    async with trio.open_nursery() as lanes:
        await lanes.start(group_commit.run)
        statements.gate = trio.Event()
        handed = [Handed(new(room)) for room in range(1, LANES + 3)]
        for each in handed:
            assert group_commit.apply_soon(each)
            await wait_all_tasks_blocked()
        lanes.cancel_scope.cancel()
    for each in handed:
        assert [type(answer) for answer in each.answers] == [StoreUnavailable]
    assert not group_commit.apply_soon(Handed(new(1)))


async def test_a_full_queue_takes_no_handover(autojump_clock: MockClock) -> None:
    async with running() as (statements, writers):
        gate = await occupy(statements, writers)
        handed = [Handed(new(room)) for room in range(1, MAX_QUEUED + 1)]
        assert all(writers.group_commit.apply_soon(each) for each in handed)
        assert not writers.group_commit.apply_soon(Handed(new(0)))
        writers.start(0)
        gate.set()
        await wait_all_tasks_blocked()
        assert writers.outcomes[0] == ["0.0"]
        assert all(isinstance(each.answers[0], list) for each in handed)


async def test_a_statement_is_cancelled_when_the_last_task_gives_up(autojump_clock: MockClock) -> None:
    """Both lanes stayed in statements that nobody waited for, after the database had stopped and come back."""
    async with running() as (statements, writers):
        await occupy(statements, writers)

        async def give_up(room: int) -> None:
            with trio.move_on_after(3):
                await writers.group_commit.apply([new(room)])

        for room in range(1, 1 + LANES):
            writers.nursery.start_soon(give_up, room)
        await trio.sleep(1)
        for scope in list(writers.scopes):
            scope.cancel()
        await trio.sleep(5)
        assert statements.running == 0
        statements.gate = None
        handed = Handed(new(7))
        assert writers.group_commit.apply_soon(handed)
        await wait_all_tasks_blocked()
        assert len(handed.answers) == 1
