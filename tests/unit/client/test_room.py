"""A room whose connections end, whose events nobody reads, or whose server refuses: against a scripted server."""

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pulse_trio.client import (
    AuthenticationFailed,
    ClientError,
    ConnectionLost,
    Event,
    Joined,
    Left,
    MembersChanged,
    Message,
    MessageDeleted,
    MessageEdited,
    NotAMember,
    NotStored,
    Offline,
    Online,
    ProtocolError,
    ReadPositions,
    Refused,
    Reset,
    Room,
    Typing,
    Warned,
)
from tests.unit.client.scripted import (
    ALICE,
    BOB,
    EPOCH,
    NOW,
    TEAM,
    TOKEN_SECONDS,
    Peer,
    ScriptedServer,
    message_frame,
    own_frame,
    scripted,
)


async def event_of(room: Room, kind: type[Event], seconds: float = 500) -> Any:
    """The next event, which must be of this kind."""
    with trio.fail_after(seconds):
        event = await room.receive()
    assert isinstance(event, kind), event
    return event


async def seqs(room: Room, count: int) -> list[int]:
    """The seqs of the next messages; that the connection breaks and comes back is passed over."""
    found: list[int] = []
    with trio.fail_after(500):
        while len(found) < count:
            event = await room.receive()
            if isinstance(event, Message):
                found.append(event.seq)
            else:
                assert isinstance(event, Offline | Online), event
    return found


class Sending:
    """A `send` in a task of its own."""

    def __init__(self, nursery: trio.Nursery, room: Room, content: str = "hi", **options: Any) -> None:
        self.outcome: Message | ClientError | None = None
        self.done = trio.Event()
        self.scope = trio.CancelScope()
        nursery.start_soon(self._send, room, content, options)

    async def _send(self, room: Room, content: str, options: dict[str, Any]) -> None:
        with self.scope:
            try:
                self.outcome = await room.send(content, **options)
            except ClientError as error:
                self.outcome = error
        self.done.set()

    async def wait(self) -> Message | ClientError | None:
        with trio.fail_after(1_000):
            await self.done.wait()
        return self.outcome


async def nothing_comes(room: Room, seconds: float = 5) -> None:
    with trio.move_on_after(seconds):
        raise AssertionError(await room.receive())


# --- sending -----------------------------------------------------------------------------------


async def test_send_returns_the_stored_message(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client), trio.open_nursery() as nursery:
        nursery.start_soon(server.accept_greeted)
        async with client.join(TEAM) as room:
            pass
        nursery.start_soon(_answer_one, server)
        async with client.join(TEAM) as room:
            message = await room.send("Hello, Bob!")
            assert (message.seq, message.content, message.sender_username) == (1, "Hello, Bob!", "alice")
            assert await event_of(room, Message) == message
            assert room.rev == 1


async def _answer_one(server: ScriptedServer) -> None:
    peer = await server.accept_greeted()
    await peer.send(own_frame(1, await peer.receive()))


@pytest.fixture
async def joined() -> Any:
    """A room, the server, and the server's end of the room's first connection."""
    async with scripted() as (server, client), trio.open_nursery() as nursery:
        found: list[Peer] = []

        async def accept() -> None:
            found.append(await server.accept_greeted())

        nursery.start_soon(accept)
        async with client.join(TEAM, max_events=8) as room:
            yield room, server, found[0], nursery


Joined_ = tuple[Room, ScriptedServer, Peer, trio.Nursery]


async def test_a_message_without_an_answer_is_sent_again_with_its_client_id(
    autojump_clock: MockClock, joined: Joined_
) -> None:
    room, server, peer, nursery = joined
    sending = Sending(nursery, room)
    first = await peer.receive()
    peer.cut()
    peer = await server.accept_greeted()
    assert await peer.receive() == first
    await peer.send(own_frame(1, first))
    answer = await sending.wait()
    assert isinstance(answer, Message)
    assert answer.client_id == first["client_id"]
    assert await seqs(room, 1) == [1]


async def test_a_message_whose_answer_is_among_what_was_missed_is_not_sent_again(
    autojump_clock: MockClock, joined: Joined_
) -> None:
    room, server, peer, nursery = joined
    sending = Sending(nursery, room)
    sent = await peer.receive()
    peer.cut()
    peer = await server.accept_greeted(rev=3)
    assert peer.resumes == (0, EPOCH)
    await peer.send(message_frame(1), own_frame(2, sent), message_frame(3))
    assert isinstance(await sending.wait(), Message)
    await peer.silence(20)
    assert await seqs(room, 3) == [1, 2, 3]


@pytest.mark.parametrize(
    ("kind", "is_deleted"), [("message_updated", False), ("message_deleted", True)], ids=["edited", "deleted"]
)
async def test_a_message_that_was_changed_before_its_sender_heard_of_it_is_acknowledged(
    autojump_clock: MockClock, joined: Joined_, kind: str, is_deleted: bool
) -> None:
    room, server, peer, nursery = joined
    sending = Sending(nursery, room)
    sent = await peer.receive()
    peer.cut()
    peer = await server.accept_greeted(rev=2)
    await peer.send(own_frame(1, sent, rev=2, type=kind, updated_at=NOW))
    answer = await sending.wait()
    assert isinstance(answer, Message)
    assert (answer.seq, answer.rev, answer.is_deleted) == (1, 2, is_deleted)


