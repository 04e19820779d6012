"""A removal is confirmed at once by a process whose database is slow: it keeps its lease, and its clients stay."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from pulse_trio.protocol import CloseCode
from pulse_trio.rooms.confirmations import PATIENCE
from pulse_trio.rooms.feed import MAX_DELIVERIES_A_TURN, Feed
from pulse_trio.rooms.lease import TERM
from pulse_trio.settings import Settings
from pulse_trio.store.base import NotAMember

from .two_hubs import SlowStore, bus_of, cluster_of, nothing, of_kind, two_worlds
from .world import Device, World

SETTINGS = Settings(secret_key="a key of this test: 5b1c8e7d2f90a364")
SLOW = 10.0  # seconds of each answer of the database, which is more than a lease is worth


@asynccontextmanager
async def a_slow_process() -> AsyncIterator[tuple[World, World, SlowStore]]:
    """Runs two hubs; the store of the second one may be made slow."""
    stores: list[SlowStore] = []
    async with two_worlds(SETTINGS, slow_there=stores.append) as (here, there):
        yield here, there, stores[0]


async def remove_bob(here: World, there: World) -> None:
    """Removes bob; it must be answered with no other process fenced."""
    began = trio.current_time()
    await here.remove(here.bob)
    assert trio.current_time() - began < PATIENCE
    assert not cluster_of(there).lease.is_lost.is_set()


def frames_of(*clients: object) -> list[int]:
    return [len(client.transport.frames) for client in clients]  # type: ignore[attr-defined]


async def test_slow_process_confirms_without_its_store(autojump_clock: object) -> None:
    async with a_slow_process() as (here, there, slow):
        alice = await here.join(here.alice)
        guest = await there.join(there.bob)
        bob = await Device(there, there.bob).open({})
        carol = await there.join(there.carol)
        await alice.send("for all")
        await trio.sleep(1)
        bus_of(here).loses = of_kind("m", "u", "r")  # there is a gap, which only the store can close
        slow.seconds = SLOW
        await alice.send("lost")
        await remove_bob(here, there)
        assert guest.transport.closed is not None
        assert guest.transport.closed[0] == CloseCode.REMOVED
        assert len(bob.of_type("conversation_removed")) == 1
        before = frames_of(guest, bob)
        bus_of(here).loses = nothing
        await alice.send("not for bob")
        await trio.sleep(2 * TERM)
        slow.seconds = 0
        await trio.sleep(60)
        assert not cluster_of(there).lease.is_lost.is_set()
        assert bob.session.connection.is_open
        assert carol.subscription.connection.is_open
        assert frames_of(guest, bob) == before
        assert carol.contents == ["for all", "lost", "not for bob"]
        assert [event for event in carol.events if event[0] == "removed"] == [("removed", str(here.bob.id))]
        assert here.bob.id not in await there.hub.active_users(here.conversation_id)


async def test_removal_in_a_quiet_conversation_is_confirmed_while_its_room_cannot_open(autojump_clock: object) -> None:
    async with a_slow_process() as (here, there, slow):
        bob = await Device(there, there.bob).open({})
        me = await Device(there, there.bob, "me").open({})
        carol = await Device(there, there.carol).open({})
        await trio.sleep(1)
        slow.seconds = SLOW
        alice = await Device(here, here.alice).open({})
        await alice.send(here.conversation_id, "not read before the removal")
        await remove_bob(here, there)
        assert len(bob.of_type("conversation_removed")) == 1
        await trio.sleep(20)
        slow.seconds = 0
        await trio.sleep(120)
        assert bob.contents(here.conversation_id) == me.contents(here.conversation_id) == []
        assert len(bob.of_type("conversation_removed")) == 1
        assert [frame["is_member"] for frame in me.of_type("membership")] == [False]
        assert carol.contents(here.conversation_id) == ["not read before the removal"]
        assert there.hub.rooms.get(here.conversation_id) is None
        assert cluster_of(there).users_of(here.conversation_id) == [here.carol.id]


async def test_addition_before_a_confirmed_removal_is_ignored_and_one_after_it_is_not(autojump_clock: object) -> None:
    async with a_slow_process() as (here, there, slow):
        await here.remove(here.bob)
        bob = await Device(there, there.bob).open({})
        await there.join(there.carol)
        alice = await here.join(here.alice)
        await trio.sleep(1)
        bus_of(here).loses = of_kind("m")
        slow.seconds = 5  # a page that was read before the removal, and has the addition, is answered after it
        await alice.send("lost")
        await here.add(here.bob)
        await alice.send("sent while bob was a member")
        await trio.sleep(0.1)
        bus_of(here).loses = of_kind("m", "u", "r")
        await remove_bob(here, there)
        before = frames_of(bob)
        await trio.sleep(15)
        slow.seconds = 0
        await trio.sleep(60)
        assert frames_of(bob) == before
        bus_of(here).loses = nothing
        await here.add(here.bob)
        await alice.send("for bob")
        await trio.sleep(1)
        assert bob.contents(here.conversation_id) == ["for bob"]
        assert len(bob.of_type("conversation_added")) == 1


async def test_connection_looked_up_before_a_confirmed_removal_does_not_join(
    autojump_clock: object,
) -> None:
    async with a_slow_process() as (here, there, slow):
        carol = await there.join(there.carol)
        await trio.sleep(1)
        bus_of(here).loses = of_kind("m", "u", "r")
        guest, ends = there.guest(there.bob), trio.Event()
        member_rev = await there.store.membership(there.conversation_id, there.bob.id)
        slow.seconds = SLOW
        await remove_bob(here, there)

        async def join() -> None:
            with pytest.raises(NotAMember):
                await there.hub.connect(
                    there.conversation_id, there.bob, guest.transport, member_rev=member_rev, features=guest.features
                )
            ends.set()

        there.start(join)
        await ends.wait()
        assert guest.transport.frames == []
        assert carol.subscription.connection.is_open


async def test_large_audience_gets_a_change_in_turns_and_a_user_removed_meanwhile_does_not(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_slow_process() as (here, there, _):
        monkeypatch.setattr("pulse_trio.rooms.feed.MAX_DELIVERIES_A_TURN", 1)
        assert MAX_DELIVERIES_A_TURN > 1
        alice = await here.join(here.alice)
        for user in (there.alice, there.carol):
            await there.join(user)
        bob = await Device(there, there.bob).open({})
        carol = await Device(there, there.carol).open({})
        await trio.sleep(1)
        in_turns = Feed._deliver_in_turns

        def expel_between(self: Feed, *arguments: object) -> object:
            for turn in in_turns(self, *arguments):  # type: ignore[arg-type]
                if self is not alice_feed:
                    there.hub.rooms.expel(there.conversation_id, there.bob.id, self.last_rev + 1)
                yield turn

        room = here.hub.rooms.get(here.conversation_id)
        assert room is not None
        alice_feed = room.feed
        monkeypatch.setattr(Feed, "_deliver_in_turns", expel_between)
        await alice.send("not for bob")
        await trio.sleep(1)
        assert bob.contents(here.conversation_id) == []
        assert carol.contents(here.conversation_id) == ["not for bob"]


async def test_processes_that_come_back_to_the_bus_later_are_not_fenced(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        bob = await there.join(there.bob)
        for world in (here, there):
            bus_of(world).is_frozen = True
            cluster_of(world).on_connected(False)
        await trio.sleep(2)
        bus_of(here).is_frozen = False
        cluster_of(here).on_connected(True)

        async def connect() -> None:
            await trio.sleep(2)
            bus_of(there).is_frozen = False
            cluster_of(there).on_connected(True)

        here.start(connect)
        await here.remove(here.bob)
        await trio.sleep(TERM)
        assert not cluster_of(there).lease.is_lost.is_set()
        assert bob.transport.closed is not None
        assert bob.transport.closed[0] == CloseCode.REMOVED
