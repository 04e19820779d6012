"""A plan: the parts that a run leaves out, so that a failing run can be shrunk. The seed decides all else."""

from dataclasses import dataclass, replace
from typing import Final

PARTS: Final = (
    "restarts", "faults", "rivals", "bulk", "namers", "walkers", "posters", "sessions", "features", "linger", "late",
    "soon", "processes", "bus", "partitions", "stops",
)  # fmt: skip
ACTIONS: Final = (
    "edit", "delete", "theft", "typing", "read", "cut", "vanish", "stall", "close", "renew", "expire", "burst",
)  # fmt: skip
"""The actions of clients beside sending messages, one at a time."""


@dataclass(frozen=True)
class Plan:
    """A run of all parts, or of fewer.

    Args:
        without: parts, actions and devices to leave out.
        seconds: the maximum duration of the chaos, on the virtual clock.
        often: an action that clients do more often than others; empty for none.
        fault_rate: how often an operation of the store goes wrong; None to let the seed decide.
        processes: how many processes of the service there are; None to let the seed decide.
    """

    without: frozenset[str] = frozenset()
    seconds: float = 1e9
    often: str = ""
    fault_rate: float | None = None
    processes: int | None = None

    def has(self, name: str) -> bool:
        return name not in self.without

    def less(self, name: str) -> "Plan":
        return replace(self, without=self.without | {name})

    def options(self) -> str:
        """Returns the plan as options of the command line."""
        parts = [f"--without {','.join(sorted(self.without))}"] if self.without else []
        if self.seconds < 1e9:
            parts.append(f"--seconds {self.seconds}")
        if self.often:
            parts.append(f"--often {self.often}")
        if self.fault_rate is not None:
            parts.append(f"--fault-rate {self.fault_rate}")
        if self.processes is not None:
            parts.append(f"--processes {self.processes}")
        return " ".join(parts)