async def test_the_answer_to_a_resend_is_no_second_event(autojump_clock: MockClock, joined: Joined_) -> None:
    room, _, peer, nursery = joined
    sending = Sending(nursery, room)
    sent = await peer.receive()
    await peer.send(message_frame(1), own_frame(2, sent), own_frame(2, sent), message_frame(3))
    await sending.wait()
    assert await seqs(room, 3) == [1, 2, 3]


async def test_messages_are_sent_again_in_the_order_they_were_given(autojump_clock: MockClock, joined: Joined_) -> None:
    room, server, peer, nursery = joined
    sendings = []
    for number in range(4):
        sendings.append(Sending(nursery, room, f"message {number}"))
        await peer.receive()
    peer.cut()
    peer = await server.accept_greeted()
    for number in range(4):
        sent = await peer.receive()
        assert sent["content"] == f"message {number}"
        await peer.send(own_frame(number + 1, sent))
    for sending in sendings:
        assert isinstance(await sending.wait(), Message)


async def test_a_send_that_was_cancelled_is_not_sent_again(autojump_clock: MockClock, joined: Joined_) -> None:
    room, server, peer, nursery = joined
    cancelled = Sending(nursery, room, "never mind")
    await peer.receive()
    cancelled.scope.cancel()
    await cancelled.wait()
    assert cancelled.outcome is None
    peer.cut()
    peer = await server.accept_greeted()
    await peer.silence(60)
    other = Sending(nursery, room, "this one")
    assert (await peer.receive())["content"] == "this one"
    other.scope.cancel()


async def test_a_refused_message_raises_what_the_server_said(autojump_clock: MockClock, joined: Joined_) -> None:
    room, _, peer, nursery = joined
    sending = Sending(nursery, room)
    client_id = (await peer.receive())["client_id"]
    await peer.send(
        {"type": "error", "code": "content_too_long", "content": "Too long", "field": "content", "client_id": client_id}
    )
    error = await sending.wait()
    assert isinstance(error, Refused)
    assert (error.code, error.field, error.message) == ("content_too_long", "content", "Too long")


async def test_not_stored_is_tried_again_and_then_told(autojump_clock: MockClock, joined: Joined_) -> None:
    room, _, peer, nursery = joined
    sending = Sending(nursery, room, client_id="mine")
    times = []
    for _ in range(3):
        assert (await peer.receive())["client_id"] == "mine"
        times.append(trio.current_time())
        await peer.send({"type": "error", "code": "not_stored", "content": "Not stored", "client_id": "mine"})
    error = await sending.wait()
    assert isinstance(error, NotStored)
    assert error.client_id == "mine"
    assert times[0] < times[1] < times[2]
    await peer.silence(60)


async def test_after_rate_limited_everything_without_an_answer_is_sent_again_after_a_pause(
    autojump_clock: MockClock, joined: Joined_
) -> None:
    room, _, peer, nursery = joined
    sendings = []
    for number in range(3):
        sendings.append(Sending(nursery, room, f"message {number}"))
        await peer.receive()
    await peer.send({"type": "error", "code": "rate_limited", "content": "Slow down"})
    began = trio.current_time()
    for number in range(3):
        sent = await peer.receive()
        assert sent["content"] == f"message {number}"
        assert trio.current_time() >= began + 1
        await peer.send(own_frame(number + 1, sent))
    assert trio.current_time() >= began + 1.1, "and more slowly"
    for sending in sendings:
        assert isinstance(await sending.wait(), Message)


async def test_a_message_that_is_never_answered_is_sent_again_on_the_same_connection(
    autojump_clock: MockClock, joined: Joined_
) -> None:
    room, _, peer, nursery = joined
    sending = Sending(nursery, room)
    first = await peer.receive()
    assert await peer.receive() == first
    sending.scope.cancel()


async def test_a_message_too_big_for_the_server_is_refused_and_the_others_go_on(
    autojump_clock: MockClock, joined: Joined_
) -> None:
    room, server, peer, nursery = joined
    small, big = Sending(nursery, room, "small"), Sending(nursery, room, "x" * 70_000)
    await peer.receive()
    await peer.receive()
    await peer.close(1009)
    peer = await server.accept_greeted()
    await peer.send(own_frame(1, await peer.receive()))
    assert isinstance(await small.wait(), Message)
    error = await big.wait()
    assert isinstance(error, Refused)
    assert error.field == "content"
    await peer.silence(20)


async def test_what_no_server_can_take_is_refused_here(autojump_clock: MockClock, joined: Joined_) -> None:
    room, _, peer, _ = joined
    with pytest.raises(Refused, match="surrogate"):
        await room.send("\ud800")
    with pytest.raises(ValueError, match="client_id"):
        await room.send("hi", client_id="x" * 65)
    await peer.silence(5)


# --- coming back -------------------------------------------------------------------------------


