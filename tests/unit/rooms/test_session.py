"""Sessions: all conversations of a user on one connection, each in order, with nothing missed and nothing doubled."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.conversations import messages
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.model import Command
from pulse_trio.protocol import CloseCode, EditMessage, SendResume
from pulse_trio.rooms import lobby
from pulse_trio.store.base import Head, Memberships, NotAMember, Outcome, StoreUnavailable
from tests.support import commands

from .world import Device, World, a_world, delay, device, settle


async def store(world: World, conversation_id: UUID, *contents: str) -> None:
    """Stores messages before any user of the test connects."""
    for content in contents:
        new = commands.post(conversation_id, world.alice, content)
        await world.store.apply([new])


async def test_the_first_frame_greets(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice = await device(world, world.alice)
        await settle()
        assert alice.transport.frames == [
            {"type": "session", "user_id": str(world.alice.id), "username": "alice", "epoch": world.store.epoch}
        ]


async def test_messages_go_both_ways_in_several_conversations(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        first, second = world.conversation_id, world.ids()
        await world.new_conversation(second)
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        carol = await world.join(world.carol)
        await alice.send(first, "one", "c-1")
        await bob.send(second, "two")
        await carol.send("three")
        await settle()
        for someone in (alice, bob):
            assert sorted(someone.contents(first)) == ["one", "three"]
            assert someone.contents(second) == ["two"]
        assert sorted(carol.contents) == ["one", "three"]
        assert alice.of_type("message")[0]["client_id"] == "c-1"


async def test_a_session_costs_nothing_where_nothing_happens(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        keys = [world.ids() for _ in range(1_000)]
        for key in keys:
            await world.new_conversation(key)
        alice = await device(world, world.alice, dict.fromkeys(keys, 0))
        assert world.hub.room_count == 0
        assert alice.session.subscriptions == {}
        await store(world, keys[0], "before")  # not live: as if stored before, or by another process
        bob = await device(world, world.bob)
        await bob.send(keys[7], "hello")
        await settle()
        assert alice.contents(keys[7]) == ["hello"]
        assert list(alice.session.subscriptions) == [keys[7]]
        assert world.hub.room_count == 1


async def test_a_new_name_reaches_sessions_where_no_room_is_open(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice = await device(world, world.alice)
        await world.hub.apply(commands.set_properties(world.conversation_id, world.bob, name="New"))
        await settle()
        assert [frame["event"] for frame in alice.of_type("system")] == ["renamed"]
        with pytest.raises(NotAMember):
            await world.hub.apply(commands.set_properties(world.ids(), world.bob, name="Nobody is there"))
        await settle()
        assert len(alice.of_type("system")) == 1


async def test_a_session_added_while_the_store_failed_is_live_after_its_resume(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key = world.conversation_id
        await world.store.apply([commands.remove(key, world.alice, world.bob)])
        bob = Device(world, world.bob)
        await bob.open(None)
        alice = await device(world, world.alice)
        await alice.send(key, "before")  # the room is open, and does not know bob
        await settle()
        # The answer to this is lost, so the hub does not hear of it.
        await world.store.apply([commands.add(key, world.alice, world.bob)])
        await world.hub.lobby.resume(bob.session, SendResume(revs={key: 0}))
        await settle()
        await alice.send(key, "after")
        await settle()
        assert bob.contents(key) == ["before", "after"]


async def test_a_room_of_sessions_ends_after_it_has_lingered(autojump_clock: MockClock) -> None:
    async with a_world(room_linger=60.0) as world:
        key = world.conversation_id
        alice = await device(world, world.alice)
        await alice.send(key, "one")
        await trio.sleep(50)
        assert world.hub.room_count == 1
        await alice.send(key, "two")
        await trio.sleep(50)
        assert world.hub.room_count == 1
        await trio.sleep(20)
        assert world.hub.room_count == 0
        await alice.send(key, "three")
        await settle()
        assert alice.contents(key) == ["one", "two", "three"]


async def test_a_room_ends_with_its_last_session(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice = await device(world, world.alice)
        await alice.send(world.conversation_id, "one")
        await settle()
        alice.leave()
        await settle()
        assert world.hub.room_count == 0
        assert alice.ended.is_set()


async def test_a_resume_sends_the_missed_changes_of_each_conversation_then_live(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        keys = [world.conversation_id, world.ids(), world.ids()]
        for key in keys[1:]:
            await world.new_conversation(key)
        for key in keys:
            await store(world, key, *[f"{n}" for n in range(1, 601)])
        alice = await device(world, world.alice, {keys[0]: 590, keys[1]: 0, keys[2]: 600})
        bob = await device(world, world.bob)
        for key in keys:
            await bob.send(key, "live")
        await settle()
        for key, seen in zip(keys, (590, 0, 600), strict=True):
            assert alice.contents(key) == [*(f"{n}" for n in range(seen + 1, 601)), "live"]
            assert [f["rev"] for f in alice.of_type("message") if f["conversation_id"] == str(key)] == list(
                range(seen + 1, 602)
            )


async def test_a_long_resume_does_not_delay_other_conversations(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        busy, long = world.ids(), world.conversation_id
        await world.new_conversation(busy)
        await store(world, long, *[f"{n}" for n in range(5_000)])
        alice = await device(world, world.alice, {long: 0})
        bob = await device(world, world.bob)
        await bob.send(busy, "hello")
        await settle()
        order = [frame["conversation_id"] for frame in alice.of_type("message")]
        assert len(order) == 5_001
        assert order.index(str(busy)) < 3_000


async def test_frames_wait_until_the_client_has_spoken(autojump_clock: MockClock) -> None:
    async with a_world(resume_wait=5.0) as world:
        key = world.conversation_id
        await store(world, key, "one", "two")
        carol = await world.join(world.carol)  # the room is open
        alice = await Device(world, world.alice).open()
        await carol.send("three")
        await trio.sleep(1)
        assert [frame["type"] for frame in alice.of_type("session", "message")] == ["session"]
        await world.hub.lobby.resume(alice.session, SendResume(revs={key: 1}))
        await settle()
        assert alice.contents(key) == ["two", "three"]


async def test_a_silent_session_starts_after_the_resume_wait(autojump_clock: MockClock) -> None:
    async with a_world(resume_wait=5.0) as world:
        key = world.conversation_id
        alice = await Device(world, world.alice).open()
        carol = await world.join(world.carol)
        await carol.send("one")
        await trio.sleep(4.9)
        assert alice.contents(key) == []
        await trio.sleep(0.2)
        await carol.send("two")
        await settle()
        assert alice.contents(key) == ["one", "two"]
        with pytest.raises(PulseError) as caught:
            await world.hub.lobby.resume(alice.session, SendResume(revs={key: 0}))
        assert caught.value.code is ErrorCode.CANNOT_RESUME


async def test_a_conversation_that_cannot_resume_gets_an_error_and_is_live(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        mine, beyond, unknown, foreign = world.conversation_id, world.ids(), world.ids(), world.ids()
        await world.new_conversation(beyond)
        await world.new_conversation(foreign)
        await world.store.apply([commands.remove(foreign, world.alice, world.bob)])
        await store(world, mine, "one", "two")
        bob = await device(world, world.bob, {mine: 1, beyond: 1, unknown: 0, foreign: 0})
        await settle()
        assert bob.errors == [("cannot_resume", None, str(beyond))]
        gone = [frame["conversation_id"] for frame in bob.of_type("conversation_removed")]
        assert gone == [str(unknown), str(foreign)]
        assert bob.contents(mine) == ["two"]
        alice = await device(world, world.alice)
        await alice.send(beyond, "live")
        await settle()
        assert bob.contents(beyond) == ["live"]


async def test_a_resume_with_another_epoch_is_refused(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await store(world, world.conversation_id, "one")
        alice = await Device(world, world.alice).open({world.conversation_id: 0}, epoch="another")
        await settle()
        assert alice.errors == [("cannot_resume", None, None)]
        assert alice.of_type("message") == []


async def test_a_resume_of_too_many_is_refused(autojump_clock: MockClock) -> None:
    async with a_world(resume_conversations=2) as world:
        with pytest.raises(PulseError) as caught:
            await device(world, world.alice, {world.ids(): 0 for _ in range(3)})
        assert (caught.value.code, caught.value.field) == (ErrorCode.INVALID_FRAME, "revs")


async def test_an_edit_reaches_a_session_that_resumes(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key = world.conversation_id
        alice = await device(world, world.alice)
        await alice.send(key, "one")
        await alice.send(key, "two")
        await settle()
        frame = EditMessage(message_id=UUID(alice.of_type("message")[0]["message_id"]), content="uno")
        await messages.revise(world.core, alice.session.subscription(key), frame)
        await settle()
        again = await device(world, world.alice, {key: 2})
        await settle()
        for someone in (alice, again):
            assert [(f["content"], f["rev"]) for f in someone.of_type("message_updated")] == [("uno", 3)]


async def test_a_resend_over_a_session_is_answered_with_the_first_message(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key = world.conversation_id
        alice = await device(world, world.alice)
        await alice.send(key, "one", "c-1")
        await settle()
        alice.leave()
        await settle()
        again = await device(world, world.alice)
        await again.send(key, "one", "c-1")
        await settle()
        assert world.stored == ["one"]
        assert again.of_type("message")[0]["message_id"] == alice.of_type("message")[0]["message_id"]


async def test_a_non_member_cannot_send_or_type(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        foreign, unknown = world.ids(), world.ids()
        await world.new_conversation(foreign)
        await world.store.apply([commands.remove(foreign, world.alice, world.bob)])
        bob = await device(world, world.bob)
        for key in (foreign, unknown):
            await bob.send(key, "hello", f"c-{key}")
            await world.hub.send_typing(bob.session.subscription(key))
            await settle()
        assert sorted(bob.errors, key=str) == sorted(
            [
                ("not_a_member", f"c-{foreign}", str(foreign)),
                ("not_a_member", None, str(foreign)),
                ("not_a_member", f"c-{unknown}", str(unknown)),
                ("not_a_member", None, str(unknown)),
            ],
            key=str,
        )
        assert world.store.stored(foreign) == []
        assert world.hub.room_count == 0


async def test_typing_opens_the_room_for_sessions(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        await world.hub.send_typing(alice.session.subscription(world.conversation_id))
        await settle()
        (typing,) = bob.of_type("typing")
        assert (typing["sender_username"], typing["conversation_id"]) == ("alice", str(world.conversation_id))
        assert alice.of_type("typing") == []


# --- membership ---


async def test_being_added_and_removed_takes_effect_at_once(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key = world.conversation_id
        await world.store.apply([commands.remove(key, world.alice, world.bob)])
        bob = await device(world, world.bob)
        alice = await world.join(world.alice)
        await alice.send("before")
        await settle()
        await world.add(world.bob, conversation_id=key)
        await alice.send("between")
        await settle()
        await world.remove(world.bob, key)
        await alice.send("after")
        await settle()
        kinds = [f["type"] for f in bob.transport.frames if f["type"] not in ("system", "session")]
        assert kinds == ["conversation_added", "message", "conversation_removed"]
        assert bob.contents(key) == ["between"]
        assert bob.transport.closed is None
        assert world.hub.get_active_users(key) == {str(world.alice.id)}


async def test_a_queued_frame_does_not_arrive_after_a_removal(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key, other = world.conversation_id, world.ids()
        await world.new_conversation(other)
        bob = await device(world, world.bob)
        alice = await device(world, world.alice)
        await settle()
        bob.transport.stall = trio.Event()
        await alice.send(other, "kept")
        await settle()  # bob's connection is busy with it
        await alice.send(key, "secret")
        await settle()
        await world.remove(world.bob, key)
        bob.transport.stall.set()
        await settle()
        assert bob.contents(other) == ["kept"]
        assert bob.contents(key) == []
        assert bob.of_type("conversation_removed")
        assert bob.transport.closed is None


async def test_an_unread_frame_is_dropped_after_a_removal(
    autojump_clock: MockClock,
) -> None:
    async with a_world() as world:
        key = world.conversation_id
        bob, alice = await device(world, world.bob), await device(world, world.alice)
        await settle()
        bob.transport.stall = trio.Event()
        await alice.send(key, "secret")
        await settle()
        await world.remove(world.bob, key)
        await settle()
        assert bob.contents(key) == []
        assert bob.transport.closed is not None
        assert bob.transport.closed[0] == CloseCode.TOO_SLOW


@pytest.mark.parametrize("is_added", [True, False], ids=["added", "removed"])
async def test_a_change_while_the_room_opens(
    is_added: bool, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The room has looked up its members when the change is committed, but is not open yet.

    The change is one with a lost answer: the database was at it when the room before this one ended.
    """
    async with a_world() as world:
        key = world.conversation_id
        if is_added:
            await world.store.apply([commands.remove(key, world.alice, world.bob)])
        bob, alice = await device(world, world.bob), await device(world, world.alice)
        gate = delay(world, monkeypatch, "members")
        await alice.send(key, "hello")
        await settle()
        await world.store.apply([(commands.add if is_added else commands.remove)(key, world.alice, world.bob)])
        gate.set()
        await settle()
        assert bob.contents(key) == (["hello"] if is_added else [])


