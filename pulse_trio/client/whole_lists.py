"""Lists that are read as a whole: the conversations of a user, and the users whose names begin alike.

A server says with `next_cursor` where the next page begins. One of before has no such field: pages then begin at an
offset, which moves with the list.
"""

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from pulse_trio.client.records import Conversation, User

PAGE: Final = 200  # in one request
MAX_READS: Final = 3  # of a list whose offsets move while it is read

Query: TypeAlias = dict[str, str | int]
Found: TypeAlias = dict[UUID, Conversation]


class ConversationPage(msgspec.Struct):
    """A page of conversations."""

    conversations: list[Conversation]
    next_cursor: str | UnsetType | None = UNSET


class UserPage(msgspec.Struct):
    """A page of users."""

    users: list[User]
    next_cursor: str | UnsetType | None = UNSET


ReadPage: TypeAlias = Callable[[Query], Awaitable[ConversationPage]]


async def read_users(read: Callable[[Query], Awaitable[UserPage]], limit: int | None) -> list[User]:
    """Reads at most `limit` users, in the order of their names; None: all. Cancelled: nothing has changed."""
    found: dict[UUID, User] = {}
    place: Query = {}
    while True:
        size = _page_size(limit, len(found))
        page = await read({"limit": size, **place})
        count = len(found)
        found |= {user.id: user for user in page.users}
        if isinstance(page.next_cursor, UnsetType):
            place = {"offset": len(found)}
            is_last = len(page.users) < size or len(found) == count
        else:
            place = {"cursor": page.next_cursor or ""}
            is_last = page.next_cursor is None
        if is_last or (limit is not None and len(found) >= limit):
            return list(found.values())


async def read_conversations(read: ReadPage, limit: int | None, offset: int) -> list[Conversation]:
    """Reads at most `limit` conversations, most recent activity first; None: all.

    Of a list that changes meanwhile all are found that belong to it from beginning to end. Cancelled: nothing has
    changed.

    Args:
        read: requests a page.
        limit: number of conversations.
        offset: number of the first one.
    """
    place: Query = {"offset": offset} if offset else {}
    first = await read({"limit": _page_size(limit, 0), **place})
    if _is_enough(_by_id(first), limit) or not _goes_on(first):
        return first.conversations
    if offset or isinstance(first.next_cursor, UnsetType):
        found = await _by_offset(read, first, limit, offset)
    else:
        found = await _by_cursor(read, first, limit)
    return list(found.values())[:limit]


async def _by_cursor(read: ReadPage, first: ConversationPage, limit: int | None) -> Found:
    found = _by_id(first)
    page = first
    while isinstance(page.next_cursor, str) and not _is_enough(found, limit):
        page = await read({"limit": PAGE, "cursor": page.next_cursor})
        found |= _by_id(page)
    if page is first or _is_enough(found, limit):
        return found
    # One that moved to the top while the pages below were read is on none of them.
    top: Found = {}
    place: Query = {}
    while True:
        page = await read({"limit": PAGE, **place})
        is_new = any(conversation.id not in found for conversation in page.conversations)
        top |= _by_id(page)
        if not is_new or not isinstance(page.next_cursor, str):
            return top | {key: value for key, value in found.items() if key not in top}
        place = {"cursor": page.next_cursor}


async def _by_offset(read: ReadPage, first: ConversationPage, limit: int | None, offset: int) -> Found:
    """Reads the list again, at most `MAX_READS` times, if its order changed between two requests."""
    found, is_whole = await _read_once(read, first, limit, offset)
    for _ in range(MAX_READS - 1):
        if is_whole:
            break
        first = await read({"limit": PAGE, "offset": offset})
        again, is_whole = await _read_once(read, first, limit, offset)
        found = again if is_whole else again | {key: value for key, value in found.items() if key not in again}
    return found


async def _read_once(read: ReadPage, page: ConversationPage, limit: int | None, offset: int) -> tuple[Found, bool]:
    """Reads all pages. Each begins with the last conversation of the one before; returns False if one does not."""
    found = _by_id(page)
    is_whole = True
    while page.conversations and _goes_on(page) and not _is_enough(found, limit):
        last = page.conversations[-1].id
        # One further at least: a page may have a single conversation, because its bytes are bounded.
        overlap = len(page.conversations) > 1
        offset += len(page.conversations) - overlap
        page = await read({"limit": PAGE, "offset": offset})
        if overlap:
            is_whole = is_whole and bool(page.conversations) and page.conversations[0].id == last
        found |= _by_id(page)
    return found, is_whole


def _goes_on(page: ConversationPage) -> bool:
    """Returns whether there is a further page; a server of before knows only full pages."""
    if isinstance(page.next_cursor, UnsetType):
        return len(page.conversations) == PAGE
    return page.next_cursor is not None


def _is_enough(found: Found, limit: int | None) -> bool:
    return limit is not None and len(found) >= limit


def _page_size(limit: int | None, count: int) -> int:
    return PAGE if limit is None else min(PAGE, limit - count)


def _by_id(page: ConversationPage) -> Found:
    return {conversation.id: conversation for conversation in page.conversations}
