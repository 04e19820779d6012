"""Fuzzes the JavaScript client on a bad network: `python -m tests.javascript_fuzz --minutes 30`."""

import argparse
import random
import sys
import time
from collections import Counter

import trio

from tests.javascript_fuzz.clients import javascript_clients
from tests.javascript_fuzz.round import Round
from tests.javascript_fuzz.service import Service
from tests.support.cluster import Cluster


async def fuzz(service: Service, start: int, rounds: int, minutes: float, seconds: float) -> list[int]:
    """Runs rounds until the time or their number is over; returns the seeds that failed."""
    counters: Counter[str] = Counter()
    failed = []
    await service.wait_ready()
    began = time.perf_counter()
    seed = start
    while seed < start + rounds and time.perf_counter() - began < minutes * 60:
        result = await Round(service, javascript_clients(), seed).run(seconds)
        counters += result.counters
        if result.violations:
            failed.append(seed)
            print(f"seed {seed}:", *result.violations[:20], sep="\n  ", flush=True)
        seed += 1
    for name, count in sorted(counters.items()):
        print(f"{count:8} {name}")
    print(f"{seed - start} rounds from {start} in {time.perf_counter() - began:.0f} s, failed: {failed}")
    return failed


def main() -> int:
    """Runs rounds against a service on a temporary PostgreSQL."""
    parser = argparse.ArgumentParser(prog="python -m tests.javascript_fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=10**6, help="at most")
    parser.add_argument("--start", type=int, default=random.SystemRandom().randrange(10**6), help="the first seed")
    parser.add_argument("--seconds", type=float, default=15.0, help="duration of a round")
    options = parser.parse_args()
    cluster = Cluster()
    cluster.start()
    try:
        service = Service(cluster.new_database())
        try:
            rounds = options.start, options.rounds, options.minutes, options.seconds
            return 1 if trio.run(fuzz, service, *rounds) else 0
        finally:
            service.stop()
    finally:
        cluster.remove()


if __name__ == "__main__":
    sys.exit(main())
