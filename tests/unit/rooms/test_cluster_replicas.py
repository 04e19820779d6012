"""Replicas over two processes, on a bus that loses, doubles, delays and reorders, end with the state of the store."""

import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.errors import PulseError
from pulse_trio.model import Command, Leave, Member, RemoveMember
from pulse_trio.rooms import confirmations
from pulse_trio.settings import Settings
from pulse_trio.store.base import NotAMember, Refusal, StoreUnavailable
from tests.support import commands

from .test_replicas import Frames, Play, Replica, Visitor
from .two_hubs import bus_of, cluster_of, nothing, two_worlds
from .world import World

SETTINGS = Settings(secret_key="a key of this test: 5b1c8e7d2f90a364", store_timeout=2.0, room_linger=1.0)
NOTICED = 1.2  # seconds after which a bus notices that it has lost something
OF_USER = frozenset({"conversation_removed", "conversation_added", "membership", "error", "session", "features"})


class BadBus:
    """The faults of the bus between two worlds."""

    def __init__(self, nursery: trio.Nursery, rand: random.Random, source: World, target: World) -> None:
        self.nursery = nursery
        self.rand = rand
        self.source = source
        self.target = target
        bus_of(source).holds = self.hold

    def hold(self, item: bytes) -> bool:
        is_confirmation = item[2:3] in b"ck"
        for _ in range(self.rand.choices([0, 1, 2], [1, 8, 1])[0]):
            delays = [0.001, 0.01, 0.1] if is_confirmation else [0.001, 0.001, 0.01, 0.1, 0.5, 2.0]
            self.nursery.start_soon(self.pass_on, self.rand.choice(delays), item)
        return True

    async def pass_on(self, delay: float, item: bytes) -> None:
        await trio.sleep(delay)
        bus_of(self.source)._pass_on(item)

    async def notice(self) -> None:
        while True:
            await trio.sleep(NOTICED)
            cluster_of(self.target).on_resync("missing batch")


class ClusterPlay(Play):
    """Users who act in two processes."""

    def __init__(self, worlds: tuple[World, World], seed: int, others: Any) -> None:
        super().__init__(worlds[0], seed, others)
        self.worlds = worlds
        self.answered: dict[tuple[UUID, UUID], int] = {}  # removals that were answered: conversation and user → rev
        self.late: list[object] = []
        for replica in self.replicas:
            replica.world = self.rand.choice(worlds)
            self.watch(replica.user.id, replica)

    def watch(self, user_id: UUID, client: Replica | Visitor) -> None:
        handle: Callable[[dict[str, Any]], None] = client.handle

        def check(frame: dict[str, Any]) -> None:
            key = frame.get("conversation_id")
            if key is not None and frame["type"] not in OF_USER:
                pair = UUID(key), user_id
                if pair in self.answered and self.answered[pair] == self.troubles.removals.get(pair):
                    self.late.append((self.answered[pair], frame))
            handle(frame)

        client.handle = check  # type: ignore[method-assign]

    async def ask(self, command: Command) -> None:
        with suppress(Refusal, PulseError, StoreUnavailable):
            changes = await self.rand.choice(self.worlds).hub.apply(command)
            if isinstance(command, RemoveMember | Leave):
                for change in changes:
                    if isinstance(change, Member):
                        pair = change.conversation_id, change.user_id
                        self.answered[pair] = change.rev

    async def come_and_go(self, replica: Replica, until: float) -> None:
        while trio.current_time() < until:  # seldom: a session that opens finds what the one before it has missed
            if not replica.is_connected:
                replica.leave()
                await replica.connect()
            elif self.rand.random() < 0.03:
                replica.leave()
            await trio.sleep(self.rand.uniform(0, 2))

    async def visit(self, until: float) -> None:
        while trio.current_time() < until:
            world = self.rand.choice(self.worlds)
            user = self.rand.choice(self.users)
            visitor = Visitor(world, self.troubles, user, ("members",) if self.rand.random() < 0.5 else ())
            self.watch(user.id, visitor)
            visitor.transport.frames = Frames(visitor.handle)
            rev = world.last_rev
            try:
                await visitor.join(self.rand.randint(0, rev) if self.rand.random() < 0.5 else None)
            except (AssertionError, NotAMember, StoreUnavailable, PulseError):
                continue
            finally:
                await trio.sleep(self.rand.uniform(0, 3))
                visitor.leave()
            self.visitors.append(visitor)


@pytest.mark.parametrize("seed", range(2))
async def test_replicas_of_two_processes_end_with_the_state_of_the_store(
    seed: int, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)  # the seed decides all
    monkeypatch.setattr(trio._core._run, "_r", random.Random(seed))
    monkeypatch.setattr(confirmations, "PATIENCE", 60.0)  # the store is slow, and nobody opens a service again
    async with two_worlds(SETTINGS) as (here, there):
        there.store.nursery = here.nursery
        other = here.ids()
        await here.new_conversation(other)
        play = ClusterPlay((here, there), seed, await here.new_users(2))
        for name in ("heads", "user_revs"):
            setattr(here.store, name, play.troubles._delayed(getattr(here.store, name)))
        play.keys.append(other)
        until = trio.current_time() + 20

        async def act() -> None:
            while trio.current_time() < until:
                await play.act()
                await trio.sleep(play.rand.choice([0, 0.01, 0.3]))

        async with trio.open_nursery() as faults:
            buses = [BadBus(faults, play.rand, here, there), BadBus(faults, play.rand, there, here)]
            for bus in buses:
                faults.start_soon(bus.notice)
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(act)
                    nursery.start_soon(play.visit, until)
                    nursery.start_soon(play.stall, until)
                for replica in play.replicas:
                    nursery.start_soon(play.come_and_go, replica, until)
            play.troubles.are_over = True
            for world in (here, there):
                bus_of(world).holds = nothing
            await trio.sleep(5)
            faults.cancel_scope.cancel()
        for replica in play.replicas:
            if not replica.is_connected:
                replica.leave()
                await replica.connect()
        await trio.sleep(20)
        for key in play.keys:  # a last change of each, which shows a gap before it
            owner = here.store._conversations[key].owner_id
            await here.hub.apply(commands.post(key, owner, "the end"))
        await trio.sleep(5)
        for replica in play.replicas:
            replica.compare()
            assert replica.is_connected
        assert [visitor.faults for visitor in play.visitors if visitor.faults] == []
        assert play.late == []
        for replica in play.replicas:
            replica.leave()
        await trio.sleep(60)
        for world in (here, there):
            cluster = cluster_of(world)
            assert (len(world.hub.user_feeds), world.hub.room_count, bool(world.hub._sessions)) == (0, 0, False)
            assert (len(cluster._index), cluster._heads._beginnings, cluster._behind._behind) == (0, {}, {})
            assert (list(cluster.presence.pinned_here._elements), cluster.presence.pinned._counts) == ([], {})
            assert cluster.presence.online._counts == {}
