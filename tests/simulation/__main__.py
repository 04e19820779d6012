"""Runs seeds: `python -m tests.simulation --seeds 2000 --start 1`."""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed

from tests.simulation.plan import ACTIONS, Plan
from tests.simulation.run import RARE, RARE_OF_CLUSTERS, simulate
from tests.simulation.shrink import shrink

FAULTS = ("a kill", "a restart in order", "a room failed")  # beside those of the store
AT_ONCE = 8  # seeds a process gets at a time


def main() -> int:
    """Runs seeds until one fails, and shrinks that one."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--start", type=int, default=1)
    parser.add_argument("--trace", action="store_true", help="print every event")
    parser.add_argument("--go-on", action="store_true", help="continue after a failed seed; shrink nothing")
    parser.add_argument("--without", default="", help="parts, actions and devices to leave out, separated by commas")
    parser.add_argument("--seconds", type=float, default=Plan.seconds, help="maximum duration of the chaos")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: as many as cores)")
    parser.add_argument("--often", default="", choices=("", *ACTIONS), help="an action that clients do more often")
    parser.add_argument("--fault-rate", type=float, help="how often the store fails (default: as the seed says)")
    parser.add_argument("--processes", type=int, help="processes of the service (default: as the seed says)")
    options = parser.parse_args()
    without = frozenset(filter(None, options.without.split(",")))
    plan = Plan(without, options.seconds, options.often, options.fault_rate, options.processes)
    seeds = range(options.start, options.start + options.seeds)
    counters: Counter[str] = Counter()
    began = time.perf_counter()
    ran, failed = 0, []
    for seed, violation, counted in _trace(seeds, plan) if options.trace else _spread(seeds, plan, options.jobs):
        ran += 1
        counters += counted
        if violation:
            failed.append(seed)
            print(f"seed {seed}: {violation}", flush=True)
            if not options.go_on:
                break
    for name, count in sorted(counters.items()):
        print(f"{count:8} {name}")
    faults = sum(count for name, count in counters.items() if name.startswith("fault: ") or name in FAULTS)
    print(f"{ran} seeds in {time.perf_counter() - began:.1f} s, {faults} faults, {len(failed)} failed {failed[:20]}")
    if failed and not options.go_on and not options.trace:
        print(shrink(simulate(failed[0], plan)).report())
    rare = (*RARE, *(RARE_OF_CLUSTERS if plan.has("processes") and plan.processes != 1 else ()))
    missing = [name for name in rare if not counters[name]] if ran >= 100 else []
    if missing:
        print(f"never happened: {missing}")
    return 1 if failed or missing else 0


Told = tuple[int, str, Counter[str]]  # a seed, the first promise that it broke, what it counted


def _spread(seeds: range, plan: Plan, jobs: int) -> Iterator[Told]:
    with ProcessPoolExecutor(jobs) as pool:
        parts = [pool.submit(_run, seeds[first : first + AT_ONCE], plan) for first in range(0, len(seeds), AT_ONCE)]
        try:
            for part in as_completed(parts):
                yield from part.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _run(seeds: range, plan: Plan) -> list[Told]:
    results = [simulate(seed, plan) for seed in seeds]
    return [(result.seed, (result.violations or [""])[0], result.history.counters) for result in results]


def _trace(seeds: range, plan: Plan) -> Iterator[Told]:
    for seed in seeds:
        result = simulate(seed, plan)
        print(result.history.tail(10**9))
        print(f"seed {seed}: trace {result.history.digest()[:16]}")
        yield seed, "\n".join(result.violations[:10]), result.history.counters


if __name__ == "__main__":
    sys.exit(main())
