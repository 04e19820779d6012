"""The short way of a message into its room, read by the poller and by the connections' own tasks: one outcome.

Each test runs the whole service over socket pairs, on a virtual clock.
"""

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from pulse_trio.edge.server.websocket_stream import MAX_MESSAGES_A_TURN
from pulse_trio.edge.websocket.reader import Reader
from pulse_trio.protocol import CloseCode
from pulse_trio.rooms.room import Room
from tests.support import commands
from tests.support.raw import CONTINUATION, PING, PONG, TEXT, RawClient, frame
from tests.support.small_service import small_service

Open = Callable[..., Any]


@pytest.fixture(params=[True, False], ids=["poller", "own task"])
def opened(request: pytest.FixtureRequest) -> Open:
    """Opens a service: `async with opened() as service`."""
    return partial(small_service, is_polled=request.param)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were taken in the call that read them."""
    found: list[str] = []
    take_now = Reader.take_now

    def noted(self: Reader, text: str) -> bool:
        is_taken = take_now(self, text)
        if is_taken:
            found.append(text)
        return is_taken

    monkeypatch.setattr(Reader, "take_now", noted)
    return found


def message(content: str, **fields: object) -> bytes:
    return frame({"type": "message", "content": content, **fields})


def numbered(count: int, first: int = 0) -> list[str]:
    return [f"m{number}" for number in range(first, first + count)]


async def receive_messages(client: RawClient, count: int) -> list[str]:
    """Reads so many messages, passing over other frames; returns their contents."""
    return [(await client.read_json_type("message"))["content"] for _ in range(count)]


async def receive_answers(client: RawClient, count: int) -> list[str]:
    """Reads so many messages and errors; returns the contents of messages, and the codes of errors."""
    answers = [await client.read_json_type("message", "error") for _ in range(count)]
    return [answer.get("code", answer["content"]) for answer in answers]


async def test_a_plain_message_is_taken_at_once(opened: Open, taken: list[str], mock_clock: MockClock) -> None:
    async with opened() as service:
        client = await service.connect()
        await client.send(message("one"))
        assert await receive_messages(client, 1) == ["one"]
        assert len(taken) == 1


@pytest.mark.usefixtures("mock_clock")
async def test_a_session_sends_the_short_way_once_it_is_subscribed(opened: Open, taken: list[str]) -> None:
    async with opened() as service:
        client = await service.connect(is_session=True)
        where = {"conversation_id": str(service.conversation_id)}
        for content in ("opens the room", "finds the subscription", "nowhere"):
            await client.send(message(content, **({} if content == "nowhere" else where)))
            expected = "invalid_frame" if content == "nowhere" else content
            assert await receive_answers(client, 1) == [expected]
        assert ["finds the subscription" in text for text in taken] == [True]


@pytest.mark.usefixtures("mock_clock")
async def test_messages_of_one_read_keep_their_order(opened: Open, taken: list[str]) -> None:
    """A frame that takes the long way takes all after it along, and so does the first beyond a turn's messages."""
    many = numbered(MAX_MESSAGES_A_TURN + 20, first=10)
    async with opened() as service:
        client = await service.connect()
        edit = frame({"type": "edit", "message_id": str(service.conversation_id), "content": "x"})
        halves = message("m1"), message("m2")
        await client.send(halves[0][:5])
        await client.send(halves[0][5:] + edit + halves[1] + frame("", PING) + message("m3"))
        assert sorted(await receive_answers(client, 4)) == ["m1", "m2", "m3", "no_such_message"]
        await client.send(b"".join(message(content) for content in many))
        assert await receive_messages(client, len(many)) == many
        assert service.contents == [*numbered(3, first=1), *many]
        assert len(taken) == 1 + MAX_MESSAGES_A_TURN


