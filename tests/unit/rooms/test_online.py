"""Presence of users, last-seen times, and the watches of sessions."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.clock import rfc3339
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.rooms import online, watches
from pulse_trio.rooms.online import DELAY as WRITE_DELAY
from pulse_trio.rooms.watches import DELAY, MAX_FRAME_USERS, MAX_QUERIES, MAX_QUERIES_OF_USER
from pulse_trio.store.base import NewConversation, NoSuchMember, StoreUnavailable, User
from pulse_trio.store.memory import MemoryStore

from .world import START, Device, World, a_world, device, settle, virtual_now

Known = dict[UUID, datetime | None]


def told(listener: Device) -> list[dict[str, bool]]:
    """Returns the presence frames, by name."""
    world = listener.world
    names = {str(user.id): user.username for user in (world.alice, world.bob, world.carol)}
    return [
        {names.get(user["user_id"], user["user_id"]): user["is_online"] for user in frame["users"]}
        for frame in listener.of_type("users")
    ]


def errors(listener: Device) -> list[tuple[str, str | None]]:
    return [(frame["code"], frame.get("field")) for frame in listener.of_type("error")]


class Asked:
    """Records the queries about acquaintances. `gate`: answers come when it is set; `fails`: the number that fail."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queries: list[tuple[UUID, list[UUID]]] = []
        self.gate: trio.Event | None = None
        self.error: Exception = StoreUnavailable()
        self.fails = 0
        self.most = self.now = 0
        self._real = partial(MemoryStore.acquaintances, world.store)
        monkeypatch.setattr(world.store, "acquaintances", self)

    async def __call__(self, user_id: UUID, among: Sequence[UUID]) -> Known:
        self.queries.append((user_id, list(among)))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            found = await self._real(user_id, among)
            if self.gate is not None:
                await self.gate.wait()
        finally:
            self.now -= 1
        if self.fails:
            self.fails -= 1
            raise self.error
        return found


async def remove(world: World, user: User, conversation_id: UUID | None = None) -> None:
    await world.remove(user, conversation_id)


async def seen(world: World, user: User) -> datetime | None:
    return (await world.store.acquaintances(user.id, [user.id]))[user.id]


# --- watching ---


