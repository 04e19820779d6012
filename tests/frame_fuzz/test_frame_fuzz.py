"""Some hundred visits of a fresh seed; `make frame-fuzz` makes tens of thousands."""

import random
from collections.abc import Callable

import trio

from tests.frame_fuzz.run import SETTINGS, Run
from tests.support.server import Server

VISITS = 400


async def test_nothing_that_bytes_may_be_harms_the_service(start_server: Callable[..., Server]) -> None:
    run = Run(start_server(**SETTINGS), random.SystemRandom().randrange(10**9))
    with trio.fail_after(240):
        await run.set_up()
        await run.run(180, visits=VISITS)
    assert run.findings == [], f"seed {run._seed}"
    assert run.counters["messages of the others"] > 0
    assert run.counters["frame pong"] > VISITS / 8
