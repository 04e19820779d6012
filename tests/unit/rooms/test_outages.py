"""Log lines of an outage: one a second for each kind."""

import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from pulse_trio.rooms.outages import Outages
from pulse_trio.store.base import StoreUnavailable


async def test_a_thousand_failures_are_two_lines(autojump_clock: MockClock) -> None:
    outages = Outages()
    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outages.run)
            for _ in range(1_000):
                outages.record("messages not stored yet", StoreUnavailable(), 3)
            outages.record("another kind", TimeoutError())
            first = [line["count"] for line in lines]
            await trio.sleep(1.5)
            nursery.cancel_scope.cancel()
    assert first == [3, 1], "the first of each kind comes at once"
    found = [(line["event"], line["reason"], line["attempts"], line["count"]) for line in lines]
    assert found == [
        ("messages not stored yet", "StoreUnavailable", 1, 3),
        ("another kind", "TimeoutError", 1, 1),
        ("messages not stored yet", "StoreUnavailable", 999, 2_997),
    ]


async def test_an_outage_writes_a_line_a_second_and_its_end_what_is_left(autojump_clock: MockClock) -> None:
    outages = Outages()
    with capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outages.run)
            for _ in range(100):
                outages.record("messages not stored yet", StoreUnavailable())
                await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
    assert sum(line["attempts"] for line in lines) == 100
    assert len(lines) <= 12
