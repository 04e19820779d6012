"""Additions whose items are lost, late or out of order reach the sessions of other processes all the same."""

import pytest
import trio

from pulse_trio.protocol import SendResume
from pulse_trio.rooms import feed
from pulse_trio.settings import Settings
from tests.support.commands import remove

from .two_hubs import bus_of, cluster_of, nothing, of_kind, two_worlds
from .world import Device, World, delay, settle

SETTINGS = Settings(secret_key="a key of this test: 5b1c8e7d2f90a364")


async def lose_addition(here: World) -> None:
    bus_of(here).loses = of_kind("u")
    await here.add(here.bob)
    bus_of(here).loses = nothing


async def assert_hears(bob: Device, here: World) -> None:
    """Asserts that a session gets what is sent in the other process."""
    alice = await here.join(here.alice)
    await alice.send("hello")
    await trio.sleep(1)
    assert bob.contents(here.conversation_id) == ["hello"]
    assert len(bob.of_type("conversation_added")) == 1


async def test_lost_addition_is_found_though_the_room_here_began_after_it(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        await here.remove(here.bob)
        bob = await Device(there, there.bob).open({})
        await lose_addition(here)
        await there.join(there.carol)
        await trio.sleep(1)
        cluster_of(there).on_resync("missing batch")
        await trio.sleep(2)
        await assert_hears(bob, here)


async def test_lost_addition_is_found_though_another_is_heard_during_the_comparison(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        (dave,) = await here.new_users(1)
        await here.remove(here.bob)
        bob = await Device(there, there.bob).open({})
        await lose_addition(here)
        gate = delay(there, monkeypatch, "memberships", times=1)
        cluster_of(there).on_resync("missing batch")
        await trio.sleep(1)
        await here.add(dave)
        await trio.sleep(1)
        gate.set()
        await trio.sleep(2)
        await assert_hears(bob, here)


async def test_lost_addition_is_found_though_a_later_change_of_the_user_was_heard(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        other = here.ids()
        await here.new_conversation(other)
        alice = await Device(here, here.alice).open({})
        await alice.send(other, "read this")
        await here.remove(here.bob)
        bob = await Device(there, there.bob).open({})
        await lose_addition(here)
        await here.hub.read_positions.mark_read(other, here.bob.id, 1)
        await trio.sleep(1)
        cluster_of(there).on_resync("missing batch")
        await trio.sleep(2)
        await assert_hears(bob, here)


async def test_addition_by_a_process_that_ends_before_it_publishes_is_found_soon(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        await here.remove(here.bob)
        bob = await Device(there, there.bob).open({})
        bus_of(here).is_frozen = True
        await here.add(here.bob)
        await trio.sleep(10)
        assert len(bob.of_type("conversation_added")) == 1


async def test_addition_is_delivered_though_another_session_is_indexed_while_its_room_opens(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        await here.remove(here.bob)
        bob = await Device(there, there.bob).open({})
        await here.join(here.alice)  # its room is open
        gate = delay(there, monkeypatch, "head")
        await here.add(here.bob)
        await trio.sleep(0.1)
        carol = await Device(there, there.carol).open({})
        gate.set()
        await trio.sleep(1)
        await assert_hears(bob, here)
        assert carol.contents(here.conversation_id) == ["hello"]
        assert cluster_of(there)._heads._beginnings == {}


@pytest.mark.parametrize("is_session", [True, False])
async def test_addition_is_delivered_though_another_user_came_before_it_was_heard(
    is_session: bool, autojump_clock: object
) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        await here.remove(here.bob)
        bob = await Device(there, there.bob).open({})
        bus_of(here).holds = of_kind("u")
        await here.add(here.bob)
        if is_session:
            await Device(there, there.carol).open({})
        else:
            await there.join(there.carol)
        bus_of(here).let_go()
        await trio.sleep(1)
        await assert_hears(bob, here)


async def test_addition_is_delivered_though_it_is_heard_while_a_room_opens_after_it(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        await here.remove(here.bob)
        bob = await Device(there, there.bob).open({})
        bus_of(here).holds = of_kind("u")
        await here.add(here.bob)
        gate = delay(there, monkeypatch, "head")
        there.nursery.start_soon(there.join, there.carol)
        await trio.sleep(0.1)
        bus_of(here).let_go()
        await trio.sleep(0.1)
        gate.set()
        await trio.sleep(1)
        await assert_hears(bob, here)


async def test_addition_that_makes_the_audience_too_large_for_one_turn_is_delivered(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_DELIVERIES_A_TURN", 2)
    async with two_worlds(SETTINGS) as (here, there):
        await here.remove(here.bob)
        bob = await Device(there, there.bob).open({})
        carol = await Device(there, there.carol).open({})
        alice = await here.join(here.alice)
        await alice.send("the room is open")
        await trio.sleep(1)
        await here.add(here.bob)
        await trio.sleep(1)
        await alice.send("hello")
        await trio.sleep(1)
        assert bob.contents(here.conversation_id) == ["hello"]
        assert carol.contents(here.conversation_id) == ["the room is open", "hello"]


async def test_malformed_item_does_not_end_the_bus(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        bob = await there.join(there.bob)
        key = f'"{here.conversation_id}"'.encode()
        for item in (b'["m",%b,[]]' % key, b'["u",%b,[],[0,0,0,0,0]]' % key, b'["u",%b]' % key, b"[]", b"7"):
            cluster_of(there).on_items(bus_of(here).publisher, [item])
        alice = await here.join(here.alice)
        await alice.send("hello")
        await trio.sleep(1)
        assert bob.contents == ["hello"]


async def test_read_position_that_does_not_move_is_published_once(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        alice = await here.join(here.alice)
        await alice.send("hello")
        await Device(there, there.bob).open({})
        await trio.sleep(100)  # no room is open there
        published = bus_of(here).items
        for _ in range(3):
            await here.hub.read_positions.mark_read(here.conversation_id, here.alice.id, 1)
        await trio.sleep(1)
        assert len([item for item in published if item.startswith(b'["d"')]) == 1


async def test_client_that_was_refused_at_resume_learns_of_its_addition(autojump_clock: object) -> None:
    """Its process has not heard of the removal, and of both it reads the addition alone: a member is one object."""
    async with two_worlds(SETTINGS) as (here, there):
        alice = await Device(here, here.alice).open({})
        await alice.send(here.conversation_id, "before")
        await trio.sleep(100)
        bob = Device(there, there.bob)
        await bob.open()
        await here.store.apply(
            [remove(here.conversation_id, here.alice, here.bob)]
        )  # its process ends before it says so
        await there.hub.lobby.resume(bob.session, SendResume(revs={here.conversation_id: 1}))
        await here.add(here.bob)
        await alice.send(here.conversation_id, "after")
        await trio.sleep(1)
        notices = [frame["type"] for frame in bob.of_type("conversation_removed", "conversation_added")]
        assert notices == ["conversation_removed", "conversation_added"]
        assert bob.contents(here.conversation_id) == ["after"]


@pytest.mark.parametrize("opened_after", ["one", "two"])
async def test_a_resume_goes_on_where_the_client_says_though_no_room_knows_of_a_removal(
    opened_after: str, autojump_clock: object
) -> None:
    """The store says that the user is removed; they are added again before a room here has seen that."""
    async with two_worlds(SETTINGS.model_copy(update={"room_linger": 0.5})) as (here, there):
        key = here.conversation_id
        alice = await Device(there, there.alice).open({})
        bob = Device(there, there.bob, "me")
        for content in ("one", "two"):
            await alice.send(key, content)
            await trio.sleep(0.1)
            if content == opened_after:
                await bob.open()
        await trio.sleep(2)
        assert there.hub.room_count == 0
        bus_of(here).loses = lambda _: True
        here.start(here.remove, here.bob)
        await settle()
        await there.hub.lobby.resume(bob.session, SendResume(revs={key: 1}, me=1))
        here.start(here.add, here.bob)
        await settle()
        bus_of(here).loses = nothing
        cluster_of(there).on_resync("missing batch")
        await trio.sleep(10)
        await alice.send(key, "three")
        await trio.sleep(1)
        assert bob.contents(key) == ["two", "three"]
