"""Large answers that nobody reads: bounded for an address, refused before any work, and free again when they end."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pulse_trio.app import create_app, open_service
from pulse_trio.settings import Settings
from pulse_trio.store.base import Page
from pulse_trio.store.memory import MemoryStore
from tests.support.client import PASSWORD, Person
from tests.support.figures import figures
from tests.support.raw import RawClient, open_raw
from tests.support.server import SECRET, Server

ADDRESS = "198.51.100.7"
PAGE = 200
CHARS = 12_000  # a page has 7 MB, more than the network takes of an answer that is not read


def get(path: str, token: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: chat.example\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


async def status(client: RawClient) -> int:
    """The status of an answer whose rest is not read."""
    line = await client.read_exactly(len("HTTP/1.1 200"))
    return int(line[-3:])


async def bytes_under_way(server: Server) -> float:
    return (await figures(server.base_url))("pulse_answer_bytes")


@pytest.mark.one_process
async def test_unread_pages_are_bounded_and_others_are_served(start_server: Callable[..., Server]) -> None:
    server = start_server(
        PULSE_MAX_CONTENT_CHARS=str(CHARS),
        PULSE_WRITE_TIMEOUT="300",
        PULSE_ANSWER_BYTES_PER_ADDRESS="16777216",
        PULSE_PAGE_BYTES="16777216",
    )
    with trio.fail_after(120):
        ada = await Person.register(server.base_url, "ada")
        group = await ada.create_group()
        path = f"/api/chat/conversations/{group}/messages"
        for number in range(PAGE):
            posted = await ada.api.post(path, json={"content": chr(0x4E00 + number) * CHARS})
            assert posted.status_code == 201
        request = get(f"{path}?limit={PAGE}", ada.token)
        async with AsyncExitStack() as stack:
            statuses = []
            for _ in range(10):
                client = await stack.enter_async_context(
                    open_raw(server.port, receive_buffer=4_096, address="127.0.0.2")
                )
                await client.send(request)
                statuses.append(await status(client))
            assert statuses == [200, 200] + [503] * 8
            assert PAGE * CHARS * 3 * 2 < await bytes_under_way(server) <= 16_777_216
            async with open_raw(server.port, address="127.0.0.2") as same:
                refused = await same.request(request)
                assert (refused.status, refused.json()["code"]) == (503, "unavailable")
                assert int(refused.headers["retry-after"]) > 0
                assert (await same.request(get("/api/auth/me", ada.token))).status == 200, "small answers are given"
                assert (await same.request(get("/healthz", ada.token))).status == 200
            async with open_raw(server.port, address="127.0.0.3") as other:
                page = (await other.request(request)).json()
                assert len(page["messages"]) == PAGE
        while await bytes_under_way(server):  # until the server has seen that they are gone
            await trio.lowlevel.checkpoint()
        async with open_raw(server.port, address="127.0.0.2") as same:
            assert (await same.request(request)).status == 200


class CountingStore(MemoryStore):
    """Counts the pages that were looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = 0

    async def page_messages(self, *args: Any, **options: Any) -> Page:
        self.pages += 1
        return await super().page_messages(*args, **options)


@pytest.mark.parametrize("holder", [ADDRESS, "203.0.113.1"], ids=["of_the_address", "in_all"])
async def test_without_room_nothing_is_looked_up_or_changed(holder: str) -> None:
    store = CountingStore()

    @asynccontextmanager
    async def open_store() -> AsyncIterator[MemoryStore]:
        yield store

    mib = 2**20
    origin = "https://app.example"
    settings = Settings.load(
        secret_key=SECRET, answer_bytes_per_address=mib, answer_bytes=2 * mib, allowed_origins=origin
    )
    app = create_app(settings, open_store)
    with trio.fail_after(60):
        async with open_service(app):
            client = app.test_client()
            body = {"username": "ada", "password": PASSWORD}
            await client.post("/api/auth/register", json=body)
            token = (await (await client.post("/api/auth/login", json=body)).get_json())["access_token"]

            async def ask(method: str, path: str, json: object = None) -> Any:
                headers = {"Authorization": f"Bearer {token}", "Origin": origin}
                scope = {"client": (ADDRESS, 1)}
                return await client.open(path, method=method, headers=headers, json=json, scope_base=scope)

            conversations = "/api/chat/conversations"
            group = (await (await ask("POST", conversations, {"is_group": True})).get_json())["id"]
            history = f"{conversations}/{group}/messages"
            with app.response_budget.answer(holder) as held:
                held.settle(mib if holder == ADDRESS else 2 * mib, may_refuse=False)
                for method, path, json in (
                    ("GET", history, None),
                    ("GET", conversations, None),
                    ("POST", conversations, {"is_group": True}),
                    ("POST", history, {"content": "hello"}),
                ):
                    answer = await ask(method, path, json)
                    assert answer.status_code == 503, path
                    assert "Retry-After" in answer.headers
                    assert answer.headers["Access-Control-Allow-Origin"] == origin
                assert store.pages == 0
                assert (await ask("GET", "/api/auth/me")).status_code == 200
            page = await (await ask("GET", history)).get_json()
            assert (page["messages"], store.pages) == ([], 1)
            assert (await (await ask("GET", conversations)).get_json())["total"] == 1, "the second was not made"
            assert app.response_budget.size == 0


class SlowStore(MemoryStore):
    """Looks up no page of a large history until the test lets it; counts those under way."""

    def __init__(self) -> None:
        super().__init__()
        self.may_end = trio.Event()
        self.under_way = 0

    async def page_messages(self, *args: Any, **options: Any) -> Page:
        self.under_way += 1
        await self.may_end.wait()
        return await super().page_messages(*args, **options)


async def test_one_address_does_not_keep_the_database_from_others(mock_clock: MockClock) -> None:
    """Of 40 requests for the largest page few reach the database, and most are refused before they wait."""
    store = SlowStore()

    @asynccontextmanager
    async def open_store() -> AsyncIterator[MemoryStore]:
        yield store

    app = create_app(Settings.load(secret_key=SECRET, answer_bytes_per_address=2**20), open_store)
    async with open_service(app):
        client = app.test_client()
        body = {"username": "ada", "password": PASSWORD}
        await client.post("/api/auth/register", json=body)
        token = (await (await client.post("/api/auth/login", json=body)).get_json())["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        made = await client.post("/api/chat/conversations", json={"is_group": True}, headers=headers)
        path = f"/api/chat/conversations/{(await made.get_json())['id']}/messages"
        statuses: list[int] = []

        async def ask(limit: int, address: str) -> None:
            answer = await client.get(f"{path}?limit={limit}", headers=headers, scope_base={"client": (address, 1)})
            statuses.append(answer.status_code)

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(ask, PAGE, ADDRESS)
            await trio.testing.wait_all_tasks_blocked()
            assert store.under_way == 4
            assert statuses == [503] * 35, "five pages of 200 KiB fit into 1 MiB"
            nursery.start_soon(ask, PAGE, "203.0.113.1")
            await trio.testing.wait_all_tasks_blocked()
            assert store.under_way == 5
            store.may_end.set()
        assert statuses == [503] * 35 + [200] * 6
        assert app.response_budget.size == 0
