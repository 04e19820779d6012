"""Rooms and sessions while members change: the later commit wins, in whatever order the answers come."""

from collections.abc import Callable
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.errors import PulseError
from pulse_trio.protocol import SendResume
from pulse_trio.rooms.member_updates import MAX_RECHECKS, ForeignConversation
from pulse_trio.store.base import Members, StoreUnavailable

from .world import Device, FakeTransport, World, a_world, device, settle, virtual_now

REASON = "removed from the conversation"


async def add(world: World, key: UUID, *, answer: trio.Event | None = None) -> None:
    """Adds bob as REST does for alice; the answer of the store may be late."""
    with world.hub.members.changing(key, [world.bob.id]):
        added = await world.store.add_members(key, world.alice.id, [world.bob.id], limit=10, now=virtual_now())
        if answer is not None:
            await answer.wait()
        newcomers = [user.id for user in added.users]
        await world.hub.members.add_users(key, [world.bob.id], added.version, newcomers=newcomers)


async def remove(world: World, key: UUID, *, answer: trio.Event | None = None) -> None:
    """Removes bob as REST does for alice; the answer of the store may be late."""
    with world.hub.members.changing(key):
        removed = await world.store.remove_member(key, world.alice.id, world.bob.id, now=virtual_now())
        if answer is not None:
            await answer.wait()
        world.hub.members.remove_user(key, world.bob.id, removed.version, REASON)


