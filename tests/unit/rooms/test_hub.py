"""The hub: rooms open and end, removal is immediate, and draining loses nothing."""

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.conversations import messages
from pulse_trio.model import Member, User
from pulse_trio.protocol import PongFrame, SendMessage
from pulse_trio.rooms.hub import DRAIN_TIMEOUT, Hub
from pulse_trio.store.base import Head, NotAMember, StoreUnavailable
from tests.support import commands

from .world import FakeTransport, World, a_world, settle, virtual_now


class SlowHead:
    """Makes the next opening of a room wait, fail or be refused."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch, *outcomes: Exception | trio.Event) -> None:
        self.calls = 0
        self._outcomes = list(outcomes)
        self._head = world.store.head
        monkeypatch.setattr(world.store, "head", self)

    async def __call__(self, conversation_id: object) -> Head:
        self.calls += 1
        outcome = self._outcomes.pop(0) if self._outcomes else None
        if isinstance(outcome, Exception):
            await trio.lowlevel.checkpoint()
            raise outcome
        if outcome is not None:
            await outcome.wait()
        return await self._head(conversation_id)  # type: ignore[arg-type]


# --- the connection manager of the specification ---


async def test_the_operations_of_the_specification(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        hub, conversation = world.hub, world.conversation_id
        assert hub.get_active_users(conversation) == set()
        assert hub.get_connection_count(conversation) == 0
        sockets = [FakeTransport() for _ in range(3)]
        await hub.connect(conversation, world.alice, sockets[0])
        await hub.connect(conversation, world.alice, sockets[1])
        await hub.connect(conversation, world.bob, sockets[2])
        assert hub.get_active_users(conversation) == {str(world.alice.id), str(world.bob.id)}
        assert hub.get_connection_count(conversation) == 3

        await settle()
        for socket in sockets:
            socket.frames.clear()
        await hub.broadcast(conversation, PongFrame())
        await hub.broadcast(conversation, PongFrame(), exclude_user_id=world.alice.id)
        await settle()
        assert [len(socket.frames) for socket in sockets] == [1, 1, 2]

        hub.disconnect(conversation, world.alice.id, sockets[0])
        hub.disconnect(conversation, world.alice.id, sockets[0])  # again: no error
        hub.disconnect(conversation, world.carol.id, sockets[2])  # not carol's
        hub.disconnect(world.ids(), world.bob.id, sockets[2])  # not there
        assert hub.get_connection_count(conversation) == 2
        hub.disconnect(conversation, world.alice.id, sockets[1])
        hub.disconnect(conversation, world.bob.id, sockets[2])
        assert hub.get_active_users(conversation) == set()
        await settle()
        assert hub.room_count == 0
        await hub.broadcast(conversation, PongFrame())
        await hub.send_typing(await hub.connect(conversation, world.alice, FakeTransport()))


async def test_a_new_name_is_announced_to_all_connections(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        command = commands.set_properties(world.conversation_id, world.alice, name="New")
        await world.hub.apply(replace(command, actor_username="alice"))
        await settle()
        for guest in (alice, bob):
            frame = guest.of_type("system")[-1]
            assert (frame["event"], frame["content"]) == ("renamed", "User alice renamed the conversation")
            assert frame["active_users"] == [str(world.alice.id), str(world.bob.id)]
        with pytest.raises(NotAMember):
            await world.hub.apply(replace(command, conversation_id=world.ids()))


# --- rooms open and end ---


async def test_concurrent_joins_open_one_room(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    async with a_world() as world:
        gate = trio.Event()
        head = SlowHead(world, monkeypatch, gate)
        guests = [world.guest(user) for user in (world.alice, world.bob, world.carol) * 3]
        for guest in guests:
            world.start(guest.join)
        await settle()
        assert world.hub.room_count == 1
        gate.set()
        await settle()
        assert head.calls == 1
        assert world.hub.get_connection_count(world.conversation_id) == 9


async def test_an_empty_room_ends_and_opens_again(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        for count in range(1, 4):
            alice = await world.join(world.alice)
            await alice.send(f"{count}")
            await settle()
            assert world.hub.room_count == 1
            alice.leave()
            await settle()
            assert world.hub.room_count == 0
        assert world.stored == ["1", "2", "3"]
        assert alice.of_type("message")[0]["seq"] == 3


async def test_a_join_before_the_room_has_ended_keeps_it(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice = await world.join(world.alice)
        gate = world.store.hold()
        await alice.send("last words")
        await settle()
        alice.leave()
        await settle()
        bob = await world.join(world.bob)  # while the writer still stores
        assert world.hub.room_count == 1
        gate.set()
        await settle()
        assert bob.contents == ["last words"]
        await bob.send("hello")
        await settle()
        assert bob.contents == ["last words", "hello"]
        bob.leave()
        await settle()
        assert world.hub.room_count == 0


@pytest.mark.parametrize("steps", range(12))
async def test_a_join_at_any_moment_of_a_rooms_end_gets_a_working_room(autojump_clock: MockClock, steps: int) -> None:
    async with a_world() as world:
        alice = await world.join(world.alice)
        await alice.send("one")
        alice.leave()
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        bob = await world.join(world.bob)
        await bob.send("two")
        await settle()
        assert bob.contents[-1] == "two"
        assert world.stored == ["one", "two"]
        assert world.hub.room_count == 1
        bob.leave()
        await settle()
        assert world.hub.room_count == 0


async def test_a_join_that_is_cancelled_leaves_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        gate = trio.Event()
        SlowHead(world, monkeypatch, gate)
        with trio.move_on_after(1) as scope:
            await world.join(world.alice)
        assert scope.cancelled_caught
        gate.set()
        await settle()
        assert world.hub.room_count == 0
        assert len(world.hub.online._connections) == 0


@pytest.mark.parametrize("error", [StoreUnavailable(), NotAMember()])
async def test_a_room_that_cannot_open_fails_all_waiters_and_is_dropped(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with a_world() as world:
        SlowHead(world, monkeypatch, error)
        failures = []

        async def join() -> None:
            try:
                await world.join(world.alice)
            except (StoreUnavailable, NotAMember) as caught:
                failures.append(type(caught))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(join)
            nursery.start_soon(join)
        assert failures == [type(error)] * 2
        assert world.hub.room_count == 0
        await world.join(world.alice)
        assert world.hub.get_connection_count(world.conversation_id) == 1


async def test_a_task_that_waits_for_a_room_fails_when_the_hub_ends(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = trio.Event()
    async with trio.open_nursery() as outside, a_world() as world:
        SlowHead(world, monkeypatch, trio.Event())

        async def join() -> None:
            with pytest.raises(StoreUnavailable):
                await world.join(world.alice)
            told.set()

        outside.start_soon(join)
        await settle()
    assert told.is_set()


# --- removal ---


def expel(world: World, user: User) -> None:
    """Removes a user from the room in this turn of the loop, as its feed does."""
    room = world.hub.rooms.get(world.conversation_id)
    assert room is not None
    rev = room.feed.last_rev + 1
    room.apply_members([Member(world.conversation_id, rev, user.id, user.username, False, None, 2, 1)])


async def test_a_removed_user_is_closed_at_once_and_gets_no_more_frames(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice = await world.join(world.alice)
        bob1, bob2 = await world.join(world.bob), await world.join(world.bob)
        await settle()
        await world.remove(world.bob)
        assert world.hub.get_active_users(world.conversation_id) == {str(world.alice.id)}
        before = len(bob1.transport.frames), len(bob2.transport.frames)
        await alice.send("a secret")
        await settle()
        assert (len(bob1.transport.frames), len(bob2.transport.frames)) == before
        for guest in (bob1, bob2):
            assert guest.ended.is_set()
            assert guest.transport.closed == (4403, "removed from the conversation")
        assert alice.contents == ["a secret"]
        assert alice.events[-2:] == [("left", str(world.bob.id)), ("removed", str(world.bob.id))]


async def test_a_frame_delivered_just_before_a_removal_does_not_arrive_after_it(autojump_clock: MockClock) -> None:
    """A frame that the member task has received, but not sent, is not sent any more."""
    async with a_world() as world:
        bob = await world.join(world.bob)
        await settle()
        before = len(bob.transport.frames)
        bob.transport.room = 0
        room = world.hub.rooms.get(world.conversation_id)
        assert room is not None
        room.announce_presence("left", "a secret", world.alice.id)
        expel(world, world.bob)
        await settle()
        assert len(bob.transport.frames) == before


async def test_a_removed_user_cannot_send_while_its_connection_closes(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        await settle()
        bob.transport.close_stall = trio.Event()
        await world.remove(world.bob)
        await world.hub.send_typing(bob.subscription)
        await bob.send("still here?")
        await settle()
        assert alice.of_type("typing") == []
        assert alice.contents == []
        assert world.stored == []


async def test_a_message_that_waits_for_capacity_is_dropped_when_its_connection_closes(
    autojump_clock: MockClock,
) -> None:
    async with a_world(pending_messages=1) as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        gate = world.store.hold()
        await bob.send("one")
        bob.transport.close_stall = trio.Event()
        frame = SendMessage(content="two")
        done = trio.Event()

        async def send() -> None:
            await messages.send(world.core, bob.subscription, frame)
            done.set()

        world.start(send)
        await settle()
        expel(world, world.bob)
        alice.leave()
        gate.set()
        await settle()  # the room ends: its writer accepts no more messages
        assert done.is_set()
        assert world.stored == ["one"]
        assert world.hub.room_count == 0


@pytest.mark.parametrize("is_open", [True, False], ids=["open room", "no room"])
async def test_a_user_removed_while_they_join_is_not_let_in(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, is_open: bool
) -> None:
    """The membership was checked, and then the user was removed, while the room opens or the head is looked up."""
    async with a_world() as world:
        key, refused = world.conversation_id, trio.Event()
        carol = await world.join(world.carol) if is_open else None
        gate = trio.Event()
        SlowHead(world, monkeypatch, gate)
        bob = world.guest(world.bob)

        async def join() -> None:
            with pytest.raises(NotAMember):
                await bob.join(after_rev=1 if is_open else None)
            refused.set()

        world.start(join)
        await settle()
        if is_open:
            await world.remove(world.bob)
        else:
            await world.store.apply([commands.remove(key, world.alice, world.bob)])  # its answer is lost
        gate.set()
        await settle()
        assert refused.is_set()
        assert bob.transport.frames == []
        assert str(world.bob.id) not in world.hub.get_active_users(key)
        if carol is not None:
            carol.leave()
        await settle()
        assert world.hub.room_count == 0
        await world.store.apply([commands.add(key, world.alice, world.bob)])
        await world.join(world.bob)  # added again: a new check


async def test_a_removal_is_of_one_user_in_one_conversation(autojump_clock: MockClock) -> None:
    """Of the joins in progress only those of the removed user, checked before the removal, are refused."""
    async with a_world() as world:
        key, other = world.conversation_id, world.ids()
        await world.new_conversation(other)
        carol = await world.join(world.carol)
        hub = world.hub
        checked = {user: await world.store.membership(key, user.id) for user in (world.alice, world.bob)}
        await world.remove(world.bob)
        with pytest.raises(NotAMember):
            await hub.connect(key, world.bob, FakeTransport(), member_rev=checked[world.bob])
        await hub.connect(key, world.alice, FakeTransport(), member_rev=checked[world.alice])
        elsewhere = await world.store.membership(other, world.bob.id)
        await hub.connect(other, world.bob, FakeTransport(), member_rev=elsewhere)
        await world.add(world.bob)
        await hub.connect(key, world.bob, FakeTransport(), member_rev=checked[world.bob])
        await carol.send("hello")
        await settle()
        assert hub.get_active_users(key) == {str(user.id) for user in (world.alice, world.bob, world.carol)}
        assert hub.get_active_users(other) == {str(world.bob.id)}


# --- draining ---


async def test_draining_closes_all_with_1012_and_waits_for_the_writers(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        gate = world.store.hold()
        await alice.send("one")
        await settle()
        await alice.send("two")
        drained = trio.Event()

        async def drain() -> None:
            await world.hub.drain()
            drained.set()

        world.start(drain)
        await settle()
        assert world.hub.draining
        for guest in (alice, bob):
            assert guest.transport.closed is not None
            assert guest.transport.closed[0] == 1012
            assert guest.ended.is_set()
        assert not drained.is_set()
        gate.set()
        await drained.wait()
        assert world.stored == ["one", "two"]
        assert world.hub.room_count == 0
        assert trio.current_time() < DRAIN_TIMEOUT


async def test_draining_does_not_wait_for_a_room_that_has_failed(autojump_clock: MockClock) -> None:
    """Its successor is held open only to look for what the failed one may have committed."""
    async with a_world() as world:
        alice = await world.join(world.alice)
        world.store.answers = [world.store.crash]
        await alice.send("one")
        await settle()
        alice.leave()
        assert world.hub.room_count == 1
        begin = trio.current_time()
        await world.hub.drain()
        assert trio.current_time() == begin


async def test_draining_ends_although_the_store_hangs(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice = await world.join(world.alice)
        world.store.hold()
        await alice.send("one")
        await settle()
        begin = trio.current_time()
        await world.hub.drain()
        assert trio.current_time() - begin == DRAIN_TIMEOUT


async def test_draining_waits_for_the_close_frames_of_closing_rooms(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        bob = await world.join(world.bob)
        await settle()
        bob.transport.close_stall = trio.Event()
        await world.remove(world.bob)
        await settle()
        assert world.hub.room_count == 0
        await world.hub.drain()
        assert bob.ended.is_set()


async def test_a_connection_opened_while_draining_is_closed_with_1012(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        gate = trio.Event()
        SlowHead(world, monkeypatch, gate)
        alice = world.guest(world.alice)
        world.start(alice.join)
        await settle()
        world.start(world.hub.drain)
        await settle()
        gate.set()
        await settle()
        assert alice.transport.closed is not None
        assert alice.transport.closed[0] == 1012
        assert world.hub.room_count == 0


async def test_draining_a_large_room_sends_no_left_frames(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        guests = [await world.join(user) for user in (world.alice, world.bob, world.carol)]
        await settle()
        await world.hub.drain()
        assert not [event for guest in guests for event in guest.events if event[0] == "left"]


async def test_a_cancelled_hub_closes_with_internal_error(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice = await world.join(world.alice)
    assert alice.ended.is_set()
    assert alice.transport.closed is not None
    assert alice.transport.closed[0] == 1011


async def test_a_message_to_a_room_that_has_ended_is_dropped(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice = await world.join(world.alice)
        alice.leave()
        await settle()
        await alice.send("too late")
        await settle()
        assert world.stored == []
        assert world.hub.room_count == 0


async def test_a_request_that_outlives_the_hub_opens_no_room(autojump_clock: MockClock) -> None:
    """The service opens again in the same process, with another hub."""
    async with a_world() as world, trio.open_nursery() as nursery:
        ended = Hub(world.store, world.core.settings, clock=virtual_now)
        await nursery.start(ended.run)
        nursery.cancel_scope.cancel()
    for _ in range(2):  # nor does it leave one behind that never opens
        with trio.fail_after(1), pytest.raises(StoreUnavailable):
            await ended.apply(commands.add(world.conversation_id, world.alice, world.bob))
    assert len(ended.rooms) == 0
