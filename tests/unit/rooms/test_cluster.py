"""Two processes on one store: what one commits reaches the sessions of the other, whatever the bus does."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.bus.base import BusCounters
from pulse_trio.conversations.core import Core
from pulse_trio.ids import IdSource
from pulse_trio.model import User
from pulse_trio.rooms.cluster import Cluster
from pulse_trio.rooms.feed import GAP_WAIT
from pulse_trio.rooms.hub import Hub
from pulse_trio.rooms.peer_items import CreatedItem, decode_item, encode_item
from pulse_trio.settings import Settings
from pulse_trio.store.base import ReadState
from tests.support import commands
from tests.support.commands import new_id

from .world import LONGEST, Device, FaultyStore, World, delay, device, settle, virtual_now


class Bus:
    """A bus that passes items on when it is told to, and keeps what it was given."""

    max_item_bytes = 7_000

    def __init__(self) -> None:
        self.publisher = new_id()
        self.counters = BusCounters()
        self.items: list[bytes] = []
        self.others: list[Cluster] = []
        self.is_held = False

    def publish(self, item: bytes) -> None:
        self.items.append(item)
        is_confirmation = item.startswith((b'["c"', b'["k"'))  # without them a removal waits for the end of a lease
        if not self.is_held or is_confirmation:
            self.pass_on(item)

    def last_heard(self, publisher: UUID) -> float | None:
        return trio.current_time()

    def pass_on(self, *items: bytes) -> None:
        for other in self.others:
            other.on_items(self.publisher, items)

    async def run(self, listener: Cluster, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        raise NotImplementedError  # it needs no task


class Process(World):
    """A world with others on its store."""

    def __init__(self, core: Core, store: FaultyStore, nursery: trio.Nursery, bus: Bus) -> None:
        super().__init__(core, store, nursery)
        self.bus = bus

    @property
    def cluster(self) -> Cluster:
        assert self.hub.cluster is not None
        return self.hub.cluster

    async def post(self, user: User, content: str, conversation_id: object = None) -> None:
        """Posts a message as a user who is not connected."""
        key = self.conversation_id if conversation_id is None else conversation_id
        await self.hub.apply(commands.post(key, user.id, content=content))  # type: ignore[arg-type]


@asynccontextmanager
async def two_processes(**settings: object) -> AsyncIterator[tuple[Process, Process]]:
    """Two hubs on one store, ended with their test; both know the same conversation and users."""
    store = FaultyStore()
    chosen = Settings.model_construct(**settings)  # type: ignore[arg-type]
    processes: list[Process] = []
    with trio.fail_after(LONGEST):
        async with trio.open_nursery() as nursery:
            store.nursery = nursery
            for seed in (1, 2):
                rand, bus = random.Random(seed), Bus()
                hub = Hub(store, chosen, clock=virtual_now, rand=rand, bus=bus, boot_clock=trio.current_time)
                ids = IdSource(virtual_now, rand.randbytes)
                core = Core(settings=chosen, clock=virtual_now, ids=ids, store=store, hub=hub)
                await nursery.start(hub.run)
                processes.append(Process(core, store, nursery, bus))
            here, there = processes
            here.bus.others, there.bus.others = [there.cluster], [here.cluster]
            there.conversation_id = here.conversation_id
            there.alice, there.bob, there.carol = here.alice, here.bob, here.carol
            await here.set_up()
            yield here, there
            nursery.cancel_scope.cancel()


async def test_a_message_reaches_connections_and_sessions_of_another_process(autojump_clock: MockClock) -> None:
    async with two_processes() as (here, there):
        guest, session = await there.join(here.bob), await device(there, here.carol)
        await here.post(here.alice, "hello")
        await settle()
        assert guest.contents == ["hello"]
        assert session.contents(here.conversation_id) == ["hello"]


async def test_a_gap_that_the_bus_closes_is_not_read(autojump_clock: MockClock) -> None:
    async with two_processes() as (here, there):
        guest = await there.join(here.bob)
        here.bus.is_held = True
        for content in ("one", "two"):
            await here.post(here.alice, content)
        reads = 0
        changes = there.store.changes

        async def count(*arguments: object, **options: object) -> object:
            nonlocal reads
            reads += 1
            return await changes(*arguments, **options)  # type: ignore[arg-type]

        there.store.changes = count  # type: ignore[method-assign,assignment]
        there_items = here.bus.items[-2:]
        here.bus.pass_on(there_items[1])
        await settle()
        assert guest.contents == []
        await trio.sleep(GAP_WAIT / 2)
        here.bus.pass_on(there_items[0], there_items[1])
        await settle()
        assert guest.contents == ["one", "two"]
        await trio.sleep(1)
        assert reads == 0


async def test_a_gap_that_the_bus_does_not_close_is_read(autojump_clock: MockClock) -> None:
    async with two_processes() as (here, there):
        guest = await there.join(here.bob)
        here.bus.is_held = True
        await here.post(here.alice, "lost")
        here.bus.is_held = False
        await here.post(here.alice, "heard")
        await trio.sleep(2 * GAP_WAIT)
        assert guest.contents == ["lost", "heard"]


async def test_what_is_too_large_for_the_bus_goes_as_a_rev_or_in_pieces(autojump_clock: MockClock) -> None:
    async with two_processes() as (here, there):
        guest = await there.join(here.bob)
        here.bus.max_item_bytes = 500
        await here.post(here.alice, "x" * 1_000)
        await trio.sleep(2 * GAP_WAIT)
        assert guest.contents == ["x" * 1_000]
        users = await here.new_users(20)
        session = await device(there, users[-1])
        await here.add(*users)
        await trio.sleep(2 * GAP_WAIT)
        assert all(len(item) <= 500 for item in here.bus.items)
        assert len(session.of_type("conversation_added")) == 1


async def test_a_lost_last_message_is_found_by_a_comparison(autojump_clock: MockClock) -> None:
    async with two_processes() as (here, there):
        session = await device(there, here.carol)
        here.bus.is_held = True
        await here.post(here.alice, "lost")
        there.cluster.on_resync("missing batch")
        await trio.sleep(1)
        assert session.contents(here.conversation_id) == ["lost"]


async def test_a_lost_addition_is_found_though_a_later_change_of_the_user_was_heard(autojump_clock: MockClock) -> None:
    async with two_processes() as (here, there):
        (dave,) = await here.new_users(1)
        other = new_id()
        await here.new_conversation(other)
        await here.add(dave, conversation_id=other)
        await here.post(here.alice, "hello", other)
        session = await device(there, dave)
        here.bus.is_held = True
        await here.add(dave)
        here.bus.is_held = False
        await here.hub.read_positions.mark_read(other, dave.id, 1)
        await settle()
        assert not session.of_type("conversation_added")
        there.cluster.on_resync("missing batch")
        await trio.sleep(1)
        assert [frame["conversation_id"] for frame in session.of_type("conversation_added")] == [
            str(here.conversation_id)
        ]
        await here.post(here.alice, "welcome")
        await settle()
        assert session.contents(here.conversation_id) == ["welcome"]


async def test_an_addition_is_heard_after_another_session_has_indexed_the_conversation(
    autojump_clock: MockClock,
) -> None:
    """The room begins after the addition, so it does not deliver it."""
    async with two_processes() as (here, there):
        (dave,) = await here.new_users(1)
        session = await device(there, dave)
        here.bus.is_held = True
        await here.add(dave)
        await device(there, here.carol)
        here.bus.pass_on(here.bus.items[-1])
        await trio.sleep(1)
        assert len(session.of_type("conversation_added")) == 1
        here.bus.is_held = False
        await here.post(here.alice, "welcome")
        await settle()
        assert session.contents(here.conversation_id) == ["welcome"]


async def test_a_creation_that_comes_again_does_not_bring_back_a_removed_member(autojump_clock: MockClock) -> None:
    async with two_processes() as (here, there):
        session = await device(there, here.carol)
        await device(there, here.bob)
        await here.remove(here.carol)
        await settle()
        users = [(here.bob.id, 1), (here.carol.id, 1)]
        item = CreatedItem(here.conversation_id, users)
        here.bus.pass_on(_encoded(item))
        await trio.sleep(1)
        await here.post(here.alice, "secret")
        await trio.sleep(1)
        assert session.contents(here.conversation_id) == []
        assert not session.of_type("conversation_added")


async def test_a_commit_with_a_lost_answer_is_published_without_sessions(autojump_clock: MockClock) -> None:
    async with two_processes(store_timeout=1.0) as (here, there):
        session = await device(there, here.carol)
        committed = trio.Event()
        here.store.answers = [here.store.commit_after(committed, here.nursery)]
        here.store.usual = here.store.fail
        here.store.has_short_way = False

        async def post() -> None:
            try:
                await here.post(here.alice, "late")
            except Exception:  # it could not be stored in time
                answered.set()

        answered = trio.Event()
        here.start(post)
        await answered.wait()
        committed.set()
        await trio.sleep(5)
        assert session.contents(here.conversation_id) == ["late"]


async def test_a_removed_user_gets_nothing_more_in_another_process(autojump_clock: MockClock) -> None:
    async with two_processes() as (here, there):
        guest, session = await there.join(here.carol), await device(there, here.carol)
        await here.remove(here.carol)
        await here.post(here.alice, "secret")
        await trio.sleep(1)
        assert guest.contents == []
        assert guest.transport.closed is not None
        assert session.contents(here.conversation_id) == []


async def test_a_read_position_reaches_another_process(autojump_clock: MockClock) -> None:
    async with two_processes() as (here, there):
        session = await device(there, here.carol)
        await here.post(here.alice, "hello")
        await settle()
        state: ReadState = await here.hub.read_positions.mark_read(here.conversation_id, here.bob.id, 1)
        await trio.sleep(1)
        assert state.read_seq == 1
        (frame,) = session.of_type("read")
        assert frame["positions"] == [{"user_id": str(here.bob.id), "seq": 1}]


async def test_a_removal_that_is_heard_while_a_list_is_looked_up_is_remembered(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_processes() as (here, there):
        answer = delay(there, monkeypatch, "memberships", times=1)
        opened: list[Device] = []

        async def open_session() -> None:
            opened.append(await device(there, here.carol))

        there.start(open_session)
        await settle()
        await here.remove(here.carol)
        await settle()
        answer.set()
        await settle()
        assert there.cluster.users_of(here.conversation_id) == []
        await here.post(here.alice, "secret")
        await trio.sleep(1)
        assert opened[0].contents(here.conversation_id) == []


async def test_a_session_ahead_of_the_others_is_not_sent_what_it_has(autojump_clock: MockClock) -> None:
    async with two_processes() as (here, there):
        bob = await device(there, here.bob)
        here.bus.is_held = True
        await here.post(here.alice, "one")
        carol = await device(there, here.carol)  # its list has the message
        here.bus.is_held = False
        await here.post(here.alice, "two")
        await trio.sleep(1)
        assert bob.contents(here.conversation_id) == ["one", "two"]
        assert carol.contents(here.conversation_id) == ["two"]


async def test_a_session_that_goes_on_after_an_absence_gets_nothing_twice(autojump_clock: MockClock) -> None:
    """It has more than this process has heard of."""
    async with two_processes() as (here, there):
        bob = await device(there, here.bob)
        here.bus.is_held = True
        await here.post(here.alice, "one")
        last_rev = here.last_rev
        await here.remove(here.carol)
        carol = await device(there, here.carol, {here.conversation_id: last_rev}, "me")
        await here.add(here.carol)
        here.bus.is_held = False
        await here.post(here.alice, "two")
        there.cluster.on_resync("missing batch")
        await trio.sleep(1)
        assert bob.contents(here.conversation_id) == ["one", "two"]
        assert carol.contents(here.conversation_id) == ["two"]


async def test_a_resync_while_a_list_is_looked_up_is_made_good(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list is older than an addition that the bus loses, and the comparison did not know the user yet."""
    async with two_processes() as (here, there):
        (dave,) = await here.new_users(1)
        answer = delay(there, monkeypatch, "memberships", times=1)
        opened: list[Device] = []

        async def open_session() -> None:
            opened.append(await device(there, dave))

        there.start(open_session)
        await settle()
        here.bus.is_held = True
        await here.add(dave)
        there.cluster.on_resync("missing batch")
        await settle()
        answer.set()
        await trio.sleep(1)
        here.bus.is_held = False
        await here.post(here.alice, "welcome")
        await settle()
        assert opened[0].contents(here.conversation_id) == ["welcome"]


async def test_the_index_ends_with_the_sessions(autojump_clock: MockClock) -> None:
    async with two_processes() as (here, there):
        session = await device(there, here.carol)
        assert there.cluster.users_of(here.conversation_id) == [here.carol.id]
        session.leave()
        assert there.cluster.head_of(here.conversation_id) is None


def _encoded(item: CreatedItem) -> bytes:
    data = encode_item(item)
    assert decode_item(data) == item
    return data
