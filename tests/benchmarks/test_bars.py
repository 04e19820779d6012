"""The ratios of messages across processes, and the tables that show them."""

from typing import Any

import pytest

from benchmarks.bars import ACROSS, ALONE, WITHIN, bars, base_of, is_of_processes, name_of
from benchmarks.report import summary, tables


def figures(cpu: float, postgres: float = 10.0, **more: float) -> dict[str, float]:
    return {"cpu_us": cpu, "postgres_us": postgres, "p50_ms": 1.0, "p99_ms": 2.0, **more}


def rows(text: str) -> dict[str, list[str]]:
    """The cells of each row of a table by its first cell."""
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return {cells[0]: cells[1:] for cells in found}


HOT: dict[str, dict[str, list[dict[str, float]]]] = {
    name_of("hot room", ALONE): {"ours": [figures(100), figures(200)]},
    name_of("hot room", WITHIN): {"ours/redis": [figures(110), figures(220)]},
    name_of("hot room", ACROSS): {"ours/redis": [figures(121, redis_us=19), figures(242, 10, redis_us=48)]},
}


class TestBars:
    def test_compare_the_phases_of_one_round(self) -> None:
        # Both rounds have the same ratio, though one took twice the CPU.
        found = rows(bars(HOT))
        assert found[""] == ["aim", "ours/redis"]
        assert found["hot room: CPU a message, across / within"] == ["≤ 1.3", "1.10 (1.10 – 1.10)"]
        assert "hot room: p50, across − within, ms" not in found  # it is the sender's, in its own process

    def test_the_server_alone_is_the_one_without_an_engine(self) -> None:
        assert base_of("before/redis") == "before"
        assert rows(bars(HOT))["hot room: CPU a message, across / one process alone"][1] == "1.21 (1.21 – 1.21)"

    def test_count_the_cpu_of_all_servers_where_they_say_so(self) -> None:
        # 150 / 110 and 300 / 210.
        assert rows(bars(HOT))["hot room: … with PostgreSQL and Redis"][1] == "1.40 (1.36 – 1.43)"

    @pytest.mark.parametrize("what", ["one at a time", "hot room, 500 messages a second"])
    def test_latency_is_a_difference(self, what: str) -> None:
        alike: dict[str, Any] = {
            name_of(what, WITHIN): {"ours/redis": [figures(1, p50_ms=1.25, p99_ms=3.0)]},
            name_of(what, ACROSS): {"ours/redis": [figures(1, p50_ms=1.75, p99_ms=8.0)]},
        }
        found = rows(bars(alike))
        assert found[f"{what}: p50, across − within, ms"] == ["< 2", "0.500 (0.500 – 0.500)"]
        assert found[f"{what}: p99, across − within, ms"] == ["", "5.00 (5.00 – 5.00)"]

    def test_a_delivery_to_twice_the_members_has_an_aim_of_its_own(self) -> None:
        what = "fan-out to 200 in each process, bursts of 20"
        found = rows(
            bars({name_of(what, ALONE): {"ours": [figures(2)]}, name_of(what, ACROSS): {"ours/redis": [figures(3)]}})
        )
        row = f"{what}: CPU a delivery, twice the members in two processes / one process"
        assert found[row] == ["< 1.2", "1.50 (1.50 – 1.50)"]

    def test_a_server_that_took_no_part_in_a_phase_has_no_value(self) -> None:
        more = {name: dict(servers) for name, servers in HOT.items()}
        more[name_of("hot room", ACROSS)]["other/redis"] = [figures(5)]
        more[name_of("hot room", WITHIN)]["other/redis"] = [figures(4)]
        found = rows(bars(more))
        assert found["hot room: CPU a message, across / within"][2] == "1.25 (1.25 – 1.25)"
        assert found["hot room: CPU a message, across / one process alone"][2] == ""

    def test_no_second_process_no_table(self) -> None:
        assert bars({name_of("hot room", ALONE): {"ours": [figures(1)]}}) == ""

    def test_nothing_to_divide_by_is_not_shown_as_a_figure(self) -> None:
        alike = {
            name_of("hot room", WITHIN): {"ours/redis": [figures(0)]},
            name_of("hot room", ACROSS): {"ours/redis": [figures(1)]},
        }
        assert rows(bars(alike))["hot room: CPU a message, across / within"][1] == "– (– – –)"


class TestTables:
    def test_compare_with_the_first_that_took_part(self) -> None:
        phase = name_of("hot room", ACROSS)
        text = tables({phase: {"ours/redis": [figures(1)], "other/redis": [figures(3)]}}, "ours")
        assert next(line for line in text.splitlines() if "× 3.00" in line).startswith("| … ours/redis is better by")

    def test_the_summary_has_other_scenarios_apart(self) -> None:
        text = summary({"typing storm": {"ours": [figures(1)]}, **HOT}, "ours")
        first, second = text.split("\n\n")
        assert "hot room" not in first
        assert "typing storm" not in second

    @pytest.mark.parametrize(("name", "expected"), [("durable, hot room", False), (name_of("hot room", ALONE), True)])
    def test_know_the_phases_by_their_names(self, name: str, expected: bool) -> None:
        assert is_of_processes(name) is expected
