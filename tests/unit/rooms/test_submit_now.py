"""Submitting without waiting: all is done or nothing, and nobody who waits is overtaken."""

import trio
from trio.testing import MockClock

from pulse_trio.model import Post
from tests.support import commands

from .world import Guest, World, a_world, settle


def post(world: World, content: str) -> Post:
    return commands.post(world.conversation_id, world.alice, content)


def submit_now(world: World, guest: Guest, content: str) -> bool:
    return world.hub.submit_now(guest.subscription, post(world, content))


async def test_a_message_is_stored_and_delivered_as_any_other(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        assert submit_now(world, alice, "one")
        assert world.stored == []
        await settle()
        assert alice.contents == bob.contents == world.stored == ["one"]


async def test_too_many_unstored_messages_are_not_taken(autojump_clock: MockClock) -> None:
    async with a_world(pending_messages=3) as world:
        alice = await world.join(world.alice)
        gate = world.store.hold()
        assert [submit_now(world, alice, str(number)) for number in range(5)] == [True, True, True, False, False]
        room = world.hub.rooms.get(world.conversation_id)
        assert room is not None
        assert room._writer.unsettled == 3
        gate.set()
        await settle()
        assert world.stored == ["0", "1", "2"]
        assert alice.subscription.connection.capacity.value == 3
        assert room._writer.unsettled == 0


async def test_a_full_inbox_takes_nothing_and_keeps_its_waiting_senders_first(autojump_clock: MockClock) -> None:
    async with a_world(inbox_messages=1, batch_messages=1) as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        gate = world.store.hold()
        assert submit_now(world, alice, "being stored")
        await settle()
        assert submit_now(world, alice, "in the inbox")
        world.start(bob.send, "waits")
        await settle()
        capacity = alice.subscription.connection.capacity.value
        assert not submit_now(world, alice, "refused")
        assert alice.subscription.connection.capacity.value == capacity
        gate.set()
        await settle()
        assert world.stored == ["being stored", "in the inbox", "waits"]
        assert submit_now(world, alice, "taken again")
        await settle()
        assert world.stored[-1] == "taken again"


async def test_nothing_is_taken_of_a_connection_that_is_closed_or_of_a_room_that_is_not_there(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        await world.remove(world.bob)
        assert not submit_now(world, bob, "removed")
        alice.leave()
        assert not submit_now(world, alice, "left")
        await settle()
        assert world.hub.room_count == 0
        assert not submit_now(world, alice, "no room")
        await trio.sleep(1)
        assert world.stored == []


async def test_a_room_that_has_failed_takes_nothing(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice = await world.join(world.alice)
        room = world.hub.rooms.get(world.conversation_id)
        assert room is not None
        world.store.answers = [world.store.crash]
        assert submit_now(world, alice, "boom")
        await settle()
        assert not room.submit_now(alice.subscription, post(world, "later"), None)
        assert not room._writer.submit_now(post(world, "later"), None)  # type: ignore[arg-type]
        assert world.stored == []
