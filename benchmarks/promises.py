"""`python -m benchmarks.promises`: tries five promises on each server that stores. `make promises` runs it.

Prints a Markdown table. With `--planted` it tries each promise on our server with a bug in it, and fails if that is not
found: so a "yes" means something.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import uvloop

from benchmarks.observed import Verdict, promises_table
from benchmarks.processes import Cluster, share_cores
from benchmarks.targets import OURS, PEERS, ROOT, Running, Target, ours
from benchmarks.trials import (
    PROMISES,
    ROOMS,
    failed_store,
    frozen_database,
    order,
    restart,
    sent_twice,
    trial_of,
)

# Bugs of benchmarks/planted.py, and the trial that must find each.
CAUGHT_BY = {
    "shown-unstored": failed_store,
    "names-ignored": sent_twice,
    "batches-reversed": order,
    "loop-blocked": frozen_database,
    "one-missed": restart,
}
Found = dict[str, dict[str, Verdict]]


def main() -> None:
    """Reads the command line, and tries the promises."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.promises", description=__doc__)
    names = [OURS, *(name for name, peer in PEERS.items() if peer.stores)]
    parser.add_argument("--servers", default=",".join(names), help="names, separated by commas")
    parser.add_argument("--planted", action="store_true", help="our server with a bug for each promise")
    parser.add_argument("--python", type=Path, default=ROOT / ".venv/bin/python", help="our server's Python")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", help="folder of the servers' logs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM stops the servers too
    if options.planted:
        sys.exit(uvloop.run(_plant(options)))
    targets = {OURS: ours(options.python, ROOT), **PEERS}
    chosen = []
    for name in options.servers.split(","):
        if (lacking := targets[name].lacking()) is not None:
            print(f"Skipping {name}: {lacking} not found.")
        else:
            chosen.append(targets[name])
    found = uvloop.run(_try(chosen, options))
    text = promises_table(found)
    (options.out / "promises.md").write_text(text + "\n")
    print(f"\n{text}\n\nSaved as {options.out / 'promises.md'}")


async def _try(targets: list[Target], options: argparse.Namespace) -> Found:
    found: Found = {promise: {} for promise in PROMISES}
    with_tcp = any(target.needs_tcp for target in targets)
    cluster = await asyncio.to_thread(Cluster.start, options.python, ROOT, with_tcp=with_tcp)
    cores = share_cores()
    try:
        for target in targets:
            for promise, verdict in (await _try_one(Running(target, cluster, options.out, cores), PROMISES)).items():
                found[promise][target.name] = verdict
    finally:
        await asyncio.to_thread(cluster.stop)
    return found


async def _try_one(running: Running, promises: Iterable[str]) -> dict[str, Verdict]:
    """Tries promises on one server, which is started again if it has ended."""
    found = {}
    try:
        await running.start(ROOMS)
        for promise in promises:
            if not running.process.is_running:
                running.kill()
                await running.launch()
            async with trial_of(running) as trial:
                verdict = found[promise] = await PROMISES[promise](trial)
            print(f"  {running.target.name:12} {promise}\n  {'':12} {verdict}", flush=True)
    finally:
        running.stop()
    return found


async def _plant(options: argparse.Namespace) -> int:
    """Tries each promise on our server with a bug in it; returns 1 if a bug is not found."""
    promise_of = {trial: promise for promise, trial in PROMISES.items()}
    missed = 0
    cluster = await asyncio.to_thread(Cluster.start, options.python, ROOT)
    cores = share_cores()
    try:
        for bug, trial in CAUGHT_BY.items():
            plant = f"from benchmarks.planted import BUGS; BUGS[{bug!r}](); "
            target = ours(options.python, ROOT, bug, before=plant)
            promise = promise_of[trial]
            verdict = (await _try_one(Running(target, cluster, options.out, cores), [promise]))[promise]
            if verdict.is_kept:
                missed += 1
                print(f"  The bug {bug} was not found.", flush=True)
    finally:
        await asyncio.to_thread(cluster.stop)
    print("All bugs were found." if not missed else f"{missed} bugs were not found.")
    return 1 if missed else 0


if __name__ == "__main__":
    main()
