"""`python -m benchmarks`: measures, prints tables and saves all figures. `make bench` runs it."""

import argparse
import asyncio
import json
import resource
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from benchmarks.processes import Cluster, machine, share_cores
from benchmarks.report import ejabberd_version, node_versions, summary, tables, versions
from benchmarks.scenarios import SCENARIOS
from benchmarks.stage import QUICK, Plan, Results
from benchmarks.targets import (
    EJABBERD,
    NODE,
    NODE_MODULES,
    OURS,
    PEERS,
    QUICK_PEERS,
    ROOT,
    SOCKETIO,
    Running,
    Target,
    ours,
)


def main() -> None:
    """Reads the command line, runs the scenarios and saves the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller and shorter, under ten minutes")
    parser.add_argument("--only", default="".join(SCENARIOS), help="scenarios by letter, such as ab")
    parser.add_argument("--servers", help="names, separated by commas; --quick leaves the slowest peers out")
    parser.add_argument("--rounds", type=int, help="number of measurements of each phase")
    parser.add_argument("--seconds", type=float, help="seconds of each phase")
    parser.add_argument("--churn", type=int, help="members of the room of scenario g")
    parser.add_argument("--python", type=Path, default=ROOT / ".venv/bin/python", help="our server's Python")
    parser.add_argument(
        "--tree", action="append", default=[], metavar="NAME=FOLDER", help="our server from another source tree as well"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench", help="folder of the saved figures")
    options = parser.parse_args()

    plan = QUICK if options.quick else Plan()
    changes = {name: value for name in ("rounds", "seconds", "churn") if (value := getattr(options, name)) is not None}
    plan = Plan(**{name: changes.get(name, getattr(plan, name)) for name in Plan.__dataclass_fields__})
    targets = {OURS: ours(options.python, ROOT), **PEERS}
    if options.servers is not None:
        targets = {name: targets[name] for name in options.servers.split(",")}
    elif options.quick:
        targets = {name: targets[name] for name in (OURS, *QUICK_PEERS)}
    for tree in options.tree:
        name, _, folder = tree.partition("=")
        targets[name] = ours(options.python, Path(folder).absolute(), name)

    for name, target in list(targets.items()):
        if (lacking := target.lacking()) is not None:
            print(f"Skipping {name}: {lacking} not found.")
            del targets[name]

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # servers inherit it
    options.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that SIGTERM stops the servers too
    results = uvloop.run(_measure(targets, options.only, plan, options))
    about = {"when": datetime.now(UTC).isoformat(timespec="seconds"), **machine(), **versions(options.python)}
    if not targets.keys().isdisjoint((NODE, SOCKETIO)):
        about |= node_versions(NODE_MODULES)
    if EJABBERD in targets:
        about |= ejabberd_version()
    about["postgres"] = results.postgres
    first = next(iter(targets))
    text = tables(results.figures, first) + "\n\n" + summary(results.figures, first)
    print("\n" + text)
    stem = options.out / time.strftime("%Y%m%d-%H%M%S")
    plan_fields = {name: getattr(plan, name) for name in Plan.__dataclass_fields__}
    document = {"about": about, "plan": plan_fields, "figures": results.figures}
    stem.with_suffix(".json").write_text(json.dumps(document, indent=1))
    stem.with_suffix(".md").write_text(text + "\n")
    print(f"\nSaved as {stem}.json and .md")


async def _measure(targets: dict[str, Target], letters: str, plan: Plan, options: argparse.Namespace) -> Results:
    results = Results()
    with_tcp = any(target.needs_tcp for target in targets.values())
    cluster = await asyncio.to_thread(Cluster.start, options.python, ROOT, with_tcp=with_tcp)  # may use all cores
    results.postgres = cluster.settings
    cores = share_cores()
    try:
        for letter in letters:
            scenario = SCENARIOS[letter]
            chosen = [t for t in targets.values() if t.ours or scenario.peers is None or t.name in scenario.peers]
            running = [Running(target, cluster, options.out, cores) for target in chosen]
            assert scenario.run.__doc__ is not None
            print(scenario.run.__doc__, flush=True)
            await scenario.run(running, plan, results)
    finally:
        await asyncio.to_thread(cluster.stop)
    return results


main()
