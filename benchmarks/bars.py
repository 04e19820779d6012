"""The ratios of scenario (h) beside their aims, from its figures. No I/O."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.figures import Spread, spread, table

Rounds = list[dict[str, float]]
Figures = dict[str, dict[str, Rounds]]  # scenario → server → a map of figures for each round

# Placements of the connections.
ALONE, WITHIN, ACROSS = "one process alone", "within one of two processes", "across two processes"

CPU = ("cpu_us",)
ALL_CPU = ("cpu_us", "postgres_us", "redis_us")


def name_of(what: str, kind: str) -> str:
    """Returns the name of a phase in the results."""
    return f"{what}, {kind}"


def is_of_processes(scenario: str) -> bool:
    """Returns True for a phase of scenario (h), by its name."""
    return scenario.endswith((ALONE, WITHIN, ACROSS))


def base_of(server: str) -> str:
    """Returns the name of the server that runs as one process; `server` is one of several processes."""
    return server.rpartition("/")[0]


@dataclass(frozen=True, slots=True)
class Bar:
    """A comparison of the phase across processes with another placement.

    Attributes:
        kind: the other placement.
        label: its row.
        aim: what this product should reach, as text.
        compare: makes one value of a round across, and one of the other placement.
    """

    kind: str
    label: str
    aim: str
    compare: Callable[[dict[str, float], dict[str, float]], float]


def _ratio(names: Sequence[str]) -> Callable[[dict[str, float], dict[str, float]], float]:
    def compare(across: dict[str, float], other: dict[str, float]) -> float:
        mine, its = (sum(one.get(name, 0.0) for name in names) for one in (across, other))
        return mine / its if its > 0 else math.nan

    return compare


def _difference(name: str) -> Callable[[dict[str, float], dict[str, float]], float]:
    return lambda across, other: across[name] - other[name]


_MESSAGE = (
    Bar(WITHIN, "CPU a message, across / within", "≤ 1.3", _ratio(CPU)),
    Bar(ALONE, "CPU a message, across / one process alone", "≤ 1.3", _ratio(CPU)),
    Bar(ALONE, "… with PostgreSQL and Redis", "", _ratio(ALL_CPU)),
)
_LATENCY = (
    Bar(WITHIN, "p50, across − within, ms", "< 2", _difference("p50_ms")),
    Bar(WITHIN, "p99, across − within, ms", "", _difference("p99_ms")),
)
_DELIVERY = (
    Bar(ALONE, "CPU a delivery, twice the members in two processes / one process", "< 1.2", _ratio(CPU)),
    Bar(ALONE, "… with PostgreSQL and Redis", "", _ratio(ALL_CPU)),
)


def bars(figures: Figures) -> str:
    """Formats a table of the ratios and differences, each formed within a round: median, least and greatest.

    A row without its two phases is left out; an empty text if there is none.
    """
    across = {name: servers for name, servers in figures.items() if name.endswith(ACROSS)}
    servers = list(dict.fromkeys(server for found in across.values() for server in found))
    rows = []
    for name, found in across.items():
        what = name.removesuffix(f", {ACROSS}")
        for bar in _bars_of(what):
            others = figures.get(name_of(what, bar.kind), {})
            cells = [_cell(found.get(server), others, server, bar) for server in servers]
            if any(cells):
                rows.append([f"{what}: {bar.label}", bar.aim, *cells])
    return table(("", "aim", *servers), rows) if rows else ""


def _bars_of(what: str) -> tuple[Bar, ...]:
    if what.startswith("fan-out"):
        return _DELIVERY
    has_listeners = what == "one at a time" or what.endswith("a second")
    return _MESSAGE + _LATENCY if has_listeners else _MESSAGE


def _cell(across: Rounds | None, others: dict[str, Rounds], server: str, bar: Bar) -> str:
    other = others.get(base_of(server) if bar.kind == ALONE else server)
    return "" if not across or not other else str(compared(across, other, bar))


def compared(across: Rounds, other: Rounds, bar: Bar) -> Spread:
    """Returns the spread of a comparison over the rounds that both have."""
    return spread(bar.compare(mine, its) for mine, its in zip(across, other, strict=False))
