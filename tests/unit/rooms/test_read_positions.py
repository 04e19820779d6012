"""Read positions: batched, stored in one statement, sent in one frame, never going back."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.rooms import read_positions as reads
from pulse_trio.rooms.read_positions import DELAY
from pulse_trio.rooms.room import MAX_FRAME_POSITIONS
from pulse_trio.store.base import Head, NotAMember, ReadMark, ReadState, StoreUnavailable, User
from pulse_trio.store.memory import MemoryStore
from tests.support import commands

from .world import Device, Guest, World, a_world, device, settle

Standings = list[ReadState | None]
Store = Callable[[Sequence[ReadMark]], Awaitable[Standings]]


def watch_marks(
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    *outcomes: Callable[[Store, Sequence[ReadMark]], Awaitable[Standings]],
) -> list[list[tuple[UUID, int]]]:
    """Records the marks from now on; the next statements have these outcomes."""
    asked: list[list[tuple[UUID, int]]] = []
    real, left = partial(MemoryStore.mark_read, world.store), list(outcomes)

    async def mark_read(marks: Sequence[ReadMark]) -> Standings:
        asked.append([(mark.user_id, mark.seq) for mark in marks])
        return await (left.pop(0)(real, marks) if left else real(marks))

    monkeypatch.setattr(world.store, "mark_read", mark_read)
    return asked


async def fail(_real: Store, _marks: Sequence[ReadMark]) -> Standings:
    await trio.lowlevel.checkpoint()
    raise StoreUnavailable


async def lose(real: Store, marks: Sequence[ReadMark]) -> Standings:
    await real(marks)
    raise StoreUnavailable


async def hang(_real: Store, _marks: Sequence[ReadMark]) -> Standings:
    await trio.sleep_forever()
    raise AssertionError


async def crash(_real: Store, _marks: Sequence[ReadMark]) -> Standings:
    await trio.lowlevel.checkpoint()
    raise RuntimeError("a fault in the store")


async def say(world: World, count: int, conversation_id: UUID | None = None) -> None:
    """Stores messages before any user of the test connects."""
    for number in range(count):
        where = world.conversation_id if conversation_id is None else conversation_id
        await world.store.apply([commands.post(where, world.alice, f"{number}")])


async def position(world: World, user: User, conversation_id: UUID | None = None) -> int:
    where = world.conversation_id if conversation_id is None else conversation_id
    page = await world.store.page_members(where, world.alice.id, limit=1_000)
    return next(member.read_seq for member in page.members if member.user.id == user.id)


def told(listener: Guest | Device) -> list[dict[str, int]]:
    """Returns the positions in each frame: user → seq."""
    return [{each["user_id"]: each["seq"] for each in frame["positions"]} for frame in listener.of_type("read")]


def errors(listener: Guest | Device) -> list[tuple[str, str | None]]:
    return [(frame["code"], frame.get("field")) for frame in listener.of_type("error")]


async def test_concurrent_reads_are_one_statement_and_one_frame(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        await say(world, 9)
        alice, bob, carol = [await world.join(user) for user in (world.alice, world.bob, world.carol)]
        asked = watch_marks(world, monkeypatch)
        for seq in (1, 5, 3):
            await bob.read(seq)
        await carol.read(4)
        await settle()
        assert asked == []
        await trio.sleep(2 * DELAY)
        assert asked == [[(world.bob.id, 5), (world.carol.id, 4)]]
        for guest in (alice, bob, carol):
            assert told(guest) == [{str(world.bob.id): 5, str(world.carol.id): 4}]
        assert alice.of_type("read")[0]["conversation_id"] == str(world.conversation_id)
        assert await position(world, world.bob) == 5


async def test_a_known_read_position_costs_no_statement(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        await say(world, 5)
        bob = await world.join(world.bob)
        await bob.read(4)
        await trio.sleep(2 * DELAY)
        alice, asked = await world.join(world.alice), watch_marks(world, monkeypatch)
        for seq in (4, 3, 1):
            await bob.read(seq)
        await trio.sleep(2 * DELAY)
        assert (asked, errors(bob), told(alice)) == ([], [], [])
        assert told(bob) == [{str(world.bob.id): 4}] * 4, "each is answered, and no other user is notified"
        # An earlier room has stored a higher position.
        await world.store.mark_read([ReadMark(world.conversation_id, world.alice.id, 5)])
        await alice.read(2)
        await trio.sleep(2 * DELAY)
        assert told(alice) == told(bob)[4:] == [{str(world.alice.id): 5}]


async def test_all_conversations_share_a_statement(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_world() as world:
        keys = [world.ids() for _ in range(5)]
        for key in keys:
            await world.new_conversation(key)
            await say(world, 1, key)
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        asked = watch_marks(world, monkeypatch)
        for key in keys:
            await bob.read(key, 1)
        await trio.sleep(2 * DELAY)
        assert asked == [[(world.bob.id, 1)] * 5]
        for listener in (alice, bob):
            assert {frame["conversation_id"] for frame in listener.of_type("read")} == {str(key) for key in keys}
        assert [await position(world, world.bob, key) for key in keys] == [1] * 5


async def test_rooms_open_one_at_a_time_and_only_if_there_are_sessions(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(pending_messages=100) as world:
        keys = [world.ids() for _ in range(50)]
        for key in keys:
            await world.new_conversation(key)
            await say(world, 1, key)
        opening = most = 0
        head = world.store.head

        async def slow(conversation_id: UUID) -> Any:
            nonlocal opening, most
            opening += 1
            most = max(most, opening)
            await trio.sleep(0.01)
            opening -= 1
            return await head(conversation_id)

        monkeypatch.setattr(world.store, "head", slow)
        await world.hub.read_positions.mark_read(keys[0], world.carol.id, 1)
        await settle()
        assert (world.hub.room_count, most) == (0, 0), "there is no session"
        bob = await device(world, world.bob)
        for key in keys:
            await bob.read(key, 1)
            await bob.read(world.ids(), 1)  # there is no such conversation
        await trio.sleep(2)
        assert (most, len(told(bob))) == (1, 50)
        assert errors(bob) == [("not_a_member", None)] * 50
        assert world.hub.room_count == 50


async def test_a_position_beyond_the_last_message_is_refused_alone(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await say(world, 3)
        phone, laptop = await world.join(world.bob), await world.join(world.bob)
        await phone.read(2)
        await laptop.read(4)
        await phone.read(99)
        await trio.sleep(2 * DELAY)
        assert errors(phone) == errors(laptop) == [("no_such_message", "seq")]
        assert told(phone) == [{str(world.bob.id): 2}]
        assert await position(world, world.bob) == 2


async def test_a_message_unknown_to_the_room_can_be_read(autojump_clock: MockClock) -> None:
    """The answer to its commit was lost, and the reader got it from the history."""
    async with a_world() as world:
        bob = await world.join(world.bob)
        await say(world, 1)
        await bob.read(1)
        await trio.sleep(2 * DELAY)
        assert (told(bob), errors(bob)) == ([{str(world.bob.id): 1}], [])


@pytest.mark.parametrize("outcome", [fail, lose, hang])
async def test_a_store_that_fails_is_retried(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, outcome: Any
) -> None:
    async with a_world(store_timeout=5.0) as world:
        await say(world, 3)
        bob = await world.join(world.bob)
        asked = watch_marks(world, monkeypatch, *([outcome] * (1 if outcome is hang else 3)))
        await bob.read(2)
        await trio.sleep(1)
        await bob.read(3)
        await trio.sleep(20)
        if outcome is hang:  # this took its whole time; later ones are stored
            assert errors(bob) == [("not_stored", "seq")]
            assert asked == [[(world.bob.id, 2)], [(world.bob.id, 3)]]
        else:
            assert errors(bob) == []
        assert told(bob)[-1] == {str(world.bob.id): 3}
        assert len(told(bob)) <= 2
        assert await position(world, world.bob) == 3


async def test_a_store_that_stays_away_refuses_the_position(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(store_timeout=5.0, pending_messages=1) as world:
        await say(world, 3)
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        watch_marks(world, monkeypatch, *[fail] * 1_000)
        await bob.read(2)
        await trio.sleep(4.9)
        assert errors(bob) == []
        await trio.sleep(2)
        assert (errors(bob), errors(alice), told(alice)) == ([("not_stored", "seq")], [], [])
        watch_marks(world, monkeypatch)
        await bob.read(2)  # its slot is free again
        await bob.send("and so is it for messages")
        await trio.sleep(3)
        assert told(alice) == [{str(world.bob.id): 2}]


async def test_a_fault_ends_one_batch_only(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with a_world() as world:
        await say(world, 3)
        bob = await world.join(world.bob)
        watch_marks(world, monkeypatch, crash)
        await bob.read(2)
        await trio.sleep(1)
        assert errors(bob) == [("not_stored", "seq")]
        await bob.read(2)
        await trio.sleep(1)
        assert told(bob) == [{str(world.bob.id): 2}]
    assert "a fault in the store" in capsys.readouterr().out


async def test_a_locked_row_delays_its_own_position_only(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        await say(world, 3)
        bob, carol = await world.join(world.bob), await world.join(world.carol)

        async def held(real: Store, marks: Sequence[ReadMark]) -> Standings:
            free = await real([mark for mark in marks if mark.user_id != world.bob.id])
            return [ReadState(0, 3) if mark.user_id == world.bob.id else free.pop(0) for mark in marks]

        watch_marks(world, monkeypatch, held, held)
        await bob.read(3)
        await carol.read(2)
        await trio.sleep(3)
        assert told(bob) == [{str(world.carol.id): 2}, {str(world.bob.id): 3}]
        assert errors(bob) == errors(carol) == []


async def test_a_connection_with_too_many_requests_waits_and_skips_the_delay(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(pending_messages=2) as world:
        keys = [world.ids() for _ in range(5)]
        for key in keys:
            await world.new_conversation(key)
            await say(world, 1, key)
        bob = await device(world, world.bob)
        asked = watch_marks(world, monkeypatch)
        started = trio.current_time()
        for key in keys:
            await bob.read(key, 1)
            await bob.read(key, 1)  # takes no further slot
        assert trio.current_time() - started < DELAY
        await trio.sleep(2 * DELAY)
        assert [len(marks) for marks in asked] == [2, 2, 1]
        assert bob.session.connection.capacity.value == 2


async def test_a_position_is_stored_although_its_reader_has_left(autojump_clock: MockClock) -> None:
    async with a_world(pending_messages=1) as world:
        await say(world, 3)
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        await bob.read(2)
        with trio.move_on_after(0) as scope:
            scope.cancel()
            await world.hub.read_positions.request_read(bob.subscription, 99)  # waits for a slot, and is cancelled
        assert scope.cancelled_caught
        bob.leave()
        await settle()
        await world.hub.read_positions.request_read(bob.subscription, 3)  # closed: dropped
        await trio.sleep(2 * DELAY)
        assert told(alice) == [{str(world.bob.id): 2}]
        assert bob.subscription.connection.capacity.value == 1


async def test_a_removed_member_moves_no_position(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await say(world, 3)
        key = world.conversation_id
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        await bob.read(key, 1)
        await trio.sleep(1)
        await bob.read(key, 2)
        await world.remove(world.bob, key)
        await trio.sleep(1)
        assert [frame["code"] for frame in bob.of_type("error")] == ["not_a_member"]
        await bob.read(key, 1)  # the room has dropped their position
        await trio.sleep(1)
        assert [frame["code"] for frame in bob.of_type("error")] == ["not_a_member"] * 2
        assert told(alice) == [{str(world.bob.id): 1}]
        await world.add(world.bob, conversation_id=key)
        await bob.read(key, 2)
        await trio.sleep(1)
        assert await position(world, world.bob) == 3


async def test_a_position_that_waited_for_its_room_is_not_sent_after_a_later_one(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be sent once the room before it has opened: here after the removal of its user."""
    async with a_world() as world:
        await say(world, 3)
        slow, head, answer = world.ids(), world.store.head, trio.Event()
        await world.new_conversation(slow)
        await say(world, 1, slow)
        await trio.sleep(60)  # the rooms are gone

        async def late(conversation_id: UUID) -> Head:
            if conversation_id == slow:
                await answer.wait()
            return await head(conversation_id)

        monkeypatch.setattr(world.store, "head", late)
        await device(world, world.bob)  # rooms open for sessions
        positions = world.hub.read_positions
        await positions.mark_read(slow, world.bob.id, 1)
        await positions.mark_read(world.conversation_id, world.bob.id, 1)
        alice = await world.join(world.alice)
        await positions.mark_read(world.conversation_id, world.bob.id, 3)
        await world.remove(world.bob)
        answer.set()
        await settle()
        assert told(alice) == [{str(world.bob.id): 3}]


