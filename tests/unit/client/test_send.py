"""`Client.send`: a message without a connection, asked again until there is an answer."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.client import ConnectionLost, NotAMember, NotStored, Refused
from tests.unit.client.scripted import ALICE, NOW, TEAM, Answer, ScriptedServer, scripted

PATH = "POST", f"/api/chat/conversations/{TEAM}/messages"


def stored(body: Any) -> Answer:
    message = {"id": TEAM, "conversation_id": TEAM, "sender_id": ALICE, "sender_username": "alice", "seq": 7, "rev": 9}
    kept = {"content": body["content"], "is_edited": False, "is_deleted": False, "created_at": NOW, "updated_at": NOW}
    return 201, {**message, **kept}


def told(status: int, code: str) -> Answer:
    return status, {"code": code, "message": "No"}


def script(server: ScriptedServer, *answers: Answer | Callable[[Any], Answer]) -> list[dict[str, Any]]:
    """Answers requests with these, in turn; returns the list of the requests' bodies."""
    came: list[dict[str, Any]] = []
    left = list(answers)

    def next_answer(body: dict[str, Any]) -> Answer:
        came.append(body)
        answer = left.pop(0)
        return answer(body) if callable(answer) else answer

    server.answers[PATH] = next_answer
    return came


async def test_it_returns_what_was_stored(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client):
        came = script(server, stored, stored)
        message = await client.send(TEAM, "hello")
        assert (message.seq, message.rev, message.content) == (7, 9, "hello")
        await client.send(TEAM, "again", client_id="mine")
        assert [body["content"] for body in came] == ["hello", "again"]
        assert len(came[0]["client_id"]) == 36
        assert came[1]["client_id"] == "mine"
        assert server.dials == [], "nobody sees it come"


async def test_it_is_asked_again_with_the_same_client_id_until_there_is_an_answer(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client):
        refusals = [told(503, "not_stored"), told(503, "unavailable"), told(429, "rate_limited"), told(502, "unknown")]
        came = script(server, *refusals, stored)
        began = trio.current_time()
        assert (await client.send(TEAM, "hello")).seq == 7
        assert trio.current_time() > began
        assert len(came) == 5
        assert all(body == came[0] for body in came)


async def test_a_server_that_is_away_is_waited_for_as_long_as_backoff_says(autojump_clock: MockClock) -> None:
    async with scripted(attempts=5) as (server, client):
        came = script(server, stored)

        async def come_back() -> None:
            await trio.sleep(3)
            server.is_down = False

        server.is_down = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_back)
            assert (await client.send(TEAM, "hello")).seq == 7
        server.is_down = True
        with pytest.raises(ConnectionLost):
            await client.send(TEAM, "never")
        assert len(came) == 1


async def test_a_message_that_cannot_be_stored_is_told(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client):
        came = script(server, *[told(503, "not_stored")] * 3)
        with pytest.raises(NotStored) as caught:
            await client.send(TEAM, "hello", client_id="mine")
        assert (caught.value.client_id, len(came)) == ("mine", 3)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (told(422, "content_too_long"), Refused),
        (told(409, "client_id_reused"), Refused),
        (told(404, "not_found"), NotAMember),
    ],
)
async def test_a_message_that_is_refused_is_not_sent_again(
    autojump_clock: MockClock, answer: Answer, error: type[Exception]
) -> None:
    async with scripted() as (server, client):
        came = script(server, answer)
        with pytest.raises(error):
            await client.send(TEAM, "hello")
        assert len(came) == 1


@pytest.mark.parametrize("client_id", ["", "x" * 65, "a\0b"])
async def test_what_can_be_no_client_id_is_not_sent(autojump_clock: MockClock, client_id: str) -> None:
    async with scripted() as (server, client):
        came = script(server)
        with pytest.raises(ValueError, match="client_id"):
            await client.send(TEAM, "hello", client_id=client_id)
        with pytest.raises(Refused):
            await client.send(TEAM, "a\0b")
        assert came == []


async def test_it_can_be_cancelled_while_it_waits(autojump_clock: MockClock) -> None:
    async with scripted(attempts=None) as (server, client):
        server.is_down = True
        with trio.move_on_after(1_000) as scope:
            await client.send(TEAM, "hello")
        assert scope.cancelled_caught