async def test_a_watching_session_gets_the_list_at_once_and_every_change(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice = await device(world, world.alice)
        alice.watch(world.bob, world.carol, world.alice)
        await settle()
        assert told(alice) == [{"bob": False, "carol": False, "alice": True}]
        bob = await world.join(world.bob)
        await device(world, world.carol)
        await settle()
        assert len(told(alice)) == 1, "batched"
        await trio.sleep(2 * DELAY)
        assert told(alice)[1:] == [{"bob": True, "carol": True}]
        again = await device(world, world.bob)
        bob.leave()
        await trio.sleep(2 * DELAY)
        assert len(told(alice)) == 2, "bob has another connection"
        again.leave()
        await settle()
        left_at = virtual_now()
        await trio.sleep(2 * DELAY)
        assert told(alice)[2:] == [{"bob": False}]
        assert alice.of_type("users")[-1]["users"][0]["last_seen_at"] == rfc3339(left_at)


async def test_strangers_are_left_out(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        stranger = User(world.ids(), "stranger")
        await world.store.create_user(stranger, password_hash=None, subject=None, created_at=START)
        alice = await device(world, world.alice)
        alice.watch(stranger, User(world.ids(), "nobody"))
        await trio.sleep(1)
        assert told(alice) == [{}]
        await device(world, stranger)
        await trio.sleep(1)
        assert told(alice) == [{}]


async def test_only_the_last_of_several_lists_counts_and_one_is_looked_up_at_a_time(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        alice = await device(world, world.alice)
        asked = Asked(world, monkeypatch)
        asked.gate = trio.Event()
        for _ in range(50):
            alice.watch(world.bob)
            await settle()
        alice.watch(world.carol)
        await settle()
        asked.gate.set()
        await settle()
        assert [among for _, among in asked.queries] == [[world.bob.id], [world.carol.id]]
        assert told(alice) == [{"bob": False}, {"carol": False}]
        await world.join(world.bob)
        await trio.sleep(1)
        assert len(told(alice)) == 2


async def test_queries_of_many_sessions_are_bounded(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_world() as world:
        people = [world.alice, world.bob, world.carol]
        devices = [await device(world, people[number % 3]) for number in range(20)]
        asked = Asked(world, monkeypatch)
        asked.gate = trio.Event()
        for each in devices:
            each.watch(world.bob)
        await settle()
        asked.gate.set()
        await settle()
        assert asked.most == MAX_QUERIES
        assert all(told(each) == [{"bob": True}] for each in devices)


async def test_a_user_with_many_sessions_does_not_delay_the_watches_of_others(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        many = [await device(world, world.alice) for _ in range(20)]
        bob = await device(world, world.bob)
        asked = Asked(world, monkeypatch)
        asked.gate = trio.Event()
        for each in many:
            each.watch(world.carol)
        await settle()
        bob.watch(world.carol)
        await settle()
        assert [user_id for user_id, _ in asked.queries] == [world.alice.id] * MAX_QUERIES_OF_USER + [world.bob.id]
        asked.gate.set()
        await settle()
        assert all(told(each) == [{"carol": False}] for each in (*many, bob))


async def test_a_list_that_is_too_long_is_refused(autojump_clock: MockClock) -> None:
    async with a_world(watched_users=2) as world:
        alice = await device(world, world.alice)
        alice.watch(world.bob, world.carol)
        with pytest.raises(PulseError) as caught:
            alice.watch(world.alice, world.bob, world.carol)
        assert (caught.value.code, caught.value.field) == (ErrorCode.INVALID_FRAME, "user_ids")
        await settle()
        assert told(alice) == [{"bob": False, "carol": False}]


async def test_frames_have_a_bounded_size(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        others = [User(world.ids(), f"user{number}") for number in range(MAX_FRAME_USERS + 20)]
        for user in others:
            await world.store.create_user(user, password_hash=None, subject=None, created_at=START)
        members = (world.alice.id, *(user.id for user in others))
        await world.store.create_conversation(
            NewConversation(world.ids(), None, None, True, world.alice.id, members, START)
        )
        alice = await device(world, world.alice)
        alice.watch(*others)
        await settle()
        assert [len(frame) for frame in told(alice)] == [MAX_FRAME_USERS, 20]
        for user in others:
            await device(world, user)
        await trio.sleep(1)
        assert [len(frame) for frame in told(alice)[2:]] == [MAX_FRAME_USERS, 20]


async def test_many_changes_yield_and_send_the_current_state(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches, "MAX_SLICE", 0)
    async with a_world() as world:
        listeners = [await device(world, world.alice) for _ in range(9)]
        for each in listeners:
            each.watch(world.bob, world.carol)
        await settle()
        bob = await device(world, world.bob)
        await trio.sleep(DELAY - 0.01)
        assert not any(told(each)[1:] for each in listeners)
        bob.leave()
        listeners[3].watch()
        listeners[4].leave()
        await trio.sleep(1)
        assert told(listeners[3])[1:] == [{}]
        assert told(listeners[4])[1:] == []
        assert all(told(each)[-1] == {"bob": False} for each in (*listeners[:3], *listeners[5:]))


# --- removals ---


@pytest.mark.parametrize("who", ["watched", "watcher"])
async def test_a_removal_ends_watches_without_another_shared_conversation(autojump_clock: MockClock, who: str) -> None:
    async with a_world() as world:
        watcher, watched = (world.carol, world.bob) if who == "watched" else (world.bob, world.carol)
        listener = await device(world, watcher)
        listener.watch(watched)
        await settle()
        await remove(world, world.bob)
        someone = await device(world, watched)
        await trio.sleep(1)
        someone.leave()
        await trio.sleep(1)
        assert told(listener) == [{watched.username: False}]
        assert errors(listener) == []
        assert world.hub.watches._watchers == {}
        assert world.hub.watches._paused == {}


async def test_a_watch_allowed_by_another_conversation_misses_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        other = world.ids()
        await world.new_conversation(other)
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        alice.watch(world.bob, world.carol)
        bob.watch(world.alice, world.carol)
        await settle()
        asked = Asked(world, monkeypatch)
        asked.gate = trio.Event()
        await remove(world, world.bob)
        carol = await device(world, world.carol)
        await trio.sleep(1)
        assert told(alice)[1:] == [{"carol": True}]
        assert told(bob)[1:] == [], "paused until the store has said that it may be sent"
        asked.gate.set()
        await trio.sleep(1)
        assert told(alice)[2:] == [{"bob": True}]
        assert told(bob)[1:] == [{"alice": True, "carol": True}]
        assert len(asked.queries) == 1, "one query for both directions"
        carol.leave()
        await trio.sleep(1)
        assert told(alice)[-1] == told(bob)[-1] == {"carol": False}


async def test_a_removal_during_a_look_up_is_not_overlooked(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        asked = Asked(world, monkeypatch)
        asked.gate = trio.Event()
        alice.watch(world.bob, world.carol)
        bob.watch(world.carol)
        await settle()  # the answers have been read, and are on their way
        await remove(world, world.bob)
        asked.gate.set()
        await settle()
        assert told(alice) == [{"carol": False}]
        assert told(bob) == [{}]


async def test_a_removal_during_the_look_up_after_another_is_not_overlooked(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        other = world.ids()
        await world.new_conversation(other)
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        alice.watch(world.bob)
        bob.watch(world.carol)
        await settle()
        asked = Asked(world, monkeypatch)
        asked.gate = trio.Event()
        await remove(world, world.bob)
        await settle()
        await remove(world, world.bob, other)
        asked.gate.set()
        await device(world, world.carol)
        await trio.sleep(1)
        assert (told(alice), told(bob)) == ([{"bob": True}], [{"carol": False}])


async def test_a_list_that_has_been_replaced_does_not_come_back(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        other = world.ids()
        await world.new_conversation(other)
        alice = await device(world, world.alice)
        alice.watch(world.bob)
        await settle()
        asked = Asked(world, monkeypatch)
        asked.gate = trio.Event()
        await remove(world, world.bob)
        await settle()
        gate, asked.gate = asked.gate, None
        alice.watch(world.carol)
        await settle()
        gate.set()
        await settle()
        await device(world, world.bob)
        await trio.sleep(1)
        assert told(alice) == [{"bob": False}, {"carol": False}]


async def test_a_removal_with_an_unknown_outcome_is_rechecked(autojump_clock: MockClock) -> None:
    async with a_world(store_timeout=2.0) as world:
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        alice.watch(world.bob)
        bob.watch(world.alice)
        await settle()
        world.store.answers = [world.store.commit_and_hang]
        with pytest.raises(PulseError):
            await world.remove(world.bob)
        await trio.sleep(1)
        assert len(bob.of_type("conversation_removed")) == 1
        bob.leave()
        await trio.sleep(1)
        assert told(alice) == [{"bob": True}], "that they left is not sent"
        assert world.hub.watches._watchers == {}


async def test_a_removal_that_is_carried_out_after_its_retry_is_noticed(autojump_clock: MockClock) -> None:
    """The retry finds that its user is no member; then they are added, and the first attempt removes them."""
    async with a_world(store_timeout=2.0, room_linger=0.1) as world:
        await world.remove(world.bob)
        await trio.sleep(3)
        bob, arrives = await device(world, world.bob), trio.Event()
        world.store.answers = [world.store.commit_after(arrives, world.nursery)]
        with pytest.raises(NoSuchMember):
            await world.remove(world.bob)
        await world.add(world.bob)
        await trio.sleep(1)
        arrives.set()
        await trio.sleep(3)
        assert len(bob.of_type("conversation_added")) == 1
        assert len(bob.of_type("conversation_removed")) == 1


# --- a store that fails ---


async def test_a_failed_look_up_is_retried_then_refused_and_the_list_stays(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(store_timeout=5.0) as world:
        alice = await device(world, world.alice)
        asked = Asked(world, monkeypatch)
        asked.fails = 3
        alice.watch(world.bob)
        await trio.sleep(3)
        assert (told(alice), errors(alice)) == ([{"bob": False}], [])
        asked.fails = 1_000
        alice.watch(world.carol)
        await trio.sleep(10)
        assert (told(alice), errors(alice)) == ([{"bob": False}], [("unavailable", "user_ids")])
        assert world.hub._metrics.errors == {"unavailable": 1}, "as for every other error"
        await device(world, world.bob)
        await trio.sleep(1)
        assert told(alice)[1:] == [{"bob": True}]
        asked.fails = 0
        asked.gate = trio.Event()  # and one that does not answer
        alice.watch(world.carol)
        await trio.sleep(12)
        assert errors(alice)[1:] == [("unavailable", "user_ids")]
        with pytest.raises(StoreUnavailable):
            await world.hub.watches.look_up(world.alice.id, [world.bob.id])


async def test_a_recheck_that_fails_is_reported_once(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(store_timeout=5.0) as world:
        await world.new_conversation(world.ids())
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        alice.watch(world.bob)
        bob.watch(world.alice, world.carol)
        await settle()
        asked = Asked(world, monkeypatch)
        asked.fails = 1_000
        await remove(world, world.bob)
        await trio.sleep(10)
        assert errors(alice) == errors(bob) == [("unavailable", "user_ids")]
        assert world.hub.watches._watchers == {}


async def test_a_fault_of_a_look_up_ends_that_look_up_only(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with a_world() as world:
        alice = await device(world, world.alice)
        asked = Asked(world, monkeypatch)
        asked.error, asked.fails = RuntimeError("a fault in the store"), 1
        alice.watch(world.bob)
        await settle()
        assert errors(alice) == [("unavailable", "user_ids")]
        alice.watch(world.bob)
        await settle()
        assert told(alice) == [{"bob": False}]
    assert "a fault in the store" in capsys.readouterr().out


async def test_a_session_that_ends_leaves_nothing(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_world() as world:
        asked = Asked(world, monkeypatch)
        first, second = await device(world, world.alice), await device(world, world.alice)
        first.watch(world.bob)
        await settle()
        asked.gate = trio.Event()
        second.watch(world.bob)
        await settle()
        for each in (first, second):
            each.leave()
        await settle()
        asked.gate.set()
        await settle()
        second.watch(world.carol)  # closed: ignored
        await settle()
        hub = world.hub
        assert (hub.watches._watches, hub.watches._watchers, hub.watches._queries) == ({}, {}, {})
        assert hub.online._connections == {}


# --- last-seen times ---


def count_writes(world: World, monkeypatch: pytest.MonkeyPatch, *failures: Exception | None) -> list[set[str]]:
    """Records whose last-seen times are written from now on; the next statements have these outcomes."""
    written: list[set[str]] = []
    left = list(failures)

    async def mark_seen(moments: Mapping[UUID, datetime]) -> None:
        written.append({world.store._accounts[user_id].user.username for user_id in moments})
        failure = left.pop(0) if left else None
        if failure is not None:
            await trio.lowlevel.checkpoint()
            raise failure
        await MemoryStore.mark_seen(world.store, moments)

    monkeypatch.setattr(world.store, "mark_seen", mark_seen)
    return written


async def test_last_seen_times_are_written_in_a_batch(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        written = count_writes(world, monkeypatch)
        alice, bob, carol = [await world.join(user) for user in (world.alice, world.bob, world.carol)]
        bob.leave()
        await trio.sleep(2 * WRITE_DELAY)
        assert written == [{"alice", "bob", "carol"}]
        came = await seen(world, world.alice)
        await trio.sleep(100)
        assert len(written) == 1, "no user came or left"
        alice.leave()
        carol.leave()
        await settle()
        at = virtual_now()
        (found,) = await world.hub.watches.look_up(world.bob.id, [world.alice.id])
        assert found.last_seen_at == rfc3339(at), "known before it is written"
        assert await seen(world, world.alice) == came
        await trio.sleep(2 * WRITE_DELAY)
        assert await seen(world, world.alice) == await seen(world, world.carol) == at


async def test_a_last_seen_time_is_written_again_after_a_failure(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        count_writes(world, monkeypatch, *[StoreUnavailable()] * 5)
        alice = await world.join(world.alice)
        await trio.sleep(2)
        alice.leave()
        await settle()
        at = virtual_now()
        await trio.sleep(30)
        assert await seen(world, world.alice) == at


async def test_a_fault_of_a_write_ends_that_write_only(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with a_world() as world:
        written = count_writes(world, monkeypatch, RuntimeError("a fault in the store"))
        alice = await world.join(world.alice)
        await trio.sleep(3)
        assert await seen(world, world.alice) is None
        alice.leave()
        await trio.sleep(3)
        assert len(written) == 2
        assert await seen(world, world.alice) is not None
    assert "a fault in the store" in capsys.readouterr().out


async def test_a_drain_writes_many_last_seen_times_in_few_statements(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "MAX_BATCH", 2)
    async with a_world() as world:
        for user in (world.alice, world.bob, world.carol):
            await world.join(user)
            await device(world, user)
        await trio.sleep(10)
        written = count_writes(world, monkeypatch)
        await world.hub.drain()
        at = virtual_now()
        assert [len(users) for users in written] == [2, 1]
        assert [await seen(world, user) for user in (world.alice, world.bob, world.carol)] == [at] * 3


async def test_unwritten_last_seen_times_are_bounded(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "MAX_UNWRITTEN", 2)
    async with a_world() as world:
        written = count_writes(world, monkeypatch)
        for user in (world.alice, world.bob, world.carol):
            await world.join(user)
        await trio.sleep(2)
        assert written == [{"bob", "carol"}], "the oldest is dropped"


async def test_a_session_that_could_not_be_opened_is_not_online(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:

        async def fail(*_: Any, **_options: Any) -> Any:
            await trio.lowlevel.checkpoint()
            raise StoreUnavailable

        monkeypatch.setattr(world.store, "memberships", fail)
        with pytest.raises(StoreUnavailable):
            await device(world, world.alice)
        (found,) = await world.hub.watches.look_up(world.alice.id, [world.alice.id])
        assert not found.is_online