async def test_it_goes_on_after_the_last_rev_with_nothing_twice(autojump_clock: MockClock, joined: Joined_) -> None:
    room, server, peer, _ = joined
    await peer.send(message_frame(1), message_frame(2))
    assert await seqs(room, 2) == [1, 2]
    peer.cut()
    assert (await event_of(room, Offline)).retry_in > 0
    assert not room.is_online
    peer = await server.accept()
    assert peer.resumes == (2, EPOCH)
    await peer.greet(4)
    await event_of(room, Online)
    await peer.send(message_frame(2), message_frame(3), message_frame(4), message_frame(5))
    assert await seqs(room, 3) == [3, 4, 5]


async def test_edits_and_deletions_are_events(autojump_clock: MockClock, joined: Joined_) -> None:
    room, _, peer, _ = joined
    await peer.send(
        message_frame(1),
        message_frame(1, "better", rev=2, type="message_updated", is_edited=True, updated_at=NOW),
        message_frame(1, rev=3, type="message_deleted", updated_at=NOW),
    )
    await event_of(room, Message)
    edited = (await event_of(room, MessageEdited)).message
    assert (edited.content, edited.is_edited, edited.rev, room.rev) == ("better", True, 2, 2)
    deleted = (await event_of(room, MessageDeleted)).message
    assert (deleted.content, deleted.is_deleted, deleted.seq, room.rev) == ("", True, 1, 3)


async def test_presence_typing_and_read_positions(autojump_clock: MockClock, joined: Joined_) -> None:
    room, _, peer, _ = joined
    bob = UUID(BOB)
    assert room.active_users == {UUID(ALICE)}
    await peer.send(peer.system("joined", BOB, 0, active=(ALICE, BOB)))
    assert await event_of(room, Joined) == Joined(bob, "bob")
    assert room.active_users == {UUID(ALICE), bob}
    await peer.send({"type": "typing", "sender_id": BOB, "sender_username": "bob", "conversation_id": TEAM})
    assert await event_of(room, Typing) == Typing(bob, "bob")
    await peer.send({"type": "read", "conversation_id": TEAM, "positions": [{"user_id": BOB, "seq": 7}]})
    assert dict((await event_of(room, ReadPositions)).positions) == {bob: 7}
    await peer.send(peer.system("left", BOB, 0))
    assert await event_of(room, Left) == Left(bob, "bob")
    assert room.active_users == {UUID(ALICE)}
    person = {"user_id": BOB, "username": "bob"}
    crowd = {"type": "presence", "conversation_id": TEAM, "active_count": 101}
    await peer.send({**crowd, "joined": [person], "left": []}, {**crowd, "joined": [], "left": [person]})
    await event_of(room, Joined)
    await event_of(room, Left)
    await peer.send(peer.system("renamed", BOB, 0))
    renamed = await event_of(room, MembersChanged)
    assert (renamed.what, renamed.user_id, renamed.user_ids, renamed.user_count) == ("renamed", bob, (), 0)
    await peer.send(
        peer.system("added", BOB, 0),  # by a server of before
        {**peer.system("added", BOB, 0), "user_ids": [BOB], "user_count": 1},
        {**peer.system("removed", BOB, 0), "user_ids": [BOB, ALICE], "user_count": 1_000},
    )
    for what, user_ids, count in [("added", (bob,), 1)] * 2 + [("removed", (bob, UUID(ALICE)), 1_000)]:
        changed = await event_of(room, MembersChanged)
        assert (changed.what, changed.user_id, changed.user_ids, changed.user_count) == (what, bob, user_ids, count)
    await peer.send({"type": "of the future", "x": 1}, message_frame(1))
    await event_of(room, Message)


async def test_waits_double_until_the_attempts_are_used_up(autojump_clock: MockClock) -> None:
    async with scripted(attempts=8) as (server, client), trio.open_nursery() as nursery:
        nursery.start_soon(server.accept_greeted)
        async with client.join(TEAM) as room:
            sending = Sending(nursery, room)
            await trio.testing.wait_all_tasks_blocked()
            server.is_down = True
            server.dials.clear()
            await trio.sleep(1)
            assert server.dials == []
            await room_is_cut(server, room)
            with pytest.raises(ConnectionLost, match="8 attempts failed"):
                await drain(room)
            assert isinstance(await sending.wait(), ConnectionLost)
            with pytest.raises(ConnectionLost):
                await room.send("too late")
        waits = [b - a for a, b in zip(server.dials, server.dials[1:], strict=False)]
        assert all(0.1 * 2**n <= wait <= 2 ** (n + 1) for n, wait in enumerate(waits)), waits
        assert len(waits) == 7


async def drain(room: Room) -> None:
    while True:
        await room.receive()


async def room_is_cut(server: ScriptedServer, room: Room) -> None:
    server.last_network.cut()
    await event_of(room, Offline)


async def test_a_server_that_is_away_at_first_is_waited_for_too(autojump_clock: MockClock) -> None:
    async with scripted(attempts=3) as (server, client):
        server.answers["GET", f"/api/chat/conversations/{TEAM}"] = _down_after(server)
        with pytest.raises(ConnectionLost, match="3 attempts failed"):
            async with client.join(TEAM):
                raise AssertionError
        assert len(server.dials) == 3


