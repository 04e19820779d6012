"""The writer: stored before delivered, batched, in order; no message is lost by a fault of another."""

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.errors import PulseError
from pulse_trio.model import Change, Command, Member, Message, Post, Properties
from pulse_trio.rooms.inbox import MAX_BATCH_CHARS, Submission
from pulse_trio.rooms.senders import WaitingSender
from pulse_trio.rooms.writer import Stored, Writer
from pulse_trio.store.base import NotAMember, Refusal
from tests.support import commands

from .world import FaultyStore, Outcomes, World, a_world, settle


class Outcome:
    """A sender that keeps its outcomes."""

    def __init__(self) -> None:
        self.settlements = 0
        self.refusals: list[tuple[str | type[Refusal], str | None]] = []
        self.refused = trio.Event()

    @property
    def source(self) -> object:
        return self

    def stored(self, changes: Sequence[Change], *, is_news: bool) -> None:
        raise AssertionError("the room says this, not the writer")

    def settled(self) -> None:
        self.settlements += 1

    def refuse(self, error: PulseError | Refusal, client_id: str | None) -> None:
        self.refusals.append((type(error) if isinstance(error, Refusal) else error.code.code, client_id))
        self.refused.set()


class Bench:
    """A writer that releases into a list."""

    def __init__(self, world: World, *, inbox: int = 1_024, batch: int = 256, timeout: float = 10) -> None:
        self.world = world
        self.store: FaultyStore = world.store
        self.released: list[str] = []
        self.seqs: list[int] = []
        self.sender = Outcome()
        self.writer = Writer(
            world.store,
            self._release,
            inbox_messages=inbox,
            batch_messages=batch,
            store_timeout=timeout,
            rand=random.Random(1),
            release_now=self._release_now,
        )

    async def _release(self, stored: Sequence[Stored]) -> None:
        self._keep(stored)
        await trio.lowlevel.checkpoint()

    def _release_now(self, stored: Sequence[Stored]) -> bool:
        self._keep(stored)
        return True

    def _keep(self, stored: Sequence[Stored]) -> None:
        for submission, (message,) in stored:
            assert isinstance(submission, Submission)
            if isinstance(submission.sender, WaitingSender):
                submission.sender.stored((message,), is_news=True)
            if isinstance(message, Member | Properties):
                continue
            assert isinstance(message, Message)
            committed = self.store.stored(message.conversation_id)[message.seq - 1]
            assert message == committed or message.rev < committed.rev
            self.released.append(message.content)
            self.seqs.append(message.seq)

    def message(self, content: str, client_id: str | None = None) -> Post:
        return commands.post(self.world.conversation_id, self.world.alice, content, client_id=client_id)

    async def submit(self, *contents: str) -> None:
        for content in contents:
            await self._submit(content, f"id of {content[:32]}")

    async def _submit(self, content: str, client_id: str) -> None:
        await self.writer.submit(self.message(content, client_id), self.sender, client_id)


