"""Limits of users on the virtual clock: frames, connections, REST requests."""

from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.edge.limits import Connections, Flow, UserRate, Verdict
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.settings import Settings

ALICE, BOB = UUID(int=1), UUID(int=2)


def flow(**settings: int) -> Flow:
    return Flow(Settings(**settings))


async def test_an_ordinary_connection_is_never_limited(mock_clock: MockClock) -> None:
    sent = flow(frames_per_second=10, frames_burst=20)
    for _ in range(1_000):
        assert sent.judge(100) is Verdict.ACCEPT
        mock_clock.jump(0.1)


async def test_a_flood_gets_one_error_a_second_and_is_closed_after_a_burst(mock_clock: MockClock) -> None:
    sent = flow(frames_per_second=1, frames_burst=5)
    assert [sent.judge(1) for _ in range(5)] == [Verdict.ACCEPT] * 5
    assert [sent.judge(1) for _ in range(3)] == [Verdict.REFUSE, Verdict.DROP, Verdict.DROP]
    mock_clock.jump(1)
    assert [sent.judge(1) for _ in range(3)] == [Verdict.ACCEPT, Verdict.REFUSE, Verdict.DROP]
    assert sent.judge(1) is Verdict.CLOSE


async def test_a_pause_forgives_refused_frames(mock_clock: MockClock) -> None:
    sent = flow(frames_per_second=1, frames_burst=5)
    for _ in range(10):
        verdicts = [sent.judge(1) for _ in range(10)]
        assert verdicts == [Verdict.ACCEPT] * 5 + [Verdict.REFUSE] + [Verdict.DROP] * 4
        mock_clock.jump(5)


async def test_a_client_that_is_always_a_little_too_fast_is_closed(mock_clock: MockClock) -> None:
    sent = flow(frames_per_second=10, frames_burst=20)
    verdicts = []
    for _ in range(10_000):
        verdicts.append(sent.judge(1))
        if verdicts[-1] is Verdict.CLOSE:
            break
        mock_clock.jump(1 / 15)
    assert verdicts[-1] is Verdict.CLOSE
    assert Verdict.REFUSE in verdicts


async def test_a_frame_is_taken_at_once_only_if_it_would_be_accepted(mock_clock: MockClock) -> None:
    sent = flow(frames_per_second=1, frames_burst=5, bytes_per_second=1_000, bytes_burst=4_000, max_frame_bytes=2_000)
    assert not sent.take_now(4_001)
    assert [sent.take_now(1_000) for _ in range(5)] == [True] * 4 + [False]
    sent.give_back(1_000)
    assert [sent.judge(1_000), sent.judge(1_000)] == [Verdict.ACCEPT, Verdict.REFUSE]
    mock_clock.jump(2)
    assert not sent.take_now(1), "a refusal counts until the buckets are full"
    assert sent.judge(1) is Verdict.ACCEPT
    mock_clock.jump(5)
    assert sent.judge(1) is Verdict.ACCEPT
    assert [sent.take_now(1) for _ in range(5)] == [True] * 4 + [False]


async def test_bytes_are_limited_and_the_largest_frame_passes(mock_clock: MockClock) -> None:
    sent = flow(bytes_per_second=1_000, bytes_burst=4_000, max_frame_bytes=2_000)
    assert sent.judge(3_000) is Verdict.ACCEPT
    assert sent.judge(1_001) is Verdict.REFUSE
    assert sent.judge(1_000) is Verdict.ACCEPT, "a refused frame takes nothing"
    assert [sent.judge(1_500) for _ in range(2)] == [Verdict.DROP, Verdict.CLOSE]
    large = flow(bytes_per_second=1_000, bytes_burst=4_000, max_frame_bytes=50_000)
    assert large.judge(50_000) is Verdict.ACCEPT


async def test_limits_of_0_are_off() -> None:
    sent = flow(frames_per_second=0, frames_burst=1, bytes_per_second=0, bytes_burst=1_024)
    assert all(sent.judge(60_000) is Verdict.ACCEPT for _ in range(1_000))
    connections = Connections(0)
    with connections.hold(ALICE), connections.hold(ALICE), connections.hold(ALICE):
        assert connections.count(ALICE) == 3


async def test_connections_are_counted_per_user_and_freed_however_they_end() -> None:
    connections = Connections(2)
    with connections.hold(ALICE):
        with connections.hold(ALICE), connections.hold(BOB):
            with pytest.raises(PulseError) as refused:
                connections.hold(ALICE)
            assert refused.value.code is ErrorCode.TOO_MANY_CONNECTIONS
        assert (connections.count(ALICE), connections.count(BOB)) == (1, 0)
        with trio.CancelScope() as scope, connections.hold(ALICE):
            scope.cancel()
            await trio.sleep_forever()
        assert scope.cancelled_caught
        assert connections.count(ALICE) == 1
    assert connections.count(ALICE) == 0


async def test_rest_requests_are_limited_per_user(mock_clock: MockClock) -> None:
    edits = UserRate("edits", rate=0.5, burst=2)
    edits.start(ALICE)
    edits.start(ALICE)
    with pytest.raises(PulseError) as refused:
        edits.start(ALICE)
    assert (refused.value.code, refused.value.retry_after) == (ErrorCode.RATE_LIMITED, 2)
    edits.start(BOB)
    mock_clock.jump(2)
    edits.start(ALICE)
