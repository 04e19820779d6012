"""A plan: the parts that a run leaves out, so that a failing run can be shrunk. The seed decides all else."""

from dataclasses import dataclass, replace
from typing import Final

PARTS: Final = ("restarts", "faults", "administrators", "sessions", "posters", "linger", "afresh", "rivals", "late")
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
    """

    without: frozenset[str] = frozenset()
    seconds: float = 1e9

    def has(self, name: str) -> bool:
        return name not in self.without

    def less(self, name: str) -> "Plan":
        return replace(self, without=self.without | {name})

    def options(self) -> str:
        """Returns the plan as options of the command line."""
        parts = [f"--without {','.join(sorted(self.without))}"] if self.without else []
        if self.seconds < 1e9:
            parts.append(f"--seconds {self.seconds}")
        return " ".join(parts)
