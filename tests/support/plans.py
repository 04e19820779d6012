"""The plans of statements as they ran, from PostgreSQL's own `auto_explain`."""

import json
from typing import Any

from psycopg.errors import Diagnostic

from pulse_trio.trio_psycopg import TrioConnection


class Plans:
    """Collects the plan of each statement that connections run; `configure` is for their pool.

    The plan says which rows and pages a statement touched, which is the same on every machine, at any load.
    """

    def __init__(self) -> None:
        self._found: list[dict[str, Any]] = []

    async def configure(self, connection: TrioConnection[Any]) -> None:
        await connection.execute("LOAD 'auto_explain'")
        for name, value in (
            ("client_min_messages", "log"),
            ("auto_explain.log_analyze", "on"),
            ("auto_explain.log_buffers", "on"),
            ("auto_explain.log_timing", "off"),
            ("auto_explain.log_format", "json"),
            ("auto_explain.log_min_duration", "0"),
        ):
            await connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        connection.add_notice_handler(self._take)

    def take(self) -> list[dict[str, Any]]:
        """The plans since the last call: the topmost node of each."""
        found, self._found = self._found, []
        return found

    def _take(self, diagnostic: Diagnostic) -> None:
        _, is_plan, text = (diagnostic.message_primary or "").partition("plan:\n")
        if is_plan:
            self._found.append(json.loads(text)["Plan"])


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """All nodes of a plan."""
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes(child))]


def work(*plans: dict[str, Any]) -> int:
    """Work of the plans: how often each node ran, and the rows that it returned and discarded."""
    return sum(map(_work, (node for plan in plans for node in nodes(plan))))


def _work(node: dict[str, Any]) -> int:
    removed = sum(count for name, count in node.items() if name.startswith("Rows Removed by "))
    return round(node["Actual Loops"] * (1 + node["Actual Rows"] + removed))


def buffers(*plans: dict[str, Any]) -> int:
    """The pages that the plans touched."""
    return sum(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] for plan in plans)


def joined_away(*plans: dict[str, Any]) -> int:
    """The rows that joins compared and threw away."""
    every = [node for plan in plans for node in nodes(plan)]
    return round(sum(node["Actual Loops"] * node.get("Rows Removed by Join Filter", 0) for node in every))
