"""Pages of long entries: bounded in bytes, and nothing is missing for who reads on, on the real process."""

from collections.abc import Callable
from typing import Any

import pytest
import trio

from pulse_trio.client import open_client
from tests.support.client import Person
from tests.support.server import Server

CONVERSATIONS = "/api/chat/conversations"
PAGE_BYTES = 16_384
HEAD_BYTES = 512  # of an answer, beside its entries
TEXTS = ["short", "a" * 4_000, "\x01" * 3_000, "界" * 4_000, '"' * 4_000, "b" * 4_000, "c" * 4_000, "end"]


async def get(person: Person, path: str, **query: object) -> dict[str, Any]:
    answer = await person.api.get(f"{CONVERSATIONS}{path}", params=query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    entries = found.get("messages", found.get("conversations"))
    assert entries is not None
    assert len(answer.content) <= PAGE_BYTES + HEAD_BYTES or len(entries) == 1
    return found


@pytest.fixture
def small_pages(start_server: Callable[..., Server]) -> Server:
    return start_server(PULSE_PAGE_BYTES=str(PAGE_BYTES))


async def test_a_history_of_long_messages_is_read_whole_in_small_pages(small_pages: Server) -> None:
    with trio.fail_after(60):
        ada = await Person.register(small_pages.base_url, "ada")
        group = await ada.create_group()
        for text in TEXTS:
            posted = await ada.api.post(f"{CONVERSATIONS}/{group}/messages", json={"content": text})
            assert posted.status_code == 201
        newest_first = TEXTS[::-1]

        async def read(key: str | None, start: int | None) -> list[str]:
            found: list[dict[str, Any]] = []
            pages = 0
            while True:
                query = {} if key is None or start is None else {key: start}
                page = await get(ada, f"/{group}/messages", limit=200, **query)
                found += page["messages"][:: -1 if key == "after_seq" else 1]
                pages += 1
                assert page["total"] == len(TEXTS)
                if not page["has_more"]:
                    assert pages > 3
                    return [message["content"] for message in found]
                start = len(found) if key == "offset" else found[-1]["seq"]

        assert await read("before_seq", len(TEXTS) + 1) == newest_first
        assert await read("offset", 0) == newest_first
        assert await read("after_seq", 0) == TEXTS
        async with open_client(small_pages.base_url, token=ada.token) as client:
            assert [message.content async for message in client.history(group)] == newest_first
            assert [message.content async for message in client.history(group, after_seq=0)] == TEXTS


async def test_a_list_of_long_conversations_is_read_whole_in_small_pages(small_pages: Server) -> None:
    with trio.fail_after(60):
        ada = await Person.register(small_pages.base_url, "ada")
        made = []
        for text in TEXTS:
            made.append(await ada.create_group(name=f"Group of {text[:1]!r}"))
            await ada.api.post(f"{CONVERSATIONS}/{made[-1]}/messages", json={"content": text})
        newest_first = made[::-1]
        for first in ({}, {"offset": 0}):
            listed: list[str] = []
            query: dict[str, object] = dict(first)
            while True:
                page = await get(ada, "", limit=200, **query)
                listed += [conversation["id"] for conversation in page["conversations"]]
                assert page["total"] == len(TEXTS)
                if page["next_cursor"] is None:
                    break
                query = {"offset": len(listed)} if first else {"cursor": page["next_cursor"]}
            assert listed == newest_first
        async with open_client(small_pages.base_url, token=ada.token) as client:
            for limit, offset in ((None, 0), (200, 0), (7, 0), (7, 1), (None, 3)):
                found = [
                    str(conversation.id) for conversation in await client.conversations(limit=limit, offset=offset)
                ]
                end = None if limit is None else offset + limit
                assert found == newest_first[offset:end], (limit, offset)


async def test_a_default_page_of_the_longest_plain_messages_is_complete(start_server: Callable[..., Server]) -> None:
    server = start_server(PULSE_EDITS_PER_SECOND="0")
    with trio.fail_after(60):
        ada = await Person.register(server.base_url, "ada")
        group = await ada.create_group()
        for _ in range(51):
            await ada.api.post(f"{CONVERSATIONS}/{group}/messages", json={"content": "x" * 4_000})
        page = await ada.history(group)
        assert (len(page["messages"]), page["has_more"]) == (50, True)
