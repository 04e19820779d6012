"""The store with faults: what it records."""

import random

from trio.testing import MockClock

from pulse_trio.model import User
from pulse_trio.store.base import ReadMark
from pulse_trio.store.memory import MemoryStore
from pulse_trio.store.records import NewConversation
from tests.simulation.faults import FaultyStore
from tests.simulation.history import History
from tests.support import commands


async def test_positions_of_a_user_are_recorded_as_they_were_stored(autojump_clock: MockClock) -> None:
    """The first mark names a message that does not exist, so the store takes the other conversation first."""
    data, history, rand = MemoryStore(), History(), random.Random(1)
    store = FaultyStore(data, history, rand, rand, None, 0.0, 0.0)
    bob = commands.new_id()
    await data.create_user(User(bob, "bob"), password_hash=None, subject=None, created_at=commands.START)
    first, second = commands.new_id(), commands.new_id()
    for group in (first, second):
        await data.create_conversation(NewConversation(group, "group", None, True, bob, (bob,), commands.START))
        await data.apply([commands.post(group, bob)])
    await store.mark_read([ReadMark(first, bob, 9), ReadMark(second, bob, 1), ReadMark(first, bob, 1)])
    positions = [event.user_rev for event in history.events if event.kind == "position"]
    assert positions == sorted(positions)
    assert len(set(positions)) == 2