def _down_after(server: ScriptedServer) -> Callable[[Any], Any]:
    answer = server.answers["GET", f"/api/chat/conversations/{TEAM}"]

    def last(_body: Any) -> Any:
        server.is_down = True
        return answer

    return last


async def test_a_server_that_restarts_is_given_a_random_moment(autojump_clock: MockClock) -> None:
    moments = set()
    for _ in range(2):
        async with scripted() as (server, client), trio.open_nursery() as nursery:
            nursery.start_soon(server.accept_greeted)
            async with client.join(TEAM) as room:
                peer = server.last_peer
                await peer.close(1012)
                offline = await event_of(room, Offline)
                assert 0.1 <= offline.retry_in <= 4
                moments.add(offline.retry_in)
                await server.accept_greeted()
                await event_of(room, Online)


async def test_a_server_that_says_when_to_come_back_is_obeyed(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client), trio.open_nursery() as nursery:
        server.refusals = [(503, {"code": "unavailable", "message": "Starting"}, "40")]
        nursery.start_soon(server.accept_greeted)
        async with client.join(TEAM):
            assert server.dials[1] - server.dials[0] >= 40


@pytest.mark.parametrize("code", [1008, 1011, 4408, 4429, None])
async def test_it_connects_again(autojump_clock: MockClock, joined: Joined_, code: int | None) -> None:
    room, server, peer, _ = joined
    if code is None:
        peer.cut()
    else:
        await peer.close(code)
    offline = await event_of(room, Offline)
    assert offline.retry_in >= (5 if code == 4429 else 0)
    await server.accept_greeted()
    await event_of(room, Online)


@pytest.mark.parametrize(("code", "error"), [(4403, NotAMember), (1002, ProtocolError), (1007, ProtocolError)])
async def test_it_does_not_connect_again(
    autojump_clock: MockClock, joined: Joined_, code: int, error: type[ClientError]
) -> None:
    room, server, peer, nursery = joined
    sending = Sending(nursery, room)
    await peer.receive()
    await peer.close(code)
    with pytest.raises(error):
        await room.receive()
    assert isinstance(await sending.wait(), error)
    await trio.sleep(100)
    assert len(server.dials) == 1


async def test_each_call_of_a_failed_room_raises_an_error_of_its_own(
    autojump_clock: MockClock, joined: Joined_
) -> None:
    """The traceback of one that is raised again and again would grow without end."""
    room, _, peer, nursery = joined
    under_way = [Sending(nursery, room) for _ in range(3)]
    await peer.receive()
    await peer.close(4403)
    errors = [await sending.wait() for sending in under_way]
    for call in (room.receive, partial(room.send, "hello"), room.receive):
        with pytest.raises(NotAMember) as failed:
            await call()
        errors.append(failed.value)
    assert len({id(error) for error in errors}) == len(errors)
    assert len({str(error) for error in errors}) == 1


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(403, "not_a_member", NotAMember), (403, "origin_not_allowed", Refused), (422, "invalid_field", Refused)],
)
async def test_a_handshake_that_is_refused_for_good(
    autojump_clock: MockClock, status: int, code: str, error: type[ClientError]
) -> None:
    async with scripted() as (server, client):
        server.refusals = [(status, {"code": code, "message": "No"}, None)]
        with pytest.raises(error, match="No"):
            async with client.join(TEAM):
                raise AssertionError
        assert len(server.dials) == 1


async def test_a_conversation_of_others_is_refused_before_it_is_dialled(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client):
        with pytest.raises(NotAMember):
            async with client.join(UUID(int=5)):
                raise AssertionError
        assert server.dials == []


async def test_a_history_that_was_rolled_back_is_told_once_it_is_live_again(
    autojump_clock: MockClock, joined: Joined_
) -> None:
    room, server, peer, _ = joined
    await peer.send(message_frame(1), message_frame(2))
    await seqs(room, 2)
    peer.cut()
    await event_of(room, Offline)
    peer = await server.accept()
    await peer.send({"type": "error", "code": "cannot_resume", "content": "There is no such point"})
    await peer.close(4409)
    peer = await server.accept()
    assert (peer.path, peer.resumes) == (f"/api/chat/ws/{TEAM}", None)
    await peer.greet(1, epoch="another")
    reset = await event_of(room, Reset)
    assert reset == Reset(1, 1, "another")
    assert (room.rev, room.epoch) == (1, "another")
    await peer.send(message_frame(2))
    assert await seqs(room, 1) == [2]


async def test_rev_and_epoch_are_of_one_history_until_the_reset_is_received(
    autojump_clock: MockClock, joined: Joined_
) -> None:
    room, server, peer, _ = joined
    await peer.send(message_frame(1), message_frame(2))
    assert await seqs(room, 1) == [1]
    await peer.close(4409)
    peer = await server.accept()
    assert (room.rev, room.epoch) == (1, EPOCH), "while there is no connection"
    await peer.greet(1, epoch="another")
    await peer.send(message_frame(2))
    await trio.testing.wait_all_tasks_blocked()
    assert (room.rev, room.epoch) == (1, EPOCH), "what follows may be lost, and is to be told again"
    assert (room.head_rev, room.head_epoch) == (2, "another")
    assert await seqs(room, 1) == [2]
    assert (room.rev, room.epoch) == (2, EPOCH)
    await event_of(room, Reset)
    assert (room.rev, room.epoch) == (1, "another")
    assert await seqs(room, 1) == [2]
    assert (room.rev, room.epoch) == (2, "another")


