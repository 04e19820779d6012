"""Shrinks a failing run: leaves out every part without which it still fails."""

from dataclasses import replace

from tests.simulation.plan import ACTIONS, PARTS, Plan
from tests.simulation.run import Result, simulate

TRIES = 150  # runs, at a few tenths of a second each
SHORTEST = 1.0  # virtual seconds of chaos


def promise_of(result: Result) -> str:
    """Returns the promise that was broken first; empty if none was."""
    return result.violations[0].partition(":")[0] if result.violations else ""


def shrink(failed: Result) -> Result:
    """Finds the smallest run of the same seed that still breaks the same promise.

    Parts, actions and devices are left out one by one, then the chaos is cut short, until nothing more can go.
    It is `failed` itself if nothing can.
    """
    promise, best, tries = promise_of(failed), failed, 0

    def is_enough(plan: Plan) -> bool:
        nonlocal best, tries
        tries += 1
        result = simulate(failed.seed, plan)
        if promise_of(result) != promise:
            return False
        best = result
        return True

    changed = True
    while changed and tries < TRIES:
        changed = False
        for name in (*PARTS, *best.devices, *ACTIONS):
            if best.plan.has(name) and tries < TRIES:
                changed |= is_enough(best.plan.less(name))
        processes = (best.plan.processes or best.processes) - 1
        while processes > 1 and tries < TRIES and is_enough(replace(best.plan, processes=processes)):
            changed = True
            processes -= 1
        seconds = min(best.plan.seconds, best.chaos) / 2
        while seconds >= SHORTEST and tries < TRIES and is_enough(replace(best.plan, seconds=seconds)):
            changed = True
            seconds /= 2
    return best
