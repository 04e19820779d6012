"""The simulation on fresh seeds, and on those that found something once."""

import random
import time
from collections import Counter

import pytest

from tests.simulation.plan import Plan
from tests.simulation.run import RARE, simulate
from tests.simulation.shrink import shrink

FRESH_SEEDS = 32  # of each of PARTS, which can run at the same time
PARTS = 8
SECONDS = 30.0  # of real time, after which no further fresh seed is begun
KNOWN_SEEDS = range(1, 41)  # enough for every rare path, and always the same

FOUND = {
    220: "a message whose commit's answer was lost was deleted before anybody heard of it: its rev was missed",
    1010: "a removal that took too long was answered with 204, and the connections stayed open",
    1024: "a client that had caught up beyond what its room knew of was refused its resume",
    479420919: "a session that resumed where its user had been added by a lost answer was told of nothing more",
    684526559: "what a session had been told of others before its removal was held against the service",
    1050: "a commit whose answer was lost, and whose sender had left, was told to nobody until the next message",
}
"""Seeds that failed once, and what they showed."""


BEFORE_RIVALS = Plan(without=frozenset({"afresh", "rivals", "late"}))
AS_THEN = Plan(without=BEFORE_RIVALS.without | {"posters", "linger"})
"""What there was when they failed: with more in it a seed is another run."""


FOUND_SINCE = {
    500001: "a room that sessions had left alone ended under who had joined it meanwhile",
}
"""And those of later, when there was more."""


@pytest.mark.parametrize("seed", [*FOUND, *FOUND_SINCE])
def test_seed_that_failed_once(seed: int) -> None:
    result = simulate(seed, AS_THEN if seed in FOUND else BEFORE_RIVALS)
    assert not result.violations, result.report()


@pytest.mark.parametrize("part", range(PARTS))
def test_fresh_seeds_keep_the_promises(part: int) -> None:
    first = random.SystemRandom().randrange(10**9)
    until = time.monotonic() + SECONDS
    for seed in range(first, first + FRESH_SEEDS):
        result = simulate(seed)
        assert not result.violations, shrink(result).report()
        if time.monotonic() > until:
            break


def test_rare_paths_are_reached() -> None:
    counters: Counter[str] = Counter()
    for seed in KNOWN_SEEDS:
        result = simulate(seed)
        assert not result.violations, result.report()
        counters += result.history.counters
    missing = [name for name in RARE if not counters[name]]
    assert not missing, f"never happened: {missing}"


def test_same_seed_same_run() -> None:
    first, second, other = simulate(7), simulate(7), simulate(8)
    assert first.history.digest() == second.history.digest()
    assert first.history.digest() != other.history.digest()