@pytest.mark.parametrize("epoch", [None, "of a year ago"])
async def test_a_program_that_cannot_go_on_is_where_it_was_until_it_knows(
    autojump_clock: MockClock, epoch: str | None
) -> None:
    async with scripted() as (server, client), trio.open_nursery() as nursery:

        async def refuse() -> None:
            await (await server.accept()).close(4409)
            await server.accept_greeted(rev=3)

        nursery.start_soon(refuse)
        async with client.join(TEAM, after=999, epoch=epoch) as room:
            assert (room.rev, room.epoch, room.head_rev, room.head_epoch) == (999, epoch or "", 3, EPOCH)
            await event_of(room, Reset)
            assert (room.rev, room.epoch) == (3, EPOCH)


async def test_an_epoch_that_changes_under_a_connection_is_noticed(autojump_clock: MockClock, joined: Joined_) -> None:
    room, server, peer, _ = joined
    await peer.send(peer.system("joined", BOB, 0, epoch="another"))
    peer = await server.accept()
    assert peer.resumes == (0, EPOCH)
    await peer.close(4409)
    await (await server.accept()).greet(epoch="another")
    await event_of(room, Reset)


async def test_a_program_goes_on_where_it_was_when_it_ended(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client), trio.open_nursery() as nursery:
        nursery.start_soon(_replay, server)
        async with client.join(TEAM, after=5, epoch=EPOCH) as room:
            assert room.rev == 5
            assert await seqs(room, 2) == [6, 7]
            assert room.rev == 7


async def _replay(server: ScriptedServer) -> None:
    peer = await server.accept()
    assert peer.resumes == (5, EPOCH)
    await peer.greet(7)
    await peer.send(message_frame(6), message_frame(7))


async def test_a_server_that_falls_silent_is_noticed(autojump_clock: MockClock, joined: Joined_) -> None:
    room, server, _, _ = joined
    server.last_network.server.gone = True  # it takes nothing, says nothing, and closes nothing
    began = trio.current_time()
    await event_of(room, Offline)
    assert 20 <= trio.current_time() - began <= 45
    await server.accept_greeted()
    await event_of(room, Online)


async def test_an_unreadable_frame_is_told(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client), trio.open_nursery() as nursery:
        nursery.start_soon(server.accept_greeted)
        async with client.join(TEAM) as room:
            await server.last_peer.send({**message_frame(1), "seq": "one"})
            with pytest.raises(ProtocolError, match="seq"):
                await room.receive()


# --- nobody reads ------------------------------------------------------------------------------


async def test_who_reads_nothing_slows_the_connection_and_loses_nothing(
    autojump_clock: MockClock, joined: Joined_
) -> None:
    room, server, peer, nursery = joined
    sent = trio.Event()

    async def flood() -> None:
        for number in range(400):
            await peer.send(message_frame(number + 1, "x" * 200))
        sent.set()

    nursery.start_soon(flood)
    await trio.sleep(300)
    assert not sent.is_set(), "what is not read is not taken"
    assert len(server.dials) == 1, "a pong that cannot be read says nothing"
    assert await seqs(room, 400) == list(range(1, 401))
    assert len(server.dials) == 1


async def test_the_answer_to_a_send_does_not_wait_for_who_reads_nothing(
    autojump_clock: MockClock, joined: Joined_
) -> None:
    room, server, peer, nursery = joined
    for number in range(20):
        await peer.send(message_frame(number + 1))
    sending = Sending(nursery, room)
    other = await server.accept_greeted(rev=20)
    assert other.resumes is None, "from the present"
    await peer.wait_closed()
    await other.send(message_frame(21), own_frame(22, await other.receive()))
    answer = await sending.wait()
    assert isinstance(answer, Message)
    assert answer.seq == 22
    again = Sending(nursery, room, "another")
    await other.send(own_frame(23, await other.receive()))
    assert isinstance(await again.wait(), Message)

    assert await seqs(room, 8) == list(range(1, 9))
    third = await server.accept()
    assert third.resumes == (8, EPOCH)
    await third.greet(23)
    for number in range(8, 23):
        await third.send(message_frame(number + 1))
    assert await seqs(room, 15) == list(range(9, 24))
    await nothing_comes(room)


async def test_a_room_that_nobody_reads_does_not_connect_again_until_somebody_does(
    autojump_clock: MockClock, joined: Joined_
) -> None:
    room, server, peer, _ = joined
    for number in range(8):
        await peer.send(message_frame(number + 1))
    await trio.testing.wait_all_tasks_blocked()
    await peer.close(4408)
    await trio.sleep(1_000)
    assert len(server.dials) == 1
    assert await seqs(room, 1) == [1]
    peer = await server.accept()
    assert peer.resumes == (8, EPOCH)


# --- tokens ------------------------------------------------------------------------------------


