"""A server, or a proxy before it, quotes what it was sent: no secret of the client gets into an error's text."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.client import AuthenticationFailed, Client, ClientError, Message, Offline, Refused, Warned
from pulse_trio.client.redaction import HIDDEN
from tests.unit.client.scripted import TEAM, Answer, ScriptedServer, message_frame, scripted

PASSWORD = 'a "secret" pässword'
TOKEN = "token-1"  # the first one that the scripted server gives out


def texts(error: BaseException | object) -> str:
    return f"{error} {error!r} {getattr(error, '__dict__', '')}"


@pytest.mark.parametrize("status", [401, 403, 409])
@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.register("bob", PASSWORD),
        lambda client: client.sign_in("bob", PASSWORD),
        lambda client: client.conversations(),
    ],
    ids=["register", "sign_in", "conversations"],
)
async def test_the_body_of_a_refusal(
    autojump_clock: MockClock, ask: Callable[[Client], Awaitable[Any]], status: int
) -> None:
    async with scripted(password=PASSWORD) as (server, client):

        def quote(body: Any) -> Answer:
            code = f"Bearer {TOKEN}"
            return status, {
                "code": code,
                "message": f"No: {server.tokens[-1]} {json.dumps(body)} {body}",
                "field": code,
            }

        for path in ("/api/auth/register", "/api/auth/login", "/api/chat/conversations"):
            for method in ("GET", "POST"):
                server.answers[method, path] = lambda body: quote(body)
        with pytest.raises((Refused, AuthenticationFailed)) as found:
            await ask(client)
        assert TOKEN not in texts(found.value)
        assert PASSWORD not in texts(found.value)
        assert json.dumps(PASSWORD)[1:-1] not in texts(found.value)
        assert str(found.value).startswith("No: ")
        assert HIDDEN in str(found.value)


async def test_the_refusal_of_a_handshake(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client):
        server.refusals = [(403, {"code": "forbidden", "message": f"No: Bearer {TOKEN}"}, None)]
        with pytest.raises(ClientError) as found:
            async with client.join(TEAM):
                pass
        assert str(found.value) == f"No: Bearer {HIDDEN}"


async def test_frames_and_the_reason_of_a_close(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client), trio.open_nursery() as nursery:
        nursery.start_soon(_quote, server)
        async with client.join(TEAM) as room:
            found: list[object] = []
            while not any(isinstance(event, Message) for event in found):
                found.append(await room.receive())
        assert [type(event) for event in found[:2]] == [Warned, Offline]
        assert not [event for event in found if TOKEN in texts(event)]
        assert HIDDEN in str(found[0])
        assert HIDDEN in str(found[1])


async def _quote(server: ScriptedServer) -> None:
    peer = await server.accept_greeted()
    await peer.send({"type": "error", "code": "unavailable", "content": f"No: {TOKEN}", "field": TOKEN})
    await peer.close(1011, f"No: Bearer {TOKEN}")
    await (await server.accept_greeted()).send(message_frame(1))


async def test_a_frame_that_cannot_be_read(autojump_clock: MockClock) -> None:
    async with scripted() as (server, client), trio.open_nursery() as nursery:
        nursery.start_soon(server.accept_greeted)
        async with client.join(TEAM) as room:
            await server.last_peer.send({**message_frame(1), "message_id": TOKEN, "sender_id": TOKEN})
            with pytest.raises(ClientError) as found:
                await room.receive()
            assert TOKEN not in texts(found.value)
