"""Bounds on the frames of one WebSocket that are no whole message."""

import math

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.edge.server.frame_guard import FrameGuard, MessageBuffer, TooBig
from pulse_trio.settings import Settings


def guard(**settings: int) -> FrameGuard:
    return FrameGuard(Settings(**settings))


async def test_other_frames_and_reads_without_a_frame_are_limited(mock_clock: MockClock) -> None:
    frames = guard(pieces_per_second=1, pieces_burst=3)
    assert [frames.take() for _ in range(4)] == [True, True, True, False]
    mock_clock.jump(2)
    assert frames.end_read(frames=0, is_inside=False)
    assert frames.end_read(frames=5, is_inside=True), "these were counted one by one"
    assert frames.end_read(frames=0, is_inside=True)
    assert not frames.end_read(frames=0, is_inside=True)


async def test_a_message_has_a_deadline_from_its_first_byte(mock_clock: MockClock) -> None:
    frames = guard(message_timeout=10)
    assert frames.deadline == math.inf
    start = trio.current_time()
    frames.end_read(frames=0, is_inside=False)  # the beginning of a header
    assert frames.deadline == start + 10
    mock_clock.jump(4)
    frames.end_read(frames=1, is_inside=True)  # its first fragment
    frames.end_read(frames=1, is_inside=True)  # and a ping
    assert frames.deadline == start + 10
    frames.end_read(frames=1, is_inside=False)
    assert frames.deadline == math.inf
    frames.end_read(frames=1, is_inside=True)
    assert frames.deadline == start + 14
    mock_clock.jump(5)
    frames.end_message()
    frames.end_read(frames=2, is_inside=True)  # the end of one, and the beginning of the next
    assert frames.deadline == start + 19


def test_a_message_is_counted_in_bytes_before_it_is_kept() -> None:
    buffer = MessageBuffer(8)
    assert not buffer.is_begun
    buffer.extend("€€")
    buffer.extend("")
    assert buffer.is_begun
    assert buffer.take() == "€€"
    assert not buffer.is_begun
    buffer.extend(b"12345678")
    assert buffer.take() == b"12345678"
    buffer.extend("€€")
    with pytest.raises(TooBig):
        buffer.extend("€")
    assert not buffer.is_begun
    buffer.extend("€€aa")
    assert buffer.take() == "€€aa"