async def test_a_token_is_renewed_in_time_on_the_live_connection(autojump_clock: MockClock, joined: Joined_) -> None:
    room, server, peer, _ = joined
    assert peer.token == "token-1"
    frame = await peer.receive("auth", seconds=TOKEN_SECONDS)
    assert frame["token"] == "token-2"
    assert ("POST", "/api/auth/renew") in server.asked
    await peer.send({"type": "auth", "expires_in": TOKEN_SECONDS})
    peer.cut()
    await event_of(room, Offline)
    assert (await server.accept()).token == "token-2"


async def test_an_older_server_is_signed_in_to_again(autojump_clock: MockClock, joined: Joined_) -> None:
    _, server, peer, _ = joined
    del server.answers["POST", "/api/auth/renew"]
    assert (await peer.receive("auth", seconds=TOKEN_SECONDS))["token"] == "token-2"
    assert server.asked.count(("POST", "/api/auth/login")) == 2


@pytest.mark.parametrize("at", ["close", "handshake"])
async def test_a_token_that_has_ended_is_replaced_with_the_password(
    autojump_clock: MockClock, joined: Joined_, at: str
) -> None:
    room, server, peer, _ = joined
    if at == "close":
        await peer.close(4401)
    else:
        server.refusals = [(401, {"code": "invalid_token", "message": "Expired"}, None)]
        peer.cut()
        await event_of(room, Offline)
    peer = await server.accept_greeted()
    assert peer.token == "token-2"
    await peer.send(message_frame(1))
    if at == "handshake":
        await event_of(room, Online)
    assert await seqs(room, 1) == [1]


async def test_a_token_that_has_ended_and_no_password_is_told(autojump_clock: MockClock) -> None:
    async with scripted(token="given") as (server, client), trio.open_nursery() as nursery:
        nursery.start_soon(server.accept_greeted)
        async with client.join(TEAM) as room:
            await server.last_peer.close(4401)
            with pytest.raises(AuthenticationFailed):
                await room.receive()


async def test_a_server_that_refuses_every_token_is_asked_twice(autojump_clock: MockClock, joined: Joined_) -> None:
    room, server, peer, _ = joined
    server.refusals = [(401, {"code": "invalid_token", "message": "No"}, None)] * 5
    peer.cut()
    await event_of(room, Offline)
    with pytest.raises(AuthenticationFailed):
        await room.receive()
    assert len(server.refusals) == 3


async def test_a_server_that_greets_and_refuses_in_turns_is_not_hammered(
    autojump_clock: MockClock, joined: Joined_
) -> None:
    room, server, peer, _ = joined
    for _ in range(3):
        await peer.close(4401)
        peer = await server.accept_greeted()
    began = trio.current_time()
    await peer.close(4401)
    await event_of(room, Offline)
    peer = await server.accept_greeted()
    assert trio.current_time() > began


async def test_a_room_of_somebody_who_is_not_signed_in_any_more_fails(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client), trio.open_nursery() as nursery:
        nursery.start_soon(server.accept_greeted)
        async with client.join(TEAM) as room:
            peer = server.last_peer
            await client.sign_in("alice", "a password")
            sending = Sending(nursery, room)
            await peer.receive("auth")
            await peer.send(own_frame(1, await peer.receive()))
            assert isinstance(await sending.wait(), Message), "it is the same user"
            sending = Sending(nursery, room)
            await peer.receive()
            server.answers["GET", "/api/auth/me"] = 200, {"id": BOB, "username": "bob"}
            await client.sign_in("bob", "a password")
            assert isinstance(await sending.wait(), AuthenticationFailed)
            await peer.wait_closed()
            assert await seqs(room, 1) == [1]
            with pytest.raises(AuthenticationFailed, match="another user"):
                await room.receive()
            with pytest.raises(AuthenticationFailed, match="another user"):
                await room.send("too late")
            assert not room.is_online
        nursery.start_soon(server.accept_greeted)
        async with client.join(TEAM) as room:
            assert room.is_online


# --- what is told ------------------------------------------------------------------------------


async def test_typing_is_told_at_most_every_two_seconds(autojump_clock: MockClock, joined: Joined_) -> None:
    room, _, peer, _ = joined
    room.typing()
    await peer.receive("typing")
    began = trio.current_time()
    for _ in range(5):
        room.typing()
    await peer.receive("typing")
    assert trio.current_time() - began >= 2
    await peer.silence(10)


async def test_what_was_read_is_told_again_on_the_next_connection(autojump_clock: MockClock, joined: Joined_) -> None:
    room, server, peer, _ = joined
    room.mark_read(5)
    assert (await peer.receive("read"))["seq"] == 5
    room.mark_read(3)
    await peer.silence(5)
    peer.cut()
    await event_of(room, Offline)
    room.mark_read(6)
    peer = await server.accept_greeted()
    assert (await peer.receive("read"))["seq"] == 6
    await peer.send({"type": "error", "code": "no_such_message", "content": "Beyond the end", "field": "seq"})
    await event_of(room, Online)
    assert (await event_of(room, Warned)).code == "no_such_message"


