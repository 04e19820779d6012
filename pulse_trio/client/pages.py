"""Lists that the server returns page by page, as iterators that load the next page when it is needed."""

from collections import deque
from typing import Final, Generic, Self, TypeVar

import msgspec

from pulse_trio.client.records import Message, User
from pulse_trio.client.requests import Requests

HISTORY_PAGE: Final = 100  # messages of history in one request

T = TypeVar("T")


class _Members(msgspec.Struct):
    members: list[User]
    next_cursor: str | None


class _Messages(msgspec.Struct):
    messages: list[Message]
    has_more: bool | None = None  # None: a server that bounds no bytes, whose last page is shorter than the limit


class _Pages(Generic[T]):
    """Iterates over items that the server returns page by page."""

    def __init__(self, requests: Requests, path: str) -> None:
        self._requests = requests
        self._identity = requests.identity
        self._path = path
        self._page: deque[T] = deque()
        self._is_last = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Returns the next item. Cancelled: none is skipped."""
        if not self._page:
            if self._is_last:
                raise StopAsyncIteration
            await self._load()
            if not self._page:
                raise StopAsyncIteration
        return self._page.popleft()

    async def _load(self) -> None:
        """Loads the next page into `_page` and sets `_is_last`."""
        raise NotImplementedError


class Members(_Pages[User]):
    """The members of a conversation. Made by `Client.members`."""

    _cursor: str | None = None

    async def _load(self) -> None:
        params = page_after(self._cursor)
        page = await self._requests.ask("GET", self._path, _Members, self._identity, params=params)
        self._cursor = page.next_cursor
        self._is_last = page.next_cursor is None
        self._page.extend(page.members)


class History(_Pages[Message]):
    """The messages of a conversation. Made by `Client.history`."""

    def __init__(self, requests: Requests, path: str, before_seq: int | None, after_seq: int | None) -> None:
        super().__init__(requests, path)
        self._before_seq = before_seq
        self._after_seq = after_seq

    async def _load(self) -> None:
        params = {"limit": HISTORY_PAGE}
        if self._after_seq is not None:
            params["after_seq"] = self._after_seq
        elif self._before_seq is not None:
            params["before_seq"] = self._before_seq
        answer = await self._requests.ask("GET", self._path, _Messages, self._identity, params=params)
        page = answer.messages
        self._is_last = len(page) < HISTORY_PAGE if answer.has_more is None else not answer.has_more
        if self._after_seq is not None:
            page.reverse()  # a page is always newest first
        if page:
            self._before_seq = page[-1].seq
            self._after_seq = None if self._after_seq is None else page[-1].seq
        self._page.extend(page)


def page_after(cursor: str | None) -> dict[str, str]:
    """Returns the query for the page of a cursor; None: the first page."""
    return {} if cursor is None else {"cursor": cursor}
