"""Fuzzes the running service: `python -m tests.frame_fuzz --seconds 600`."""

import argparse
import random
import sys

import trio

from tests.frame_fuzz.run import SETTINGS, Run
from tests.support.cluster import Cluster
from tests.support.server import Server


def main() -> int:
    """Fuzzes a server on a temporary PostgreSQL; prints what came back, and what was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.frame_fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--only", type=int, help="repeat this visit alone")
    options = parser.parse_args()
    cluster = Cluster()
    cluster.start()
    try:
        server = Server({"DATABASE_URL": cluster.new_database(), **SETTINGS}).wait_ready()
        try:
            run = trio.run(_run, server, options.seed, options.seconds, options.only)
        finally:
            server.stop()
    finally:
        cluster.remove()
    for name, count in sorted(run.counters.items()):
        print(f"{count:8} {name}")
    print(f"seed {options.seed}: {len(run.findings)} found", *run.findings[:20], sep="\n  ")
    return 1 if run.findings else 0


async def _run(server: Server, seed: int, seconds: float, only: int | None) -> Run:
    run = Run(server, seed)
    await run.set_up()
    await run.run(seconds, only=only)
    return run


if __name__ == "__main__":
    sys.exit(main())
