"""Plays rounds of chaos in a cluster: `python -m tests.cluster_chaos --minutes 10`."""

import argparse
import random
import sys
import time
from collections import Counter
from pathlib import Path

from tests.cluster_chaos.round import ACTS, Round, Size
from tests.support.cluster import Cluster
from tests.support.cluster_processes import ENGINES


def main() -> int:
    """Plays rounds on a temporary PostgreSQL, with one engine of the bus after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.cluster_chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="no further round is started after these")
    parser.add_argument("--start", type=int, default=random.SystemRandom().randrange(10**6), help="the first seed")
    parser.add_argument("--rounds", type=int, default=10**9, help="at most so many")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the rough part of a round")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--users", type=int, default=60)
    parser.add_argument("--rooms", type=int, default=20)
    parser.add_argument("--engine", choices=ENGINES, help="of the bus; default: one after the other")
    parser.add_argument("--acts", nargs="+", choices=ACTS, default=tuple(ACTS), help="what happens to the processes")
    parser.add_argument("--log", type=Path, help="a folder for the log of each round that failed")
    options = parser.parse_args()
    size = Size(options.seconds, options.clients, options.users, options.rooms, acts=tuple(options.acts))
    began = time.perf_counter()
    counters: Counter[str] = Counter()
    failed: list[int] = []
    cluster = Cluster()
    cluster.start()
    try:
        seed = options.start
        while seed < options.start + options.rounds and time.perf_counter() < began + 60 * options.minutes:
            engine = options.engine or ENGINES[seed % len(ENGINES)]
            played = Round(seed, cluster, engine, size)
            records = played.play()
            counters += records.counters
            outcome = "failed" if records.violations else "ok"
            print(f"seed {seed}, {engine}: {outcome}, {records.counters['stored']} messages", flush=True)
            if records.violations:
                failed.append(seed)
                print(f"  {len(records.violations)} violations", *records.violations[:10], sep="\n  ", flush=True)
                if options.log is not None:
                    options.log.mkdir(parents=True, exist_ok=True)
                    (options.log / f"{seed}.log").write_text(played.output)
            seed += 1
    finally:
        cluster.remove()
    for name, count in sorted(counters.items()):
        print(f"{count:8} {name}")
    print(
        f"{seed - options.start} rounds from {options.start} in {time.perf_counter() - began:.0f} s, failed: {failed}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