@pytest.mark.usefixtures("mock_clock")
@pytest.mark.parametrize("limit", [{"pending_messages": 2}, {"inbox_messages": 1, "batch_messages": 1}], ids=str)
async def test_nothing_overtakes_a_message_that_waits(opened: Open, limit: dict[str, int], taken: list[str]) -> None:
    """The connection's task waits with one message while the client sends more, each in a read of its own."""
    contents = numbered(30)
    async with opened(**limit) as service:
        client, other = await service.connect(), await service.connect(user=1)
        gate = service.store.hold()
        for content in contents:
            await client.send(message(content))
            await wait_all_tasks_blocked()
        assert 1 <= len(taken) <= 4
        service.store.gate = None
        gate.set()
        for who in (client, other):
            assert await receive_messages(who, len(contents)) == contents
        await wait_all_tasks_blocked()
        assert service.contents == contents
        room = service.parts.hub.rooms.get(service.conversation_id)
        assert room is not None
        assert room._writer.unsettled == 0


@pytest.mark.parametrize("clock", ["wall", "trio"])
async def test_an_expired_token_sends_nothing(
    opened: Open, clock: str, taken: list[str], mock_clock: MockClock
) -> None:
    async with opened() as service:
        client = await service.connect(lifetime=15)
        await client.send(message("in time"))
        assert await receive_messages(client, 1) == ["in time"]
        if clock == "wall":
            service.ahead += 20
        else:
            mock_clock.jump(15.5)
        await client.send(message("too late"))
        assert await client.read_close() == CloseCode.TOKEN_EXPIRED
        await wait_all_tasks_blocked()
        assert service.contents == ["in time"]
        assert len(taken) == 1


@pytest.mark.usefixtures("mock_clock")
@pytest.mark.parametrize("together", [True, False], ids=["one read", "many reads"])
async def test_a_flood_is_refused(opened: Open, together: bool, taken: list[str]) -> None:
    """A burst of 10 passes, then as many are refused with one error, then the connection is closed."""
    contents = numbered(25)
    async with opened(frames_per_second=1, frames_burst=10) as service:
        client = await service.connect()
        if together:
            await client.send(b"".join(map(message, contents)))
        else:
            for content in contents:
                if not await client.send_some(message(content)):
                    break
                await wait_all_tasks_blocked()
        assert await client.read_close() == CloseCode.FLOODING
        await wait_all_tasks_blocked()
        assert service.contents == contents[:10]
        assert service.parts.metrics.errors["rate_limited"] == 1
        assert len(taken) == 10


async def test_after_a_refusal_the_buckets_must_be_full_again(opened: Open, mock_clock: MockClock) -> None:
    async with opened(frames_per_second=1, frames_burst=4) as service:
        client = await service.connect()
        for _ in range(3):  # of 6 frames 2 are refused: without the pauses the connection would be closed
            await client.send(b"".join(map(message, numbered(6))))
            assert sorted(await receive_answers(client, 5)) == [*numbered(4), "rate_limited"]
            mock_clock.jump(4)


async def test_a_silent_client_is_pinged_and_then_cut(opened: Open, mock_clock: MockClock) -> None:
    async with opened() as service:
        client = await service.connect()
        for _ in range(5):
            mock_clock.jump(20.5)
            assert await client.read_frame() == (PING, b"")
            await client.send(frame("", PONG))
            await wait_all_tasks_blocked()
        for _ in range(2):
            mock_clock.jump(20.5)
            assert await client.read_frame() == (PING, b"")
        mock_clock.jump(10)
        await client.wait_gone()
        await client.stream.aclose()
        await wait_all_tasks_blocked()
        assert service.open == 0


async def test_a_client_that_only_sends_is_pinged_and_stays(opened: Open, mock_clock: MockClock) -> None:
    async with opened() as service:
        client = await service.connect()
        pings = 0
        for content in numbered(20):
            mock_clock.jump(10)
            await client.send(message(content))
            while (received := await client.read_frame())[0] != TEXT:
                pings += received[0] == PING
        assert 9 <= pings <= 10
        assert service.open == 1


