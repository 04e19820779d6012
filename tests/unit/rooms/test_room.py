"""A room: one order for all, presence, gaps, and its end."""

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.conversations import messages
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.model import Change, Command, Post
from pulse_trio.protocol import CloseCode, SendMessage, SendResume
from pulse_trio.rooms.hub import TYPING_INTERVAL
from pulse_trio.store.base import NotAMember, StoreUnavailable
from tests.support import commands

from .world import FakeTransport, Outcomes, World, a_world, device, settle


def places(guest_frames: list[dict[str, object]]) -> list[tuple[object, object]]:
    return [(frame["seq"], frame["rev"]) for frame in guest_frames]


async def test_no_message_is_delivered_before_it_is_stored(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        gate = world.store.hold()
        await alice.send("hello", "c1")
        await trio.sleep(3)
        assert alice.contents == bob.contents == []
        gate.set()
        await settle()
        assert alice.contents == bob.contents == ["hello"]
        frame = bob.of_type("message")[0]
        stored = world.store.stored(world.conversation_id)[0]
        assert frame == {
            "type": "message",
            "content": "hello",
            "sender_id": str(world.alice.id),
            "sender_username": "alice",
            "message_id": str(stored.id),
            "timestamp": "2026-02-04T10:30:00.000000Z",
            "is_edited": False,
            "conversation_id": str(world.conversation_id),
            "seq": 1,
            "rev": 1,
            "client_id": "c1",
        }
        assert alice.of_type("message") == [frame]


async def test_all_connections_get_the_same_messages_in_one_order(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        guests = [await world.join(user) for user in (world.alice, world.bob, world.carol, world.alice)]

        async def talk(number: int) -> None:
            for count in range(20):
                await guests[number].send(f"{number}.{count}")
                if count % 3 == 0:
                    await trio.sleep(0.001 * number)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(talk, number)
        await settle()
        assert len(world.stored) == 80
        for guest in guests:
            assert guest.contents == world.stored
            assert places(guest.of_type("message")) == [(n, n) for n in range(1, 81)]
        for number in range(4):
            own = [content for content in world.stored if content.startswith(f"{number}.")]
            assert own == [f"{number}.{count}" for count in range(20)]


async def test_a_lost_answer_makes_one_message_delivered_once(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        world.store.answers = [world.store.commit_and_lose, world.store.commit_and_lose]
        await alice.send("hello", "c1")
        await trio.sleep(5)
        assert len(world.store.attempts) == 3
        assert world.stored == ["hello"]
        assert alice.contents == bob.contents == ["hello"]
        assert alice.errors == []


async def test_a_resend_is_answered_to_its_sender_only(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        await alice.send("hello", "c1")
        await settle()
        await alice.send("hello", "c1")
        await bob.send("hello", "c1")  # another sender's client_id is another message
        await settle()
        assert world.stored == ["hello", "hello"]
        assert places(alice.of_type("message")) == [(1, 1), (1, 1), (2, 2)]
        assert places(bob.of_type("message")) == [(1, 1), (2, 2)]


async def test_a_client_id_reused_for_other_content_is_refused(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        await alice.send("hello", "c1")
        await alice.send("good bye", "c1")
        await settle()
        assert world.stored == ["hello"]
        assert alice.errors == [("client_id_reused", "c1")]
        assert alice.contents == bob.contents == ["hello"]


async def test_a_message_not_stored_in_time_is_refused_alone(
    autojump_clock: MockClock,
) -> None:
    async with a_world(store_timeout=10.0) as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        world.store.usual = world.store.fail
        await alice.send("lost", "c1")
        await trio.sleep(8)
        assert alice.errors == []
        await bob.send("kept", "c2")
        await trio.sleep(4)
        assert alice.errors == [("not_stored", "c1")]
        assert bob.errors == []
        world.store.usual = world.store.commit
        await trio.sleep(2)
        assert alice.contents == bob.contents == ["kept"] == world.stored
        await alice.send("lost", "c1")
        await settle()
        assert alice.contents == bob.contents == ["kept", "lost"]


async def test_a_refusal_for_a_sender_who_has_left_is_harmless(autojump_clock: MockClock) -> None:
    async with a_world(store_timeout=10.0) as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        world.store.usual = world.store.fail
        await alice.send("lost", "c1")
        await settle()
        alice.leave()
        await trio.sleep(15)
        world.store.usual = world.store.commit
        assert not bob.ended.is_set()
        await bob.send("still here")
        await settle()
        assert bob.contents == ["still here"]


async def test_a_resend_of_a_sender_who_has_left_is_harmless(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        await alice.send("hello", "c1")
        await settle()
        gate = world.store.hold()
        await alice.send("hello", "c1")
        await settle()
        alice.leave()
        await settle()
        gate.set()
        await settle()
        assert not bob.ended.is_set()
        await bob.send("still here")
        await settle()
        assert bob.contents == ["hello", "still here"]


async def test_a_message_is_stored_and_delivered_although_its_sender_has_gone(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        gate = world.store.hold()
        await alice.send("last words")
        alice.leave()
        await settle()
        gate.set()
        await settle()
        assert bob.contents == ["last words"]
        assert alice.contents == []


async def test_a_message_is_stored_although_the_room_is_empty(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice = await world.join(world.alice)
        gate = world.store.hold()
        await alice.send("to nobody")
        alice.leave()
        await settle()
        assert world.hub.room_count == 1
        gate.set()
        await settle()
        assert world.stored == ["to nobody"]
        assert world.hub.room_count == 0


async def test_a_poison_message_is_refused_alone(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        gate = world.store.hold()
        await alice.send("one")
        await settle()
        await alice.send("two")
        await bob.send("poison", "p")
        await alice.send("three")
        gate.set()
        await settle()
        assert bob.errors == [("not_stored", "p")]
        assert alice.errors == []
        assert alice.contents == bob.contents == ["one", "two", "three"] == world.stored


@pytest.mark.parametrize("pending", [1, 5])
async def test_a_connection_with_too_many_pending_messages_waits(autojump_clock: MockClock, pending: int) -> None:
    async with a_world(pending_messages=pending) as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        gate = world.store.hold()
        for number in range(pending):
            await alice.send(str(number))
        with trio.move_on_after(5) as scope:
            await alice.send("one too many")
        assert scope.cancelled_caught
        await bob.send("of another")  # others do not wait
        gate.set()
        await settle()
        assert world.stored == [*map(str, range(pending)), "of another"]
        for number in range(3 * pending):
            await alice.send(f"again {number}")
        await settle()
        assert len(bob.contents) == 4 * pending + 1


async def test_a_full_inbox_slows_its_senders(autojump_clock: MockClock) -> None:
    async with a_world(inbox_messages=2, batch_messages=1, pending_messages=100) as world:
        alice = await world.join(world.alice)
        bob = await world.join(world.bob)
        gate = world.store.hold()
        await alice.send("a")
        await settle()
        await alice.send("b")
        await alice.send("c")
        sent = trio.Event()

        async def send() -> None:
            await bob.send("d")
            sent.set()

        world.start(send)
        await trio.sleep(1)
        assert not sent.is_set()
        gate.set()
        await sent.wait()
        await settle()
        assert alice.contents == ["a", "b", "c", "d"]


async def test_a_refused_but_committed_message_is_delivered_before_the_next(autojump_clock: MockClock) -> None:
    async with a_world(store_timeout=10.0) as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        world.store.answers = [world.store.commit_and_lose]
        world.store.usual = world.store.fail
        await alice.send("given up", "c1")
        await trio.sleep(12)
        assert alice.errors == [("not_stored", "c1")]
        assert world.stored == ["given up"]
        assert bob.contents == ["given up"], "without another message first"
        world.store.usual = world.store.commit
        await bob.send("next")
        await settle()
        for guest in (alice, bob):
            assert guest.contents == ["given up", "next"]
            assert places(guest.of_type("message")) == [(1, 1), (2, 2)]


async def test_a_commit_after_its_refusal_is_delivered(autojump_clock: MockClock) -> None:
    async with a_world(store_timeout=10.0) as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        world.store.usual = world.store.fail
        await alice.send("given up", "c1")
        await trio.sleep(12)
        assert alice.errors == [("not_stored", "c1")]
        await world.store.commit([new_message(world, "late")])  # the database was still committing it
        await trio.sleep(12)
        assert bob.contents == ["late"]


async def test_an_empty_room_does_not_wait_for_its_recheck(autojump_clock: MockClock) -> None:
    async with a_world(store_timeout=10.0) as world:
        alice = await world.join(world.alice)
        world.store.usual = world.store.fail
        await alice.send("given up", "c1")
        await trio.sleep(11)
        alice.leave()
        await settle()
        assert world.hub.room_count == 0


async def test_a_client_that_knows_more_than_the_room_resumes(autojump_clock: MockClock) -> None:
    """It read from the store a commit that the room does not know, and reconnected before the room learnt of it."""
    async with a_world() as world:
        alice = await world.join(world.alice)
        await world.store.commit([new_message(world, "unknown to the room")])
        bob = await world.join(world.bob, after_rev=1)
        await alice.send("next")
        await settle()
        assert alice.contents == ["unknown to the room", "next"]
        assert bob.contents == ["next"]
        with pytest.raises(PulseError, match="Cannot resume"):
            await world.join(world.bob, after_rev=3)


@pytest.mark.parametrize("missed", [1, 3, 300])
async def test_after_a_gap_no_message_is_delivered_twice(autojump_clock: MockClock, missed: int) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        for number in range(missed):  # committed without the room
            await world.store.commit([new_message(world, f"missed {number}")])
        gate = world.store.hold()
        await alice.send("held")
        await settle()
        for number in range(4):
            await alice.send(f"a{number}", f"c{number}")
        await bob.send("b")
        gate.set()
        await settle()
        for guest in (alice, bob):
            assert guest.contents == world.stored
            assert places(guest.of_type("message")) == [(n, n) for n in range(1, missed + 7)]


async def test_a_batch_behind_a_gap_is_delivered_once(autojump_clock: MockClock) -> None:
    """The gap is read while the whole batch is committed already."""
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        gate = world.store.hold()

        async def commit_after_a_stranger(batch: Sequence[Command]) -> Outcomes:
            await world.store.commit([new_message(world, "missed")])
            return await world.store.commit(batch)

        await alice.send("first")
        await settle()
        world.store.answers = [commit_after_a_stranger]
        for number in range(3):
            await alice.send(f"a{number}", f"c{number}")
        gate.set()
        await settle()
        for guest in (alice, bob):
            assert guest.contents == ["first", "missed", "a0", "a1", "a2"]


async def test_a_gap_is_filled_although_the_store_fails_or_hangs_meanwhile(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        await world.store.commit([new_message(world, "missed")])
        changes = world.store.changes
        calls = 0

        async def failing(*arguments: object, **options: object) -> list[Change]:
            nonlocal calls
            calls += 1
            if calls < 3:
                raise StoreUnavailable
            if calls == 3:
                await trio.sleep_forever()
            return await changes(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(world.store, "changes", failing)
        await alice.send("next")
        await trio.sleep(60)
        assert alice.contents == bob.contents == ["missed", "next"]


def new_message(world: World, content: str) -> Post:
    return commands.post(world.conversation_id, world.carol, content)


# --- presence ---


async def test_joined_and_left_are_sent_for_the_first_and_last_connection_of_a_user(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice = await world.join(world.alice)
        bob1 = await world.join(world.bob)
        bob2 = await world.join(world.bob)
        await settle()
        a, b = str(world.alice.id), str(world.bob.id)
        assert alice.events == [("joined", a), ("joined", b)]
        assert bob1.events == [("joined", b)]
        assert bob2.events == [("joined", b)]  # its own, with the list
        assert [frame["active_users"] for frame in alice.of_type("system")] == [[a], [a, b]]
        assert bob2.of_type("system")[0]["active_users"] == [a, b]
        bob1.leave()
        await settle()
        assert alice.events == [("joined", a), ("joined", b)]
        bob2.leave()
        await settle()
        assert alice.events == [("joined", a), ("joined", b), ("left", b)]
        left = alice.of_type("system")[-1]
        assert left["active_users"] == [a]
        assert left["content"] == "User bob left the conversation"


async def test_active_users_are_each_named_once_in_the_order_they_came(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        guests = [await world.join(u) for u in (world.carol, world.alice, world.carol, world.bob, world.alice)]
        await settle()
        c, a, b = (str(user.id) for user in (world.carol, world.alice, world.bob))
        assert guests[-1].of_type("system")[0]["active_users"] == [c, a, b]
        guests[0].leave()
        guests[2].leave()
        carol = await world.join(world.carol)
        await settle()
        assert carol.of_type("system")[0]["active_users"] == [a, b, c]


async def test_system_frames_have_the_head_of_the_conversation(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice = await world.join(world.alice)
        await alice.send("one")
        await alice.send("two")
        await settle()
        bob = await world.join(world.bob)
        await settle()
        frame = bob.of_type("system")[0]
        assert (frame["last_seq"], frame["last_rev"]) == (2, 2)
        assert frame["content"] == "User bob joined the conversation"
        alice.leave()
        bob.leave()
        await settle()
        carol = await world.join(world.carol)  # in a new room, which reads it from the store
        await settle()
        assert (carol.of_type("system")[0]["last_seq"], carol.of_type("system")[0]["last_rev"]) == (2, 2)


async def test_typing_reaches_the_other_users_only(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice1, alice2, bob = [await world.join(user) for user in (world.alice, world.alice, world.bob)]
        await world.hub.send_typing(alice1.subscription)
        await settle()
        assert alice1.of_type("typing") == alice2.of_type("typing") == []
        assert bob.of_type("typing") == [
            {
                "type": "typing",
                "sender_id": str(world.alice.id),
                "sender_username": "alice",
                "conversation_id": str(world.conversation_id),
            }
        ]


# --- slow connections ---


async def test_a_slow_connection_is_closed_alone(autojump_clock: MockClock) -> None:
    async with a_world(outbox_bytes=65_536) as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        carol = await world.join(world.carol)
        await settle()
        carol.transport.stall = trio.Event()
        for number in range(25):
            await alice.send(f"{number:02} " + "x" * 3_000)
            await settle()
            await world.hub.send_typing(bob.subscription)
            await trio.sleep(TYPING_INTERVAL)
        await settle()
        assert carol.ended.is_set()
        assert carol.transport.closed is not None
        assert carol.transport.closed[0] == CloseCode.TOO_SLOW
        assert carol.subscription.connection.dropped_frames > 0
        assert len(bob.contents) == len(alice.contents) == 25
        assert ("left", str(world.carol.id)) in bob.events
        assert len(alice.of_type("typing")) == 25
        assert world.hub.get_connection_count(world.conversation_id) == 2


async def test_a_broken_connection_ends_alone(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        await settle()
        bob.transport.broken = RuntimeError("a fault in this connection")
        await alice.send("one")
        await settle()
        assert bob.ended.is_set()
        assert bob.transport.closed is not None
        assert bob.transport.closed[0] == CloseCode.INTERNAL_ERROR
        await alice.send("two")
        await settle()
        assert alice.contents == ["one", "two"]
        assert alice.events[-1] == ("left", str(world.bob.id))


# --- a fault in the writer ---


async def test_a_fault_in_the_writer_ends_that_room_and_a_new_join_finds_a_new_one(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        await settle()
        bob.transport.close_stall = trio.Event()  # bob's close frame is delayed
        world.store.answers = [world.store.crash]
        gate = world.store.hold()
        await alice.send("boom")
        await settle()
        await alice.send("behind it")
        gate.set()
        await settle()
        assert alice.transport.closed is not None
        assert alice.transport.closed[0] == CloseCode.INTERNAL_ERROR
        again = await world.join(world.alice)
        await again.send("hello", "c1")
        await settle()
        assert again.contents == ["hello"]
        assert again.transport.closed is None
        await trio.sleep(20)  # the new one looks for what the failed one has committed
        assert bob.ended.is_set()
        assert again.transport.closed is None
        assert world.hub.get_connection_count(world.conversation_id) == 1
        again.leave()
        await settle()
        assert world.hub.room_count == 0


async def test_idle_members_of_a_failed_room_get_their_close_frame_and_are_counted_once(
    autojump_clock: MockClock,
) -> None:
    """They have no task that could notice: the room closes them while its nursery can still run theirs."""
    async with a_world() as world:
        metrics = world.hub._metrics
        guests = [await world.join(user) for user in (world.alice, world.bob, world.bob)]
        await settle()
        assert len(metrics.connections) == 3
        world.store.answers = [world.store.crash]
        await messages.send(world.core, guests[0].subscription, frame_of("boom"))
        await settle()
        for guest in guests:
            assert guest.transport.closed == (1011, "the conversation failed; reconnect")
            assert guest.ended.is_set()
        assert not metrics.connections
        assert metrics.closes == {1011: 3}
        assert not world.hub.online._connections


async def test_idle_connections_of_a_cancelled_hub_get_their_close_frame(autojump_clock: MockClock) -> None:
    with trio.CancelScope() as outside:
        async with a_world() as world:
            guest, other = await world.join(world.alice), await device(world, world.bob)
            other.session.start()
            await settle()
            metrics = world.hub._metrics
            assert len(metrics.connections) == 2
            outside.cancel()
            await trio.sleep_forever()
    for connected in (guest, other):
        assert connected.transport.closed == (1011, "the server failed; reconnect")
        assert connected.ended.is_set()
    assert not metrics.connections
    assert metrics.closes == {1011: 2}


async def test_nobody_joins_a_room_that_is_cancelled(autojump_clock: MockClock) -> None:
    """A connection that joined then would never be closed, as it is idle."""
    with trio.CancelScope() as outside:
        async with a_world() as world:
            guest = await world.join(world.alice)
            guest.transport.close_stall = trio.Event()  # so the room is still ending
            room = world.hub.rooms.get(world.conversation_id)
            assert room is not None
            outside.cancel()
            with trio.CancelScope(shield=True):
                await settle()
                assert guest.transport.closed is not None
                assert not room.ended.is_set()
                assert room.failure is not None  # which those find who wait to join it
                assert world.hub.rooms.get(world.conversation_id) is None
            await trio.sleep_forever()


async def test_a_fault_in_one_room_leaves_the_others_alone(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice = await world.join(world.alice)
        other_conversation = world.ids()
        await world.new_conversation(other_conversation)
        world.conversation_id = other_conversation
        elsewhere = await world.join(world.alice)
        world.store.answers = [world.store.crash]
        await messages.send(world.core, alice.subscription, frame_of("boom"))
        await settle()
        assert alice.transport.closed is not None
        assert elsewhere.transport.closed is None
        await elsewhere.send("fine")
        await settle()
        assert elsewhere.contents == ["fine"]


async def test_a_fault_in_the_writer_while_the_hub_is_cancelled_does_not_end_the_service(
    autojump_clock: MockClock,
) -> None:
    with trio.CancelScope() as outside:
        async with a_world() as world:

            async def crash(batch: Sequence[Command]) -> Outcomes:
                outside.cancel()
                await world.store.crash(batch)
                raise AssertionError

            async def shielded(batch: Sequence[Command]) -> Outcomes:
                with trio.CancelScope(shield=True):
                    return await crash(batch)

            alice = await world.join(world.alice)
            world.store.has_short_way = False
            world.store.answers = [shielded]
            await alice.send("boom")
            await trio.sleep_forever()
    assert alice.transport.closed is not None
    assert alice.transport.closed[0] == CloseCode.INTERNAL_ERROR


def frame_of(content: str) -> SendMessage:
    return SendMessage(content=content)


# --- changes of messages ---


async def test_changes_reach_all_connections_in_the_order_of_rev(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        await alice.send("one")
        await alice.send("two")
        await settle()
        first = world.store.stored(world.conversation_id)[0].id
        await messages.edit(world.core, world.conversation_id, first, world.alice, "better")
        await messages.delete(world.core, world.conversation_id, first, world.alice)
        await settle()
        for guest in (alice, bob):
            changes = guest.of_type("message", "message_updated", "message_deleted")
            assert [(c["type"], c["seq"], c["rev"]) for c in changes] == [
                ("message", 1, 1),
                ("message", 2, 2),
                ("message_updated", 1, 3),
                ("message_deleted", 1, 4),
            ]


async def test_a_message_behind_a_change_that_the_room_missed_is_delivered_once(autojump_clock: MockClock) -> None:
    """The rev of the missed change may be unused: its message has been changed again since."""
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        await alice.send("one")
        await settle()
        first = world.store.stored(world.conversation_id)[0]
        for content in ("better", "best"):  # without the room
            await world.store.apply([commands.edit(first, world.alice, content)])
        await bob.send("two")
        await settle()
        for guest in (alice, bob):
            changes = guest.of_type("message", "message_updated")
            assert [(c["content"], c["rev"]) for c in changes] == [("one", 1), ("best", 3), ("two", 4)]


async def test_a_waiting_edit_is_answered_when_the_writer_fails(autojump_clock: MockClock) -> None:
    async with a_world(inbox_messages=1) as world:
        alice = await world.join(world.alice)
        await alice.send("one")
        await settle()
        first = world.store.stored(world.conversation_id)[0].id
        world.store.answers = [world.store.crash]
        gate = world.store.hold()
        await alice.send("boom")
        await settle()
        answers = []

        async def edit() -> None:
            try:
                await messages.edit(world.core, world.conversation_id, first, world.alice, "better")
            except PulseError as error:
                answers.append(error.code)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(edit)
            nursery.start_soon(edit)  # this one waits for room in the inbox
            await settle()
            gate.set()
        assert answers == [ErrorCode.NOT_STORED] * 2


async def test_a_message_found_by_a_recheck_is_delivered_once(autojump_clock: MockClock) -> None:
    """The recheck finds a commit before the writer gets its answer."""
    async with a_world(store_timeout=2.0) as world:
        bob, alice = await world.join(world.bob), await world.join(world.alice)
        world.store.answers = [world.store.hang]
        await alice.send("lost")
        await trio.sleep(2.5)  # refused: the recheck looks now, and once more two seconds later

        async def answer_late(batch: Sequence[Command]) -> Outcomes:
            outcomes = await world.store.commit(batch)
            await trio.sleep(1.8)
            return outcomes

        world.store.answers = [answer_late]
        await trio.sleep(0.5)
        await alice.send("two")
        await trio.sleep(20)
        assert alice.contents == bob.contents == ["two"]


# --- messages of users who are not connected ---


async def test_a_post_is_answered_when_stored_and_reaches_all_connections(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        await alice.send("one")
        posted, is_new = await messages.post(world.core, world.conversation_id, world.bob, "two", "b-1")
        assert is_new
        assert (posted.seq, posted.content, posted.sender_id) == (2, "two", world.bob.id)
        again, is_new = await messages.post(world.core, world.conversation_id, world.bob, "two", "b-1")
        assert (again, is_new) == (posted, False)
        with pytest.raises(PulseError) as caught:
            await messages.post(world.core, world.conversation_id, world.bob, "three", "b-1")
        assert (caught.value.code, caught.value.field) == (ErrorCode.CLIENT_ID_REUSED, "client_id")
        await settle()
        assert alice.contents == bob.contents == ["one", "two"]


async def test_a_post_without_connections_is_stored_and_the_room_ends(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        posted, _ = await messages.post(world.core, world.conversation_id, world.alice, "hello", None)
        assert (posted.seq, world.stored) == (1, ["hello"])
        await settle()
        assert world.hub.room_count == 0


async def test_a_post_of_a_non_member_is_refused(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        posted, _ = await messages.post(world.core, world.conversation_id, world.bob, "mine", "b-1")
        await world.store.apply([commands.remove(world.conversation_id, world.alice, world.bob)])
        for content, client_id in (("new", None), ("mine", "b-1")):  # earlier messages are not returned either
            with pytest.raises(NotAMember):
                await messages.post(world.core, world.conversation_id, world.bob, content, client_id)
        assert world.stored == [posted.content]


@pytest.mark.parametrize("outcome", ["commit", "commit_and_lose", "fail"])
async def test_a_post_cancelled_at_any_checkpoint_and_sent_again_is_stored_once(
    autojump_clock: MockClock, outcome: str
) -> None:
    for checkpoint in range(1, 40):
        async with a_world(seed=checkpoint, inbox_messages=1) as world:
            bob = await world.join(world.bob)
            world.store.answers = [getattr(world.store, outcome)]
            with trio.CancelScope() as scope:
                ticks = Ticks(checkpoint, scope)
                trio.lowlevel.add_instrument(ticks)
                try:
                    await messages.post(world.core, world.conversation_id, world.alice, "once", "a-1")
                finally:
                    trio.lowlevel.remove_instrument(ticks)
            posted, _ = await messages.post(world.core, world.conversation_id, world.alice, "once", "a-1")
            await settle()
            assert (posted.seq, world.stored, bob.contents) == (1, ["once"], ["once"])
            bob.leave()
            await settle()
            assert world.hub.room_count == 0
            done = not scope.cancelled_caught
        if done and checkpoint > 8:
            return
    raise AssertionError("the post never came to its end")


async def test_a_resume_sends_missed_changes_then_live_ones_without_a_gap(autojump_clock: MockClock) -> None:
    async with a_world() as world:
        alice = await world.join(world.alice)
        for number in range(1, 601):
            await alice.send(str(number))
            if number % 50 == 0:
                await settle()
        guest = world.guest(world.bob)
        guest._subscription = await world.hub.connect(
            world.conversation_id, world.bob, guest.transport, on_ended=guest._on_ended, after_rev=10
        )
        for number in range(601, 700):
            await alice.send(str(number))
            await trio.lowlevel.checkpoint()
        await settle()
        assert places(guest.of_type("message")) == [(n, n) for n in range(11, 700)]


# --- cancellation ---


@pytest.mark.parametrize("outcome", ["commit", "commit_and_lose", "fail"])
async def test_a_send_cancelled_at_any_checkpoint_is_stored_at_most_once_and_leaves_no_gap(
    autojump_clock: MockClock, outcome: str
) -> None:
    for checkpoint in range(1, 40):
        async with a_world(seed=checkpoint, pending_messages=1, inbox_messages=1, batch_messages=1) as world:
            alice, bob = await world.join(world.alice), await world.join(world.bob)
            world.store.answers = [getattr(world.store, outcome)]
            with trio.CancelScope() as scope:
                ticks = Ticks(checkpoint, scope)
                trio.lowlevel.add_instrument(ticks)
                try:
                    for number in range(4):
                        await messages.send(world.core, alice.subscription, frame_of(str(number)))
                finally:
                    trio.lowlevel.remove_instrument(ticks)
            await trio.sleep(30)
            stored = world.stored
            assert stored == ["0", "1", "2", "3"][: len(stored)]
            assert bob.contents == alice.contents == stored
            await alice.send("after")  # its capacity was released
            await trio.sleep(5)
            assert bob.contents == [*stored, "after"]
            for guest in (alice, bob):
                guest.leave()
            await settle()
            assert world.hub.room_count == 0
            done = not scope.cancelled_caught
        if done and checkpoint > 20:
            return
    raise AssertionError("the sends never came to their end")


async def join(world: World) -> None:
    guest = world.guest(world.bob)
    try:
        await guest.join(after_rev=2)
    finally:
        guest.leave()


async def come_with_a_session(world: World) -> None:
    session = await world.hub.lobby.open(world.bob, FakeTransport(), on_ended=lambda: None)
    try:
        await world.hub.lobby.resume(session, SendResume(revs={world.conversation_id: 2}))
    finally:
        world.hub.lobby.close(session)


async def edit_over_rest(world: World) -> None:
    first = world.store.stored(world.conversation_id)[0]
    await messages.edit(world.core, world.conversation_id, first.id, world.alice, "edited")


@pytest.mark.parametrize("is_open", [True, False], ids=["room is open", "room is opened for it"])
@pytest.mark.parametrize("ask", [join, come_with_a_session, edit_over_rest])
async def test_a_cancellation_at_any_checkpoint_leaves_nothing_behind(
    autojump_clock: MockClock, ask: Callable[[World], Awaitable[None]], is_open: bool
) -> None:
    """Joining and resuming, and a change over REST: at the first checkpoint, the second, and so on."""
    for checkpoint in range(1, 40):
        async with a_world(seed=checkpoint) as world:
            sender = world.alice.id
            for number in range(5):
                new = commands.post(world.conversation_id, sender, str(number))
                await world.store.apply([new])
            guests = [await world.join(world.alice)] if is_open else []
            with trio.CancelScope() as scope:
                ticks = Ticks(checkpoint, scope)
                trio.lowlevel.add_instrument(ticks)
                try:
                    await ask(world)
                finally:
                    trio.lowlevel.remove_instrument(ticks)
            await trio.sleep(30)
            assert world.hub.get_connection_count(world.conversation_id) == len(guests)
            assert not world.hub._sessions
            assert len(world.hub.user_feeds) == 0
            guests += [await world.join(world.alice, after_rev=2), await world.join(world.bob)]
            await guests[-1].send("after")
            await settle()
            assert guests[-1].contents == ["after"]
            revs = [frame["rev"] for frame in guests[-2].of_type("message", "message_updated")]
            assert revs == list(range(3, len(revs) + 3))
            for guest in guests:
                guest.leave()
            await settle()
            assert world.hub.room_count == 0
        if not scope.cancelled_caught:
            assert checkpoint >= 2, "there is at least one checkpoint"
            return
    raise AssertionError("it never came to its end")


class Ticks(trio.abc.Instrument):
    """Cancels a scope at the k-th step of the current task."""

    def __init__(self, count: int, scope: trio.CancelScope) -> None:
        self._task = trio.lowlevel.current_task()
        self._count = count
        self._scope = scope

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._count -= 1
            if self._count == 0:
                self._scope.cancel()


async def test_clients_that_reconnect_at_once_share_one_read(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[int] = []

    async with a_world() as world:
        changes = world.store.changes

        async def slow(conversation_id: UUID, *, after_rev: int, kinds: int, limit: int) -> list[Change]:
            reads.append(after_rev)
            await trio.sleep(1)
            return await changes(conversation_id, after_rev=after_rev, kinds=kinds, limit=limit)

        monkeypatch.setattr(world.store, "changes", slow)
        alice = await world.join(world.alice)
        await alice.send("one")
        await alice.send("two")
        await settle()
        back = [await world.join(world.bob, after_rev=0) for _ in range(5)]
        await trio.sleep(5)
        assert reads == [0]
        assert all(someone.contents == ["one", "two"] for someone in back)
        # After a change the page is read again; later clients do not get the old one.
        message = world.store.stored(world.conversation_id)[0]
        await messages.delete(world.core, world.conversation_id, message.id, world.alice)
        late = await world.join(world.bob, after_rev=0)
        await trio.sleep(5)
        assert reads == [0, 0]
        assert late.contents == ["two"]
        assert [frame["seq"] for frame in late.of_type("message_deleted")] == [1]


async def test_a_shared_read_is_repeated_when_its_reader_has_left(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with a_world() as world:
        changes = world.store.changes

        async def slow(conversation_id: UUID, *, after_rev: int, kinds: int, limit: int) -> list[Change]:
            await trio.sleep(3)
            return await changes(conversation_id, after_rev=after_rev, kinds=kinds, limit=limit)

        monkeypatch.setattr(world.store, "changes", slow)
        alice = await world.join(world.alice)
        await alice.send("one")
        await settle()
        first = await world.join(world.bob, after_rev=0)
        second = await world.join(world.carol, after_rev=0)
        await trio.sleep(1)
        first.leave()
        await trio.sleep(20)
        assert second.contents == ["one"]
