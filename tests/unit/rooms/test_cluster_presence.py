"""Presence over processes: a process that drains, long names, and many questions at once."""

from uuid import UUID

import msgspec
import trio

from pulse_trio.bus.local import MAX_ITEM_BYTES
from pulse_trio.rooms.lease import RENEWAL
from pulse_trio.rooms.peer_items import AskItem, Item, encode_item
from pulse_trio.rooms.peer_sets import OwnSet
from pulse_trio.settings import Settings
from pulse_trio.texts import MAX_USERNAME_CHARS

from .two_hubs import bus_of, cluster_of, two_worlds
from .world import Device

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
    users.begin({UUID(int=number): long_name for number in range(300)}, is_quiet=False)
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