@pytest.mark.parametrize("begun", ["a frame", "a fragment", "behind a message"])
async def test_an_unfinished_message_ends_the_connection(opened: Open, begun: str, mock_clock: MockClock) -> None:
    async with opened(message_timeout=10) as service:
        client = await service.connect()
        if begun == "a fragment":
            await client.send(frame('{"type":', fin=False))
        else:
            await client.send((message("one") if begun == "behind a message" else b"") + message("two")[:9])
        await wait_all_tasks_blocked()
        for _ in range(3):  # a pong in the middle is allowed, and does not finish the message
            mock_clock.jump(3)
            await client.send(frame("", PONG) if begun == "a fragment" else b"")
            await wait_all_tasks_blocked()
        mock_clock.jump(1.5)
        assert await client.read_close() == CloseCode.UNFINISHED


async def test_each_message_has_its_own_time(opened: Open, mock_clock: MockClock) -> None:
    """A client that never rests may always be in the middle of one."""
    async with opened(message_timeout=10) as service:
        client = await service.connect()
        data = b"".join(map(message, numbered(20, first=10)))  # of one size
        size = len(data) // 20
        await client.send(data[:5])
        for begin in range(5, len(data), size):  # each piece ends in the middle of the next message
            mock_clock.jump(8)
            await client.send(data[begin : begin + size])
            await wait_all_tasks_blocked()
        assert service.open == 1


@pytest.mark.usefixtures("mock_clock")
async def test_fragments_and_control_frames_between_messages(opened: Open, taken: list[str]) -> None:
    text = '{"type": "message", "content": "in pieces"}'
    async with opened() as service:
        client = await service.connect()
        await client.send(frame(text[:9], fin=False) + frame(b"still here?", PING))
        await client.send(frame("", PONG) + frame(text[9:], CONTINUATION) + message("whole"))
        assert await receive_messages(client, 2) == ["in pieces", "whole"]
        await client.send(message("short again"))
        assert await receive_messages(client, 1) == ["short again"]
        assert len(taken) == 1


@pytest.mark.usefixtures("mock_clock")
async def test_pongs_beyond_the_limit_close_the_connection(opened: Open) -> None:
    async with opened(pieces_per_second=1, pieces_burst=10) as service:
        client = await service.connect()
        await client.send(frame("", PONG) * 5)
        await client.send(frame("", PONG) * 5 + message("one"))
        assert await receive_messages(client, 1) == ["one"]
        await client.send(message("two") + frame("", PONG) + message("three"))
        assert await client.read_close() == CloseCode.FLOODING
        await wait_all_tasks_blocked()
        assert service.contents == ["one", "two"]


@pytest.mark.usefixtures("mock_clock")
async def test_bytes_one_by_one_are_counted(opened: Open) -> None:
    async with opened(pieces_per_second=1, pieces_burst=10) as service:
        client = await service.connect()
        for byte in message("slowly")[:12]:
            assert await client.send_some(bytes([byte]))
            await wait_all_tasks_blocked()
        assert await client.read_close() == CloseCode.FLOODING


@pytest.mark.usefixtures("mock_clock")
async def test_the_end_of_the_input_ends_the_connection_after_what_came_before(opened: Open) -> None:
    async with opened() as service:
        client = await service.connect()
        await client.send(b"".join(map(message, numbered(3))))
        await client.stream.send_eof()
        await client.wait_gone()
        await wait_all_tasks_blocked()
        assert service.contents == numbered(3)
        assert service.open == 0


async def tcp_pair() -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
    """Two ends of a TCP connection, which can be reset, as a socket pair cannot."""
    with trio.socket.socket() as listener:
        await listener.bind(("127.0.0.1", 0))
        listener.listen()
        theirs = trio.socket.socket()
        await theirs.connect(listener.getsockname())
        ours, _ = await listener.accept()
    return ours, theirs


@pytest.mark.usefixtures("mock_clock")
@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
async def test_a_reset_ends_the_connection_and_keeps_nobody_awake(opened: Open, is_busy: bool) -> None:
    """Epoll reports a broken connection whatever it is asked for; a busy task cannot look at it yet."""
    async with opened(pending_messages=1) as service:
        client = await service.connect(socket=await tcp_pair())
        gate = service.store.hold()
        if is_busy:
            for content in numbered(3):
                await client.send(message(content))
                await wait_all_tasks_blocked()
        client.reset()
        await wait_all_tasks_blocked()  # would not return if somebody always ran
        assert service.open == int(is_busy)
        service.store.gate = None
        gate.set()
        await wait_all_tasks_blocked()
        assert service.open == 0


