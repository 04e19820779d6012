"""No connection outlives its token, and a renewed one goes on."""

import time

import jwt

from tests.support.client import Person
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
