"""Samples of log lines: bounds of all sources and of one, and the count of what is left out."""

from trio.testing import MockClock

from pulse_trio.edge.log_samples import LOG_INTERVAL, LogSampler


async def test_one_line_comes_at_once_and_the_next_with_the_number_left_out(mock_clock: MockClock) -> None:
    samples = LogSampler()
    assert [samples.take() for _ in range(4)] == [0, None, None, None]
    mock_clock.jump(LOG_INTERVAL - 0.1)
    assert samples.take() is None
    mock_clock.jump(0.2)
    assert [samples.take(), samples.take()] == [4, None]


async def test_a_source_has_a_bound_of_its_own(mock_clock: MockClock) -> None:
    samples = LogSampler(1, 3, source_rate=1, source_burst=2)
    assert [samples.take("a") for _ in range(3)] == [0, 0, None]
    assert samples.take("b") == 1
    assert samples.take("b") is None, "that is the bound of all"
    mock_clock.jump(1)
    assert samples.take("a") == 1


def test_it_can_be_made_before_there_is_a_clock() -> None:
    LogSampler()