async def test_in_a_crowd_only_the_reader_gets_the_position(autojump_clock: MockClock) -> None:
    async with a_world(presence_list_max=2) as world:
        await say(world, 3)
        alice, phone, laptop = [await world.join(user) for user in (world.alice, world.bob, world.bob)]
        carol = await device(world, world.carol)
        await phone.read(2)
        await carol.read(world.conversation_id, 3)
        await trio.sleep(1)
        assert told(alice) == []
        assert told(phone) == told(laptop) == [{str(world.bob.id): 2}]
        assert told(carol) == [{str(world.carol.id): 3}]


async def test_frames_have_a_bounded_size(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice = await world.join(world.alice)
        room = world.hub.rooms.get(world.conversation_id)
        assert room is not None
        room.notify_read({UUID(int=number): 1 for number in range(2 * MAX_FRAME_POSITIONS + 1)})
        await settle()
        assert [len(frame) for frame in told(alice)] == [MAX_FRAME_POSITIONS, MAX_FRAME_POSITIONS, 1]
        room.notify_read({UUID(int=1): 1})
        await settle()
        assert len(told(alice)) == 3, "no news"


async def test_a_batch_is_bounded_and_the_next_follows_at_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads, "MAX_BATCH", 2)
    async with a_world() as world:
        keys = [world.ids() for _ in range(5)]
        for key in keys:
            await world.new_conversation(key)
            await say(world, 1, key)
        bob = await device(world, world.bob)
        asked = watch_marks(world, monkeypatch)
        for key in keys:
            await bob.read(key, 1)
        await trio.sleep(1.5 * DELAY)
        assert [len(marks) for marks in asked] == [2, 2]
        await trio.sleep(DELAY)
        assert [len(marks) for marks in asked] == [2, 2, 1]