async def test_a_client_that_does_not_read_is_cut_while_it_is_waited_for(opened: Open, mock_clock: MockClock) -> None:
    """Another task closes the socket while the connection's own waits for it."""
    ours, theirs = await tcp_pair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
    async with opened(write_timeout=10, bytes_per_second=0, frames_per_second=0) as service:
        client = await service.connect(socket=(ours, theirs))
        talker = await service.connect(user=1)
        for _ in range(400):
            await talker.send(message("x" * 3_900))
            await talker.read_json_type("message")
        await wait_all_tasks_blocked()
        assert service.open == 2
        for _ in range(6):
            mock_clock.jump(5)
            await wait_all_tasks_blocked()
        assert service.open == 1
        assert ours.fileno() == -1
        client.stream.socket.close()


@pytest.mark.usefixtures("mock_clock")
async def test_a_fault_of_ours_ends_one_connection(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    submit_now = Room.submit_now

    def faulty(self: Room, subscription: Any, command: Any, client_id: Any) -> bool:
        if command.content == "break":
            raise RuntimeError("planted")
        return submit_now(self, subscription, command, client_id)

    monkeypatch.setattr(Room, "submit_now", faulty)
    async with opened() as service:
        client, other = await service.connect(), await service.connect(user=1)
        await client.send(message("break"))
        assert await client.read_close() == CloseCode.INTERNAL_ERROR
        await other.send(message("goes on"))
        assert await receive_messages(other, 1) == ["goes on"]


@pytest.mark.usefixtures("mock_clock")
async def test_a_drain_stores_what_was_taken_and_takes_nothing_more(opened: Open) -> None:
    async with opened(pending_messages=5) as service:
        client, other = await service.connect(), await service.connect(user=1)
        gate = service.store.hold()
        for content in numbered(3):
            await client.send(message(content))
            await other.send(message(content))
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(service.parts.hub.drain)
            await wait_all_tasks_blocked()
            assert await client.read_close() == CloseCode.RESTART
            await client.send_some(message("too late"))
            await wait_all_tasks_blocked()
            service.store.gate = None
            gate.set()
        assert sorted(service.contents) == sorted(numbered(3) * 2)


@pytest.mark.usefixtures("mock_clock")
async def test_a_removed_user_sends_nothing(opened: Open, taken: list[str]) -> None:
    async with opened() as service:
        client = await service.connect(user=1)
        await service.parts.hub.apply(commands.remove(service.conversation_id, *service.users))
        await client.send_some(message("too late"))
        assert await client.read_close() == CloseCode.REMOVED
        assert service.contents == []
        assert not taken


@pytest.mark.usefixtures("mock_clock")
async def test_a_message_lets_the_next_typing_frame_be_sent_at_once(opened: Open) -> None:
    async with opened() as service:
        client, other = await service.connect(), await service.connect(user=1)
        typing = frame({"type": "typing"})
        await client.send(typing + typing)
        await client.send(message("one"))
        await client.send(typing)
        kinds = [(await other.read_json_type("typing", "message"))["type"] for _ in range(3)]
        assert sorted(kinds) == ["message", "typing", "typing"]


async def test_a_message_of_a_session_keeps_its_room_open(opened: Open, mock_clock: MockClock) -> None:
    async with opened(room_linger=10) as service:
        client = await service.connect(is_session=True)
        for content in numbered(5):
            await client.send(message(content, conversation_id=str(service.conversation_id)))
            await receive_messages(client, 1)
            mock_clock.jump(8)
            await wait_all_tasks_blocked()
            assert service.parts.hub.room_count == 1
        mock_clock.jump(11)
        await wait_all_tasks_blocked()
        assert service.parts.hub.room_count == 0
