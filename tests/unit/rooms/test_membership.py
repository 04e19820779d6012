"""Rooms and sessions while members change: the later change by rev wins, in whatever order the answers come."""

from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.errors import PulseError
from pulse_trio.model import Command, User
from pulse_trio.protocol import SendResume
from pulse_trio.rooms.member_updates import MAX_RECHECKS, ForeignConversation
from pulse_trio.rooms.registry import MAX_OPENING_OF_USER
from pulse_trio.store.base import Head, NotAMember, StoreUnavailable
from tests.support import commands

from .world import Device, Outcomes, World, a_world, delay, device, settle

REMOVED = (4403, "removed from the conversation")


async def commit_addition(world: World, user: User | None = None) -> None:
    """Adds bob, or another user, in the store alone: the answer to a writer has been lost."""
    added = world.bob if user is None else user
    await world.store.commit([commands.add(world.conversation_id, world.alice, added)])


async def commit_removal(world: World, user: User | None = None) -> None:
    """Removes bob, or another user, in the store alone: the answer to a writer has been lost."""
    removed = world.bob if user is None else user
    await world.store.commit([commands.remove(world.conversation_id, world.alice, removed)])


def kinds_of(someone: Device) -> list[str]:
    """Returns the types of the frames that a session got, without those about the presence of others."""
    return [frame["type"] for frame in someone.transport.frames if frame["type"] not in {"system", "presence"}]


@pytest.mark.parametrize("is_open", [True, False], ids=["open room", "no room"])
async def test_a_late_answer_to_an_addition_does_not_admit_a_removed_user(
    is_open: bool, autojump_clock: MockClock
) -> None:
    """Fault C4: the answer to the addition comes after the removal was asked for."""
    async with a_world() as world:
        key, late, later = world.conversation_id, trio.Event(), trio.Event()
        await commit_removal(world)
        if is_open:
            await world.join(world.carol)
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        world.store.answers = [world.store.commit_and_wait(late), world.store.commit_and_wait(later)]
        world.start(world.add, world.bob)
        await settle()
        world.start(world.remove, world.bob)
        await settle()
        late.set()
        await settle()
        later.set()  # not before: a client is cut off if a frame is on its way to it when it is removed
        await settle()
        await alice.send(key, "secret")
        await settle()
        assert alice.contents(key) == ["secret"]
        assert bob.contents(key) == []
        assert str(world.bob.id) not in world.hub.get_active_users(key)
        # Or his connection was closed, because it was sending a frame of the conversation.
        kinds = ["session", "conversation_added", "conversation_removed"]
        assert kinds_of(bob) == (kinds if bob.transport.closed is None else kinds[:2])


