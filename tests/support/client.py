"""A person at the API: REST with httpx2, WebSocket with trio-websocket."""

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import urlencode

import httpx2
import pytest
import trio
import trio_websocket
from trio_websocket import WebSocketConnection

from tests.support import frames

PASSWORD = "correct horse battery staple"


class Api:
    """REST, each request on a connection of its own, so that nothing is left open."""

    def __init__(self, base_url: str, headers: dict[str, str] | None = None) -> None:
        self.base_url = base_url
        self.headers = headers or {}

    async def request(self, method: str, path: str, **options: Any) -> httpx2.Response:
        options["headers"] = {**self.headers, **options.get("headers", {})}
        async with httpx2.AsyncClient(base_url=self.base_url, timeout=30, verify=False) as client:
            return await client.request(method, path, **options)

    async def get(self, path: str, **options: Any) -> httpx2.Response:
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> httpx2.Response:
        return await self.request("POST", path, **options)

    async def put(self, path: str, **options: Any) -> httpx2.Response:
        return await self.request("PUT", path, **options)

    async def patch(self, path: str, **options: Any) -> httpx2.Response:
        return await self.request("PATCH", path, **options)

    async def delete(self, path: str, **options: Any) -> httpx2.Response:
        return await self.request("DELETE", path, **options)


class Person:
    """A registered user with a token. `api` carries it."""

    def __init__(self, base_url: str, username: str, user_id: str, token: str) -> None:
        self.base_url = base_url
        self.username = username
        self.id = user_id
        self.token = token
        self.api = Api(base_url, {"Authorization": f"Bearer {token}"})

    @classmethod
    async def register(cls, base_url: str, username: str, password: str = PASSWORD) -> Self:
        anonymous = Api(base_url)
        made = await anonymous.post("/api/auth/register", json={"username": username, "password": password})
        assert made.status_code == 201, made.text
        let_in = await anonymous.post("/api/auth/login", json={"username": username, "password": password})
        assert let_in.status_code == 200, let_in.text
        return cls(base_url, username, made.json()["id"], let_in.json()["access_token"])

    async def create_group(self, *others: "Person", name: str = "Team") -> str:
        body = {"name": name, "is_group": True, "participant_ids": [other.id for other in others]}
        answer = await self.api.post("/api/chat/conversations", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def history(self, conversation_id: str, **query: int) -> dict[str, Any]:
        answer = await self.api.get(f"/api/chat/conversations/{conversation_id}/messages", params=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    @asynccontextmanager
    async def connect(self, conversation_id: str, **query: object) -> AsyncIterator["Chat"]:
        """A live connection to a conversation."""
        async with self._open(f"/api/chat/ws/{conversation_id}", query) as chat:
            yield chat

    @asynccontextmanager
    async def session(
        self, revs: dict[str, int] | None = None, *, epoch: str | None = None, **query: object
    ) -> AsyncIterator["Chat"]:
        """A session's connection, which goes on after these revs (of that epoch); its first frame has been read."""
        async with self._open("/api/chat/ws", query) as chat:
            assert (await chat.receive())["type"] == "session"
            known = {} if epoch is None else {"epoch": epoch}
            await chat.send({"type": "resume", "revs": revs or {}, **known})
            yield chat

    @asynccontextmanager
    async def _open(self, path: str, query: dict[str, object]) -> AsyncIterator["Chat"]:
        parameters = urlencode({"token": self.token, **query})
        url = f"{self.base_url.replace('http', 'ws', 1)}{path}?{parameters}"
        unchecked = ssl.create_default_context()
        unchecked.check_hostname, unchecked.verify_mode = False, ssl.CERT_NONE
        context = unchecked if url.startswith("wss:") else None
        async with trio_websocket.open_websocket_url(url, ssl_context=context) as connection:
            try:
                yield Chat(connection, "session" if path == "/api/chat/ws" else "conversation")
            finally:
                if connection.closed is not None:
                    # When the server closes first, trio-websocket leaves its own socket open.
                    await trio.aclose_forcefully(connection._stream)


class Chat:
    """A WebSocket connection that speaks frames, and holds those that come to the AsyncAPI document.

    Args:
        connection: an open one.
        channel: which of the document's it is.
    """

    def __init__(self, connection: WebSocketConnection, channel: str = "conversation") -> None:
        self.connection = connection
        self.channel = channel

    async def send(self, frame: object) -> None:
        await self.connection.send_message(frame if isinstance(frame, str | bytes) else json.dumps(frame))

    async def receive(self, seconds: float = 15) -> dict[str, Any]:
        """The next frame."""
        with trio.fail_after(seconds):
            frame: dict[str, Any] = json.loads(await self.connection.get_message())
        frames.check(frame, self.channel)
        return frame

    async def receive_type(self, *kinds: str) -> dict[str, Any]:
        """The next frame of one of these types; others are passed over."""
        while True:
            frame = await self.receive()
            if frame["type"] in kinds:
                return frame

    async def wait_closed(self, seconds: float = 15) -> int:
        """Reads until the server closes the connection; returns the close code."""
        with trio.fail_after(seconds), pytest.raises(trio_websocket.ConnectionClosed) as closed:  # noqa: PT012
            while True:
                await self.connection.get_message()
        reason = closed.value.reason
        assert reason is not None
        return int(reason.code)
