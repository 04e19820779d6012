"""Group commit: several rooms share a statement, and the fault of one is nobody else's."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pulse_trio.store.base import Message, NewMessage, StoreError, StoreRefused, StoreUnavailable
from pulse_trio.store.postgres.group_commit import APPENDS, LANES, STATEMENT_MESSAGES, GroupCommit, Rows, StoreBusy

NOW = datetime(2026, 2, 4, tzinfo=UTC)
AT_ONCE = APPENDS  # the lanes' statements, and that of who found none under way
SENDER = UUID(int=1)


def new(room: int, number: int = 1) -> NewMessage:
    return NewMessage(UUID(int=room * 1_000_000 + number), UUID(int=room), SENDER, f"{room}.{number}", None, NOW)


def stored(message: NewMessage) -> Message:
    return Message(
        message.id, message.conversation_id, SENDER, "x", message.content, False, False, NOW, NOW, 1, 1, None
    )


class Statements:
    """What would be PostgreSQL: each statement waits for `gate`, and fails if it has one of the `poison` rooms."""

    def __init__(self) -> None:
        self.rooms: list[list[int]] = []
        self.apart: list[int] = []
        self.under_way = self.most = 0  # but for those of rooms that are set apart
        self.gate: trio.Event | None = None
        self.poison: dict[int, StoreError] = {}

    async def append(self, messages: Sequence[NewMessage]) -> Rows:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            return await self._append(messages)
        finally:
            self.under_way -= 1

    async def append_apart(self, messages: Sequence[NewMessage]) -> Rows:
        self.apart.append(messages[0].conversation_id.int)
        return await self._append(messages)

    async def _append(self, messages: Sequence[NewMessage]) -> Rows:
        self.rooms.append([message.conversation_id.int for message in messages])
        if self.gate is not None:
            await self.gate.wait()
        await trio.lowlevel.checkpoint()
        for message in messages:
            if message.conversation_id.int in self.poison:
                raise self.poison[message.conversation_id.int]
        return [stored(message) for message in messages]


class Writers:
    """Rooms that append at the same time."""

    def __init__(self, gathering: GroupCommit, nursery: trio.Nursery) -> None:
        self.group_commit = gathering
        self.nursery = nursery
        self.outcomes: dict[int, list[str] | StoreError] = {}

    def start(self, room: int, count: int = 1) -> trio.CancelScope:
        scope = trio.CancelScope()
        self.nursery.start_soon(self._append, room, count, scope)
        return scope

    async def _append(self, room: int, count: int, scope: trio.CancelScope) -> None:
        with scope:
            try:
                rows = await self.group_commit.append([new(room, number) for number in range(count)])
            except StoreError as error:
                self.outcomes[room] = error
            else:
                self.outcomes[room] = [row.content for row in rows if row is not None]


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Statements, Writers]]:
    statements = Statements()
    gathering = GroupCommit(statements.append, statements.append_apart)
    async with trio.open_nursery() as nursery:
        await nursery.start(gathering.run)
        yield statements, Writers(gathering, nursery)
        nursery.cancel_scope.cancel()


async def occupy(statements: Statements, writers: Writers) -> trio.Event:
    """As many statements are under way as there may be; they end when the event is set."""
    statements.gate = trio.Event()
    for number in range(AT_ONCE):
        writers.start(900 + number)
        await wait_all_tasks_blocked()
    return statements.gate


async def test_alone_it_does_not_wait(autojump_clock: MockClock) -> None:
    async with running() as (statements, writers):
        writers.start(1, 2)
        await wait_all_tasks_blocked()
        assert statements.rooms == [[1, 1]]
        assert writers.outcomes == {1: ["1.0", "1.1"]}
        assert trio.current_time() == 0


async def test_what_comes_during_a_commit_shares_the_next(autojump_clock: MockClock) -> None:
    async with running() as (statements, writers):
        gate = await occupy(statements, writers)
        for room in range(1, 6):
            writers.start(room, room)
        await wait_all_tasks_blocked()
        assert writers.outcomes == {}
        gate.set()
        await wait_all_tasks_blocked()
        shared = statements.rooms[AT_ONCE:]
        assert len(shared) <= LANES
        assert sorted(room for statement in shared for room in statement) == [r for r in range(1, 6) for _ in range(r)]
        for room in range(1, 6):
            assert writers.outcomes[room] == [f"{room}.{number}" for number in range(room)]


async def test_a_statement_is_bounded(autojump_clock: MockClock) -> None:
    async with running() as (statements, writers):
        gate = await occupy(statements, writers)
        for room in range(1, 31):
            writers.start(room, 100)
        await wait_all_tasks_blocked()
        gate.set()
        await wait_all_tasks_blocked()
        assert max(len(statement) for statement in statements.rooms) <= STATEMENT_MESSAGES + 100
        assert all(len(writers.outcomes[room]) == 100 for room in range(1, 31))  # type: ignore[arg-type]


async def test_two_parcels_of_a_conversation_are_not_in_one_statement(autojump_clock: MockClock) -> None:
    """The second may resend what the first sends: two of one client_id in a statement are none of the contract's."""
    async with running() as (statements, writers):
        gate = await occupy(statements, writers)
        for room in (1, 2, 1, 3):
            writers.start(room)
        await wait_all_tasks_blocked()
        gate.set()
        await wait_all_tasks_blocked()
        for statement in statements.rooms:
            assert len(set(statement)) == len(statement)
        assert sorted(room for statement in statements.rooms[AT_ONCE:] for room in statement) == [1, 1, 2, 3]