@pytest.mark.parametrize(
    "refusal", [{"code": "rate_limited"}, {"code": "not_stored", "field": "seq"}], ids=["rate_limited", "not_stored"]
)
async def test_what_was_read_is_told_again_after_a_refusal_that_will_not_last(
    autojump_clock: MockClock, joined: Joined_, refusal: dict[str, str]
) -> None:
    room, _, peer, _ = joined
    room.mark_read(7)
    waits = []
    for _ in range(3):
        assert (await peer.receive("read"))["seq"] == 7
        began = trio.current_time()
        await peer.send({"type": "error", "content": "Not now", **refusal})
        assert (await peer.receive("read"))["seq"] == 7
        waits.append(trio.current_time() - began)
        await peer.send({"type": "error", "content": "Not now", **refusal})
    assert min(waits) > 0.05
    assert (await peer.receive("read"))["seq"] == 7
    await peer.silence(100)
    await nothing_comes(room)


async def test_what_was_read_of_a_history_that_is_lost_is_not_told(autojump_clock: MockClock, joined: Joined_) -> None:
    room, server, peer, _ = joined
    room.mark_read(7)
    assert (await peer.receive("read"))["seq"] == 7
    await peer.close(4409)
    peer = await server.accept()
    await peer.greet(3, epoch="another")
    await peer.silence(5)
    room.mark_read(7)
    assert (await peer.receive("read"))["seq"] == 7, "it may be of an event that came before"
    await event_of(room, Reset)
    room.mark_read(3)
    assert (await peer.receive("read"))["seq"] == 3


# --- blocks and cancellation -------------------------------------------------------------------


async def test_what_the_block_raises_comes_out_as_it_is(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client), trio.open_nursery() as nursery:
        nursery.start_soon(server.accept_greeted)
        with pytest.raises(ZeroDivisionError):
            async with client.join(TEAM):
                raise ZeroDivisionError


async def test_leaving_closes_the_connection_in_order(autojump_clock: MockClock, joined: Joined_) -> None:
    _, _, _, nursery = joined
    async with scripted() as (other, client):
        nursery.start_soon(other.accept_greeted)
        async with client.join(TEAM) as room:
            peer = other.last_peer
            nursery.start_soon(peer.wait_closed)
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.ClosedResourceError):
            await room.receive()
        with pytest.raises(trio.ClosedResourceError):
            await room.send("too late")


async def test_a_block_that_is_cancelled_ends_at_once(autojump_clock: MockClock, joined: Joined_) -> None:
    async with scripted() as (server, client), trio.open_nursery() as nursery:
        nursery.start_soon(server.accept_greeted)
        with trio.move_on_after(5) as scope:
            async with client.join(TEAM) as room:
                await room.receive()
        assert scope.cancelled_caught
        with trio.move_on_after(5) as scope:
            async with client.join(TEAM):  # nobody greets
                raise AssertionError
        assert scope.cancelled_caught
        nursery.cancel_scope.cancel()


class Axe(trio.abc.Instrument):
    """Cancels a scope before the nth step of the task that waits for it."""

    def __init__(self, step: int) -> None:
        self.left = step
        self.task: trio.lowlevel.Task | None = None
        self.scope = trio.CancelScope()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


@pytest.mark.parametrize("step", range(1, 8))
async def test_a_send_cancelled_at_any_step_harms_nobody_else(
    autojump_clock: MockClock, joined: Joined_, step: int
) -> None:
    room, _, peer, _ = joined
    axe = Axe(step)
    stored = 0

    async def answer() -> None:
        nonlocal stored
        while True:
            sent = await peer.receive()
            stored += 1
            await peer.send(own_frame(stored, sent))

    async def chopped() -> None:
        axe.task = trio.lowlevel.current_task()
        with axe.scope:
            await room.send("perhaps")
        axe.task = None

    async with trio.open_nursery() as others:
        others.start_soon(answer)
        trio.lowlevel.add_instrument(axe)
        try:
            await chopped()
        finally:
            trio.lowlevel.remove_instrument(axe)
        message = await room.send("surely")
        assert message.content == "surely"
        assert await seqs(room, stored) == list(range(1, stored + 1))
        others.cancel_scope.cancel()


@pytest.mark.parametrize("step", range(1, 5))
async def test_a_receive_cancelled_at_any_step_loses_no_event(
    autojump_clock: MockClock, joined: Joined_, step: int
) -> None:
    room, _, peer, _ = joined
    axe = Axe(step)
    got: list[Event] = []

    async def chopped() -> None:
        axe.task = trio.lowlevel.current_task()
        with axe.scope:
            got.append(await room.receive())
            got.append(await room.receive())
        axe.task = None

    trio.lowlevel.add_instrument(axe)
    try:
        async with trio.open_nursery() as inner:
            inner.start_soon(chopped)
            await peer.send(message_frame(1), message_frame(2), message_frame(3))
    finally:
        trio.lowlevel.remove_instrument(axe)
    found = [event.seq for event in got if isinstance(event, Message)]
    assert found + await seqs(room, 3 - len(found)) == [1, 2, 3]


# --- a change that a live connection did not bring ---------------------------------------------


def change_frame(seq: int, *, rev: int | None = None, **fields: Any) -> dict[str, Any]:
    """A change of a message that follows the one before it, as a server that knows features sends it."""
    rev = seq if rev is None else rev
    return message_frame(seq, rev=rev, **{"prev_rev": rev - 1, **fields})


