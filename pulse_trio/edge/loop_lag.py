"""Loop lag: the time that a task which could run waits for others."""

from typing import Final

import trio

from pulse_trio.metrics import Metrics

INTERVAL: Final = 0.5  # seconds between two measurements


async def watch_loop(metrics: Metrics) -> None:
    """Measures how late this task wakes, until cancelled."""
    while True:
        due = trio.current_time() + INTERVAL
        await trio.sleep_until(due)
        metrics.loop_lag_seconds.observe(max(0.0, trio.current_time() - due))
