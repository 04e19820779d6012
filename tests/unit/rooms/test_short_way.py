"""The short way of new messages: the writer's task sleeps while all goes well, and nothing is released wrongly."""

from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.model import Post
from pulse_trio.rooms.senders import WaitingSender
from pulse_trio.rooms.writer import Stored
from pulse_trio.store.base import Handover, Outcome, StoreUnavailable
from tests.support import commands

from .test_writer import Bench
from .test_writer import Outcome as Answered
from .world import FakeTransport, FaultyStore, World, a_world, settle


class HeldStore:
    """Keeps the handovers of a store: the test takes and answers them."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = world.store
        self.handed: list[Handover[Post]] = []
        monkeypatch.setattr(world.store, "apply_soon", self._apply_soon)

    def _apply_soon(self, handover: Handover[Post]) -> bool:
        self.handed.append(handover)
        return True

    def take(self, number: int = -1) -> list[str]:
        """Takes a handover; returns the contents of its messages."""
        self.posts = self.handed[number].take()
        return [post.content for post in self.posts]

    async def commit(self) -> list[Outcome]:
        """Commits what was taken."""
        return await self.store.commit(self.posts)


class Steps(trio.abc.Instrument):
    """Counts the steps of the writers' tasks."""

    def __init__(self) -> None:
        self.count = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name.startswith(("writer ", "pulse_trio.rooms.writer"))


async def test_messages_do_not_wake_the_task(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FaultyStore, "has_short_way", True)
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        await settle()
        steps = Steps()
        trio.lowlevel.add_instrument(steps)
        for number in range(5):
            await alice.send(f"{number}a")
            await alice.send(f"{number}b")
            await settle()
        assert steps.count == 0
        assert bob.contents == [f"{n}{ab}" for n in range(5) for ab in "ab"]
        await world.remove(world.carol)
        assert steps.count > 0, "other commands are the task's"
        trio.lowlevel.remove_instrument(steps)


