"""What a run leaves out, so that one that fails can be made smaller. The seed decides all else."""

from dataclasses import dataclass, replace
from typing import Final

PARTS: Final = ("restarts", "faults", "administrators", "sessions", "posters", "linger", "afresh", "rivals", "late")
ACTIONS: Final = (
    "edit", "delete", "theft", "typing", "read", "cut", "vanish", "stall", "close", "renew", "expire", "burst",
)  # fmt: skip
"""What clients do beside sending messages, one at a time."""


@dataclass(frozen=True)
class Plan:
    """A run of everything, or of less.

    Args:
        without: parts, actions and devices that it does not have.
        seconds: the most that the chaos lasts, on the virtual clock.
    """

    without: frozenset[str] = frozenset()
    seconds: float = 1e9

    def has(self, name: str) -> bool:
        return name not in self.without

    def less(self, name: str) -> "Plan":
        return replace(self, without=self.without | {name})

    def options(self) -> str:
        """For the command line."""
        parts = [f"--without {','.join(sorted(self.without))}"] if self.without else []
        if self.seconds < 1e9:
            parts.append(f"--seconds {self.seconds}")
        return " ".join(parts)
