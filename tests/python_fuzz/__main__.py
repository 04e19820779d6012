"""Fuzzes the Python client on bad networks: `python -m tests.python_fuzz --minutes 30`."""

import argparse
import random
import sys
import time
from collections import Counter

from tests.python_fuzz.round import fuzz
from tests.support.cluster import Cluster
from tests.support.server import Server


def main() -> int:
    """Runs rounds on a temporary PostgreSQL."""
    parser = argparse.ArgumentParser(prog="python -m tests.python_fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="no further round is started after these")
    parser.add_argument("--start", type=int, default=random.SystemRandom().randrange(10**9), help="the first seed")
    parser.add_argument("--rounds", type=int, default=10**9, help="at most so many")
    parser.add_argument("--acts", type=int, default=20, help="length of a round")
    options = parser.parse_args()
    began = time.perf_counter()
    counters: Counter[str] = Counter()
    failed: list[int] = []
    cluster = Cluster()
    cluster.start()
    try:
        seed = options.start
        while seed < options.start + options.rounds and time.perf_counter() < began + 60 * options.minutes:
            servers: list[Server] = []
            conninfo = cluster.new_database()

            def start(conninfo: str = conninfo, servers: list[Server] = servers, **settings: str) -> Server:
                servers.append(Server({"DATABASE_URL": conninfo, **settings}))
                return servers[-1].wait_ready()

            result = fuzz(start, seed, options.acts)
            for server in servers:
                server.stop()
            cluster.drop_database(conninfo)
            counters += result.counters
            print(
                f"seed {seed}: {'failed' if result.violations else 'ok'}, {result.counters['stored']} messages",
                flush=True,
            )
            if result.violations:
                failed.append(seed)
                print(*result.violations[:10], sep="\n  ", flush=True)
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