def delay_members(world: World, monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """Holds back the store's answers about members until the event is set."""
    gate, members = trio.Event(), world.store.members

    async def slow(conversation_id: UUID) -> Members:
        found = await members(conversation_id)
        await gate.wait()
        return found

    monkeypatch.setattr(world.store, "members", slow)
    return gate


@pytest.mark.parametrize("is_open", [True, False], ids=["open room", "no room"])
async def test_a_late_answer_to_an_addition_does_not_admit_a_removed_user(
    is_open: bool, autojump_clock: MockClock
) -> None:
    async with a_world() as world:
        key = world.conversation_id
        await world.store.remove_member(key, world.alice.id, world.bob.id, now=virtual_now())
        if is_open:
            await world.join(world.carol)
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        late = trio.Event()
        world.start(lambda: add(world, key, answer=late))
        await settle()
        await remove(world, key)
        late.set()
        await settle()
        await alice.send(key, "secret")
        await settle()
        assert alice.contents(key) == ["secret"]
        assert bob.contents(key) == []
        assert [frame["type"] for frame in bob.transport.frames][1:] == ["conversation_removed"]
        assert len(world.hub._changes) == 0


@pytest.mark.parametrize("is_open", [True, False], ids=["open room", "no room"])
async def test_a_late_answer_to_a_removal_does_not_remove_a_member(is_open: bool, autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key = world.conversation_id
        if is_open:
            await world.join(world.carol)
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        late = trio.Event()
        world.start(lambda: remove(world, key, answer=late))
        await settle()
        await add(world, key)
        late.set()
        await settle()
        await alice.send(key, "welcome back")
        await settle()
        assert bob.contents(key) == ["welcome back"]
        assert bob.of_type("conversation_removed") == []
        assert len(world.hub._changes) == 0


async def test_a_late_answer_to_a_removal_does_not_stop_a_join_after_a_new_addition(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key, late = world.conversation_id, trio.Event()
        world.start(lambda: remove(world, key, answer=late))
        await settle()
        await add(world, key)
        with world.hub.members.pending_join(key, world.bob.id) as pending:
            pending.version = await world.store.membership(key, world.bob.id) or 0
            late.set()
            await settle()
            assert not pending.is_revoked
        bob = await world.join(world.bob)
        await bob.send("here again")
        await settle()
        assert bob.contents == ["here again"]


async def test_an_addition_does_not_override_a_later_look_up_of_the_members(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Added and then removed, with a lost answer, while the room opens: the members are looked up again."""
    async with a_world() as world:
        key = world.conversation_id
        await world.store.remove_member(key, world.alice.id, world.bob.id, now=virtual_now())
        alice = await device(world, world.alice)
        gate = delay_members(world, monkeypatch)
        await alice.send(key, "secret")
        await settle()
        await add(world, key)
        await world.store.remove_member(key, world.alice.id, world.bob.id, now=virtual_now())
        world.hub.members.reconnect_user(key, world.bob.id)
        bob = await device(world, world.bob)
        gate.set()
        await settle()
        assert alice.contents(key) == ["secret"]
        assert bob.contents(key) == []


async def test_a_session_misses_nothing_after_its_first_frame(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many messages are sent in an open room while the session's conversations are looked up, and after."""
    async with a_world() as world:
        carol = await world.join(world.carol)
        gate, memberships = trio.Event(), world.store.memberships

        async def slow(*arguments: object) -> object:
            found = await memberships(*arguments)  # type: ignore[arg-type]
            await gate.wait()
            return found

        monkeypatch.setattr(world.store, "memberships", slow)
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
    async with a_world(resume_wait=5.0) as world:
        key, other = world.conversation_id, world.ids()
        await world.new_conversation(other)
        carol = await world.join(world.carol)
        alice = await Device(world, world.alice).open()
        await settle()
        await world.hub.send_typing(carol.subscription)
        world.hub.rooms.announce(key, "renamed", "carol renamed it", world.carol.id)
        await carol.read(0)
        await carol.send("one")
        await world.store.remove_member(other, world.alice.id, world.alice.id, now=virtual_now())
        world.hub.members.remove_user(other, world.alice.id, world.version(other), REASON)
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


async def test_an_addition_with_a_lost_answer_reaches_its_user(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        key = world.conversation_id
        await world.store.remove_member(key, world.alice.id, world.bob.id, now=virtual_now())
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        carol = await world.join(world.carol)
        await world.store.add_members(key, world.alice.id, [world.bob.id], limit=10, now=virtual_now())
        answers = iter([StoreUnavailable("away"), StoreUnavailable("away")])
        members = world.store.members

        async def away(conversation_id: UUID) -> Members:
            for error in answers:
                await trio.lowlevel.checkpoint()
                raise error
            return await members(conversation_id)

        monkeypatch.setattr(world.store, "members", away)
        world.hub.members.recheck_later(key, added=[world.bob.id])
        await trio.sleep(3)
        await carol.send("hello bob")
        await settle()
        assert [frame["type"] for frame in bob.transport.frames][1] == "conversation_added"
        assert bob.contents(key) == ["hello bob"]
        assert [frame["user_ids"] for frame in alice.of_type("system") if frame["event"] == "added"] == [
            [str(world.bob.id)]
        ]
        await trio.sleep(60)
        assert world.hub.members._rechecks == 0


async def test_an_addition_that_was_not_committed_admits_nobody(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key = world.conversation_id
        await world.store.remove_member(key, world.alice.id, world.bob.id, now=virtual_now())
        bob, carol = await device(world, world.bob), await world.join(world.carol)
        world.hub.members.recheck_later(key, added=[world.bob.id])
        world.hub.members.recheck_later(world.ids(), added=[world.bob.id])
        await settle()
        await carol.send("a secret")
        await trio.sleep(60)
        assert [frame["type"] for frame in bob.transport.frames] == ["session"]


async def test_a_removal_that_is_committed_after_its_lost_answer_takes_effect(autojump_clock: MockClock) -> None:
    """The client reconnects before the database has committed."""
    async with a_world() as world:
        key = world.conversation_id
        carol = await world.join(world.carol)
        world.hub.members.reconnect_user(key, world.bob.id)
        world.hub.members.recheck_later(key, removed=[world.bob.id])
        bob = await device(world, world.bob)
        await carol.send("one")
        await settle()
        await world.store.remove_member(key, world.alice.id, world.bob.id, now=virtual_now())
        await trio.sleep(60)
        await carol.send("two")
        await settle()
        assert bob.contents(key) == ["one"]
        assert len(bob.of_type("conversation_removed")) == 1


async def test_rechecks_of_members_are_bounded(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        for _ in range(MAX_RECHECKS + 5):
            world.hub.members.recheck_later(world.conversation_id, added=[world.bob.id])
        assert world.hub.members._rechecks == MAX_RECHECKS
        await trio.sleep(60)
        assert world.hub.members._rechecks == 0


async def test_a_member_whose_addition_is_unknown_is_subscribed_when_they_send(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key = world.conversation_id
        await world.store.remove_member(key, world.alice.id, world.bob.id, now=virtual_now())
        carol, bob = await world.join(world.carol), await device(world, world.bob)
        await world.store.add_members(key, world.alice.id, [world.bob.id], limit=10, now=virtual_now())
        await bob.send(key, "hello", "c-1")
        await settle()
        assert bob.contents(key) == ["hello"]
        await bob.send(key, "hello", "c-1")
        await carol.send("hello bob")
        await settle()
        assert bob.errors == []
        assert bob.contents(key) == ["hello", "hello", "hello bob"]
        assert [frame["type"] for frame in bob.transport.frames][1] == "conversation_added"


async def test_a_repeated_addition_notifies_only_unsubscribed_sessions(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key = world.conversation_id
        await world.join(world.carol)
        bob = await device(world, world.bob)
        await settle()
        for _ in range(3):
            await world.hub.members.add_users(key, [world.bob.id], world.version(key))
        await settle()
        assert [frame["type"] for frame in bob.transport.frames] == ["session"]


# --- look-ups whose answers are late ---


def delay(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> trio.Event:
    """Holds back the store's answers of one kind until the event is set."""
    gate, ask = trio.Event(), getattr(world.store, name)

    async def slow(*arguments: object) -> object:
        found = await ask(*arguments)
        await gate.wait()
        return found

    monkeypatch.setattr(world.store, name, slow)
    return gate


async def test_a_late_negative_look_up_does_not_refuse_a_user_added_since(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        key = world.conversation_id
        await world.store.remove_member(key, world.alice.id, world.bob.id, now=virtual_now())
        bob = await device(world, world.bob)
        gate = delay(world, monkeypatch, "membership")
        world.start(lambda: bob.send(key, "one", "c-1"))
        await settle()
        await add(world, key)
        gate.set()
        await settle()
        await bob.send(key, "two", "c-2")
        await settle()
        assert bob.errors == []
        assert world.stored == ["one", "two"]


async def test_no_frame_follows_the_removal_found_by_a_resume(autojump_clock: MockClock) -> None:
    """The removal is committed while the session waits for its `resume`, and its answer is late."""
    async with a_world() as world:
        key, late = world.conversation_id, trio.Event()
        carol = await world.join(world.carol)
        bob = await Device(world, world.bob).open()
        world.start(lambda: remove(world, key, answer=late))
        await settle()
        await world.hub.lobby.resume(bob.session, SendResume(revs={key: 0}))
        await carol.send("secret")
        await settle()
        assert [frame["type"] for frame in bob.transport.frames] == ["session", "conversation_removed"]
        late.set()


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
        await remove(world, key)
        await add(world, key)
        gate.set()
        await settle()
        bob.session.start()
        await carol.send("welcome back")
        await settle()
        assert bob.of_type("conversation_removed", "conversation_added") == []
        assert bob.contents(key) == ["welcome back"]


async def test_a_late_answer_to_a_removal_keeps_a_session_opened_since(autojump_clock: MockClock) -> None:
    """Removed and added again; both answers are still on their way when the session opens."""
    async with a_world() as world:
        key, late, later = world.conversation_id, trio.Event(), trio.Event()
        carol = await world.join(world.carol)
        world.start(lambda: remove(world, key, answer=late))
        await settle()
        world.start(lambda: add(world, key, answer=later))
        await settle()
        bob = await device(world, world.bob)
        with world.hub.members.pending_join(key, world.bob.id) as pending:
            pending.version = await world.store.membership(key, world.bob.id) or 0
            transport = FakeTransport()
            await world.hub.connect(key, world.bob, transport, pending=pending)
        late.set()
        await settle()
        await carol.send("here")
        later.set()
        await settle()
        assert bob.of_type("conversation_removed", "conversation_added") == []
        assert bob.contents(key) == ["here"]
        assert transport.closed is None


async def test_a_late_answer_to_an_addition_notifies_sessions_although_a_look_up_was_faster(
    autojump_clock: MockClock,
) -> None:
    """Bob's own connection learns of a later version, in which he is a member, before his session does."""
    async with a_world() as world:
        key, late = world.conversation_id, trio.Event()
        carol = await world.join(world.carol)
        await world.store.remove_member(key, world.alice.id, world.bob.id, now=virtual_now())
        bob = await device(world, world.bob)
        world.start(lambda: add(world, key, answer=late))
        await settle()
        await world.store.remove_member(key, world.alice.id, world.alice.id, now=virtual_now())
        with world.hub.members.pending_join(key, world.bob.id) as pending:
            pending.version = await world.store.membership(key, world.bob.id) or 0
            await world.hub.connect(key, world.bob, FakeTransport(), pending=pending)
        late.set()
        await settle()
        await carol.send("hello bob")
        await settle()
        assert [frame["type"] for frame in bob.transport.frames][1] == "conversation_added"
        assert bob.contents(key) == ["hello bob"]


@pytest.mark.parametrize("how", ["resume", "open room"])
async def test_a_session_notified_of_a_removal_is_notified_of_the_new_addition(
    how: str, autojump_clock: MockClock
) -> None:
    """Removed and added again after the session had opened; only the removal has been answered."""
    async with a_world() as world:
        key, late, later = world.conversation_id, trio.Event(), trio.Event()
        bob = await Device(world, world.bob).open()
        if how == "resume":
            await world.join(world.carol)
        else:
            bob.session.start()
        world.start(lambda: remove(world, key, answer=late))
        await settle()
        world.start(lambda: add(world, key, answer=later))
        await settle()
        late.set()
        await settle()
        if how == "resume":
            await world.hub.lobby.resume(bob.session, SendResume(revs={key: 0}))
        carol = await world.join(world.carol)
        await carol.send("here")
        later.set()
        await settle()
        kinds = [frame["type"] for frame in bob.transport.frames if frame["type"] != "system"]
        assert kinds == ["session", "conversation_removed", "conversation_added", "message"]


@pytest.mark.parametrize("is_open", [True, False], ids=["open room", "no room"])
async def test_an_addition_after_an_unnoticed_removal_is_notified(is_open: bool, autojump_clock: MockClock) -> None:
    """Bob is removed (a late answer), a room opens without him, he is added again: he must load what he missed."""
    async with a_world(room_linger=0.0) as world:
        key, late = world.conversation_id, trio.Event()
        bob = await device(world, world.bob)
        await world.hub.members.add_users(key, [world.bob.id], world.version(key))  # repeated
        world.start(lambda: remove(world, key, answer=late))
        await settle()
        carol = await world.join(world.carol)
        await carol.send("missed")
        await settle()
        if not is_open:
            carol.leave()
            await settle()
        await add(world, key)
        if not is_open:
            carol = await world.join(world.carol)
        await carol.send("welcome back")
        late.set()
        await settle()
        kinds = [frame["type"] for frame in bob.transport.frames if frame["type"] not in {"system", "presence"}]
        assert kinds == ["session", "conversation_added", "conversation_added", "message"]
        assert bob.contents(key) == ["welcome back"]


async def test_a_repeated_addition_is_notified_once_where_no_room_is_open(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key = world.conversation_id
        bob = await device(world, world.bob)
        await settle()
        for _ in range(3):
            await world.hub.members.add_users(key, [world.bob.id], world.version(key))
        await remove(world, key)
        await add(world, key)
        await settle()
        kinds = [frame["type"] for frame in bob.transport.frames]
        assert kinds == ["session", "conversation_added", "conversation_removed", "conversation_added"]


@pytest.mark.parametrize("is_lost", [False, True], ids=["late answer", "lost answer"])
async def test_a_room_that_opens_before_an_addition_is_answered_notifies_the_session(
    is_lost: bool, autojump_clock: MockClock
) -> None:
    async with a_world() as world:
        key = world.conversation_id
        await world.store.remove_member(key, world.alice.id, world.bob.id, now=virtual_now())
        bob, late = await device(world, world.bob), trio.Event()
        if is_lost:
            await world.store.add_members(key, world.alice.id, [world.bob.id], limit=10, now=virtual_now())
            world.hub.members.recheck_later(key, added=[world.bob.id])
        else:
            world.start(lambda: add(world, key, answer=late))
            await settle()
        carol = await world.join(world.carol)
        await carol.send("hello bob")
        await settle()
        late.set()
        await settle()
        kinds = [frame["type"] for frame in bob.transport.frames]
        assert kinds[:2] == ["session", "conversation_added"]
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
    async with a_world() as world:
        foreign = world.ids()
        await world.new_conversation(foreign)
        await world.store.remove_member(foreign, world.alice.id, world.bob.id, now=virtual_now())
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
        assert questions() == (20 * 11, 4)


async def test_a_foreign_conversation_is_refused_from_memory_for_a_second(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        key = world.ids()
        await world.new_conversation(key)
        await world.store.remove_member(key, world.alice.id, world.bob.id, now=virtual_now())
        questions = count_questions(world, monkeypatch)
        bob = await device(world, world.bob)
        found = []
        for wait in (0.0, 0.5, 1.0):
            await trio.sleep(wait)
            with pytest.raises(ForeignConversation) as caught:
                await world.hub.members.find_subscription(bob.session, key)
            found.append(caught.value.was_looked_up)
        assert found == [True, False, True]
        await add(world, key)
        assert (await world.hub.members.find_subscription(bob.session, key)).conversation_id == key  # at once
        assert questions()[0] == 3


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
        key, gate, membership = world.conversation_id, trio.Event(), world.store.membership

        async def slow(conversation_id: UUID, user_id: UUID) -> int | None:
            found = await membership(conversation_id, user_id)
            await gate.wait()
            return found

        monkeypatch.setattr(world.store, "membership", slow)
        carol, bob = await world.join(world.carol), await device(world, world.bob)
        await settle()
        member = bob.session.subscriptions.pop(key)  # as if the session had not been notified
        world.hub.rooms.get(key).leave(member)  # type: ignore[union-attr]
        world.start(lambda: bob.send(key, "hello", "c-1"))
        await settle()
        await remove(world, key)
        gate.set()
        await settle()
        assert bob.errors == [("not_a_member", "c-1", str(key))]
        await carol.send("a secret")
        await settle()
        assert bob.contents(key) == []


# --- bulk additions ---


async def test_a_bulk_addition_is_sent_in_few_frames(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key, users = world.conversation_id, []
        for number in range(60):
            user = type(world.alice)(world.ids(), f"user{number}")
            users.append(user)
            await world.store.create_user(user, password_hash=None, subject=None, created_at=virtual_now())
        alice = await world.join(world.alice)
        devices = [await device(world, user) for user in users]
        await settle()
        before = len(alice.transport.frames)
        with world.hub.members.changing(key):
            ids = [user.id for user in users]
            added = await world.store.add_members(key, world.alice.id, ids, limit=99, now=virtual_now())
            await world.hub.members.add_users(key, ids, added.version)
            world.hub.rooms.announce(key, "added", "60 were added", ids[0], ids)
        await trio.sleep(1)
        new = alice.transport.frames[before:]
        assert [frame["type"] for frame in new] == ["system", "presence"]
        assert (new[0]["user_count"], new[0]["user_ids"]) == (60, [str(each) for each in ids])
        assert len(new[1]["joined"]) == 60
        for each in devices:
            assert [frame["type"] for frame in each.transport.frames].count("conversation_added") == 1
            assert len(each.transport.frames) <= 4


async def test_typing_is_sent_once_a_second_for_each_user(autojump_clock: MockClock) -> None:
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
        key = world.conversation_id
        for user in (world.bob, world.carol):
            await world.store.remove_member(key, world.alice.id, user.id, now=virtual_now())
        alice, bob = await world.join(world.alice), await device(world, world.bob)
        carol = await device(world, world.carol)
        ids = [world.bob.id, world.carol.id]
        added = await world.store.add_members(key, world.alice.id, ids, limit=9, now=virtual_now())
        await world.hub.members.add_users(key, ids, added.version)
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
