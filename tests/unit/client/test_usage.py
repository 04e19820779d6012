"""Wrong use of the client fails at once, with an error that says what is right."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from trio.testing import MockClock

from pulse_trio.client import open_client
from tests.unit.client.scripted import TEAM, scripted


def test_the_client_says_under_asyncio_that_it_needs_trio() -> None:
    async def main() -> None:
        async with open_client("http://chat.example", username="alice", password="a password"):
            raise AssertionError

    with pytest.raises(RuntimeError, match=r"needs Trio: .* trio\.run") as refused:
        asyncio.run(main())
    assert refused.value.__context__ is None, "one error, without inner ones"
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("wrong", [5, None, b"hello", ["hello"]], ids=repr)
async def test_what_is_no_text_is_not_sent(autojump_clock: MockClock, wrong: Any) -> None:
    async with scripted() as (server, client):
        asked = len(server.asked)
        with pytest.raises(TypeError, match=f"is a str, not {type(wrong).__name__}"):
            await client.send(TEAM, wrong)
        if wrong is not None:  # the default
            with pytest.raises(TypeError, match=f"is a str, not {type(wrong).__name__}"):
                await client.send(TEAM, "hello", client_id=wrong)
        assert len(server.asked) == asked


async def test_a_message_is_given_as_its_record(autojump_clock: MockClock) -> None:
    async with scripted() as (_, client):
        for wrong in (UUID(TEAM), TEAM, None):
            with pytest.raises(TypeError, match="the Message itself, not"):
                await client.edit(wrong, "better")  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="the Message itself, not"):
                await client.delete(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [5, None, b"id", object()], ids=lambda wrong: type(wrong).__name__)
async def test_what_names_no_conversation_is_rejected(autojump_clock: MockClock, wrong: Any) -> None:
    async with scripted() as (_, client):
        for ask in (client.conversation, client.presence, client.leave):
            with pytest.raises(TypeError, match=f"not {type(wrong).__name__}"):
                await ask(wrong)