async def test_nothing_is_released_before_it_is_committed(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        bench = Bench(world)
        world.start(bench.writer.run)
        gate = bench.store.hold()
        await bench.submit("one")
        await trio.sleep(5)
        assert bench.store.attempts == [["one"]]
        assert bench.released == []
        assert bench.sender.settlements == 0
        gate.set()
        await bench.writer.wait_idle()
        assert bench.released == ["one"]
        assert bench.sender.settlements == 1


async def test_messages_during_a_commit_form_the_next_batch(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        bench = Bench(world, batch=4)
        world.start(bench.writer.run)
        gate = bench.store.hold()
        await bench.submit("a")
        await settle()
        await bench.submit("b", "c", "d", "e", "f", "g")
        gate.set()
        await bench.writer.wait_idle()
        assert bench.store.attempts == [["a"], ["b", "c", "d", "e"], ["f", "g"]]
        assert bench.released == list("abcdefg")
        assert bench.seqs == [1, 2, 3, 4, 5, 6, 7]
        assert bench.sender.settlements == 7


async def test_the_texts_of_a_batch_are_bounded(autojump_clock: MockClock) -> None:
    """So rooms with long messages take turns at the store, and those with short ones do not wait for them."""
    long = ["x" * (MAX_BATCH_CHARS // 2), "y" * (MAX_BATCH_CHARS // 2), "z" * (MAX_BATCH_CHARS + 1)]
    async with a_world() as world:
        bench = Bench(world)
        world.start(bench.writer.run)
        gate = bench.store.hold()
        await bench.submit("a")
        await settle()
        await bench.submit(*long, "b", "c")
        gate.set()
        await bench.writer.wait_idle()
        sizes = [[len(text) for text in batch] for batch in bench.store.attempts]
        assert sizes == [[1], [MAX_BATCH_CHARS // 2] * 2, [MAX_BATCH_CHARS + 1], [1, 1]]
        assert bench.released == ["a", *long, "b", "c"]


async def test_a_resend_within_a_batch_waits_for_the_first_one(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        bench = Bench(world)
        gate = bench.store.hold()
        world.start(bench.writer.run)
        await bench.submit("first")
        await settle()
        for content in ("x", "y", "x", "z", "x"):
            await bench.writer.submit(bench.message(content, f"id of {content}"), bench.sender)
        await bench.writer.submit(bench.message("no id"), bench.sender)
        await bench.writer.submit(bench.message("no id either"), bench.sender)
        gate.set()
        await bench.writer.wait_idle()
        assert bench.store.attempts == [["first"], ["x", "y"], ["x", "z"], ["x", "no id", "no id either"]]
        assert world.stored == ["first", "x", "y", "z", "no id", "no id either"]
        assert bench.sender.settlements == 8


@pytest.mark.parametrize("failure", ["fail", "commit_and_lose", "commit_and_hang", "hang"])
async def test_an_unknown_outcome_is_retried_with_the_same_ids(autojump_clock: MockClock, failure: str) -> None:
    async with a_world() as world:
        bench = Bench(world, timeout=10)
        world.store.answers = [getattr(world.store, failure)]
        world.start(bench.writer.run)
        await bench.submit("a")
        await trio.sleep(0.01)
        if "hang" in failure:
            # The first in the batch is refused at its deadline; later ones are retried.
            await trio.sleep(5)
            await bench.submit("b")
        await bench.writer.wait_idle()
        if failure in {"hang", "commit_and_hang"}:
            assert bench.sender.refusals == [("not_stored", "id of a")]
            assert bench.released == ["b"]
            assert world.stored == (["b"] if failure == "hang" else ["a", "b"])
        else:
            assert bench.sender.refusals == []
            assert bench.released == ["a"]
            assert world.stored == ["a"]


async def test_an_absent_store_refuses_each_message_at_its_own_deadline(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        bench = Bench(world, timeout=10)
        bench.store.usual = bench.store.fail
        world.start(bench.writer.run)
        begin = trio.current_time()
        await bench.submit("early")
        await trio.sleep(6)
        await bench.submit("late")
        assert bench.sender.refusals == []
        await bench.sender.refused.wait()
        assert trio.current_time() - begin == pytest.approx(10, abs=1.2)
        assert bench.sender.refusals == [("not_stored", "id of early")]
        bench.store.usual = bench.store.commit
        await bench.writer.wait_idle()
        assert bench.sender.refusals == [("not_stored", "id of early")]
        assert bench.released == ["late"]
        assert world.stored == ["late"]


async def test_retries_back_off(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        bench = Bench(world, timeout=20)
        bench.store.usual = bench.store.fail
        world.start(bench.writer.run)
        await bench.submit("a")
        await bench.writer.wait_idle()
        assert bench.sender.refusals == [("not_stored", "id of a")]
        assert 15 <= len(bench.store.attempts) <= 60


async def test_a_message_past_its_deadline_still_gets_one_attempt(autojump_clock: MockClock) -> None:
    """Otherwise a conversation whose inbox filled during an outage would refuse messages that it could store now."""
    async with a_world() as world:
        bench = Bench(world, batch=1, timeout=10)
        bench.store.answers = [bench.store.hang]
        world.start(bench.writer.run)
        await bench.submit("a", "b")
        await bench.writer.wait_idle()
        assert bench.sender.refusals == [("not_stored", "id of a")]
        assert bench.released == ["b"]


async def test_a_poison_message_in_a_batch_is_refused_alone(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        bench = Bench(world)
        gate = bench.store.hold()
        world.start(bench.writer.run)
        await bench.submit("first")
        await settle()
        await bench.submit("a", "poison", "b", "poison", "c")
        gate.set()
        await bench.writer.wait_idle()
        assert bench.sender.refusals == [("not_stored", "id of poison")] * 2
        assert bench.released == ["first", "a", "b", "c"]
        assert world.stored == ["first", "a", "b", "c"]
        assert bench.sender.settlements == 6


async def test_a_poison_message_after_a_lost_answer_and_a_lost_answer_after_poison(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        bench = Bench(world)
        gate = bench.store.hold()
        world.start(bench.writer.run)
        await bench.submit("first")
        await settle()
        await bench.submit("a", "poison", "b")
        store = bench.store
        store.answers = [store.commit, store.fail, store.commit_and_lose]
        gate.set()
        await bench.writer.wait_idle()
        assert bench.released == ["first", "a", "b"]
        assert world.stored == ["first", "a", "b"]


async def test_a_non_member_in_a_batch_is_refused_alone(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        bench = Bench(world)
        await world.store.apply([commands.remove(world.conversation_id, world.alice, world.bob)])
        stranger = Outcome()
        outside = commands.post(world.conversation_id, world.bob, "from outside", client_id="s")
        await bench.submit("a")
        await bench.writer.submit(outside, stranger, "s")
        await bench.submit("b")
        world.start(bench.writer.run)
        await bench.writer.wait_idle()
        assert stranger.refusals == [(NotAMember, "s")]
        assert bench.released == ["a", "b"]


async def test_a_full_inbox_makes_submit_wait_and_keeps_the_order(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        bench = Bench(world, inbox=2, batch=1)
        gate = bench.store.hold()
        world.start(bench.writer.run)
        await bench.submit("a")
        await settle()
        await bench.submit("b", "c")
        with trio.move_on_after(1) as scope:
            await bench.submit("given up")
        assert scope.cancelled_caught
        assert bench.writer.unsettled == 3
        gate.set()
        await bench.submit("d")
        await bench.writer.wait_idle()
        assert world.stored == ["a", "b", "c", "d"]


# --- revisions ---


class Batches:
    """A writer that is still storing a first message; keeps the batches that follow."""

    def __init__(self, world: World, bench: Bench, gate: trio.Event, sent: list[Message]) -> None:
        self.world = world
        self.bench = bench
        self.sent = sent
        self._gate = gate

    async def submit(self, source: Outcome, *given: str | int) -> None:
        """Submits messages of a source by their texts, and edits by the numbers of messages."""
        for each in given:
            key, alice = self.world.conversation_id, self.world.alice
            command = (
                commands.post(key, alice, each)
                if isinstance(each, str)
                else commands.edit(self.sent[each], alice, f"{each}")
            )
            await self.bench.writer.submit(command, source)

    async def tried(self) -> list[str]:
        """Lets the writer go on; returns the contents of each batch after the first message."""
        batches: list[list[str]] = []

        async def commit(batch: Sequence[Command]) -> Outcomes:
            batches.append([getattr(command, "content", type(command).__name__) for command in batch])
            return await self.bench.store.commit(batch)

        self.bench.store.usual = commit
        self._gate.set()
        await self.bench.writer.wait_idle()
        return [" ".join(batch) for batch in batches]


@asynccontextmanager
async def busy_writer(messages: int, batch: int = 256) -> AsyncIterator[Batches]:
    async with a_world() as world:
        key = world.conversation_id
        sent = [await commands.changed_message(world.store, commands.post(key, world.alice)) for _ in range(messages)]
        bench = Bench(world, batch=batch)
        gate = bench.store.hold()
        world.start(bench.writer.run)
        await bench.submit("first")
        await settle()
        yield Batches(world, bench, gate, sent)


async def test_revisions_during_a_commit_form_one_batch(autojump_clock: MockClock) -> None:
    async with busy_writer(4) as writer:
        await writer.submit(Outcome(), 0, 1, 2, 3, 0, 1)
        gone = commands.delete(writer.sent[2], writer.world.alice)
        await writer.bench.writer.submit(gone, Outcome())
        assert await writer.tried() == ["0 1 2 3 0 1 Delete"]
        assert writer.bench.released == ["first", "0", "1", "2", "3", "0", "1", ""]


async def test_a_batch_revises_a_message_a_bounded_number_of_times(autojump_clock: MockClock) -> None:
    async with busy_writer(2) as writer:
        await writer.submit(Outcome(), *[0] * 10)
        await writer.submit(Outcome(), 1, 0)
        assert await writer.tried() == ["0 0 0 0 0 0 0 0 1", "0 0 0"]


async def test_messages_overtake_revisions_of_other_sources_only(autojump_clock: MockClock) -> None:
    async with busy_writer(1) as writer:
        await writer.submit(Outcome(), "a", 0, "b", 0, "c")
        await writer.submit(Outcome(), "x", "y", 0, "z")
        assert await writer.tried() == ["a x y", "0 0", "b z", "0", "c"]


async def test_a_message_waits_for_one_batch_however_the_kinds_of_a_flood_alternate(autojump_clock: MockClock) -> None:
    async with busy_writer(1) as writer:
        await writer.submit(Outcome(), *["flood", 0] * 50)
        await writer.submit(Outcome(), "victim")
        assert (await writer.tried())[0] == "flood victim"


async def test_kinds_have_turns_while_one_keeps_coming(autojump_clock: MockClock) -> None:
    """Every source edits one message, of which a batch takes a few revisions; a message of another waits for one."""
    async with busy_writer(1, batch=64) as writer:
        for _ in range(6):
            await writer.submit(Outcome(), *[0] * 8)
        await writer.submit(Outcome(), "victim")
        assert (await writer.tried())[:3] == [" ".join("0" * 8), "victim", " ".join("0" * 8)]


@pytest.mark.parametrize("kind", ["SetProperties", "RemoveMember"])
async def test_a_message_waits_for_one_change_however_many_wait(autojump_clock: MockClock, kind: str) -> None:
    """One member may request hundreds of them, and each may take a tenth of a second."""
    async with busy_writer(1) as writer:
        world = writer.world
        key = world.conversation_id
        for number in range(5):
            change = (
                commands.remove(key, world.alice, world.bob)
                if kind == "RemoveMember"
                else commands.set_properties(key, world.alice, name=f"{number}")
            )
            await writer.bench.writer.submit(change, WaitingSender())
        await writer.submit(Outcome(), "x", 0, "y")
        assert await writer.tried() == [kind, "x", kind, "0", kind, "y", kind, kind]


async def test_nothing_overtakes_what_the_same_source_has_changed(autojump_clock: MockClock) -> None:
    async with busy_writer(1) as writer:
        world = writer.world
        both = WaitingSender()
        for number in range(3):
            change = commands.set_properties(world.conversation_id, world.alice, name=f"{number}")
            await writer.bench.writer.submit(change, both)
        await writer.bench.writer.submit(commands.post(world.conversation_id, world.alice, "own"), both)
        await writer.submit(Outcome(), "other")
        assert await writer.tried() == ["SetProperties", "other", "SetProperties", "SetProperties", "own"]


async def test_nothing_overtakes_a_change_of_members(autojump_clock: MockClock) -> None:
    async with busy_writer(1) as writer:
        world = writer.world
        await writer.submit(Outcome(), "a", 0)
        await writer.bench.writer.submit(commands.leave(world.conversation_id, world.bob), WaitingSender())
        await writer.submit(Outcome(), "x")
        assert await writer.tried() == ["a", "0", "Leave", "x"]


async def test_skipped_commands_are_bounded_and_settled_when_the_writer_ends(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        message = await commands.changed_message(world.store, commands.post(world.conversation_id, world.alice))
        bench = Bench(world, inbox=6, batch=4)
        source = Outcome()
        bench.store.hold()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.writer.run)
            for number in range(4):
                await bench.submit(f"{number}")
                await bench.writer.submit(commands.edit(message, world.alice, f"{number}"), source)
            await settle()
            assert bench.writer.unsettled == 8
            nursery.cancel_scope.cancel()
        assert bench.writer.unsettled == 0
        assert bench.sender.settlements + source.settlements == 8


@pytest.mark.parametrize("inbox", [1_024, 2], ids=["room in the inbox", "a full inbox"])
async def test_a_removal_does_not_wait_behind_what_others_have_sent(inbox: int, autojump_clock: MockClock) -> None:
    """Otherwise the commands of a member who sends without pause delay the removal of that member."""
    async with a_world() as world:
        bench = Bench(world, inbox=inbox, batch=1)
        flooder, owner = Outcome(), WaitingSender()
        gate = bench.store.hold()
        world.start(bench.writer.run)
        for number in range(4):
            flood = commands.post(world.conversation_id, world.bob, f"{number}")
            world.start(bench.writer.submit, flood, flooder, f"{number}")
            await settle()
        await bench.writer.submit(commands.remove(world.conversation_id, world.alice, world.bob), owner)
        gate.set()
        await bench.writer.wait_idle()
        assert world.stored == ["0"]
        assert flooder.refusals == [(NotAMember, "1"), (NotAMember, "2"), (NotAMember, "3")]
        (removal,) = await owner.wait()
        assert removal.rev == 2
        assert flooder.settlements == 4


@pytest.mark.parametrize("is_closed", [True, False], ids=["closed", "cancelled"])
async def test_a_removal_that_waits_is_settled_when_the_writer_ends(is_closed: bool, autojump_clock: MockClock) -> None:
    async with a_world() as world:
        bench = Bench(world, batch=1)
        owner, late = WaitingSender(), WaitingSender()
        removal = commands.remove(world.conversation_id, world.alice, world.bob)
        gate = bench.store.hold()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(bench.writer.run)
                await bench.submit("a")
                await settle()
                await bench.submit("b")
                await bench.writer.submit(removal, owner)
                if is_closed:
                    bench.writer.close()
                    with pytest.raises(trio.ClosedResourceError):
                        await bench.writer.submit(removal, late)
                    gate.set()
                else:
                    scope.cancel()
        if is_closed:
            assert len(await owner.wait()) == 1
        else:
            with pytest.raises(PulseError):
                await owner.wait()
        assert bench.writer.unsettled == 0


async def test_close_stores_what_was_submitted_and_ends(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        bench = Bench(world)
        await bench.submit("a", "b")
        bench.writer.close()
        await bench.writer.run()
        assert bench.released == ["a", "b"]
        assert bench.writer.unsettled == 0


async def test_waiting_submitters_fail_when_the_writer_dies(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        bench = Bench(world, inbox=1)
        gate = bench.store.hold()
        bench.store.answers = [bench.store.crash]

        async def run() -> None:
            with pytest.raises(RuntimeError, match="a fault in the store"):
                await bench.writer.run()

        async def submit() -> None:
            await bench.submit("c")
            ended.set()

        ended = trio.Event()
        world.start(run)
        await bench.submit("a")
        await settle()
        await bench.submit("b")
        world.start(submit)
        await settle()
        gate.set()
        with trio.fail_after(5):
            await ended.wait()
            await bench.writer.wait_idle()
        assert bench.sender.settlements == 3
        assert bench.released == []
        with pytest.raises(trio.BrokenResourceError):
            await bench.submit("d")


async def test_wait_idle_waits_for_later_submissions(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        bench = Bench(world)
        world.start(bench.writer.run)
        await bench.writer.wait_idle()
        gate = bench.store.hold()
        await bench.submit("a")
        idle = trio.Event()

        async def wait() -> None:
            await bench.writer.wait_idle()
            idle.set()

        world.start(wait)
        await settle()
        await bench.submit("b")
        assert not idle.is_set()
        gate.set()
        await idle.wait()
        assert bench.released == ["a", "b"]


async def test_a_store_answer_of_the_wrong_length_is_a_fault(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        bench = Bench(world)

        async def short(batch: object) -> list[object]:
            await trio.lowlevel.checkpoint()
            return []

        bench.store.answers = [short]  # type: ignore[list-item]
        await bench.submit("a")
        with pytest.raises(ValueError, match="shorter"):
            await bench.writer.run()
        assert bench.released == []
