"""Attacks a server with all that it allows, and holds it to its bars: `python -m tests.fairness --seconds 10`.

The bars are for a quiet machine with two cores or more: the canary's messages below 250 ms and `/healthz` below 100 ms
(99 of 100), no message lost or refused, each request answered, bounded memory.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from tests.fairness.canary import Figures, quantile
from tests.fairness.largest import UNIQUE, frame_bytes, frames, in_order
from tests.fairness.town import CONNECTIONS, Town, open_town
from tests.fairness.unread import MIB, get, memory_attacks, memory_grown
from tests.support.client import PASSWORD, Api
from tests.support.cluster import Cluster
from tests.support.server import Server

MESSAGE_BAR = 0.250  # seconds, the 99th percentile
PROBE_BAR = 0.100
LOGIN_BAR = 2.0
SEARCHED = 400_000  # users


@dataclass
class Report:
    """The figures, line by line, and the bars that were missed."""

    missed: list[str] = field(default_factory=list)

    def add(self, name: str, seen: Counter[str], figures: Figures, *problems: str) -> None:
        """Prints a line; notes what is above its bar."""
        found = list(problems)
        found += [f"{seen['no answer']} without an answer"] if seen["no answer"] else []
        found += [f"{count} x {status}" for status, count in seen.items() if status in {"400", "422", "500"}]
        found += ["slow messages"] if quantile(figures.messages, 0.99) > MESSAGE_BAR else []
        found += ["slow /healthz"] if quantile(figures.probes, 0.99) > PROBE_BAR else []
        print(f"{name:22} {figures} {dict(seen)} {', '.join(found)}", flush=True)
        self.missed += [f"{name}: {problem}" for problem in found]


async def run(server: Server, database: str, seconds: float, wanted: Callable[[str], bool]) -> list[str]:
    """Carries out all wanted attacks; returns the bars that were missed."""
    report = Report()
    document = (await Api(server.base_url).get("/openapi.json")).json()
    async with open_town(server, database, crowd=SEARCHED if wanted("searchers") else 1_500) as town:
        async with town.canary.singing() as figures:
            await trio.sleep(seconds)
        report.add("nobody attacks", Counter(), figures)
        for operation in in_order(document):
            if wanted(operation.name):
                data = [operation.request(town.place(number)) for number in range(CONNECTIONS)]
                async with town.canary.singing() as figures:
                    seen = await town.attackers.attack(town.requests(data, seconds=seconds))
                report.add(operation.name, seen, figures)
        for name, kind in frames().items():
            if wanted(name):
                data = [frame_bytes(kind, town.place(number)) for number in range(CONNECTIONS)]
                async with town.canary.singing() as figures:
                    seen = await town.attackers.attack(town.sessions(data, seconds=seconds))
                report.add(f"frame {name}", seen, figures)
        if wanted("searchers"):
            data = [get("/api/users?query=user&limit=200", town.place(number)) for number in range(40)]
            async with town.canary.singing() as figures:
                seen = await town.attackers.attack(town.requests(data, seconds=seconds))
            report.add("40 searchers", seen, figures)
        if wanted("passwords"):
            await _passwords(town, report)
        if wanted("unread"):
            for attack, allowed in memory_attacks(town, seconds=max(seconds, 15)):
                grown, seen, figures = await memory_grown(town, attack)
                problems = [f"{grown / MIB:.0f} MiB of memory"] if grown > allowed else []
                report.add(f"{len(attack.data)} unread: {grown / MIB:.0f} MiB", seen, figures, *problems)
    return report.missed


async def _passwords(town: Town, report: Report) -> None:
    """500 wrong logins at once from two addresses, and a right one from a third."""
    body = f'{{"username": "nobody{UNIQUE}", "password": "a guess"}}'
    guess = (
        "POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    )
    async with town.canary.singing() as figures, trio.open_nursery() as nursery:
        seen: Counter[str] = Counter()

        async def attack() -> None:
            seen.update(await town.attackers.attack(town.requests([guess.encode()] * 500, addresses=2)))

        nursery.start_soon(attack)
        await trio.sleep(0.5)
        began = time.perf_counter()
        answer = await Api(town.server.base_url).post(
            "/api/auth/login", json={"username": "canary1", "password": PASSWORD}
        )
        took = time.perf_counter() - began
    problems = [f"a right login took {took:.1f} s: {answer.status_code}"]
    problems = problems if took > LOGIN_BAR or answer.status_code != 200 else []
    problems += [] if seen.total() == 500 else [f"{seen.total()} answers of 500"]
    report.add(f"passwords: {1_000 * took:.0f} ms", seen, figures, *problems)


def main() -> int:
    """Runs the attacks on a server of their own."""
    parser = argparse.ArgumentParser(prog="python -m tests.fairness", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of an attack")
    parser.add_argument("--only", nargs="*", help="names of operations and frames, or searchers, passwords, unread")
    options = parser.parse_args()
    cluster = Cluster()
    cluster.start()
    try:
        database = cluster.new_database()
        server = Server({"DATABASE_URL": database})
        try:
            server.wait_ready()
            missed = trio.run(
                run, server, database, options.seconds, lambda name: options.only is None or name in options.only
            )
        finally:
            server.stop()
    finally:
        cluster.remove()
    print("missed bars:" if missed else "all bars are met", *missed, sep="\n  ")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
