"""No connection outlives its token, and a renewed one goes on."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import jwt
import pytest
import trio
from quart.testing.connections import WebsocketDisconnectError

from pulse_trio.app import create_app, open_service
from pulse_trio.settings import Settings
from pulse_trio.store.memory import MemoryStore
from tests.support.client import PASSWORD, Person
from tests.support.server import SECRET, Server


def token_for(user_id: str, seconds: float) -> str:
    """A token that is good for so many seconds."""
    now = time.time()
    return jwt.encode({"sub": user_id, "iat": int(now), "exp": now + seconds}, SECRET, algorithm="HS256")


async def test_a_connection_ends_with_its_token(server: Server) -> None:
    alice = await Person.register(server.base_url, "alice")
    conversation = await alice.create_group()
    brief = Person(server.base_url, "alice", alice.id, token_for(alice.id, 2))
    async with brief.connect(conversation) as chat:
        began = time.time()
        assert await chat.wait_closed() == 4401
        assert 0.5 < time.time() - began < 12, "neither at once nor for ever"


async def test_a_renewed_token_keeps_the_connection(server: Server) -> None:
    alice = await Person.register(server.base_url, "alice")
    bob = await Person.register(server.base_url, "bob")
    conversation = await alice.create_group()
    brief = Person(server.base_url, "alice", alice.id, token_for(alice.id, 3))
    async with brief.connect(conversation) as chat, brief.connect(conversation) as other:
        await chat.receive_type("system")
        for wrong in ("nonsense", bob.token, token_for(alice.id, -1)):
            await chat.send({"type": "auth", "token": wrong})
            assert (await chat.receive_type("error"))["code"] == "invalid_token"
        await chat.send({"type": "auth", "token": alice.token})
        assert (await chat.receive_type("auth"))["expires_in"] > 60
        assert await other.wait_closed() == 4401, "the one that was not renewed"
        await chat.send({"type": "message", "content": "still here"})
        assert (await chat.receive_type("message"))["content"] == "still here"


# --- To the second: on a virtual clock, through the routes ---


@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize("renewed_at", [None, 50 * 60])
async def test_a_connection_ends_within_a_second_of_its_token(
    autojump_clock: object, session: bool, renewed_at: int | None
) -> None:
    began = trio.current_time()
    start = datetime(2026, 2, 4, 10, 30, tzinfo=UTC)

    def clock() -> datetime:
        return start + timedelta(seconds=trio.current_time() - began)

    @asynccontextmanager
    async def open_store() -> AsyncIterator[MemoryStore]:
        yield MemoryStore()

    app = create_app(Settings.load(secret_key=SECRET), open_store, clock=clock)
    async with open_service(app):
        client = app.test_client()
        body = {"username": "ada", "password": PASSWORD}
        assert (await client.post("/api/auth/register", json=body)).status_code == 201
        token = (await (await client.post("/api/auth/login", json=body)).get_json())["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        group = await (
            await client.post("/api/chat/conversations", json={"is_group": True}, headers=headers)
        ).get_json()
        good_from = trio.current_time()
        path = "/api/chat/ws" if session else f"/api/chat/ws/{group['id']}"
        async with client.websocket(f"{path}?token={token}") as socket:
            assert (await socket.receive_json())["type"] in {"system", "session"}
            if renewed_at is not None:
                await trio.sleep(renewed_at)
                good_from = trio.current_time()
                # Not by a login: while its thread hashes, the clock would jump to the end of the token.
                claims = jwt.decode(token, SECRET, algorithms=["HS256"], options={"verify_exp": False})
                renewed = jwt.encode({**claims, "exp": clock().timestamp() + 3_600}, SECRET, algorithm="HS256")
                await socket.send_json({"type": "auth", "token": renewed})
                assert (await socket.receive_json())["type"] == "auth"
            with pytest.raises(WebsocketDisconnectError) as closed:
                await socket.receive()
            assert closed.value.args[0] == 4401
        assert abs(trio.current_time() - good_from - 3_600) <= 1
