"""Lists of conversations and users of more than one page, by cursor, and by offset from a server of before."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from trio.testing import MockClock

from pulse_trio.client import Client
from tests.unit.client.scripted import CONVERSATION, Answer, ScriptedServer, scripted


class Listing:
    """A list of numbered conversations or users, and what happens to it after a request.

    A cursor is the rank of the last item of a page: the server orders by ranks, and what is active gets the highest.
    """

    def __init__(
        self, count: int, *, has_cursors: bool, happens: Callable[["Listing", int], object] = lambda _self, _request: 0
    ) -> None:
        self.all = list(range(count))
        self.queries: list[dict[str, str]] = []
        self._has_cursors = has_cursors
        self._happens = happens
        self._ranks = {number: -number for number in self.all}

    def move(self, place: int) -> None:
        """Moves the item at this place to the top."""
        number = self.all.pop(place)
        self._ranks[number] = max(self._ranks.values()) + 1
        self.all.insert(0, number)

    def answer(self, query: dict[str, str]) -> Answer:
        self.queries.append(query)
        limit = int(query["limit"])
        if not 1 <= limit <= 200 or ("cursor" in query and "offset" in query):
            return 422, {"code": "invalid_field", "message": "No"}
        rest = self.all[int(query.get("offset", 0)) :]
        if "cursor" in query:
            rest = [number for number in self.all if self._ranks[number] < int(query["cursor"])]
        page = rest[:limit]
        body: dict[str, Any] = {
            "conversations": [{**CONVERSATION, "id": str(UUID(int=number))} for number in page],
            "users": [{"id": str(UUID(int=number)), "username": f"user{number}"} for number in page],
            "total": len(self.all),
        }
        if self._has_cursors:
            body["next_cursor"] = str(self._ranks[page[-1]]) if len(rest) > limit else None
        self._happens(self, len(self.queries))
        return 200, body


@asynccontextmanager
async def listed(listing: Listing) -> AsyncIterator[Client]:
    async with scripted() as (server, client):
        serve(server, listing)
        yield client


def serve(server: ScriptedServer, listing: Listing) -> None:
    server.answers["GET", "/api/chat/conversations"] = listing.answer
    server.answers["GET", "/api/users"] = listing.answer


async def read(listing: Listing, limit: int | None = None, offset: int = 0) -> list[int]:
    """The numbers of the conversations that the client returns."""
    async with listed(listing) as client:
        return [found.id.int for found in await client.conversations(limit=limit, offset=offset)]


COUNTS = [0, 1, 199, 200, 201, 398, 399, 400, 1_000]


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("has_cursors", [True, False], ids=["cursor", "offset"])
async def test_a_list_that_stands_still_is_read_once(autojump_clock: MockClock, count: int, has_cursors: bool) -> None:
    listing = Listing(count, has_cursors=has_cursors)
    assert await read(listing) == listing.all
    assert len(listing.queries) <= count // 199 + 1 + (has_cursors and count > 200)
    assert all(("cursor" in query) == has_cursors for query in listing.queries if query.keys() != {"limit"})


@pytest.mark.parametrize("has_cursors", [True, False], ids=["cursor", "offset"])
async def test_one_that_is_left_between_two_pages_hides_no_other(autojump_clock: MockClock, has_cursors: bool) -> None:
    listing = Listing(450, has_cursors=has_cursors, happens=lambda that, request: request == 1 and that.all.pop(5))
    assert set(await read(listing)) >= set(listing.all)


@pytest.mark.parametrize("has_cursors", [True, False], ids=["cursor", "offset"])
async def test_one_that_moves_to_a_page_that_was_read_is_not_lost(autojump_clock: MockClock, has_cursors: bool) -> None:
    listing = Listing(450, has_cursors=has_cursors, happens=lambda that, request: request == 1 and that.move(420))
    assert await read(listing) == listing.all


@pytest.mark.parametrize("has_cursors", [True, False], ids=["cursor", "offset"])
async def test_many_that_move_to_the_top_are_not_lost(autojump_clock: MockClock, has_cursors: bool) -> None:
    def move(that: Listing, request: int) -> None:
        for _ in range(230 if request == 1 else 0):
            that.move(-1)

    listing = Listing(450, has_cursors=has_cursors, happens=move)
    assert await read(listing) == listing.all


async def test_the_list_that_became_empty_has_none(autojump_clock: MockClock) -> None:
    listing = Listing(200, has_cursors=False, happens=lambda that, request: request == 1 and that.all.clear())
    assert await read(listing) == []


async def test_a_list_that_moves_without_end_is_read_a_few_times(autojump_clock: MockClock) -> None:
    listing = Listing(450, has_cursors=False, happens=lambda that, _request: that.move(-1))
    found = await read(listing)
    assert len(set(found)) == len(found) >= 440
    assert len(listing.queries) <= 9


@pytest.mark.parametrize("has_cursors", [True, False], ids=["cursor", "offset"])
@pytest.mark.parametrize(("limit", "requests"), [(1, 1), (50, 1), (200, 1), (201, 2), (300, 2), (1_000, 4)])
async def test_a_limit_ends_the_list(autojump_clock: MockClock, has_cursors: bool, limit: int, requests: int) -> None:
    listing = Listing(450, has_cursors=has_cursors)
    assert await read(listing, limit) == listing.all[:limit]
    assert len(listing.queries) <= requests


@pytest.mark.parametrize("has_cursors", [True, False], ids=["cursor", "offset"])
@pytest.mark.parametrize("limit", [20, 300, None])
async def test_a_list_may_begin_at_an_offset(autojump_clock: MockClock, has_cursors: bool, limit: int | None) -> None:
    listing = Listing(450, has_cursors=has_cursors)
    assert await read(listing, limit, offset=7) == listing.all[7:][:limit]


@pytest.mark.parametrize("has_cursors", [True, False], ids=["cursor", "offset"])
@pytest.mark.parametrize("limit", [20, 200, 201, 450, 1_000, None])
async def test_users_are_searched_page_by_page(autojump_clock: MockClock, has_cursors: bool, limit: int | None) -> None:
    listing = Listing(450, has_cursors=has_cursors)
    async with listed(listing) as client:
        found = await client.search_users("User", limit=limit)
    assert [user.id.int for user in found] == listing.all[:limit]
    assert {query["query"] for query in listing.queries} == {"User"}
    assert len(listing.queries) <= -(-len(found) // 200)
