"""Requests that are under way while the service closes, to open again in the same process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import trio

from pulse_trio.app import create_app, open_service
from pulse_trio.settings import Settings
from pulse_trio.store.base import StoreUnavailable
from pulse_trio.store.memory import MemoryStore
from pulse_trio.store.records import Conversation
from tests.support.client import PASSWORD


class ClosingStore(MemoryStore):
    """A store that is closed while a conversation is looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked = trio.Event()
        self.is_closed = trio.Event()

    async def get_conversation(self, conversation_id: UUID, user_id: UUID) -> Conversation | None:
        self.is_asked.set()
        await self.is_closed.wait()
        raise StoreUnavailable("PoolClosed")


async def test_a_request_that_outlives_its_service_gets_503(autojump_clock: object) -> None:
    store = ClosingStore()

    @asynccontextmanager
    async def open_store() -> AsyncIterator[MemoryStore]:
        yield store

    app = create_app(Settings.load(secret_key="a key of this test: 5b1c8e7d2f90a364"), open_store)
    client = app.test_client()
    answers = []

    async def ask(headers: dict[str, str]) -> None:
        answers.append(await client.get(f"/api/chat/conversations/{UUID(int=1)}", headers=headers))

    async with trio.open_nursery() as nursery:
        async with open_service(app):
            body = {"username": "ada", "password": PASSWORD}
            assert (await client.post("/api/auth/register", json=body)).status_code == 201
            token = (await (await client.post("/api/auth/login", json=body)).get_json())["access_token"]
            nursery.start_soon(ask, {"Authorization": f"Bearer {token}"})
            await store.is_asked.wait()
        store.is_closed.set()
    (answer,) = answers
    assert answer.status_code == 503
    assert (await answer.get_json())["code"] == "unavailable"