async def test_a_drain_stores_requested_positions(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await say(world, 3)
        bob = await world.join(world.bob)
        await bob.read(2)
        started = trio.current_time()
        await world.hub.drain()
        assert trio.current_time() - started < DELAY
        assert await position(world, world.bob) == 2


async def test_a_drain_does_not_wait_for_ever(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_world() as world:
        await say(world, 3)
        bob = await world.join(world.bob)
        watch_marks(world, monkeypatch, *[hang] * 100)
        await bob.read(2)
        started = trio.current_time()
        await world.hub.drain()
        assert trio.current_time() - started <= 3


async def test_rest_stores_a_position_at_once_and_notifies(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(store_timeout=2.0) as world:
        await say(world, 3)
        key = world.conversation_id
        alice = await world.join(world.alice)
        assert await world.hub.read_positions.mark_read(key, world.bob.id, 2) == ReadState(2, 3, 2)
        assert await world.hub.read_positions.mark_read(key, world.bob.id, 1) == ReadState(2, 3, 2)
        await settle()
        assert told(alice) == [{str(world.bob.id): 2}]
        with pytest.raises(PulseError) as caught:
            await world.hub.read_positions.mark_read(key, world.bob.id, 4)
        assert (caught.value.code, caught.value.field) == (ErrorCode.NO_SUCH_MESSAGE, "seq")
        for conversation_id, user_id in ((key, world.ids()), (world.ids(), world.bob.id)):
            with pytest.raises(NotAMember):
                await world.hub.read_positions.mark_read(conversation_id, user_id, 1)

        async def held(_real: Store, marks: Sequence[ReadMark]) -> Standings:
            await trio.lowlevel.checkpoint()
            return [ReadState(2, 3) for _ in marks]

        watch_marks(world, monkeypatch, held, held)
        assert await world.hub.read_positions.mark_read(key, world.bob.id, 3) == ReadState(3, 3, 3)
        for outcome in ([fail], [hang], [held] * 100):
            watch_marks(world, monkeypatch, *outcome)
            with pytest.raises(StoreUnavailable):
                await world.hub.read_positions.mark_read(key, world.carol.id, 3)
