"""The list of all conversations in the terminal, while its pages move."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

import pytest
import trio

from pulse_trio.client import Client, Conversation
from pulse_trio.terminal.access import everything

NOW = datetime.now(UTC)


def numbered(number: int) -> Conversation:
    return Conversation(
        id=UUID(int=number),
        name=None,
        description=None,
        is_group=True,
        owner_id=UUID(int=0),
        created_at=NOW,
        updated_at=NOW,
        users=(),
        last_message=None,
        last_seq=0,
        last_rev=0,
        epoch="e",
    )


class Listing:
    """In place of a client: a list, and what happens to it after a page was read."""

    def __init__(self, count: int, happens: Callable[[list[Conversation], int], object]) -> None:
        self.all = [numbered(number) for number in range(count)]
        self.requests = 0
        self._happens = happens

    async def conversations(self, *, limit: int, offset: int) -> list[Conversation]:
        await trio.lowlevel.checkpoint()
        self.requests += 1
        page = self.all[offset : offset + limit]
        self._happens(self.all, self.requests)
        return page

    async def read(self) -> list[Conversation]:
        return await everything(cast("Client", self))


@pytest.mark.parametrize("count", [0, 1, 199, 200, 201, 398, 399, 400, 1_000])
async def test_a_list_that_stands_still_is_read_once(count: int) -> None:
    listing = Listing(count, lambda _all, _request: None)
    assert await listing.read() == listing.all
    assert listing.requests <= count // 199 + 1


async def test_one_that_is_left_between_two_pages_hides_no_other() -> None:
    listing = Listing(450, lambda found, request: request == 1 and found.pop(5))
    assert await listing.read() == listing.all


async def test_one_that_moves_to_a_page_that_was_read_is_not_lost() -> None:
    listing = Listing(450, lambda found, request: request == 1 and found.insert(0, found.pop(420)))
    assert await listing.read() == listing.all


async def test_the_list_that_became_empty_has_none() -> None:
    listing = Listing(200, lambda found, request: request == 1 and found.clear())
    assert await listing.read() == []


async def test_a_list_that_moves_without_end_is_read_a_few_times() -> None:
    listing = Listing(450, lambda found, _request: found.insert(0, found.pop()))
    read = await listing.read()
    assert len({conversation.id for conversation in read}) == len(read) >= 440
    assert listing.requests <= 9
