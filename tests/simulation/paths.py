"""Counts the paths that processes take on which changes of others reach them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest

from pulse_trio.rooms import published_items
from pulse_trio.rooms.comparison import Comparison
from pulse_trio.rooms.feed import Feed
from pulse_trio.rooms.member_updates import MemberUpdates
from pulse_trio.rooms.registry import Rooms
from pulse_trio.rooms.rooms_behind import RoomsBehind
from pulse_trio.rooms.session import Session
from tests.simulation.history import History


@contextmanager
def counted(history: History) -> Iterator[None]:
    """Counts rare paths of processes with others, within a block."""

    def count(owner: Any, name: str, what: str, *, is_so: Callable[..., object] = lambda *_: True) -> None:
        """Counts the calls of a function for which `is_so` is true."""
        real = getattr(owner, name)

        def counting(*arguments: Any, **options: Any) -> Any:
            if is_so(*arguments):
                history.count(what)
            return real(*arguments, **options)

        patch.setattr(owner, name, counting)

    wait_heard, compare = Feed._wait_heard, Comparison._compare

    async def wait_and_count(self: Feed, up_to_rev: int, deadline: float) -> bool:
        last_rev = self.last_rev
        is_closed = await wait_heard(self, up_to_rev, deadline)
        if not is_closed:
            history.count("a gap that the bus did not close")
        elif last_rev < up_to_rev:
            history.count("a gap closed by the bus")
        return is_closed

    async def compare_and_count(self: Comparison, conversation_ids: list[UUID]) -> None:
        before = {key: _known_rev(self, key) for key in conversation_ids}
        await compare(self, conversation_ids)
        if any(_known_rev(self, key) > rev for key, rev in before.items()):
            history.count("a comparison that found something")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Feed, "_wait_heard", wait_and_count)
        patch.setattr(Comparison, "_compare", compare_and_count)
        count(Comparison, "_add_missed", "an addition that the bus had lost")
        count(RoomsBehind, "catch_up", "a room opened for a change of another process")
        alone = "an addition that no room delivers"
        count(Comparison, "check_soon", alone, is_so=lambda comparison, *key: not comparison._index.has(*key))
        count(MemberUpdates, "_attach_early", "a session found before the bus said so")
        count(Rooms, "expel", "a user removed ahead of the order")
        missed = "a list that was looked up during a comparison"
        count(
            Comparison,
            "user_indexed",
            missed,
            is_so=lambda comparison, user_id: user_id in comparison._missed_comparison,
        )
        count(Session, "begin_at", "a session ahead of the index")
        count(published_items, "_smaller", "an item too large for the bus")
        yield


def _known_rev(comparison: Comparison, conversation_id: UUID) -> int:
    """Returns the rev up to which a process knows a conversation to be committed."""
    room, head = comparison._rooms.get(conversation_id), comparison._index.head_of(conversation_id)
    revs = [comparison._behind._behind.get(conversation_id, 0), 0 if head is None else head.last_rev]
    return max(revs) if room is None else max(*revs, room.feed.known_rev, room.feed.last_rev)
