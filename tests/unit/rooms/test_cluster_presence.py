"""Presence over processes: a process that drains, long names, and many questions at once."""

from uuid import UUID

import msgspec
import pytest
import trio

from pulse_trio.bus.local import MAX_ITEM_BYTES
from pulse_trio.rooms.lease import RENEWAL
from pulse_trio.rooms.peer_items import AskItem, Item, encode_item
from pulse_trio.rooms.peer_sets import OwnSet
from pulse_trio.settings import Settings
from pulse_trio.texts import MAX_USERNAME_CHARS

from .two_hubs import bus_of, cluster_of, several_worlds, two_worlds
from .world import Device, World

SETTINGS = Settings(secret_key="a key of this test: 5b1c8e7d2f90a364")


async def test_users_of_a_process_that_drains_leave_once(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        alice = await here.join(here.alice)
        await there.join(there.bob)
        await Device(there, there.carol).open({})
        await trio.sleep(1)
        await there.hub.drain()
        await trio.sleep(1)
        left = [event[1] for event in alice.events if event[0] == "left"]
        assert sorted(left) == sorted(str(user.id) for user in (here.bob, here.carol))


def test_users_with_long_names_fit_into_items() -> None:
    published: list[Item] = []
    users = OwnSet("room", published.append, lambda: 1)
    long_name = "\N{CUNEIFORM SIGN A}" * MAX_USERNAME_CHARS
    users.begin({UUID(int=number): long_name for number in range(300)})
    users.publish_whole(known=[UUID(int=number) for number in range(100)])
    assert max(len(encode_item(item)) for item in published) <= MAX_ITEM_BYTES


async def test_many_questions_about_a_room_are_answered_once(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        await there.join(there.bob)
        await trio.sleep(1)
        scope = str(here.conversation_id)
        bus_of(there).items.clear()
        ask = encode_item(AskItem([scope, "online"]))
        cluster_of(there).on_items(bus_of(here).publisher, [ask] * 15)
        await trio.sleep(0.1)
        tags = [msgspec.json.decode(item)[:2] for item in bus_of(there).items]
        assert tags.count(["w", scope]) == 1
        assert tags.count(["w", "online"]) == 1


async def test_removal_does_not_wait_for_a_process_that_ends_meanwhile(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        await trio.sleep(RENEWAL)
        bus_of(there).is_frozen = True
        await there.join(there.bob)

        async def end() -> None:
            await trio.sleep(0.5)
            await cluster_of(there).lease.give_up()

        there.nursery.start_soon(end)
        began = trio.current_time()
        await here.remove(here.bob)
        assert trio.current_time() - began < 2


def items_about_presence(worlds: list[World], conversation_id: UUID) -> int:
    """Counts the items about who is in a conversation, and forgets them."""
    count = 0
    for world in worlds:
        for item in bus_of(world).items:
            tag, about, *_ = msgspec.json.decode(item)
            scopes = about if tag == "?" else [about]
            count += tag in ("w", "+", "?") and str(conversation_id) in scopes
        bus_of(world).items.clear()
    return count


@pytest.mark.parametrize("processes", [2, 4, 8])
async def test_message_in_a_quiet_conversation_costs_few_items(autojump_clock: object, processes: int) -> None:
    async with several_worlds(SETTINGS, processes) as worlds:
        here, key = worlds[0], worlds[0].conversation_id
        users = await here.new_users(processes)
        await here.add(*users)
        devices = [await Device(world, user).open({}) for world, user in zip(worlds, users, strict=True)]
        await trio.sleep(100)  # the room has ended everywhere
        items_about_presence(worlds, key)
        await devices[0].send(key, "good morning")
        await trio.sleep(5)
        assert all(device.contents(key) == ["good morning"] for device in devices)
        assert items_about_presence(worlds, key) <= 2 * processes
        rooms = [world.hub.rooms.get(key) for world in worlds]
        present = {frozenset(room.active_users) for room in rooms if room is not None}
        assert present == {frozenset(user.id for user in users)}
        assert items_about_presence(worlds, key) == 0


@pytest.mark.parametrize("processes", [2, 8])
async def test_message_where_no_other_process_has_anybody_is_not_answered(
    autojump_clock: object, processes: int
) -> None:
    async with several_worlds(SETTINGS, processes) as worlds:
        here, key = worlds[0], worlds[0].conversation_id
        alice = await Device(here, here.alice).open({})
        await trio.sleep(100)
        items_about_presence(worlds, key)
        await alice.send(key, "good morning")
        await trio.sleep(5)
        assert items_about_presence(worlds, key) == 1


async def test_connection_that_joins_where_rooms_are_quiet_is_told_who_is_in_all_of_them(
    autojump_clock: object,
) -> None:
    async with several_worlds(SETTINGS, 4) as worlds:
        here, key = worlds[0], worlds[0].conversation_id
        users = await here.new_users(4)
        await here.add(*users)
        devices = [await Device(world, user).open({}) for world, user in zip(worlds, users, strict=True)]
        await devices[1].send(key, "good morning")
        guest = await here.join(here.alice)
        await trio.sleep(0.1)
        (joined,) = [frame for frame in guest.of_type("system") if frame["event"] == "joined"]
        assert set(joined["active_users"]) == {str(user.id) for user in (here.alice, *users)}


@pytest.mark.parametrize("asked", [0, 1])
async def test_user_of_another_process_leaves_before_their_removal_is_shown(autojump_clock: object, asked: int) -> None:
    async with two_worlds(SETTINGS) as worlds:
        here, there = worlds
        alice = await here.join(here.alice)
        bob = await there.join(there.bob)
        session = await Device(there, there.bob).open({})
        await trio.sleep(1)
        await worlds[asked].remove(here.bob)
        await trio.sleep(1)
        about_bob = [frame for frame in alice.of_type("system") if frame["sender_id"] == str(here.bob.id)]
        assert [frame["event"] for frame in about_bob] == ["joined", "left", "removed"]
        assert [str(here.bob.id) in frame["active_users"] for frame in about_bob] == [True, False, False]
        assert not bob.subscription.connection.is_open
        await worlds[asked].add(here.bob)
        await trio.sleep(1)
        events = [event for event, user in alice.events if user == str(here.bob.id)]
        assert sorted(events[3:]) == ["added", "joined"]
        session.leave()
        await trio.sleep(1)
        assert alice.events[-1] == ("left", str(here.bob.id))
        assert await here.hub.active_users(here.conversation_id) == [here.alice.id]


async def test_user_who_is_removed_and_added_again_is_shown_although_the_bus_loses_what_is_between(
    autojump_clock: object,
) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        alice = await here.join(here.alice)
        await Device(there, there.bob).open({})
        await trio.sleep(1)
        bus_of(there).loses = lambda item: item.startswith(b'["+"')
        await here.remove(here.bob)
        await here.add(here.bob)
        await trio.sleep(1)
        assert set(await here.hub.active_users(here.conversation_id)) == {here.alice.id, here.bob.id}
        events = [event for event, user in alice.events if user == str(here.bob.id)]
        assert sorted(events) == ["added", "joined", "joined", "left", "removed"]


async def test_join_that_is_heard_after_the_removal_is_not_shown(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        alice = await here.join(here.alice)
        await trio.sleep(1)
        bus_of(there).holds = lambda item: item.startswith(b'["+"') and str(here.bob.id).encode() in item
        await there.join(there.bob)
        await here.remove(here.bob)
        bus_of(there).let_go()
        await trio.sleep(10)
        assert [event for event, user in alice.events if user == str(here.bob.id)] == ["removed"]
        assert await here.hub.active_users(here.conversation_id) == [here.alice.id]
