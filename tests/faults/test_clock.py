"""The wall clock jumps: order is that of `seq`, tokens end by the wall clock, and nothing else waits for it."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
import trio

from tests.faults.test_stalls import locked
from tests.support.client import PASSWORD, Api, Chat, Person
from tests.support.server import Server

HOUR = 3_600
STORE_TIMEOUT = 3  # seconds


@pytest.mark.parametrize("jump", [-HOUR, HOUR - 600])  # a token lives for an hour
async def test_messages_keep_their_order(start_inspected: Callable[..., Server], tmp_path: Path, jump: int) -> None:
    clock = tmp_path / "clock"
    turn(clock, 0)
    server = start_inspected(TEST_CLOCK=str(clock), PULSE_STORE_TIMEOUT="2")
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        conversation = await alice.create_group()
        async with alice.connect(conversation) as chat:
            await chat.receive()
            before = [await say(chat, f"before {number}") for number in range(3)]
            turn(clock, jump)
            after = [await say(chat, f"after {number}") for number in range(3)]
            assert [frame["seq"] for frame in (*before, *after)] == [1, 2, 3, 4, 5, 6]
            moved = (moment(after[0]) - moment(before[-1])).total_seconds()
            assert abs(moved - jump) < 60, "the clock did jump"
            ids = [frame["message_id"] for frame in (*before, *after)]
            assert ids == sorted(ids), "ids rise, whatever the clock does"
        if jump < 0:  # the old token is from the future now
            alice = await log_in(server, alice)
        stored = (await alice.history(conversation))["messages"]
        assert [message["seq"] for message in stored] == [6, 5, 4, 3, 2, 1]
        async with alice.connect(conversation, after=2) as chat:
            await chat.receive()
            assert [(await chat.receive())["seq"] for _ in range(4)] == [3, 4, 5, 6]
    assert server.stop() == 0
    assert "Traceback" not in server.output


async def test_a_token_ends_by_the_wall_clock(start_inspected: Callable[..., Server], tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    turn(clock, 0)
    server = start_inspected(TEST_CLOCK=str(clock))
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        conversation = await alice.create_group()
        async with alice.connect(conversation) as chat:
            await chat.receive()
            turn(clock, HOUR + 10)
            await chat.send({"type": "message", "content": "with the next frame at the latest"})
            assert await chat.wait_closed() == 4401
        answer = await alice.api.get("/api/chat/conversations")
        assert (answer.status_code, answer.json()["code"]) == (401, "invalid_token")
        late = await log_in(server, alice)
        async with late.connect(conversation) as chat:
            await chat.receive()
            assert (await say(chat, "back"))["type"] == "message"
            turn(clock, 0)  # the token is from the future now, and this connection has it already
            assert (await say(chat, "still here"))["type"] == "message"
    assert server.stop() == 0
    assert "Traceback" not in server.output


@pytest.mark.parametrize("jump", [-HOUR, HOUR - 600])
async def test_deadlines_do_not_follow_the_wall_clock(
    start_inspected: Callable[..., Server], database: str, tmp_path: Path, jump: int
) -> None:
    """The clock jumps while a message waits for the database: it is refused when its time is over, and not before."""
    clock = tmp_path / "clock"
    turn(clock, 0)
    server = start_inspected(TEST_CLOCK=str(clock), PULSE_STORE_TIMEOUT=str(STORE_TIMEOUT), PULSE_STATEMENT_TIMEOUT="1")
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        conversation = await alice.create_group()
        async with alice.connect(conversation) as chat:
            await chat.receive()

            async def wait_for_the_database(content: str) -> None:
                """Sends a message, and returns when it was taken."""
                await chat.send({"type": "message", "content": content})
                await chat.send({"type": "ping"})
                assert (await chat.receive())["type"] == "pong"

            with locked(database):
                await wait_for_the_database("in time")
                turn(clock, jump)
                while "messages not stored yet" not in server.output:  # noqa: ASYNC110  # no event in another process
                    await trio.sleep(0.02)
            frame = await chat.receive_type("message", "error")
            assert frame["type"] == "message", "before its time was over"
            with locked(database):
                sent = trio.current_time()
                await wait_for_the_database("late")
                turn(clock, 0)
                frame = await chat.receive_type("message", "error")
                assert (frame["type"], frame.get("code")) == ("error", "not_stored")
                assert 0.9 * STORE_TIMEOUT < trio.current_time() - sent < STORE_TIMEOUT + 5
    assert server.stop() == 0


async def log_in(server: Server, person: Person) -> Person:
    """The same person with a new token."""
    body = {"username": person.username, "password": PASSWORD}
    let_in = await Api(server.base_url).post("/api/auth/login", json=body)
    return Person(server.base_url, person.username, person.id, let_in.json()["access_token"])


def turn(clock: Path, seconds: int) -> None:
    """Sets how far the clock is ahead. Whole or not at all: the service reads it at any moment."""
    draft = clock.with_suffix(".new")
    draft.write_text(str(seconds))
    draft.replace(clock)


async def say(chat: Chat, content: str) -> dict[str, object]:
    """A message's own frame."""
    await chat.send({"type": "message", "content": content})
    return await chat.receive_type("message", "error")


def moment(frame: dict[str, object]) -> datetime:
    """A frame's timestamp."""
    return datetime.fromisoformat(str(frame["timestamp"]))
