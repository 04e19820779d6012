"""The user's own sequence: memberships and read positions of one user, on all their sessions with `me`, in order."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.errors import PulseError
from pulse_trio.model import MyMembership
from pulse_trio.protocol import CloseCode, SendResume
from pulse_trio.rooms.user_feeds import MAX_READS_OF_USER, PAGE_CHANGES
from pulse_trio.store.base import StoreUnavailable
from tests.support import commands

from .world import Device, World, a_world, delay, device, settle

ME = "me"


def mine(someone: Device) -> list[tuple[str, bool, int, int, int]]:
    """Returns the membership frames of a session: conversation, is_member, read_seq, me_rev and prev_me_rev."""
    fields = ("conversation_id", "is_member", "read_seq", "me_rev", "prev_me_rev")
    return [tuple(frame[field] for field in fields) for frame in someone.of_type("membership")]  # type: ignore[misc]


def me_rev(world: World) -> int:
    """Returns the number of the last change of bob's own sequence."""
    return world.store._accounts[world.bob.id].last_rev


def count_reads(world: World, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records the revs after which the sequences are read from the store."""
    reads: list[int] = []
    user_changes = world.store.user_changes

    async def counted(user_id: UUID, *, after_rev: int, limit: int) -> Sequence[MyMembership]:
        reads.append(after_rev)
        return await user_changes(user_id, after_rev=after_rev, limit=limit)

    monkeypatch.setattr(world.store, "user_changes", counted)
    return reads


async def read(world: World, seq: int) -> None:
    await world.hub.read_positions.mark_read(world.conversation_id, world.bob.id, seq)


async def test_memberships_and_read_positions_come_in_order(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        reads = count_reads(world, monkeypatch)
        key, other = str(world.conversation_id), world.ids()
        bob, phone = await device(world, world.bob, None, ME), await device(world, world.bob, None, ME)
        old, alice = await device(world, world.bob), await device(world, world.alice, None, ME)
        await settle()
        assert bob.of_type("session")[0]["me_rev"] == 1
        await alice.send(world.conversation_id, "one")
        await alice.send(world.conversation_id, "two")
        await settle()
        await phone.read(world.conversation_id, 1)
        await trio.sleep(1)
        await read(world, 2)
        await world.remove(world.bob)
        await alice.send(world.conversation_id, "three")
        await settle()
        await world.add(world.bob)
        await settle()
        expected = [(key, True, 1, 2, 1), (key, True, 2, 3, 2), (key, False, 0, 4, 3), (key, True, 3, 5, 4)]
        assert mine(bob) == mine(phone) == expected
        assert mine(alice) == mine(old) == []
        assert bob.of_type("conversation_added", "conversation_removed") == []
        assert len(old.of_type("conversation_added", "conversation_removed")) == 2
        await world.new_conversation(other)
        await world.hub.members.notify_created(other, [world.bob.id], ())
        await settle()
        assert mine(bob)[4:] == [(str(other), True, 0, 6, 5)]
        assert reads == [5], "only what came without its number was read from the store"


async def test_a_gap_is_read_from_the_store(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes whose answers were lost come before the next one, each membership once."""
    async with a_world() as world:
        key, other = world.conversation_id, world.ids()
        bob, alice = await device(world, world.bob, None, ME), await device(world, world.alice)
        await world.new_conversation(other)
        await alice.send(key, "one")
        await settle()
        for make in (commands.remove, commands.add, commands.remove):
            await world.store.commit([make(other, world.alice, world.bob)])
        await read(world, 1)
        await settle()
        assert mine(bob) == [(str(other), False, 0, 5, 1), (str(key), True, 1, 6, 5)]


async def test_changes_whose_answers_come_in_another_order_are_sent_in_their_order(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key, late = world.conversation_id, trio.Event()
        bob, alice = await device(world, world.bob, None, ME), await device(world, world.alice)
        other = world.ids()
        await world.new_conversation(other)
        await world.hub.members.notify_created(other, [world.bob.id], ())
        await alice.send(key, "one")
        await settle()
        world.store.answers = [world.store.commit_and_wait(late)]
        world.start(world.remove, world.bob, other)
        await settle()
        await read(world, 1)
        await settle()
        late.set()
        await settle()
        assert mine(bob)[1:] == [(str(other), False, 0, 3, 2), (str(key), True, 1, 4, 3)]


async def test_a_resume_sends_what_was_missed_and_then_live_ones(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        keys = [world.ids() for _ in range(PAGE_CHANGES + 10)]
        for key in keys:
            await world.new_conversation(key)
        bob = await Device(world, world.bob, ME).open({}, me=5)
        for number in range(20):
            await world.add(*await world.new_users(1))
            await settle()  # a frame of the conversation that is being sent at a removal would end the session
            await (world.remove if number % 2 == 0 else world.add)(world.bob)
            await settle()
        found = mine(bob)
        last = me_rev(world)
        assert bob.of_type("session")[0]["me_rev"] == len(keys) + 1
        assert [number for *_, number, _ in found] == list(range(6, last + 1))
        assert [before for *_, before in found] == list(range(5, last))
        assert len(bob.of_type("error")) == 0


async def test_a_user_with_many_sessions_does_not_delay_the_sequences_of_others(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        asked: list[UUID] = []
        gate, user_changes = trio.Event(), world.store.user_changes

        async def slow(user_id: UUID, *, after_rev: int, limit: int) -> Sequence[MyMembership]:
            asked.append(user_id)
            await gate.wait()
            return await user_changes(user_id, after_rev=after_rev, limit=limit)

        monkeypatch.setattr(world.store, "user_changes", slow)
        many = [await Device(world, world.bob, ME).open({}, me=0) for _ in range(20)]
        await settle()
        alice = await Device(world, world.alice, ME).open({}, me=0)
        await settle()
        assert asked == [world.bob.id] * MAX_READS_OF_USER + [world.alice.id]
        gate.set()
        await settle()
        assert all(len(mine(each)) == 1 for each in (*many, alice))


@pytest.mark.parametrize(("me", "epoch"), [(99, None), (1, "another"), (0, "another")])
async def test_a_resume_beyond_the_end_or_of_another_epoch_is_refused(
    me: int, epoch: str | None, autojump_clock: MockClock
) -> None:
    async with a_world() as world:
        key = world.conversation_id
        bob = await Device(world, world.bob, ME).open({key: 0}, epoch=epoch, me=me)
        await settle()
        refused = [(f["code"], f.get("field"), f.get("conversation_id")) for f in bob.of_type("error")]
        assert ("cannot_resume", "me", None) in refused
        assert len(refused) == (1 if epoch is None else 2)
        assert mine(bob) == []
        await world.remove(world.bob)
        await settle()
        assert mine(bob) == [(str(key), False, 0, 2, 1)], "everything else goes on"


@pytest.mark.parametrize("how", ["handshake", "resume"])
@pytest.mark.parametrize("me", [None, 1])
async def test_a_change_while_the_session_comes_is_not_lost(
    how: str, me: int | None, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has answered with which number the sequence ends, and a change follows before the session is known."""
    async with a_world() as world:
        key = world.conversation_id
        await world.join(world.alice)
        bob = Device(world, world.bob, *([ME] if how == "handshake" else []))
        if how == "handshake":
            gate = delay(world, monkeypatch, "memberships", times=1)
            world.start(lambda: bob.open({key: 0}, me=me))
        else:
            await bob.open()
            gate = delay(world, monkeypatch, "memberships", times=1)
            world.start(world.hub.lobby.resume, bob.session, SendResume(revs={key: 0}, me=me, features=[ME]))
        await settle()
        await world.remove(world.bob)
        await world.add(world.bob)
        gate.set()
        await settle()
        first = bob.of_type("session" if how == "handshake" else "features")[0]
        numbers = [number for *_, number, _ in mine(bob)]
        assert first["me_rev"] in {1, 3}
        assert numbers == ([] if first["me_rev"] == 3 and me is None else [3])
        await world.remove(world.bob)
        await settle()
        assert mine(bob)[-1] == (str(key), False, 0, 4, 3)


async def test_a_session_that_gives_up_me_in_its_resume_is_sent_no_membership(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.join(world.alice)
        bob = await Device(world, world.bob, ME).open()
        await world.remove(world.bob)
        await world.add(world.bob)
        await world.hub.lobby.resume(bob.session, SendResume(revs={}, features=[], me=0))
        await settle()
        await world.remove(world.bob)
        await settle()
        assert mine(bob) == []
        assert bob.of_type("features")[0] == {"type": "features", "features": []}
        kinds = [frame["type"] for frame in bob.of_type("conversation_added", "conversation_removed")]
        assert kinds == ["conversation_removed", "conversation_added", "conversation_removed"]
        assert len(world.hub.user_feeds) == 0


async def test_a_store_that_fails_delays_the_sequence_and_loses_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(store_timeout=2.0) as world:
        key = world.conversation_id
        live, alice = await device(world, world.bob, None, ME), await device(world, world.alice)
        await alice.send(key, "one")
        await settle()
        user_changes, tries = world.store.user_changes, 0

        async def away(*arguments: Any, **options: Any) -> Any:
            nonlocal tries
            tries += 1
            if tries < 6:
                if tries % 2:
                    await trio.sleep_forever()
                raise StoreUnavailable
            return await user_changes(*arguments, **options)

        monkeypatch.setattr(world.store, "user_changes", away)
        late = await Device(world, world.bob, ME).open({}, me=0)
        await world.store.commit([commands.remove(key, world.alice, world.bob)])
        await world.add(world.bob)
        await world.remove(world.bob)
        await settle()
        assert mine(live) == mine(late) == []
        await trio.sleep(60)
        assert mine(live) == [(str(key), False, 0, 4, 1)]
        assert mine(late) == [(str(key), False, 0, 4, 0)]


@pytest.mark.parametrize("is_rest", [True, False], ids=["REST", "frame"])
async def test_a_read_position_with_a_lost_answer_is_found(
    is_rest: bool, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(store_timeout=2.0) as world:
        key = world.conversation_id
        bob, phone = await device(world, world.bob, None, ME), await device(world, world.bob, None, ME)
        alice = await device(world, world.alice)
        await alice.send(key, "one")
        await settle()
        mark_read = world.store.mark_read

        async def lose(marks: Any) -> Any:
            await mark_read(marks)
            await trio.sleep_forever()

        monkeypatch.setattr(world.store, "mark_read", lose)
        if is_rest:
            with pytest.raises(StoreUnavailable):
                await read(world, 1)
        else:
            await phone.read(key, 1)
        await trio.sleep(10)
        assert mine(bob) == mine(phone) == [(str(key), True, 1, 2, 1)]


@pytest.mark.parametrize("me", [None, 0])
async def test_a_number_whose_conversation_is_gone_is_not_waited_for(
    me: int | None, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator has deleted a conversation: the sequence has a number that no membership has."""
    async with a_world() as world:
        reads = count_reads(world, monkeypatch)
        first = await device(world, world.bob, None, ME)
        other = world.ids()
        await world.new_conversation(other)
        del world.store._conversations[other]
        second = await Device(world, world.bob, ME).open({}, me=me)
        await trio.sleep(60)
        assert len(reads) <= 2
        assert mine(first) == []
        await world.remove(world.bob)
        await settle()
        for someone in (first, second):
            assert mine(someone)[-1][:4] == (str(world.conversation_id), False, 0, 3)


async def test_a_fault_of_a_read_ends_the_sessions_that_need_it_alone(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        bob, alice = await device(world, world.bob, None, ME), await device(world, world.alice, None, ME)

        async def broken(*_arguments: Any, **_options: Any) -> Any:
            await trio.lowlevel.checkpoint()
            raise RuntimeError("a fault in the store")

        with monkeypatch.context() as patch:
            patch.setattr(world.store, "user_changes", broken)
            world.hub.user_feeds.read(world.bob.id)
            await settle()
        assert bob.transport.closed is not None
        assert bob.transport.closed[0] == CloseCode.INTERNAL_ERROR
        again = await Device(world, world.bob, ME).open({}, me=1)
        await world.remove(world.bob)
        await settle()
        assert len(mine(again)) == 1
        assert alice.transport.closed is None


async def test_nothing_is_kept_for_users_without_sessions(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions that end: at once, while they are looked up, while a read of the store waits, and when they resume."""
    async with a_world(store_timeout=2.0) as world:
        feeds = world.hub.user_feeds
        await world.join(world.alice)
        bob = await device(world, world.bob, None, ME)
        assert len(feeds) == 1
        bob.leave()
        assert len(feeds) == 0

        with monkeypatch.context() as patch:
            patch.setattr(world.store, "memberships", fail)
            with pytest.raises(StoreUnavailable):
                await Device(world, world.bob, ME).open()
        assert len(feeds) == 0

        bob = await device(world, world.bob, None, ME)
        with monkeypatch.context() as patch:
            patch.setattr(world.store, "user_changes", fail)
            feeds.read(world.bob.id)
            await trio.sleep(1)
            bob.leave()
            assert feeds._nursery is not None
            await trio.sleep(10)
            assert len(feeds._nursery.child_tasks) == 0, "nobody waits for the answer"

        bob = await Device(world, world.bob).open()
        gate = delay(world, monkeypatch, "memberships", times=1)
        resume = SendResume(revs={world.conversation_id: 0}, features=[ME], me=0)
        world.start(world.hub.lobby.resume, bob.session, resume)
        await settle()
        bob.leave()
        gate.set()
        await settle()
        await world.hub.lobby.resume(bob.session, resume)  # its frame was on the way when the client left
        await trio.sleep(10)
        assert len(feeds) == 0
        assert world.hub.get_active_users(world.conversation_id) == {str(world.alice.id)}


async def fail(*_arguments: Any, **_options: Any) -> Any:
    await trio.lowlevel.checkpoint()
    raise StoreUnavailable


async def test_a_user_added_again_before_the_client_knew_of_the_removal_resumes(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both changes are one in the own sequence: the client keeps its copy, and needs what lies between."""
    async with a_world() as world:
        key = world.conversation_id
        alice, bob = await device(world, world.alice), await device(world, world.bob, None, ME)
        await alice.send(key, "one")
        await settle()
        gate = delay(world, monkeypatch, "user_changes", times=1)
        world.hub.user_feeds.read(world.bob.id)  # what follows must wait for it
        await settle()
        await world.remove(world.bob)
        await alice.send(key, "between")
        await settle()
        await world.add(world.bob)
        await alice.send(key, "two")
        await settle()
        gate.set()
        await settle()
        assert mine(bob) == [(str(key), True, 2, 3, 1)]
        revs = [(frame["rev"], frame["prev_rev"]) for frame in bob.of_type("message")]
        assert bob.contents(key) == ["one", "between", "two"]
        assert revs == [(1, 0), (3, 1), (5, 3)]
        assert bob.session.ended_subscriptions == {}


@pytest.mark.parametrize("count", [1, 3])
async def test_a_user_added_again_gets_what_the_removal_dropped_from_the_outbox(
    count: int, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that waited at the removal was sent: the client goes on before it, not where the outbox ended."""
    async with a_world() as world:
        key, other = world.conversation_id, world.ids()
        await world.new_conversation(other)
        alice, bob = await device(world, world.alice), await device(world, world.bob, None, ME, "members")
        await alice.send(key, "one")
        await settle()
        gate = delay(world, monkeypatch, "user_changes", times=1)
        world.hub.user_feeds.read(world.bob.id)  # what follows must wait for it
        await settle()
        bob.transport.stall = trio.Event()
        await alice.send(other, "this is on its way while the others wait")
        await settle()
        for number in range(count):
            await alice.send(key, f"waits {number}")
        await settle()
        for number in range(2):
            await world.remove(world.bob)
            await alice.send(key, f"between {number}")
            await world.add(world.bob)
        await settle()
        await alice.send(key, "two")
        await settle()
        assert bob.transport.closed is None
        bob.transport.stall.set()
        await settle()
        gate.set()
        await settle()
        await alice.send(key, "live")
        await settle()
        assert mine(bob)[:1] == [(str(key), True, 3 + count, 6, 2)]
        waited = [f"waits {number}" for number in range(count)]
        assert bob.contents(key) == ["one", *waited, "between 0", "between 1", "two", "live"]
        changes = [frame for frame in bob.of_type("message", "member") if frame["conversation_id"] == str(key)]
        assert [frame["prev_rev"] for frame in changes] == [0, *(frame["rev"] for frame in changes[:-1])]
        assert bob.session.ended_subscriptions == {}


async def test_a_resend_is_answered_after_what_a_removal_dropped(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        key, other = world.conversation_id, world.ids()
        await world.new_conversation(other)
        alice, bob = await device(world, world.alice), await device(world, world.bob, None, ME)
        await bob.send(key, "sent", "b-1")
        await settle()
        gate = delay(world, monkeypatch, "user_changes", times=1)
        world.hub.user_feeds.read(world.bob.id)
        await settle()
        bob.transport.stall = trio.Event()
        await alice.send(other, "this is on its way while the others wait")
        await settle()
        await alice.send(key, "waits")
        await bob.send(key, "waits, too", "b-2")
        await settle()
        await world.remove(world.bob)
        await world.add(world.bob)
        await bob.send(key, "sent", "b-1")
        await bob.send(key, "waits, too", "b-2")
        await settle()
        bob.transport.stall.set()
        gate.set()
        await settle()
        assert bob.contents(key) == ["sent", "waits", "waits, too", "sent", "waits, too"]
        assert bob.transport.closed is None


async def test_a_resume_that_finds_the_user_removed_goes_on_where_the_client_says(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its session has opened at a later rev, and saw the removal: what the client misses before that counts."""
    async with a_world() as world:
        key = world.conversation_id
        alice = await device(world, world.alice)
        await alice.send(key, "one")
        await alice.send(key, "two")
        await settle()
        bob = await Device(world, world.bob, ME).open()
        await world.remove(world.bob)
        await alice.send(key, "between")
        await settle()
        gate = delay(world, monkeypatch, "user_changes", times=1, is_unread=True)
        await world.hub.lobby.resume(bob.session, SendResume(revs={key: 1}, me=1))
        await settle()
        await world.add(world.bob)
        await alice.send(key, "three")
        await settle()
        gate.set()
        await settle()
        assert [is_member for _, is_member, *_ in mine(bob)] == [True]
        assert bob.contents(key) == ["two", "between", "three"]


async def test_a_user_added_again_after_a_resume_that_found_them_removed_resumes(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key = world.conversation_id
        alice = await device(world, world.alice)
        await alice.send(key, "one")
        await settle()
        await world.remove(world.bob)
        await alice.send(key, "between")
        await settle()
        bob = await Device(world, world.bob, ME).open()
        late = trio.Event()
        world.store.answers = [world.store.commit_and_wait(late)]
        await world.hub.lobby.resume(bob.session, SendResume(revs={key: 1}, me=1))
        world.start(world.add, world.bob)
        await settle()
        late.set()
        await settle()
        known = [is_member for _, is_member, *_ in mine(bob)]
        assert known in ([False, True], [True])
        if known == [True]:
            assert bob.contents(key) == ["between"]


async def test_a_refused_request_about_memberships_changes_nothing(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        bob = await device(world, world.bob, None, ME)
        with pytest.raises(PulseError):
            await read(world, 5)
        await world.add(world.bob)
        await settle()
        assert mine(bob) == []
