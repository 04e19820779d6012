"""Arithmetic of the benchmark: percentiles, spreads, ratios, lines of /proc, tables. No I/O."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Least, median and greatest value of several rounds."""

    least: float
    median: float
    greatest: float

    def __str__(self) -> str:
        return f"{short(self.median)} ({short(self.least)} – {short(self.greatest)})"


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Returns the percentile by nearest rank; NaN for no values. `ordered` must be ascending."""
    if not ordered:
        return math.nan
    rank = math.ceil(percent / 100 * len(ordered))
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def spread(values: Iterable[float]) -> Spread:
    """Returns the spread; the median of an even number of values is the mean of the middle two.

    Raises:
        ValueError: there are no values.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return Spread(ordered[0], median, ordered[-1])


def ratios(ours: Sequence[float], theirs: Sequence[float], *, more_is_better: bool = False) -> Spread | None:
    """Returns the factors by which ours is better, from pairs of rounds that were measured side by side.

    None if a value is missing or zero.
    """
    pairs = list(zip(ours, theirs, strict=False))
    found = []
    for mine, other in pairs:
        upper, lower = (mine, other) if more_is_better else (other, mine)
        if not (math.isfinite(upper) and math.isfinite(lower)) or lower <= 0:
            return None
        found.append(upper / lower)
    return spread(found) if found else None


def short(value: float) -> str:
    """Formats a number with three significant digits: `12300`, `45.1`, `0.67`."""
    if not math.isfinite(value):
        return "–"
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 4)}f}"


def stat_fields(line: str) -> tuple[int, int]:
    """Returns the parent and the CPU time in clock ticks of a process from its line in /proc/PID/stat.

    The ticks are utime + stime + cutime + cstime: they include children that were waited for (proc_pid_stat(5)).
    """
    after_name = line.rpartition(")")[2].split()  # the name may contain spaces and brackets
    return int(after_name[1]), sum(int(field) for field in after_name[11:15])


def tree(parents: dict[int, int], root: int) -> list[int]:
    """Returns `root` and all its descendants. `parents`: process → parent."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, [])
    return found


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Formats a Markdown table whose columns are aligned."""
    grid = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[column]) for row in grid) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in grid
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
