"""Fuzzes several stores on one PostgreSQL: `python -m tests.fuzz --rounds 20 --seconds 2`."""

import argparse
import random
import sys
import time
from collections import Counter

from tests.fuzz.round import fuzz
from tests.fuzz.stores import prepare
from tests.support.cluster import Cluster


def main() -> int:
    """Runs rounds on a temporary PostgreSQL."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--start", type=int, default=random.SystemRandom().randrange(10**9), help="the first seed")
    parser.add_argument("--seconds", type=float, default=2.0, help="duration of a round")
    options = parser.parse_args()
    cluster = Cluster()
    cluster.start()
    try:
        conninfo = cluster.new_database()
        prepare(conninfo)
        counters: Counter[str] = Counter()
        failed = []
        began = time.perf_counter()
        for seed in range(options.start, options.start + options.rounds):
            result = fuzz(conninfo, seed, options.seconds)
            counters += result.counters
            if result.violations:
                failed.append(seed)
                print(f"seed {seed}:", *result.violations[:10], sep="\n  ", flush=True)
    finally:
        cluster.remove()
    for name, count in sorted(counters.items()):
        print(f"{count:8} {name}")
    print(f"{options.rounds} rounds from {options.start} in {time.perf_counter() - began:.1f} s, failed: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
