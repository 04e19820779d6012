"""`Client.edit`: alone, and on the condition that nobody else has changed the message."""

import copy
import pickle
from typing import Any

import pytest
from trio.testing import MockClock

from pulse_trio.client import Client, Conflict, Message, Refused
from pulse_trio.terminal.exits import Exit, code_of
from tests.unit.client.scripted import ALICE, NOW, TEAM, Answer, scripted

MESSAGE = "0190a6c0-8a11-7d20-9b1f-5c4d3e2f1a0b"


def stored(content: str, rev: int) -> dict[str, Any]:
    message = {"id": MESSAGE, "conversation_id": TEAM, "sender_id": ALICE, "sender_username": "alice", "seq": 1}
    kept = {"is_edited": rev > 1, "is_deleted": False, "created_at": NOW, "updated_at": NOW}
    return {**message, **kept, "content": content, "rev": rev}


async def edit(answer: Answer, **options: Any) -> tuple[list[dict[str, Any]], Message | Refused]:
    """Edits a message of rev 1; returns the bodies of the requests, and the outcome."""
    bodies: list[dict[str, Any]] = []

    def take(body: dict[str, Any]) -> Answer:
        bodies.append(body)
        return answer

    async with scripted() as (server, client):
        server.answers["GET", f"/api/chat/conversations/{TEAM}/messages"] = 200, {"messages": [stored("hello", 1)]}
        server.answers["PATCH", f"/api/chat/conversations/{TEAM}/messages/{MESSAGE}"] = take
        message = await newest(client)
        try:
            return bodies, await client.edit(message, "better", **options)
        except Refused as error:
            return bodies, error


async def newest(client: Client) -> Message:
    async for message in client.history(TEAM):
        return message
    raise AssertionError


async def test_an_edit_has_no_condition_unless_it_is_given(autojump_clock: MockClock) -> None:
    bodies, edited = await edit((200, stored("better", 2)))
    assert bodies == [{"content": "better"}]
    assert isinstance(edited, Message)
    assert (edited.content, edited.rev) == ("better", 2)


async def test_an_edit_sends_the_rev_that_it_depends_on(autojump_clock: MockClock) -> None:
    bodies, edited = await edit((200, stored("better", 2)), if_rev=1)
    assert bodies == [{"content": "better", "if_rev": 1}]
    assert isinstance(edited, Message)


async def test_a_message_that_has_changed_comes_with_the_error(autojump_clock: MockClock) -> None:
    body = {"code": "conflict", "message": "It was changed", "current": stored("of another device", 2)}
    _, error = await edit((409, body), if_rev=1)
    assert isinstance(error, Conflict)
    assert (error.code, error.status) == ("conflict", 409)
    assert error.current is not None
    assert (error.current.content, error.current.rev) == ("of another device", 2)
    assert "changed" in str(error)
    for again in (copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert (str(again), vars(again)) == (str(error), vars(error))
    assert code_of(error) == Exit.REFUSED


async def test_a_conflict_without_the_message_has_the_sentence_of_the_server(autojump_clock: MockClock) -> None:
    _, error = await edit((409, {"code": "conflict", "message": "It was changed"}), if_rev=1)
    assert isinstance(error, Conflict)
    assert (str(error), error.current) == ("It was changed", None)


@pytest.mark.parametrize("code", ["not_your_message", "client_id_reused"])
async def test_other_refusals_of_an_edit_are_no_conflicts(autojump_clock: MockClock, code: str) -> None:
    _, error = await edit((409, {"code": code, "message": "No"}), if_rev=1)
    assert isinstance(error, Refused)
    assert not isinstance(error, Conflict)
    assert error.code == code