@pytest.mark.parametrize("is_open", [True, False], ids=["open room", "no room"])
async def test_a_late_answer_to_a_removal_does_not_remove_a_member(is_open: bool, autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key, late = world.conversation_id, trio.Event()
        if is_open:
            await world.join(world.carol)
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        world.store.answers = [world.store.commit_and_wait(late)]
        world.start(world.remove, world.bob)
        await settle()
        world.start(world.add, world.bob)
        await settle()
        late.set()
        await settle()
        await alice.send(key, "welcome back")
        await settle()
        assert bob.contents(key) == ["welcome back"]
        assert kinds_of(bob) == ["session", "conversation_removed", "conversation_added", "message"]


@pytest.mark.parametrize("is_member", [True, False], ids=["removed, added", "added, removed"])
async def test_of_two_changes_with_lost_answers_the_later_wins(is_member: bool, autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key = world.conversation_id
        if not is_member:
            await commit_removal(world)
        carol, bob = await world.join(world.carol), await device(world, world.bob)
        await (commit_removal if is_member else commit_addition)(world)
        await (commit_addition if is_member else commit_removal)(world)
        await carol.send("hello")
        await settle()
        assert bob.contents(key) == (["hello"] if is_member else [])
        assert (str(world.bob.id) in world.hub.get_active_users(key)) is is_member


@pytest.mark.parametrize("others", [0, 60], ids=["alone", "with many others"])
async def test_an_addition_found_late_by_a_recheck_does_not_admit_a_removed_user(
    others: int, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recheck has read the addition, and gets its answer after the removal was delivered."""
    async with a_world(store_timeout=2.0) as world:
        key = world.conversation_id
        await commit_removal(world)
        users = [world.bob, *await world.new_users(others)]
        carol, bob = await world.join(world.carol), await device(world, world.bob)
        world.store.answers = [world.store.commit_and_hang]
        gate = delay(world, monkeypatch, "changes", times=1)
        with pytest.raises(PulseError):
            await world.add(*users)
        await settle()  # the recheck has read
        await world.remove(world.bob)
        gate.set()
        await trio.sleep(10)
        await carol.send("secret")
        await settle()
        assert bob.contents(key) == []
        assert str(world.bob.id) not in world.hub.get_active_users(key)
        assert await world.store.membership(key, world.bob.id) is None


async def test_a_late_answer_to_a_removal_does_not_stop_a_join_after_a_new_addition(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        late = trio.Event()
        world.store.answers = [world.store.commit_and_wait(late)]
        world.start(world.remove, world.bob)
        await settle()
        await commit_addition(world)
        bob = await world.join(world.bob)
        late.set()
        await settle()
        assert bob.transport.closed is None
        await bob.send("here again")
        await settle()
        assert bob.contents == ["here again"]


async def test_an_addition_does_not_override_a_later_look_up_of_the_members(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Added and then removed, with lost answers, while the room opens (fault C10)."""
    async with a_world() as world:
        key = world.conversation_id
        await commit_removal(world)
        alice = await device(world, world.alice)
        gate = delay(world, monkeypatch, "members")
        await alice.send(key, "secret")
        await settle()
        await commit_addition(world)
        await commit_removal(world)
        bob = await device(world, world.bob)
        gate.set()
        await settle()
        assert alice.contents(key) == ["secret"]
        assert bob.contents(key) == []


async def test_a_session_misses_nothing_after_its_first_frame(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault C1: many messages are sent in an open room while the session's conversations are looked up, and after."""
    async with a_world() as world:
        carol = await world.join(world.carol)
        gate = delay(world, monkeypatch, "memberships")
        alice = Device(world, world.alice)
        world.start(alice.open)
        await settle()
        greeted_at = len(world.stored) if alice.transport.frames else None
        await carol.send("while it is looked up")
        await settle()
        gate.set()
        await settle()
        if greeted_at is None:
            greeted_at = len(world.stored)
        assert [frame["type"] for frame in alice.transport.frames] == ["session"]
        await carol.send("before the client says anything")
        await settle()
        alice.session.start()
        await settle()
        await carol.send("live")
        await settle()
        assert alice.contents(world.conversation_id) == world.stored[greeted_at:]


@pytest.mark.parametrize("starts", ["the client", "time"])
async def test_only_session_is_sent_before_the_first_frame(starts: str, autojump_clock: MockClock) -> None:
    """Fault C11."""
    async with a_world(resume_wait=5.0) as world:
        key, other = world.conversation_id, world.ids()
        await world.new_conversation(other)
        carol = await world.join(world.carol)
        alice = await Device(world, world.alice).open()
        await settle()
        await world.hub.send_typing(carol.subscription)
        await world.hub.apply(commands.set_properties(key, world.carol, name="New"))
        await carol.read(0)
        await carol.send("one")
        await world.remove(world.alice, other)
        await world.join(world.bob)
        await settle()
        assert [frame["type"] for frame in alice.transport.frames] == ["session"]
        if starts == "time":
            await trio.sleep(5.0)
        else:
            alice.session.start()
        await settle()
        kinds = [frame["type"] for frame in alice.transport.frames]
        assert kinds[0] == "session"
        assert {"system", "conversation_removed", "message"} <= set(kinds)
        assert alice.contents(key) == ["one"]


async def test_a_session_that_does_not_read_its_greeting_is_closed_in_order(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice = Device(world, world.alice)
        alice.transport.stall = trio.Event()
        await alice.open()
        await settle()
        assert alice.transport.frames == []
        alice.transport.stall.set()
        await settle()
        assert [frame["type"] for frame in alice.transport.frames] == ["session"]
        alice.leave()
        await settle()
        assert alice.ended.is_set()


# --- additions whose answer is lost ---


@pytest.mark.parametrize("is_open", [True, False], ids=["open room", "no room"])
async def test_an_addition_with_a_lost_answer_reaches_its_user(
    is_open: bool, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault C6; also where no room would be open but for the addition, and while the store fails once more."""
    async with a_world(store_timeout=2.0) as world:
        key = world.conversation_id
        await commit_removal(world)
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        carol = await world.join(world.carol) if is_open else None
        answers = iter([StoreUnavailable("away"), StoreUnavailable("away")])
        changes = world.store.changes

        async def away(*arguments: Any, **options: Any) -> Any:
            for error in answers:
                await trio.lowlevel.checkpoint()
                raise error
            return await changes(*arguments, **options)

        monkeypatch.setattr(world.store, "changes", away)
        world.store.answers = [world.store.commit_and_hang]
        with pytest.raises(PulseError):
            await world.add(world.bob)
        await trio.sleep(1)
        assert kinds_of(bob) == ["session", "conversation_added"]
        carol = await world.join(world.carol) if carol is None else carol
        await carol.send("hello bob")
        await settle()
        assert bob.contents(key) == ["hello bob"]
        assert [frame["user_ids"] for frame in alice.of_type("system") if frame["event"] == "added"] == [
            [str(world.bob.id)]
        ]
        for someone in (alice, bob, carol):
            someone.leave()
        await trio.sleep(60)
        assert world.hub.room_count == 0, "the recheck has ended"


async def test_an_addition_reaches_sessions_that_are_the_only_ones(autojump_clock: MockClock) -> None:
    """Its answer is lost, and nobody is subscribed when its sender has given up: the room stays to look again."""
    async with a_world(store_timeout=2.0) as world:
        await commit_removal(world)
        bob = await device(world, world.bob)
        world.store.answers = [world.store.commit_and_hang]
        with pytest.raises(PulseError):
            await world.add(world.bob)
        await trio.sleep(5)
        assert kinds_of(bob) == ["session", "conversation_added"]


async def test_an_addition_that_was_not_committed_admits_nobody(autojump_clock: MockClock) -> None:
    async with a_world(store_timeout=2.0) as world:
        key = world.conversation_id
        await commit_removal(world)
        bob, carol = await device(world, world.bob), await world.join(world.carol)
        world.store.usual = world.store.fail
        with pytest.raises(PulseError):
            await world.add(world.bob)
        world.store.usual = world.store.commit
        await carol.send("a secret")
        await trio.sleep(60)
        assert carol.contents == ["a secret"]
        assert [frame["type"] for frame in bob.transport.frames] == ["session"]
        assert bob.contents(key) == []


async def test_a_removal_that_is_committed_after_its_lost_answer_takes_effect(autojump_clock: MockClock) -> None:
    """The client reconnects before the database has committed; the recheck finds it, without another message."""
    async with a_world(store_timeout=5.0) as world:
        key = world.conversation_id
        carol = await world.join(world.carol)
        world.store.answers = [world.store.hang]
        with pytest.raises(PulseError):
            await world.remove(world.bob)
        bob, own = await device(world, world.bob), await world.join(world.bob)
        await carol.send("one")
        await settle()
        await commit_removal(world)
        await trio.sleep(60)
        assert len(bob.of_type("conversation_removed")) == 1
        assert own.transport.closed == REMOVED
        await carol.send("two")
        await settle()
        assert bob.contents(key) == own.contents == ["one"]


async def test_a_removal_with_a_lost_answer_takes_effect_before_what_was_stored_after_it(
    autojump_clock: MockClock,
) -> None:
    """Fault C3: what is stored after the removal is delivered to nobody before the removal is."""
    async with a_world() as world:
        key = world.conversation_id
        carol, own = await world.join(world.carol), await world.join(world.bob)
        bob = await device(world, world.bob)
        await world.store.commit([commands.post(key, world.carol, "before")])
        await commit_removal(world)
        await world.store.commit([commands.post(key, world.carol, "after")])
        await carol.send("later")
        await settle()
        assert carol.contents == ["before", "after", "later"]
        for contents in (own.contents, bob.contents(key)):
            assert contents in (["before"], []), "what waits in the outbox is dropped"
        assert kinds_of(bob)[-1] == "conversation_removed"
        assert own.transport.closed == REMOVED


async def test_rechecks_of_creations_are_bounded(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        for _ in range(MAX_RECHECKS + 5):
            world.hub.members.recheck_creation(world.ids(), [world.bob.id])
        assert world.hub.members._rechecks == MAX_RECHECKS
        await trio.sleep(60)
        assert world.hub.members._rechecks == 0


async def test_a_member_whose_addition_is_unknown_is_subscribed_when_they_send(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key = world.conversation_id
        await commit_removal(world)
        carol, bob = await world.join(world.carol), await device(world, world.bob)
        await commit_addition(world)
        await bob.send(key, "hello", "c-1")
        await settle()
        assert bob.contents(key) == ["hello"]
        await bob.send(key, "hello", "c-1")
        await carol.send("hello bob")
        await settle()
        assert bob.errors == []
        assert bob.contents(key) == ["hello", "hello", "hello bob"]
        assert kinds_of(bob)[1] == "conversation_added"
        assert len(bob.of_type("conversation_added")) == 1


async def test_an_addition_of_members_notifies_nobody(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await world.join(world.carol)
        bob = await device(world, world.bob)
        await settle()
        for _ in range(3):
            assert await world.add(world.bob) == ()
        await settle()
        assert [frame["type"] for frame in bob.transport.frames] == ["session"]


# --- look-ups whose answers are late ---


async def test_a_late_negative_look_up_does_not_refuse_a_user_added_since(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        key = world.conversation_id
        await commit_removal(world)
        bob = await device(world, world.bob)
        gate = delay(world, monkeypatch, "membership")
        world.start(lambda: bob.send(key, "one", "c-1"))
        await settle()
        await world.add(world.bob)
        gate.set()
        await settle()
        await bob.send(key, "two", "c-2")
        await settle()
        assert bob.errors == []
        assert world.stored == ["one", "two"]


async def test_no_frame_follows_a_removal_that_is_answered_after_a_resume(autojump_clock: MockClock) -> None:
    """The removal is committed while the session waits for its `resume`, and its answer is late."""
    async with a_world() as world:
        key, late = world.conversation_id, trio.Event()
        carol = await world.join(world.carol)
        bob = await Device(world, world.bob).open()
        world.store.answers = [world.store.commit_and_wait(late)]
        world.start(world.remove, world.bob)
        await settle()
        await world.hub.lobby.resume(bob.session, SendResume(revs={key: 0}))
        await carol.send("secret")
        await settle()
        late.set()
        await settle()
        assert carol.contents == ["secret"]
        assert [frame["type"] for frame in bob.transport.frames] == ["session", "conversation_removed"]


async def test_a_look_up_older_than_what_the_room_delivered_is_repeated(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a session that opens, one that resumes, one that sends, and an own connection: each asks again."""
    async with a_world() as world:
        key = world.conversation_id
        carol, ready = await world.join(world.carol), await Device(world, world.bob).open()
        gates = [delay(world, monkeypatch, name, times=1) for name in ("memberships", "membership")]
        opening = Device(world, world.bob)
        world.start(opening.open)
        await settle()
        own, refused = world.guest(world.bob), trio.Event()

        async def join() -> None:
            with pytest.raises(NotAMember):
                await own.join()
            refused.set()

        world.start(join)
        await settle()
        await world.remove(world.bob)
        for gate in gates:
            gate.set()
        await settle()
        gates = [delay(world, monkeypatch, name, times=1) for name in ("memberships", "membership")]
        await world.add(world.bob)
        world.start(world.hub.lobby.resume, ready.session, SendResume(revs={key: 0}))
        await settle()
        await world.remove(world.bob)
        for gate in gates:
            gate.set()
        await carol.send("secret")
        await trio.sleep(60)
        assert carol.contents == ["secret"]
        assert opening.contents(key) == ready.contents(key) == []
        assert own.transport.frames == []
        assert world.hub.get_active_users(key) == {str(world.carol.id)}


async def test_a_session_is_not_notified_of_changes_before_its_first_frame(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        key = world.conversation_id
        carol = await world.join(world.carol)
        gate = delay(world, monkeypatch, "memberships")
        bob = Device(world, world.bob)
        world.start(bob.open)
        await settle()
        await world.remove(world.bob)
        await world.add(world.bob)
        gate.set()
        await settle()
        bob.session.start()
        await carol.send("welcome back")
        await settle()
        assert bob.of_type("conversation_removed", "conversation_added") == []
        assert bob.contents(key) == ["welcome back"]


async def test_a_late_answer_to_a_removal_keeps_a_session_opened_since(autojump_clock: MockClock) -> None:
    """Removed and added again; the removal's answer is on its way when the session opens, the addition's is lost."""
    async with a_world() as world:
        key, late = world.conversation_id, trio.Event()
        carol = await world.join(world.carol)
        world.store.answers = [world.store.commit_and_wait(late)]
        world.start(world.remove, world.bob)
        await settle()
        await commit_addition(world)
        bob, own = await device(world, world.bob), await world.join(world.bob)
        late.set()
        await settle()
        await carol.send("here")
        await settle()
        assert bob.of_type("conversation_removed", "conversation_added") == []
        assert bob.contents(key) == own.contents == ["here"]
        assert own.transport.closed is None


async def test_a_late_answer_to_an_addition_notifies_sessions_although_a_look_up_was_faster(
    autojump_clock: MockClock,
) -> None:
    """Bob's own connection learns of a later rev, as of which he is a member, before his session does."""
    async with a_world() as world:
        key, late = world.conversation_id, trio.Event()
        carol = await world.join(world.carol)
        await commit_removal(world)
        bob = await device(world, world.bob)
        world.store.answers = [world.store.commit_and_wait(late)]
        world.start(world.add, world.bob)
        await settle()
        await commit_removal(world, world.alice)
        await world.join(world.bob)
        late.set()
        await settle()
        await carol.send("hello bob")
        await settle()
        assert kinds_of(bob)[1] == "conversation_added"
        assert bob.contents(key) == ["hello bob"]


@pytest.mark.parametrize("how", ["resume", "open room"])
async def test_a_session_notified_of_a_removal_is_notified_of_the_new_addition(
    how: str, autojump_clock: MockClock
) -> None:
    """Removed and added again after the session had opened; both are answered late."""
    async with a_world() as world:
        key, late = world.conversation_id, trio.Event()
        bob = await Device(world, world.bob).open()
        if how == "resume":
            await world.join(world.carol)
        else:
            bob.session.start()
        world.store.answers = [world.store.commit_and_wait(late)]
        world.start(world.remove, world.bob)
        await settle()
        world.start(world.add, world.bob)
        await settle()
        late.set()
        await settle()
        if how == "resume":
            await world.hub.lobby.resume(bob.session, SendResume(revs={key: 0}))
        carol = await world.join(world.carol)
        await carol.send("here")
        await settle()
        assert kinds_of(bob) == ["session", "conversation_removed", "conversation_added", "message"]


@pytest.mark.parametrize("is_open", [True, False], ids=["open room", "no room"])
async def test_an_addition_after_an_unnoticed_removal_is_notified(is_open: bool, autojump_clock: MockClock) -> None:
    """Bob is removed (a lost answer), a room opens without him, he is added again: he must load what he missed."""
    async with a_world(room_linger=0.0) as world:
        key = world.conversation_id
        bob = await device(world, world.bob)
        await commit_removal(world)
        carol = await world.join(world.carol)
        await carol.send("missed")
        await settle()
        if not is_open:
            carol.leave()
            await settle()
        await world.add(world.bob)
        if not is_open:
            carol = await world.join(world.carol)
        await carol.send("welcome back")
        await settle()
        assert kinds_of(bob) == ["session", "conversation_added", "message"]
        assert bob.contents(key) == ["welcome back"]


@pytest.mark.parametrize("outcome", ["commit_and_lose", "commit_and_hang"])
async def test_a_retried_addition_is_notified_once(outcome: str, autojump_clock: MockClock) -> None:
    """By the writer after a lost answer, and by its caller after a failure."""
    async with a_world(store_timeout=2.0) as world:
        await commit_removal(world)
        bob = await device(world, world.bob)
        await settle()
        world.store.answers = [getattr(world.store, outcome)]
        if outcome == "commit_and_hang":
            with pytest.raises(PulseError):
                await world.add(world.bob)
        else:
            assert len(await world.add(world.bob)) == 1
        for _ in range(2):
            await world.add(world.bob)
        await world.remove(world.bob)
        await world.add(world.bob)
        await trio.sleep(10)
        assert kinds_of(bob) == ["session", "conversation_added", "conversation_removed", "conversation_added"]


@pytest.mark.parametrize("is_lost", [False, True], ids=["late answer", "lost answer"])
async def test_a_room_that_opens_before_an_addition_is_answered_notifies_the_session(
    is_lost: bool, autojump_clock: MockClock
) -> None:
    async with a_world(store_timeout=2.0) as world:
        key = world.conversation_id
        await commit_removal(world)
        bob, late, refused = await device(world, world.bob), trio.Event(), trio.Event()
        world.store.answers = [world.store.commit_and_wait(late)]

        async def add() -> None:
            if is_lost:
                with pytest.raises(PulseError):
                    await world.add(world.bob)
            else:
                await world.add(world.bob)
            refused.set()

        world.start(add)
        await settle()
        carol = await world.join(world.carol)
        if is_lost:
            await refused.wait()
        else:
            late.set()
        await carol.send("hello bob")
        await settle()
        assert kinds_of(bob) == ["session", "conversation_added", "message"]
        assert bob.contents(key) == ["hello bob"]


# --- foreign conversations ---


def count_questions(world: World, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[int, int]]:
    """Counts the membership look-ups in the store: all of them, and the most at a time."""
    membership, asked, now, most = world.store.membership, 0, 0, 0

    async def counted(conversation_id: UUID, user_id: UUID) -> int | None:
        nonlocal asked, now, most
        asked, now = asked + 1, now + 1
        most = max(most, now)
        try:
            await trio.sleep(0.1)
            return await membership(conversation_id, user_id)
        finally:
            now -= 1

    monkeypatch.setattr(world.store, "membership", counted)
    return lambda: (asked, most)


async def test_a_frame_about_a_foreign_conversation_opens_no_room(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(foreign_look_ups_burst=500) as world:
        foreign = world.ids()
        await world.new_conversation(foreign)
        await world.store.apply([commands.remove(foreign, world.alice, world.bob)])
        questions = count_questions(world, monkeypatch)
        devices = [await device(world, world.bob) for _ in range(20)]

        async def flood(bob: Device) -> None:
            for key in [foreign, *(world.ids() for _ in range(10))]:
                await bob.send(key, "hello")
                await bob.read(key, 1)
                assert world.hub.room_count == 0

        async with trio.open_nursery() as nursery:
            for bob in devices:
                nursery.start_soon(flood, bob)
        await settle()
        assert all([code for code, _, _ in bob.errors] == ["not_a_member"] * 22 for bob in devices)
        assert questions() == (1 + 20 * 10, 1), "one at a time, and one for all sessions of the user"


async def test_look_ups_that_find_no_member_are_limited_for_each_user(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions whose client has gone would go on with what they have received, each as its own limit lets it."""
    async with a_world(foreign_look_ups_per_second=1, foreign_look_ups_burst=5) as world:
        questions = count_questions(world, monkeypatch)  # each takes 0.1 s
        devices = [await device(world, world.bob) for _ in range(3)]

        async def flood(bob: Device) -> None:
            for _ in range(10):
                await bob.send(world.ids(), "hello")

        async with trio.open_nursery() as nursery:
            for bob in devices:
                nursery.start_soon(flood, bob)
        await settle()
        assert questions() == (5, 1)
        codes = [code for bob in devices for code, _, _ in bob.errors]
        assert (codes.count("not_a_member"), codes.count("rate_limited")) == (5, 25)
        await trio.sleep(1)
        await devices[0].send(world.conversation_id, "hello")
        await settle()
        assert devices[0].contents(world.conversation_id) == ["hello"]


async def test_look_ups_of_others_do_not_wait_for_a_user_with_many(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        questions = count_questions(world, monkeypatch)  # each takes 0.1 s
        for _ in range(20):
            bob = await device(world, world.bob)
            for _ in range(3):
                world.start(bob.find_subscription, world.ids())
        await settle()
        others = await world.new_users(8)
        devices = [await device(world, user) for user in others]
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for each in devices:
                nursery.start_soon(each.find_subscription, world.ids())
        assert trio.current_time() - began == pytest.approx(0.3)  # nine users, four at a time
        assert questions()[1] == 4


async def test_a_foreign_conversation_is_refused_from_memory_for_a_second(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        key = world.ids()
        await world.new_conversation(key)
        await world.store.apply([commands.remove(key, world.alice, world.bob)])
        questions = count_questions(world, monkeypatch)
        bob = await device(world, world.bob)
        found = []
        for wait in (0.0, 0.5, 1.0):
            await trio.sleep(wait)
            with pytest.raises(ForeignConversation) as caught:
                await world.hub.members.find_subscription(bob.session, key)
            found.append(caught.value.was_looked_up)
        assert found == [True, False, True]
        await world.add(world.bob, conversation_id=key)
        assert (await world.hub.members.find_subscription(bob.session, key)).conversation_id == key  # at once
        assert questions()[0] == 2, "the room that was opened to add them has subscribed the session"


async def test_a_refusal_found_before_a_creation_is_not_remembered(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        key = world.ids()
        gate, bob = delay(world, monkeypatch, "membership", times=1), await device(world, world.bob)
        world.start(bob.send, key, "too early", "c-1")
        await settle()
        await world.new_conversation(key)
        await world.hub.members.notify_created(key, [world.bob.id], ())
        gate.set()
        await settle()
        assert bob.errors == [("not_a_member", "c-1", str(key))]
        await bob.send(key, "hello")
        await settle()
        assert bob.contents(key) == ["hello"]
        assert len(bob.errors) == 1


@pytest.mark.parametrize("answer", ["late", "lost"])
async def test_a_refusal_does_not_outlive_an_addition(answer: str, autojump_clock: MockClock) -> None:
    """The client may know of the addition, from a list, before its answer is here."""
    async with a_world(store_timeout=2.0) as world:
        key = world.ids()
        await world.new_conversation(key)
        await world.remove(world.bob, key)
        await trio.sleep(0.01)
        bob, late = await device(world, world.bob), trio.Event()

        async def refuse() -> None:
            before = len(bob.errors)
            await bob.send(key, "too early")
            await settle()
            assert [code for code, _, _ in bob.errors[before:]] == ["not_a_member"]

        await refuse()
        if answer == "late":
            world.store.answers = [world.store.commit_and_wait(late)]
            world.start(lambda: world.add(world.bob, conversation_id=key))
            await settle()
        else:
            # Not sent to the database before this attempt is given up, so it comes after the caller has its error.
            async def commit_later(batch: Sequence[Command]) -> Outcomes:
                world.start(commit_after_a_while, batch)
                return await world.store.hang(batch)

            async def commit_after_a_while(batch: Sequence[Command]) -> None:
                await trio.sleep(2.5)
                await world.store.commit(batch)

            world.store.answers = [commit_later]
            with pytest.raises(PulseError):
                await world.add(world.bob, conversation_id=key)
            await refuse()
            await trio.sleep(0.6)
        await bob.send(key, "hello", "c-1")
        await settle()
        late.set()
        await settle()
        assert ("not_a_member", "c-1", str(key)) not in bob.errors
        assert bob.contents(key) == ["hello"]


async def test_a_refused_addition_lets_refusals_be_remembered(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        key = world.ids()
        await world.new_conversation(key)
        await world.remove(world.bob, key)
        questions, bob = count_questions(world, monkeypatch), await device(world, world.bob)
        with pytest.raises(NotAMember):
            await world.hub.apply(commands.add(key, world.bob, world.bob))
        for _ in range(3):
            await bob.send(key, "hello")
        assert questions()[0] == 1


async def test_rooms_open_a_few_at_a_time_for_each_user(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        keys = [world.ids() for _ in range(10)]
        for key in keys:
            await world.new_conversation(key)
        gate = delay(world, monkeypatch, "head", times=10)
        bobs = [await device(world, world.bob) for _ in keys]
        for bob, key in zip(bobs, keys, strict=True):
            world.start(bob.send, key, "hello")
            await settle()
        assert world.hub.room_count == MAX_OPENING_OF_USER
        carol = await device(world, world.carol)
        world.start(carol.send, keys[-1], "of carol")
        await settle()
        assert world.hub.room_count == MAX_OPENING_OF_USER + 1
        gate.set()
        await settle()
        assert [bobs[0].contents(key) for key in keys] == [["hello"]] * 9 + [["of carol", "hello"]]


async def test_a_message_whose_room_cannot_begin_to_open_is_refused_in_time(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(store_timeout=3.0) as world:
        keys = [world.ids() for _ in range(MAX_OPENING_OF_USER + 1)]
        for key in keys:
            await world.new_conversation(key)
        delay(world, monkeypatch, "head")
        bobs = [await device(world, world.bob) for _ in keys]
        for bob, key in zip(bobs[:-1], keys, strict=False):
            world.start(bob.send, key, "hello")
        await trio.sleep(1.0)
        began = trio.current_time()
        await bobs[-1].send(keys[-1], "late", "c-1")
        assert trio.current_time() - began == 2.0  # the others have failed
        await trio.sleep(5.0)
        assert bobs[-1].errors == [("not_stored", "c-1", str(keys[-1]))]


async def test_a_message_that_waits_for_a_turn_uses_a_room_that_another_user_opened(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(store_timeout=3.0) as world:
        keys = [world.ids() for _ in range(2 * MAX_OPENING_OF_USER + 1)]
        for key in keys:
            await world.new_conversation(key)
        head = world.store.head

        async def stuck(conversation_id: UUID) -> Head:
            return await head(conversation_id) if conversation_id == keys[-1] else await trio.sleep_forever()

        monkeypatch.setattr(world.store, "head", stuck)
        bobs = [await device(world, world.bob) for _ in keys]
        for bob, key in zip(bobs, keys, strict=True):
            world.start(bob.send, key, "hello", "c-1")
            await settle()
        world.conversation_id = keys[-1]
        await world.join(world.carol)
        await trio.sleep(4.0)
        assert bobs[-1].errors == []
        assert bobs[-1].contents(keys[-1]) == ["hello"]


async def test_a_membership_look_up_that_fails_is_answered_in_time(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(store_timeout=3.0) as world:

        async def away(*_arguments: object) -> int | None:
            await trio.lowlevel.checkpoint()
            raise StoreUnavailable("away")

        monkeypatch.setattr(world.store, "membership", away)
        bob = await device(world, world.bob)
        began = trio.current_time()
        with pytest.raises(PulseError, match="could not be stored in time"):
            await world.hub.members.find_subscription(bob.session, world.conversation_id)
        assert trio.current_time() - began == 3.0


async def test_a_removal_while_the_membership_is_looked_up_counts(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        key = world.conversation_id
        carol, bob = await world.join(world.carol), await device(world, world.bob)
        gate = delay(world, monkeypatch, "membership", times=1)
        await settle()
        member = bob.session.subscriptions.pop(key)  # as if the session had not been notified
        world.hub.rooms.get(key).leave(member)  # type: ignore[union-attr]
        world.start(lambda: bob.send(key, "hello", "c-1"))
        await settle()
        await world.remove(world.bob)
        gate.set()
        await settle()
        assert bob.errors == [("not_a_member", "c-1", str(key))]
        await carol.send("a secret")
        await settle()
        assert bob.contents(key) == []


# --- bulk additions ---


async def test_a_bulk_addition_is_sent_in_few_frames(autojump_clock: MockClock) -> None:
    """Fault C2."""
    async with a_world() as world:
        users = await world.new_users(60)
        alice = await world.join(world.alice)
        devices = [await device(world, user) for user in users]
        await settle()
        before = len(alice.transport.frames)
        await world.add(*users)
        await trio.sleep(1)
        new = alice.transport.frames[before:]
        assert [frame["type"] for frame in new] == ["system", "presence"]
        assert (new[0]["user_count"], new[0]["user_ids"]) == (60, [str(each.id) for each in users])
        assert len(new[1]["joined"]) == 60
        for each in devices:
            assert [frame["type"] for frame in each.transport.frames].count("conversation_added") == 1
            assert len(each.transport.frames) <= 4


async def test_typing_is_sent_once_a_second_for_each_user(autojump_clock: MockClock) -> None:
    """Fault C14."""
    async with a_world() as world:
        alice = await world.join(world.alice)
        bob, again, carol = await world.join(world.bob), await world.join(world.bob), await world.join(world.carol)
        for _ in range(100):
            for member in (bob.subscription, again.subscription, carol.subscription):
                await world.hub.send_typing(member)
        await settle()
        assert sorted(frame["sender_username"] for frame in alice.of_type("typing")) == ["bob", "carol"]
        await trio.sleep(1.0)
        await world.hub.send_typing(bob.subscription)
        await settle()
        assert [frame["sender_username"] for frame in alice.of_type("typing")].count("bob") == 2


async def test_a_user_who_leaves_before_the_batch_is_in_neither_list(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        for user in (world.bob, world.carol):
            await commit_removal(world, user)
        alice, bob = await world.join(world.alice), await device(world, world.bob)
        carol = await device(world, world.carol)
        await world.add(world.bob, world.carol)
        bob.leave()
        await trio.sleep(1)
        assert [[user["username"] for user in frame["joined"]] for frame in alice.of_type("presence")] == [["carol"]]
        assert "left" not in [event for event, _ in alice.events]
        carol.leave()
        await trio.sleep(1)
        assert alice.events[-1] == ("left", str(world.carol.id))


async def test_typing_after_a_message_is_sent_at_once(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        await world.hub.send_typing(bob.subscription)
        await bob.send("one")
        await world.hub.send_typing(bob.subscription)
        await settle()
        assert [frame["type"] for frame in alice.transport.frames[-3:]] == ["typing", "typing", "message"]


async def test_typing_is_limited_also_where_rooms_end_at_once(autojump_clock: MockClock) -> None:
    async with a_world(room_linger=0.0) as world:
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        for _ in range(50):
            await world.hub.send_typing(bob.session.subscription(world.conversation_id))
            await trio.sleep(0.01)
        await settle()
        assert len(alice.of_type("typing")) == 1
        await trio.sleep(1)
        assert len(world.hub._typed) == 1
        await world.hub.send_typing(bob.session.subscription(world.ids()))
        assert len(world.hub._typed) == 1, "older entries are dropped"
