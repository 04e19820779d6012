"""Refusals that are remembered: for a second, a bounded number, and none from before an addition."""

from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.rooms.refusals import MAX_REFUSALS, REFUSAL_SECONDS, Refusals
from pulse_trio.store.base import TooManyMembers

GROUP, OTHER, ALICE = UUID(int=1), UUID(int=2), UUID(int=3)


def refuse(refusals: Refusals, conversation_id: UUID = GROUP, user_id: UUID = ALICE) -> None:
    with refusals.look_up(conversation_id) as look_up:
        refusals.remember(conversation_id, user_id, look_up)


async def test_a_refusal_is_remembered_for_a_second(autojump_clock: MockClock) -> None:
    refusals = Refusals(20.0)
    assert not refusals.is_refused(GROUP, ALICE)
    refuse(refusals)
    await trio.sleep(REFUSAL_SECONDS - 0.1)
    assert refusals.is_refused(GROUP, ALICE)
    assert not refusals.is_refused(OTHER, ALICE)
    await trio.sleep(0.1)
    assert not refusals.is_refused(GROUP, ALICE)


async def test_the_oldest_conversation_is_dropped_beyond_the_bound(autojump_clock: MockClock) -> None:
    refusals = Refusals(20.0)
    for number in range(MAX_REFUSALS + 1):
        refuse(refusals, UUID(int=number))
        refuse(refusals, UUID(int=number))  # counts once
    found = [refusals.is_refused(UUID(int=number), ALICE) for number in range(MAX_REFUSALS + 1)]
    assert found == [False] + [True] * MAX_REFUSALS


async def test_nothing_is_remembered_during_an_addition(autojump_clock: MockClock) -> None:
    refusals = Refusals(20.0)
    refuse(refusals)
    with refusals.look_up(GROUP) as early:
        with refusals.adding(GROUP):
            assert not refusals.is_refused(GROUP, ALICE)
            refuse(refusals)
            refuse(refusals, OTHER)
            assert not refusals.is_refused(GROUP, ALICE)
        refusals.remember(GROUP, ALICE, early)
    assert not refusals.is_refused(GROUP, ALICE)
    assert refusals.is_refused(OTHER, ALICE)
    refuse(refusals)
    assert refusals.is_refused(GROUP, ALICE)


async def test_a_refused_addition_was_not_committed(autojump_clock: MockClock) -> None:
    refusals = Refusals(20.0)
    with pytest.raises(TooManyMembers), refusals.adding(GROUP):
        raise TooManyMembers
    refuse(refusals)
    assert refusals.is_refused(GROUP, ALICE)


async def test_an_addition_without_an_answer_may_be_committed_later(autojump_clock: MockClock) -> None:
    refusals = Refusals(20.0)
    with pytest.raises(OSError, match="lost"), refusals.adding(GROUP):
        raise OSError("lost")
    await trio.sleep(19.0)
    with refusals.look_up(GROUP) as look_up:
        await trio.sleep(2.0)
        refusals.remember(GROUP, ALICE, look_up)
    assert not refusals.is_refused(GROUP, ALICE), "the look-up began when the addition might still be committed"
    refuse(refusals)
    assert refusals.is_refused(GROUP, ALICE)
    await trio.sleep(30.0)
    with pytest.raises(OSError, match="lost"), refusals.adding(OTHER):
        raise OSError("lost")
    assert set(refusals._doubtful) == {OTHER}