async def test_a_batch_has_what_came_until_the_store_took_it(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        held, bench = HeldStore(world, monkeypatch), Bench(world)
        world.start(bench.writer.run)
        await settle()
        await bench.submit("a", "b")
        assert len(held.handed) == 1
        assert held.take() == ["a", "b"]
        await bench.submit("c")
        assert len(held.handed) == 1, "the next batch waits for this one"
        held.handed[0].on_answer(await held.commit())
        assert bench.released == ["a", "b"]
        assert held.take() == ["c"]
        held.handed[1].on_answer(await held.commit())
        await bench.writer.wait_idle()
        assert bench.released == ["a", "b", "c"]
        assert bench.sender.settlements == 3


async def test_an_answer_after_the_end_has_no_effect(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        held, bench = HeldStore(world, monkeypatch), Bench(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.writer.run)
            await settle()
            await bench.submit("a")
            assert held.take() == ["a"]
            await bench.submit("b")
            nursery.cancel_scope.cancel()
        assert bench.writer.unsettled == 0
        assert bench.sender.settlements == 2
        assert bench.sender.refusals == [("not_stored", "id of b")]
        held.handed[0].on_answer(await held.commit())
        assert bench.released == []
        assert bench.sender.settlements == 2
        assert len(held.handed) == 1


async def test_the_store_takes_nothing_after_the_end(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        held, bench = HeldStore(world, monkeypatch), Bench(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.writer.run)
            await settle()
            await bench.submit("a")
            nursery.cancel_scope.cancel()
        assert bench.sender.refusals == [("not_stored", "id of a")]
        assert held.take() == []


async def test_a_removal_comes_before_a_batch_that_is_not_taken(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        held, bench = HeldStore(world, monkeypatch), Bench(world)
        world.start(bench.writer.run)
        await settle()
        await bench.writer.submit(commands.post(world.conversation_id, world.bob, "late"), bench.sender, "late")
        owner = WaitingSender()
        await bench.writer.submit(commands.remove(world.conversation_id, world.alice, world.bob), owner)
        assert held.take() == [], "the task is woken for the removal"
        await owner.wait()
        assert held.take() == ["late"]
        held.handed[1].on_answer(await held.commit())
        await bench.writer.wait_idle()
        assert world.stored == []
        assert len(bench.sender.refusals) == 1


@pytest.mark.parametrize("is_taken", [True, False], ids=["taken", "not taken"])
async def test_a_batch_without_an_answer_is_retried_until_its_deadline(
    is_taken: bool, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        held, bench = HeldStore(world, monkeypatch), Bench(world, timeout=10)
        unknown: list[float] = []
        bench.writer._on_unknown_outcome = lambda: unknown.append(trio.current_time())
        world.start(bench.writer.run)
        await settle()
        await bench.submit("early")
        assert held.handed[0].deadline == trio.current_time() + 10
        await trio.sleep(6)
        await bench.submit("late")
        if is_taken:
            assert held.take() == ["early", "late"]
        await trio.sleep(4)
        held.handed[0].on_answer(StoreUnavailable("the store does not answer in time"))
        await bench.writer.wait_idle()
        assert bench.sender.refusals == [("not_stored", "id of early")]
        assert unknown == [10.0], "it may be committed later: the feed looks for it"
        assert bench.released == world.stored == ["late"]
        assert bench.sender.settlements == 2


async def test_a_fault_in_a_release_ends_its_writer_alone(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(stored: Sequence[Stored]) -> bool:
        raise RuntimeError("a fault in the feed")

    async with a_world() as world:
        held, bench = HeldStore(world, monkeypatch), Bench(world)
        bench.writer._release_now = crash
        with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="a fault in the feed")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.writer.run)
                await settle()
                await bench.submit("a")
                held.take()
                await bench.submit("b")
                held.handed[0].on_answer(await held.commit())  # a task of the store: it goes on
        assert bench.writer.unsettled == 0
        assert bench.sender.settlements == 2


async def test_a_fault_in_the_choice_of_a_batch_ends_its_writer_alone(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Faulty(Answered):
        @property
        def source(self) -> object:
            raise RuntimeError("a fault in the sender")

    async with a_world() as world:
        held, bench = HeldStore(world, monkeypatch), Bench(world)
        bench.sender = Faulty()
        with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="a fault in the sender")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.writer.run)
                await settle()
                await bench.submit("a", "b")
                assert held.take() == []


async def test_a_writer_that_is_closed_stores_what_is_under_way(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        held, bench = HeldStore(world, monkeypatch), Bench(world)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.writer.run)
            await settle()
            await bench.submit("a")
            held.take()
            await bench.submit("b")
            bench.writer.close()
            await settle()
            held.handed[0].on_answer(await held.commit())
            held.take()
            held.handed[1].on_answer(await held.commit())
        assert bench.released == ["a", "b"]
        with pytest.raises(trio.ClosedResourceError):
            await bench.writer.submit(bench.message("c"), bench.sender)
        removal = commands.remove(world.conversation_id, world.alice, world.bob)
        with pytest.raises(trio.ClosedResourceError):
            await bench.writer.submit(removal, bench.sender)


async def test_a_room_that_fails_on_the_short_way_is_opened_again(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients get what was committed when they come back."""
    monkeypatch.setattr(FaultyStore, "has_short_way", True)
    monkeypatch.setattr(FakeTransport, "has_short_way", True)
    async with a_world() as world:
        alice = await world.join(world.alice)
        await settle()
        write_nowait = FakeTransport.write_nowait

        def crash(self: FakeTransport, data: bytes) -> int:
            monkeypatch.setattr(FakeTransport, "write_nowait", write_nowait)
            raise RuntimeError("a fault in the transport")

        alice.subscription.connection._write_nowait = crash.__get__(alice.transport)
        await alice.send("hello", "1")
        await alice.ended.wait()
        assert alice.transport.closed is not None
        assert alice.transport.closed[0] == 1011
        again = await world.join(world.alice, after_rev=0)
        await settle()
        assert again.contents == ["hello"]
        await again.send("more", "2")
        await settle()
        assert again.contents == ["hello", "more"]
