"""Presence in a conversation: the full list for few users, batches for a crowd."""

from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.rooms.presence import DELAY, MAX_FRAME_USERS, MAX_MISSED, Presence
from pulse_trio.store.base import User
from tests.support import commands

from .world import Guest, a_world, settle


def user(number: int) -> User:
    return User(UUID(int=number), f"user{number}")


def test_a_user_who_left_and_came_back_is_in_neither_list() -> None:
    presence = Presence(list_max=1)
    presence.enter(user(1))
    presence.record(user(2), joined=True)
    presence.record(user(2), joined=False)
    presence.record(user(3), joined=False)
    (frame,) = presence.take_frames(UUID(int=9))
    assert ([each.username for each in frame.joined], [each.username for each in frame.left]) == ([], ["user3"])
    assert frame.active_count == 1
    assert presence.take_frames(UUID(int=9)) == []


def test_a_crowd_that_joins_at_once_is_sent_in_frames_of_bounded_size() -> None:
    presence = Presence(list_max=1)
    for number in range(1, 251):
        presence.enter(user(number))
        presence.record(user(number), joined=True)
    frames = presence.take_frames(UUID(int=9))
    assert [len(frame.joined) for frame in frames] == [MAX_FRAME_USERS, MAX_FRAME_USERS, 50]


async def test_few_users_are_listed_in_every_frame(autojump_clock: MockClock) -> None:
    async with a_world(presence_list_max=3) as world:
        alice = await world.join(world.alice)
        await world.join(world.bob)
        await world.join(world.carol)
        await settle()
        assert [len(frame["active_users"]) for frame in alice.of_type("system")] == [1, 2, 3]
        assert [frame["active_count"] for frame in alice.of_type("system")] == [1, 2, 3]
        assert alice.of_type("presence") == []


async def test_only_a_connection_that_joins_a_crowd_gets_its_list(autojump_clock: MockClock) -> None:
    async with a_world(presence_list_max=1) as world:
        alice = await world.join(world.alice)
        bob = await world.join(world.bob)
        carol = await world.join(world.carol)
        await settle()
        assert [len(guest.of_type("system")[0]["active_users"]) for guest in (alice, bob, carol)] == [1, 2, 3]
        assert alice.of_type("presence") == []  # batched
        await trio.sleep(2 * DELAY)
        (told,) = alice.of_type("presence")
        assert [each["username"] for each in told["joined"]] == ["bob", "carol"]
        assert told["active_count"] == 3
        await world.hub.apply(commands.set_properties(world.conversation_id, world.alice, name="New"))
        await settle()
        assert "active_users" not in alice.of_type("system")[-1]
        assert alice.of_type("system")[-1]["active_count"] == 3


async def test_a_user_who_leaves_a_crowd_is_sent_once_and_the_last_list_is_whole(autojump_clock: MockClock) -> None:
    async with a_world(presence_list_max=1) as world:
        alice, bob, carol = [await world.join(each) for each in (world.alice, world.bob, world.carol)]
        await trio.sleep(2 * DELAY)
        carol.leave()
        await trio.sleep(2 * DELAY)
        told = alice.of_type("presence")[-1]
        assert ([each["username"] for each in told["left"]], told["active_count"]) == (["carol"], 2)
        bob.leave()
        await trio.sleep(2 * DELAY)
        assert [each["username"] for each in alice.of_type("presence")[-1]["left"]] == ["bob"]
        await world.join(world.bob)
        await trio.sleep(2 * DELAY)
        assert alice.of_type("presence")[-1]["active_count"] == 2


async def test_an_empty_room_does_not_wait_for_its_presence_batch(autojump_clock: MockClock) -> None:
    async with a_world(presence_list_max=1) as world:
        guests = [await world.join(each) for each in (world.alice, world.bob, world.carol)]
        for guest in guests:
            guest.leave()
        await settle()
        assert world.hub.room_count == 0
        assert world.hub.rooms.running() == []


def shown(guest: Guest) -> set[str]:
    """Returns the active users that a client shows after the frames that it was sent."""
    users: set[str] = set()
    for frame in guest.of_type("system", "presence"):
        if frame["type"] == "presence":
            users |= {user["user_id"] for user in frame["joined"]}
            users -= {user["user_id"] for user in frame["left"]}
        else:
            users = set(frame.get("active_users", users))
    return users


@pytest.mark.parametrize("times", [1, 2, 2 * MAX_MISSED + 1])
@pytest.mark.parametrize("list_max", [1, 100], ids=["crowded", "few"])
async def test_a_slow_client_learns_who_is_there_once_it_reads(
    autojump_clock: MockClock, list_max: int, times: int
) -> None:
    """Nobody comes or goes afterwards, so no later frame would correct its list."""
    async with a_world(presence_list_max=list_max, outbox_bytes=30_000) as world:
        alice, bob = [await world.join(each) for each in (world.alice, world.bob)]
        await trio.sleep(2 * DELAY)
        alice.transport.stall = trio.Event()
        for _ in range(5):
            await bob.send("x" * 4_000)
            await settle()
        carol = await world.join(world.carol)
        await trio.sleep(2 * DELAY)
        for _ in range(times - 1):
            await carol.send("y")
            carol.leave()
            await trio.sleep(2 * DELAY)
            carol = await world.join(world.carol)
            await trio.sleep(2 * DELAY)
        alice.transport.stall.set()
        await settle()
        assert alice.subscription.connection.dropped_frames
        everybody = {str(each.id) for each in (world.alice, world.bob, world.carol)}
        assert shown(alice) == everybody
        assert len(alice.of_type("message")) == 4 + times
        carol.leave()
        await trio.sleep(2 * DELAY)
        assert shown(alice) == everybody - {str(world.carol.id)}
        assert shown(bob) == shown(alice)
