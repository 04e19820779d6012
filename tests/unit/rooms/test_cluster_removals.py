"""A removed user gets nothing more once the removal is answered, however late items of other processes come."""

from uuid import UUID

import pytest
import trio

from pulse_trio.protocol import CloseCode
from pulse_trio.rooms.lease import TERM, Lease
from pulse_trio.settings import Settings
from pulse_trio.store.base import StoreUnavailable

from .two_hubs import bus_of, cluster_of, nothing, of_kind, two_worlds
from .world import Device, FaultyStore, delay

SETTINGS = Settings(secret_key="a key of this test: 5b1c8e7d2f90a364")


async def test_creation_that_is_heard_after_a_removal_does_not_add_the_user_again(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        key = here.ids()
        bob = await Device(there, there.bob).open({})
        bus_of(here).holds = of_kind("n")
        await here.new_conversation(key)
        members = [user.id for user in (here.alice, here.bob, here.carol)]
        await here.hub.members.notify_created(key, members, ())
        await here.remove(here.bob, key)
        await Device(there, there.alice).open({})
        carol = await Device(there, there.carol).open({})
        bus_of(here).let_go()
        await trio.sleep(1)
        alice = await Device(here, here.alice).open({})
        await alice.send(key, "not for bob")
        await trio.sleep(1)
        assert bob.contents(key) == []
        assert carol.contents(key) == ["not for bob"]


async def test_creation_whose_members_are_looked_up_before_a_removal_does_not_add_the_user(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        key = here.ids()
        bob = await Device(there, there.bob).open({})
        await here.new_conversation(key)
        gate = delay(there, monkeypatch, "members", times=1)
        cluster_of(there).on_items(bus_of(here).publisher, [f'["n","{key}",[]]'.encode()])
        await trio.sleep(0.1)
        alice = await Device(here, here.alice).open({})
        await alice.send(key, "sent before the removal")
        await trio.sleep(0.5)
        await here.remove(here.bob, key)
        gate.set()
        await trio.sleep(1)
        assert bob.contents(key) == []


async def test_addition_that_is_heard_after_the_removal_delivers_nothing(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        await here.remove(here.bob)
        bob = await Device(there, there.bob).open({})
        alice = await here.join(here.alice)
        bus_of(here).holds = of_kind("u")
        await here.add(here.bob)
        await alice.send("sent before the removal")
        await trio.sleep(0.5)
        await here.remove(here.bob)
        before = len(bob.transport.frames)
        bus_of(here).let_go()
        await trio.sleep(2)
        assert bob.transport.frames[before:] == []


async def test_removal_is_confirmed_after_an_addition_that_is_heard_later(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        await here.remove(here.bob)
        bob = await Device(there, there.bob).open({})
        carol = await Device(there, there.carol).open({})
        await trio.sleep(60)  # no room is open there
        bus_of(here).loses = of_kind("m", "w", "?")
        bus_of(here).holds = of_kind("u")
        alice = await Device(here, here.alice).open({})
        await here.add(here.bob)
        await alice.send(here.conversation_id, "sent before the removal")
        await trio.sleep(0.5)
        await here.remove(here.bob)
        before = bob.contents(here.conversation_id)
        bus_of(here).loses = nothing
        bus_of(here).let_go()
        await trio.sleep(2)
        assert bob.contents(here.conversation_id) == before
        assert carol.contents(here.conversation_id) == ["sent before the removal"]


async def test_connection_that_closes_without_a_lease_drops_what_the_network_has_not_taken(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_worlds(SETTINGS) as (_, there):
        bob = await there.join(there.bob)
        await trio.sleep(1)
        bob.transport.room, bob.transport.stall = 10, trio.Event()
        bob.transport.kept = b"a part of a frame"
        bus_of(there).is_frozen = True
        delay(there, monkeypatch, "renew_lease")
        await trio.sleep(TERM + 1)
        assert not cluster_of(there).lease.is_valid()
        bob.subscription.connection.close(CloseCode.RESTART, "the server restarts")
        assert bob.transport.is_abandoned


async def test_write_that_a_client_does_not_take_is_ended_with_the_lease(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        bob = await there.join(there.bob)
        carol = await there.join(there.carol)
        session = await Device(there, there.bob).open({})
        alice = await here.join(here.alice)
        await trio.sleep(1)
        bob.transport.stall = session.transport.stall = stall = trio.Event()
        await alice.send("not for bob")
        await trio.sleep(0.1)
        bus_of(there).is_frozen = True
        for name in ("renew_lease", "heads"):
            delay(there, monkeypatch, name)  # it does not reach the database either
        await here.remove(here.bob)
        stall.set()
        await trio.sleep(1)
        assert not bob.subscription.connection.is_open
        assert not session.session.connection.is_open
        assert bob.contents == session.contents(here.conversation_id) == []
        assert carol.subscription.connection.is_open


class AwayStore(FaultyStore):
    """A store that is away when a lease is taken, twice."""

    takes = 0

    async def take_lease(self, lease_id: UUID) -> None:
        self.takes += 1
        if self.takes == 2:
            await trio.sleep_forever()
        if self.takes == 1:
            raise StoreUnavailable
        await super().take_lease(lease_id)


async def test_lease_is_taken_when_the_store_is_back(autojump_clock: object) -> None:
    lease = Lease(UUID(int=1), AwayStore(), trio.current_time)
    await lease.take()
    assert lease.is_valid()


async def test_lease_that_was_fenced_while_it_was_taken_is_lost(autojump_clock: object) -> None:
    class Fenced(AwayStore):
        async def take_lease(self, lease_id: UUID) -> None:
            await FaultyStore.take_lease(self, lease_id)
            await self.fence_leases([lease_id])

    lease = Lease(UUID(int=1), Fenced(), trio.current_time)
    await lease.take()
    assert not lease.is_valid()
    assert lease.is_lost.is_set()
