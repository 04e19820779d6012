"""The history of a simulated run: its events in order, and all that the checker knows."""

import hashlib
import re
from collections import Counter
from typing import Any

import trio

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{8}([0-9a-f]{4})")
_LEFT_OUT = ("conversation_id", "sender_id", "timestamp", "updated_at", "is_edited", "epoch")


class Event:
    """One event: its time in virtual seconds, its kind, and its details."""

    __slots__ = ("at", "data", "kind")

    def __init__(self, at: float, kind: str, data: dict[str, Any]) -> None:
        self.at = at
        self.kind = kind
        self.data = data

    def __getattr__(self, name: str) -> Any:
        try:
            return self.data[name]
        except KeyError:
            raise AttributeError(name) from None

    def __str__(self) -> str:
        shown = " ".join(f"{name}={_short(value)}" for name, value in self.data.items() if name != "user")
        return f"{self.at:9.4f} {self.kind:14} {shown}"


class History:
    """The recorder of a run."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.counters: Counter[str] = Counter()
        self._start = trio.current_time()

    def add(self, kind: str, **data: Any) -> None:
        """Records an event, at the current virtual time."""
        self.events.append(Event(trio.current_time() - self._start, kind, data))

    def count(self, what: str) -> None:
        """Counts a path that was taken."""
        self.counters[what] += 1

    def digest(self) -> str:
        """Returns a digest, the same for two runs with the same events at the same times."""
        summed = hashlib.sha256()
        for event in self.events:
            summed.update(f"{event.at!r} {event.kind} {sorted(event.data.items())!r}\n".encode())
        return summed.hexdigest()

    def tail(self, count: int = 60) -> str:
        """Returns the last events as text."""
        return "\n".join(str(event) for event in self.events[-count:])


def _short(value: object) -> str:
    if isinstance(value, dict):
        value = " ".join(f"{name}:{item}" for name, item in value.items() if name not in _LEFT_OUT)
    text = _ID.sub("…\\1", str(value))
    return text if len(text) <= 160 else f"{text[:150]}… ({len(text)})"