@pytest.mark.parametrize("is_added", [True, False], ids=["added", "removed"])
async def test_a_change_while_the_session_opens(
    is_added: bool, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session has looked up its conversations when the change is made, but is not open yet."""
    async with a_world() as world:
        key = world.conversation_id
        alice = await world.join(world.alice)
        if is_added:
            await world.store.apply([commands.remove(key, world.alice, world.bob)])
        gate = delay(world, monkeypatch, "memberships")
        bob = Device(world, world.bob)
        world.start(bob.open)
        await settle()
        if is_added:
            await world.add(world.bob, conversation_id=key)
        else:
            await world.remove(world.bob, key)
        gate.set()
        await settle()
        await alice.send("hello")
        await trio.sleep(10)
        assert bob.contents(key) == (["hello"] if is_added else [])


@pytest.mark.parametrize("is_retried", [True, False], ids=["a retry is answered", "given up"])
async def test_a_removal_with_a_lost_answer_ends_the_subscription(is_retried: bool, autojump_clock: MockClock) -> None:
    async with a_world(store_timeout=2.0) as world:
        key = world.conversation_id
        bob, alice = await device(world, world.bob), await device(world, world.alice)
        await alice.send(key, "one")
        await settle()
        if is_retried:
            world.store.answers = [world.store.commit_and_lose]
            await world.remove(world.bob, key)
        else:
            world.store.answers = [world.store.commit_and_hang]
            with pytest.raises(PulseError):
                await world.remove(world.bob, key)
        await settle()
        assert bob.of_type("conversation_removed")
        await alice.send(key, "two")
        again = await device(world, world.bob, {key: 1})
        await alice.send(key, "three")
        await settle()
        assert bob.transport.closed is None
        assert len(bob.of_type("conversation_removed")) == 1
        assert bob.contents(key) == ["one"]
        assert again.contents(key) == []
        assert again.of_type("conversation_removed")


async def test_nothing_after_a_removal_with_an_unknown_outcome_is_sent_while_a_room_opens(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The removal is committed after the room has looked up its members; its answer is lost (fault C10)."""
    async with a_world() as world:
        key = world.conversation_id
        alice = await device(world, world.alice)
        gate = delay(world, monkeypatch, "members")
        await alice.send(key, "secret")
        await settle()
        await world.store.apply([commands.remove(key, world.alice, world.bob)])
        bob = await device(world, world.bob)
        gate.set()
        await settle()
        assert alice.contents(key) == ["secret"]
        assert bob.contents(key) == []


async def test_a_resend_by_a_removed_user_is_not_answered_with_the_message(autojump_clock: MockClock) -> None:
    """Nothing of the conversation is delivered after the removal, not even what the user wrote."""
    async with a_world() as world:
        key = world.conversation_id
        await world.join(world.carol)  # the room stays
        bob = await device(world, world.bob)
        await bob.send(key, "one", "c-1")
        await settle()
        await world.remove(world.bob, key)
        await settle()
        bob.transport.frames.clear()
        await bob.send(key, "one", "c-1")
        await settle()
        assert bob.errors == [("not_a_member", "c-1", str(key))]
        assert bob.contents(key) == []
        assert world.stored == ["one"]


async def test_a_queued_answer_to_a_resend_does_not_arrive_after_a_removal(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key, other = world.conversation_id, world.ids()
        await world.new_conversation(other)
        bob, alice = await device(world, world.bob), await device(world, world.alice)
        await bob.send(key, "one", "c-1")
        await settle()
        bob.transport.frames.clear()
        bob.transport.stall = trio.Event()
        await alice.send(other, "busy")
        await settle()  # bob's connection is sending it
        await bob.send(key, "one", "c-1")
        await settle()
        await world.remove(world.bob, key)
        bob.transport.stall.set()
        await settle()
        assert bob.contents(key) == []


# --- presence ---


async def test_a_session_is_active_in_an_open_room(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        carol = await world.join(world.carol)
        alice = await device(world, world.alice)
        phone = await device(world, world.alice)
        await settle()
        assert world.hub.get_active_users(world.conversation_id) == {str(world.alice.id), str(world.carol.id)}
        alice.leave()
        phone.leave()
        await settle()
        assert carol.events == [
            ("joined", str(world.carol.id)),
            ("joined", str(world.alice.id)),
            ("left", str(world.alice.id)),
        ]
        assert alice.of_type("system") == []


async def test_a_later_connection_sees_the_sessions_as_active(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        await device(world, world.alice)
        carol = await world.join(world.carol)
        await settle()
        assert set(carol.of_type("system")[0]["active_users"]) == {str(world.alice.id), str(world.carol.id)}


# --- faults ---


async def test_a_session_whose_conversations_cannot_be_looked_up_leaves_nothing(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(store_timeout=10.0) as world:

        async def away(*_: object, **_options: object) -> None:
            await trio.lowlevel.checkpoint()
            raise StoreUnavailable

        async def stuck(*_: object, **_options: object) -> None:
            await trio.sleep_forever()

        carol = await world.join(world.carol)
        for answer in (away, stuck):
            with monkeypatch.context() as patch:
                patch.setattr(world.store, "memberships", answer)
                with pytest.raises(StoreUnavailable):
                    await Device(world, world.alice).open()
        await carol.send("hello")
        await settle()
        assert world.hub.get_active_users(world.conversation_id) == {str(world.carol.id)}


async def test_a_message_waits_for_a_room_that_cannot_be_opened_yet(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(store_timeout=10.0) as world:
        head, fails = world.store.head, 3

        async def flaky(conversation_id: UUID) -> Any:
            nonlocal fails
            fails -= 1
            if fails >= 0:
                await trio.lowlevel.checkpoint()
                raise StoreUnavailable
            return await head(conversation_id)

        monkeypatch.setattr(world.store, "head", flaky)
        alice = await device(world, world.alice)
        await alice.send(world.conversation_id, "hello")
        await trio.sleep(5)
        assert alice.contents(world.conversation_id) == ["hello"]


@pytest.mark.parametrize("hangs", [True, False], ids=["hangs", "fails"])
async def test_a_message_to_a_room_that_does_not_open_is_refused_in_time(
    hangs: bool, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(store_timeout=10.0) as world:

        async def away(_: UUID) -> None:
            if hangs:
                await trio.sleep_forever()
            await trio.lowlevel.checkpoint()
            raise StoreUnavailable

        monkeypatch.setattr(world.store, "head", away)
        alice = await device(world, world.alice)
        await alice.send(world.conversation_id, "hello", "c-1")
        await trio.sleep(11)
        assert alice.errors == [("not_stored", "c-1", str(world.conversation_id))]
        assert world.hub.room_count == 0
        assert alice.session.connection.capacity.value == alice.session.connection.capacity.max_value


async def test_a_room_that_fails_closes_the_sessions_in_it(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        key = world.conversation_id
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        world.store.usual = world.store.crash
        await alice.send(key, "hello", "c-1")
        await settle()
        for someone in (alice, bob):
            assert someone.transport.closed is not None
            assert someone.transport.closed[0] == CloseCode.INTERNAL_ERROR
        world.store.usual = world.store.commit
        again = await device(world, world.alice)
        await again.send(key, "hello", "c-1")
        await settle()
        assert again.contents(key) == ["hello"]


async def test_a_commit_after_the_failure_of_its_room_reaches_a_session(autojump_clock: MockClock) -> None:
    """The connection of the first attempt was lost, the second one failed by a fault of ours."""
    async with a_world(store_timeout=2.0, room_linger=0.0) as world:
        key, arrives = world.conversation_id, trio.Event()
        alice = await device(world, world.alice)
        world.store.answers = [world.store.commit_after(arrives, world.nursery), world.store.crash]
        await alice.send(key, "hello")
        await trio.sleep(1)
        assert alice.transport.closed is not None
        bob = await device(world, world.bob)
        arrives.set()
        await trio.sleep(5)
        assert bob.contents(key) == ["hello"]
        assert world.hub.room_count == 0


@pytest.mark.parametrize("features", [(), ("me",)], ids=["", "me"])
async def test_a_user_whom_a_failed_room_has_added_is_notified(
    autojump_clock: MockClock, features: tuple[str, ...]
) -> None:
    """The room that opens in its place subscribes them at once, before its feed comes to their addition."""
    async with a_world(store_timeout=2.0, room_linger=0.0) as world:
        key = world.conversation_id
        (dave,) = await world.new_users(1)
        added, member = await device(world, dave, None, *features), await device(world, world.bob)

        async def commit_and_crash(batch: Sequence[Command]) -> list[Outcome]:
            await world.store.commit(batch)
            return await world.store.crash(batch)

        world.store.answers = [commit_and_crash]
        with pytest.raises(PulseError):
            await world.add(dave)
        await trio.sleep(5)
        bob = await device(world, world.bob)
        await bob.send(key, "welcome")
        await settle()
        kinds = "membership" if features else "conversation_added"
        assert [frame["conversation_id"] for frame in added.of_type(kinds)] == [str(key)]
        assert added.contents(key) == ["welcome"]
        assert member.transport.closed is not None
        assert member.of_type("conversation_added") == bob.of_type("conversation_added") == []


async def test_a_failed_room_is_opened_again_once_the_store_answers(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world(store_timeout=4.0, room_linger=0.0) as world:
        key, arrives, head, fails = world.conversation_id, trio.Event(), world.store.head, 3
        alice = await device(world, world.alice)

        async def away(conversation_id: UUID) -> Head:
            nonlocal fails
            fails -= 1
            if fails >= 0:
                raise StoreUnavailable
            return await head(conversation_id)

        world.store.answers = [world.store.commit_after(arrives, world.nursery), world.store.crash]
        await alice.send(key, "hello")
        monkeypatch.setattr(world.store, "head", away)
        await trio.sleep(2)
        assert fails < 0
        bob = await device(world, world.bob)
        arrives.set()
        await trio.sleep(5)
        assert bob.contents(key) == ["hello"]


async def test_a_commit_after_a_fault_beside_the_writer_reaches_a_session(autojump_clock: MockClock) -> None:
    """Another task of the room failed, which cancelled the writer."""
    async with a_world(store_timeout=2.0, room_linger=0.0) as world:
        key, arrives = world.conversation_id, trio.Event()
        alice = await device(world, world.alice)
        world.store.answers = [world.store.commit_after(arrives, world.nursery)]
        await alice.send(key, "hello")
        await settle()
        room = world.hub.rooms.get(key)
        assert room is not None
        assert room._nursery is not None

        async def fail() -> None:
            raise RuntimeError("planted")

        room._nursery.start_soon(fail)
        await settle()
        assert alice.transport.closed is not None
        bob = await device(world, world.bob)
        arrives.set()
        await trio.sleep(5)
        assert bob.contents(key) == ["hello"]
        assert world.hub.room_count == 0


async def test_a_drain_does_not_wait_for_a_session_that_cannot_open(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:

        async def memberships(*_: object, **__: object) -> Memberships:
            await trio.sleep(0.5)
            raise StoreUnavailable("away")

        monkeypatch.setattr(world.store, "memberships", memberships)

        async def open_in_vain() -> None:
            with pytest.raises(StoreUnavailable):
                await device(world, world.alice)

        world.start(open_in_vain)
        await settle()
        began = trio.current_time()
        await world.hub.drain()
        assert trio.current_time() - began < 1


async def test_a_commit_before_a_failed_room_opens_again_reaches_a_session(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The room could not be opened before the commit, nor while it was looked for: the store was away."""
    async with a_world(store_timeout=2.0, room_linger=0.0) as world:
        key, arrives = world.conversation_id, trio.Event()
        alice = await device(world, world.alice)
        head, is_away = world.store.head, False

        async def head_or_failure(conversation_id: UUID) -> Head:
            if is_away:
                raise StoreUnavailable("away")
            return await head(conversation_id)

        monkeypatch.setattr(world.store, "head", head_or_failure)
        world.store.answers = [world.store.commit_after(arrives, world.nursery), world.store.crash]
        await alice.send(key, "hello")
        await settle()
        is_away = True
        await trio.sleep(1)
        assert alice.transport.closed is not None
        bob = await device(world, world.bob)
        arrives.set()
        await trio.sleep(5)
        is_away = False
        assert bob.contents(key) == []
        later = await device(world, world.bob, {key: 1})
        carol = await device(world, world.carol)
        await carol.send(key, "again")
        await trio.sleep(5)
        assert bob.contents(key) == ["hello", "again"]
        assert later.contents(key) == ["again"], "its client has loaded the other one"
        assert world.hub.room_count == 0


async def test_an_unknown_commit_found_later_reaches_a_session(autojump_clock: MockClock) -> None:
    """The answer to a commit was lost, its sender gave up, and the room ended before another message came."""
    async with a_world(store_timeout=2.0, room_linger=0.0) as world:
        key = world.conversation_id
        bob = await device(world, world.bob)
        world.store.usual = world.store.commit_and_hang
        alice = await device(world, world.alice)
        await alice.send(key, "lost")
        await trio.sleep(3)
        world.store.usual = world.store.commit
        await trio.sleep(10)
        await alice.send(key, "next")
        await settle()
        assert bob.contents(key) == ["lost", "next"]
        assert [frame["rev"] for frame in bob.of_type("message")] == [1, 2]


async def test_changes_unknown_to_the_room_reach_a_session_in_order(autojump_clock: MockClock) -> None:
    async with a_world(room_linger=1.0) as world:
        key = world.conversation_id
        bob, alice = await device(world, world.bob), await device(world, world.alice)
        await alice.send(key, "one")
        await trio.sleep(2)
        assert world.hub.room_count == 0
        await store(world, key, "two", "three")
        await alice.send(key, "four")
        await settle()
        for someone in (alice, bob):
            assert someone.contents(key) == ["one", "two", "three", "four"]


async def test_draining_closes_sessions_and_stores_what_they_sent(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice = await device(world, world.alice)
        gate = world.store.hold()
        await alice.send(world.conversation_id, "hello")
        await settle()
        world.start(world.hub.drain)
        await settle()
        gate.set()
        await settle()
        assert alice.transport.closed is not None
        assert alice.transport.closed[0] == CloseCode.RESTART
        assert world.stored == ["hello"]
        late = await Device(world, world.bob).open()
        await settle()
        assert late.transport.closed is not None
        assert late.transport.closed[0] == CloseCode.RESTART


async def test_a_slow_session_is_closed_and_resumes(autojump_clock: MockClock) -> None:
    async with a_world(outbox_bytes=65_536) as world:
        key = world.conversation_id
        bob, alice = await device(world, world.bob), await device(world, world.alice)
        await settle()
        bob.transport.stall = trio.Event()
        for number in range(40):
            await alice.send(key, f"{number} " + "x" * 3_000)
        await trio.sleep(5)
        assert bob.transport.closed is not None
        assert bob.transport.closed[0] == CloseCode.TOO_SLOW
        again = await device(world, world.bob, {key: 0})
        await settle()
        assert again.contents(key) == world.stored


async def test_a_client_that_knows_more_than_the_room_gets_nothing_twice(
    autojump_clock: MockClock,
) -> None:
    """Committed, but the answer was lost: the client has read it in the store, the room has not."""
    async with a_world() as world:
        key = world.conversation_id
        carol = await world.join(world.carol)
        await carol.send("one")
        await settle()
        await store(world, key, "two")
        alice = await device(world, world.alice, {key: 2})
        await carol.send("three")
        await settle()
        assert alice.contents(key) == ["three"]


# --- the end of a room that has only sessions ---


async def test_a_join_keeps_a_lingering_room(autojump_clock: MockClock) -> None:
    async with a_world(room_linger=60.0) as world:
        key = world.conversation_id
        alice = await device(world, world.alice)
        await alice.send(key, "one")
        await settle()
        await trio.sleep(10)
        bob, carol = await world.join(world.bob), await world.join(world.carol)
        await trio.sleep(70)
        assert world.hub.get_connection_count(key) == 3
        await alice.send(key, "two")
        await settle()
        await bob.send("three")
        await settle()
        assert bob.contents == carol.contents == ["two", "three"]
        assert alice.contents(key) == ["one", "two", "three"]
        for guest in (bob, carol):
            guest.leave()
        await trio.sleep(61)
        assert world.hub.room_count == 0


async def test_a_post_at_the_end_of_the_linger_is_delivered(autojump_clock: MockClock) -> None:
    async with a_world(room_linger=60.0) as world:
        key = world.conversation_id
        alice, bob = await device(world, world.alice), await device(world, world.bob)
        await alice.send(key, "one")
        await settle()
        await trio.sleep(59.99)
        assert world.hub.room_count == 1
        gate = world.store.hold()
        world.start(messages.post, world.core, key, world.carol, "two", None)
        await trio.sleep(0.02)  # the linger ends while the message is being stored
        gate.set()
        await settle()
        assert bob.contents(key) == ["one", "two"]
        await trio.sleep(61)
        assert world.hub.room_count == 0


async def test_a_message_that_waits_at_the_end_of_the_linger_is_stored(autojump_clock: MockClock) -> None:
    async with a_world(room_linger=5.0, pending_messages=1, store_timeout=60.0) as world:
        key, other = world.conversation_id, world.ids()
        await world.new_conversation(other)
        alice = await device(world, world.alice)
        await alice.send(key, "one")
        await settle()
        await trio.sleep(4)
        gate = world.store.hold()
        await alice.send(other, "slow")  # takes her only slot
        world.start(alice.send, key, "two")
        await trio.sleep(3)
        gate.set()
        await settle()
        assert (world.stored, alice.errors) == (["one", "two"], [])


@pytest.mark.parametrize("knows_more", [False, True])
async def test_a_connection_at_the_end_of_the_linger_joins(autojump_clock: MockClock, *, knows_more: bool) -> None:
    async with a_world(room_linger=5.0) as world:
        key = world.conversation_id
        alice = await device(world, world.alice)
        await alice.send(key, "one")
        await settle()
        if knows_more:  # of a commit whose answer was lost: the store is asked for the head
            await trio.sleep(4.9)
            await store(world, key, "lost")
            head = world.store.head

            async def slow(conversation_id: UUID) -> Head:
                await trio.sleep(0.5)
                return await head(conversation_id)

            world.store.head = slow  # type: ignore[method-assign]
            bob = await world.join(world.bob, after_rev=2)
        else:
            await trio.sleep(5)
            bob = await world.join(world.bob)
        await alice.send(key, "hello")
        await trio.sleep(20)
        assert bob.contents == ["hello"]
        assert world.hub.get_connection_count(key) == 2


async def test_a_fault_while_a_room_opens_refuses_the_message(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(_: UUID) -> Head:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("a fault in the store")

    async with a_world(pending_messages=1) as world:
        alice = await device(world, world.alice)
        with monkeypatch.context() as patch:
            patch.setattr(world.store, "head", broken)
            await alice.send(world.conversation_id, "one", "c-1")
            await settle()
        assert alice.errors == [("not_stored", "c-1", str(world.conversation_id))]
        await alice.send(world.conversation_id, "one", "c-1")
        await settle()
        assert world.stored == ["one"]


async def test_a_session_of_a_user_with_many_conversations_reads_those_with_a_room(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lobby, "MAX_MEMBERSHIPS", 2)
    async with a_world() as world:
        keys = [world.ids() for _ in range(8)]
        for key in keys:
            await world.new_conversation(key)
        await device(world, world.bob)  # keeps rooms open
        for key in keys[:5]:
            await world.hub.apply(commands.post(key, world.bob, "before"))
        sizes, memberships = [], world.store.memberships

        async def counted(*arguments: Any, **options: Any) -> Any:
            found = await memberships(*arguments, **options)
            sizes.append(len(found.heads))
            return found

        monkeypatch.setattr(world.store, "memberships", counted)
        alice = await Device(world, world.alice).open({})
        assert sizes == [3, 2, 2, 1]
        for key in keys:
            await world.hub.apply(commands.post(key, world.bob, "after"))
        await settle()
        assert [alice.contents(key) for key in keys] == [["after"]] * 8