@pytest.mark.parametrize("error", [StoreRefused("poison"), StoreBusy("locked")], ids=["refused", "locked"])
async def test_the_fault_of_one_room_is_its_own(error: StoreError, autojump_clock: MockClock) -> None:
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

        # It stays alone, and holds up nobody, until it succeeds.
        del statements.rooms[:]
        gate = await occupy(statements, writers)
        writers.start(3)
        writers.start(4)
        await wait_all_tasks_blocked()
        assert statements.rooms[AT_ONCE:] == [[3]]
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
        assert len(statements.rooms) == before  # it gathers again
        gate.set()


async def test_a_store_that_is_away_is_away_for_all_and_at_once(autojump_clock: MockClock) -> None:
    async with running() as (statements, writers):
        gate = await occupy(statements, writers)
        statements.poison[2] = StoreUnavailable("away")
        for room in range(1, 4):
            writers.start(room)
        await wait_all_tasks_blocked()
        gate.set()
        await wait_all_tasks_blocked()
        assert len(statements.rooms) <= AT_ONCE + LANES
        failed = [room for room in range(1, 4) if isinstance(writers.outcomes[room], StoreUnavailable)]
        assert 2 in failed


async def test_who_gives_up_before_its_turn_is_not_stored(autojump_clock: MockClock) -> None:
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
        assert sorted(room for statement in statements.rooms[AT_ONCE:] for room in statement) == [2]


async def test_who_gives_up_during_its_statement_harms_nobody(autojump_clock: MockClock) -> None:
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


async def test_rooms_that_are_set_apart_take_no_place_of_the_others(autojump_clock: MockClock) -> None:
    """Each place is a connection: those that wait for locked rows have others."""
    async with running() as (statements, writers):
        locked = range(1, 7)
        statements.poison = {room: StoreBusy("locked") for room in locked}
        for room in locked:
            writers.start(room)
        await wait_all_tasks_blocked()
        assert all(isinstance(writers.outcomes[room], StoreBusy) for room in locked)
        statements.apart.clear()
        statements.gate = trio.Event()
        for room in (*locked, *range(11, 20)):
            writers.start(room)
            await wait_all_tasks_blocked()
        assert statements.apart == list(locked)
        assert statements.most <= statements.under_way == APPENDS
        statements.gate.set()
        await wait_all_tasks_blocked()
        assert [writers.outcomes[room] for room in range(11, 20)] == [[f"{room}.0"] for room in range(11, 20)]


async def test_when_the_lanes_end_nobody_waits_for_ever(autojump_clock: MockClock) -> None:
    statements = Statements()
    gathering = GroupCommit(statements.append, statements.append_apart)
    async with trio.open_nursery() as nursery:
        writers = Writers(gathering, nursery)
        async with trio.open_nursery() as lanes:
            await lanes.start(gathering.run)
            gate = await occupy(statements, writers)
            writers.start(1)
            await wait_all_tasks_blocked()
            lanes.cancel_scope.cancel()
        await wait_all_tasks_blocked()
        assert len(writers.outcomes) == LANES + 1
        assert all(isinstance(outcome, StoreUnavailable) for outcome in writers.outcomes.values())
        gate.set()
        await wait_all_tasks_blocked()
        assert writers.outcomes[900] == ["900.0"], "its statement is its own"


async def test_who_waits_for_the_next_statement_of_a_lane_is_told_when_the_lanes_end(autojump_clock: MockClock) -> None:
    statements = Statements()
    gathering = GroupCommit(statements.append, statements.append_apart)
    lanes = trio.CancelScope()

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        with lanes:
            await gathering.run(task_status=task_status)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            writers, others = Writers(gathering, nursery), Writers(gathering, nursery)
            before = statements.gate = trio.Event()
            for room in range(10, 10 + AT_ONCE):
                writers.start(room)
                await wait_all_tasks_blocked()
            for same_room in (writers, others):
                same_room.start(1)
                await wait_all_tasks_blocked()
            statements.gate = trio.Event()
            before.set()
            await wait_all_tasks_blocked()
            assert statements.rooms[-1] == [1], "the second one of the room is kept for the statement after this"
            lanes.cancel()
    assert isinstance(writers.outcomes[1], StoreUnavailable)
    assert isinstance(others.outcomes[1], StoreUnavailable)
