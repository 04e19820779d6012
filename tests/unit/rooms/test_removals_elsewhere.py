"""A removal is answered when the user gets nothing more in any process; the clock is virtual, also for leases."""

import random
from uuid import UUID, uuid4

import pytest
import trio

from pulse_trio.model import Member
from pulse_trio.rooms.confirmations import Confirmations
from pulse_trio.rooms.hub import Hub
from pulse_trio.rooms.lease import TERM, WAITED_OUT
from pulse_trio.settings import Settings
from pulse_trio.store.base import NoSuchMember, StoreUnavailable
from pulse_trio.store.memory import MemoryStore
from tests.support.commands import new_id

from .two_hubs import MemoryBus, bus_of, two_worlds
from .world import Device, World, virtual_now

SETTINGS = Settings(secret_key="a key of this test: 5b1c8e7d2f90a364")


async def removed_after(here: World) -> float:
    began = trio.current_time()
    await here.remove(here.bob)
    return trio.current_time() - began


async def test_removal_is_answered_when_the_other_process_has_ended_the_connection(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        bob = await there.join(there.bob)
        session = await Device(there, there.bob).open({})
        assert await removed_after(here) < 0.1
        assert not bob.subscription.connection.is_open
        assert here.conversation_id not in session.session.subscriptions


async def test_frames_that_wait_for_a_slow_client_elsewhere_are_dropped(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        alice = await here.join(here.alice)
        session = await Device(there, there.bob).open({})
        session.transport.stall = stall = trio.Event()
        for number in range(5):
            await alice.send(f"message {number}")
        await trio.sleep(1)
        await removed_after(here)
        stall.set()
        await trio.sleep(1)
        # One was being sent: its client had not read it, so the connection was cut.
        assert len(session.contents(here.conversation_id)) <= 1


async def test_process_that_hears_nothing_is_waited_out_and_delivers_nothing_more(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        bob = await there.join(there.bob)
        carol = await there.join(there.carol)
        await trio.sleep(1)
        bus_of(there).is_frozen = True
        assert TERM < await removed_after(here) < 1.1 + WAITED_OUT
        before = len(bob.transport.frames)
        await there.hub.send_typing(carol.subscription)
        await trio.sleep(5)
        assert len(bob.transport.frames) == before
        cluster = there.hub.cluster
        assert cluster is not None
        assert cluster.lease.is_lost.is_set()
        assert not cluster.lease.is_valid()


async def test_lease_that_is_only_late_goes_on_without_a_loss(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        alice = await here.join(here.alice)
        bob = await there.join(there.bob)
        await alice.send("before")
        await trio.sleep(1)
        renew = there.store.renew_lease

        async def hang(_: object) -> None:
            await trio.sleep_forever()

        there.store.renew_lease = hang  # type: ignore[method-assign,assignment]
        await trio.sleep(2 * TERM)
        await alice.send("meanwhile")
        await trio.sleep(1)
        assert bob.contents == ["before"]
        there.store.renew_lease = renew  # type: ignore[method-assign]
        await trio.sleep(5)
        await alice.send("after")
        await trio.sleep(1)
        assert bob.contents == ["before", "meanwhile", "after"]


async def test_no_removal_is_answered_in_the_first_term(autojump_clock: object) -> None:
    store, began = MemoryStore(), trio.current_time()
    only = Confirmations(new_id(), store, lambda _: None, trio.current_time, timeout=1, rand=random.Random(1))
    removal = Member(new_id(), 7, new_id(), "bob", is_member=False, actor_id=None, member_count=1)
    await only.collect(removal)
    assert trio.current_time() - began == pytest.approx(WAITED_OUT)
    await only.collect(removal)
    assert trio.current_time() - began == pytest.approx(WAITED_OUT)


async def test_removal_does_not_wait_for_a_lease_that_somebody_has_ended(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, _):
        await here.store.take_lease(killed := here.ids())

        async def end_later() -> None:
            await trio.sleep(2.5)
            await here.store.end_leases([killed])

        here.start(end_later)
        assert 2.5 < await removed_after(here) < 3.5


async def test_process_that_cannot_publish_fences_nobody(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, there):
        bob = await there.join(there.bob)
        mine, other = here.hub.cluster, there.hub.cluster
        assert mine is not None
        assert other is not None
        bus_of(here).is_frozen = True
        mine.on_connected(False)
        with pytest.raises(StoreUnavailable):
            await here.remove(here.bob)
        await trio.sleep(10)
        assert other.lease.is_valid()
        assert not bob.subscription.connection.is_open, "found by a comparison, as the silent process may have ended"
        bus_of(here).is_frozen = False
        mine.on_connected(True)
        with pytest.raises(NoSuchMember):
            await here.remove(here.bob)


async def test_lease_of_a_process_that_has_gone_is_removed(autojump_clock: object) -> None:
    async with two_worlds(SETTINGS) as (here, _):
        await here.store.take_lease(gone := here.ids())
        await trio.sleep(10)
        assert gone in await here.store.leases()
        await trio.sleep(20)
        assert gone not in await here.store.leases()


async def test_a_process_opens_when_the_store_is_back_and_gives_it_a_lease(autojump_clock: object) -> None:
    """One that has lost its lease opens again; the outage that made it lose it may go on."""
    async with two_worlds(SETTINGS) as (here, _):
        store, take_lease = here.store, here.store.take_lease
        over_at = trio.current_time() + 60

        async def fail_until_over(lease_id: UUID) -> None:
            if trio.current_time() < over_at:
                raise StoreUnavailable("away")
            await take_lease(lease_id)

        store.take_lease = fail_until_over  # type: ignore[method-assign]
        hub = Hub(store, SETTINGS, clock=virtual_now, bus=MemoryBus(uuid4()), boot_clock=trio.current_time)
        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)
            assert over_at <= trio.current_time() < over_at + 1
            assert hub.cluster is not None
            assert hub.cluster.lease.is_valid()
            nursery.cancel_scope.cancel()