async def test_a_change_that_is_missing_live_is_fetched_and_nothing_comes_twice(
    autojump_clock: MockClock, joined: Joined_
) -> None:
    room, server, peer, _ = joined
    await peer.send(change_frame(1), change_frame(3))
    assert await seqs(room, 1) == [1]
    began = trio.current_time()
    peer = await server.accept()
    assert trio.current_time() == began, "at once"
    assert peer.resumes == (1, EPOCH)
    await peer.greet(3)
    await peer.send(change_frame(2), change_frame(3), change_frame(4))
    assert await seqs(room, 3) == [2, 3, 4]
    assert room.gaps == 1


async def test_the_answer_to_a_message_behind_a_gap_is_an_answer(autojump_clock: MockClock, joined: Joined_) -> None:
    room, server, peer, nursery = joined
    sending = Sending(nursery, room)
    sent = await peer.receive()
    await peer.send(own_frame(2, sent, prev_rev=1))
    assert isinstance(await sending.wait(), Message)
    peer = await server.accept_greeted(rev=2)
    await peer.send(change_frame(1), own_frame(2, sent, prev_rev=1))
    assert await seqs(room, 2) == [1, 2]
    await peer.silence(60)


async def test_what_is_resumed_may_skip_revs(autojump_clock: MockClock, joined: Joined_) -> None:
    room, server, peer, _ = joined
    peer.cut()
    peer = await server.accept_greeted(rev=9)
    await peer.send(message_frame(2, rev=4, prev_rev=0), message_frame(3, rev=9, prev_rev=4))
    await peer.send(message_frame(4, rev=12, prev_rev=9))  # 10 and 11 are of a kind that the client did not ask for
    assert await seqs(room, 3) == [2, 3, 4]
    assert room.gaps == 0


async def test_a_server_that_knows_no_features_may_skip_revs(autojump_clock: MockClock, joined: Joined_) -> None:
    room, server, peer, _ = joined
    await peer.send(message_frame(1), message_frame(2, rev=5), message_frame(3, rev=6))
    assert await seqs(room, 3) == [1, 2, 3]
    assert (room.gaps, room.rev, len(server.dials)) == (0, 6, 1)


async def test_a_room_that_begins_with_what_changed_since_a_rev_may_skip_revs(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client), trio.open_nursery() as nursery:
        nursery.start_soon(_resumed_with_a_gap, server)
        async with client.join(TEAM, after=3) as room:
            assert await seqs(room, 2) == [4, 5]
            assert room.gaps == 0


async def _resumed_with_a_gap(server: ScriptedServer) -> None:
    peer = await server.accept_greeted(rev=8)
    await peer.send(message_frame(4, rev=6, prev_rev=3), message_frame(5, rev=8, prev_rev=6))


async def test_a_server_that_always_skips_revs_is_asked_less_and_less_often(
    autojump_clock: MockClock, joined: Joined_
) -> None:
    room, server, peer, _ = joined
    waits: list[float] = []
    for number in range(1, 13):
        rev = 2 * number
        await peer.send(change_frame(number, rev=rev))  # from rev - 2 to rev
        began = trio.current_time()
        peer = await server.accept()
        waits.append(trio.current_time() - began)
        assert peer.resumes == (rev - 2, EPOCH)
        await peer.greet(rev - 2 if number == 2 else rev)
        await peer.send(change_frame(number, rev=rev))
        assert await seqs(room, 1) == [number]
        await trio.sleep(11)
    assert waits[:3] == [0, 0, 0]
    assert all(5 < wait <= 31 for wait in waits[8:]), waits


async def test_gaps_that_a_later_edit_explains_do_not_end_the_search_for_gaps(
    autojump_clock: MockClock, joined: Joined_
) -> None:
    room, server, peer, _ = joined
    await peer.send(message_frame(1))
    assert await seqs(room, 1) == [1]
    for rev in (3, 5, 7, 9):
        edit = change_frame(1, rev=rev, type="message_updated", is_edited=True, updated_at=NOW)
        await peer.send(edit)  # the edit before it, of the same message, is lost
        peer = await server.accept_greeted(rev)
        await peer.send({**edit, "prev_rev": rev - 2})  # the message as it now is
        with trio.fail_after(500):
            while not isinstance(await room.receive(), MessageEdited):
                pass  # that the connection breaks and comes back
    await peer.send(change_frame(3, rev=11))
    peer = await server.accept_greeted(11)
    await peer.send(change_frame(2, rev=10), change_frame(3, rev=11))
    assert await seqs(room, 2) == [2, 3]
    assert room.gaps == 5


async def test_a_server_that_leaves_a_change_out_on_every_connection_is_not_asked_without_a_pause(
    autojump_clock: MockClock, joined: Joined_
) -> None:
    room, server, peer, _ = joined
    server.dials.clear()
    rev = 0
    while trio.current_time() < 120:
        await peer.send(change_frame(rev + 1), change_frame(rev + 3))
        peer = await server.accept_greeted(rev + 3)
        await peer.send(change_frame(rev + 2), change_frame(rev + 3))
        assert await seqs(room, 3) == [rev + 1, rev + 2, rev + 3]
        rev += 3
    assert room.gaps > 3
    assert len(server.dials) < 20
