"""The arithmetic of the benchmark: a wrong percentile or ratio would be a wrong claim."""

import math
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figures import Spread, percentile, ratios, short, spread, stat_fields, table, tree

finite = st.floats(min_value=1e-6, max_value=1e6)


class TestPercentile:
    def test_is_the_value_at_the_nearest_rank(self) -> None:
        hundred = list(range(1, 101))
        assert percentile(hundred, 50) == 50
        assert percentile(hundred, 99) == 99
        assert percentile(hundred, 100) == 100
        assert percentile([1.0, 2.0, 3.0], 50) == 2.0
        assert percentile([1.0, 2.0, 3.0], 99) == 3.0

    def test_of_nothing_is_not_a_number(self) -> None:
        assert math.isnan(percentile([], 50))

    @given(st.lists(finite, min_size=1), st.floats(min_value=0, max_value=100))
    def test_leaves_no_more_than_the_rest_above_it(self, values: list[float], percent: float) -> None:
        found = percentile(sorted(values), percent)
        at_most = sum(value <= found for value in values)
        assert at_most >= percent / 100 * len(values) - 1e-9
        assert found in values


class TestSpread:
    def test_has_least_median_and_greatest(self) -> None:
        assert spread([3.0, 1.0, 2.0]) == Spread(1.0, 2.0, 3.0)
        assert spread([4.0, 1.0, 2.0, 3.0]) == Spread(1.0, 2.5, 4.0)

    def test_of_nothing_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no values"):
            spread([])


class TestRatios:
    def test_compares_what_was_measured_side_by_side(self) -> None:
        # Both slow down together: every pair has the same ratio, which the ratio of medians or of extremes would miss.
        assert ratios([1.0, 10.0, 100.0], [3.0, 30.0, 300.0]) == Spread(3.0, 3.0, 3.0)

    def test_is_above_one_where_ours_is_better(self) -> None:
        assert ratios([2.0], [6.0]) == Spread(3.0, 3.0, 3.0)
        assert ratios([6.0], [2.0], more_is_better=True) == Spread(3.0, 3.0, 3.0)

    @pytest.mark.parametrize(("ours", "theirs"), [([0.0], [1.0]), ([], []), ([math.nan], [1.0]), ([1.0], [math.inf])])
    def test_says_nothing_where_there_is_nothing_to_divide(self, ours: list[float], theirs: list[float]) -> None:
        assert ratios(ours, theirs) is None


def test_a_figure_is_shown_with_three_digits_that_count() -> None:
    assert [short(value) for value in (0, 0.0671, 0.5, 4.123, 45.67, 123.4, 12_345.6, math.nan)] == [
        "0", "0.0671", "0.500", "4.12", "45.7", "123", "12,346", "–",
    ]  # fmt: skip


class TestProc:
    def test_reads_parent_and_cpu_of_a_process(self) -> None:
        #       pid name             state parent …           utime stime cutime cstime
        line = "42 (a name) with ) S) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 5 6 7"
        assert stat_fields(line) == (7, 127)

    @pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="there is no /proc here")
    def test_reads_what_the_kernel_writes(self) -> None:
        parent, ticks = stat_fields(Path("/proc/self/stat").read_text())
        assert parent == os.getppid()
        spent = sum(os.times()[:4]) * os.sysconf("SC_CLK_TCK")
        assert 0 <= ticks <= spent + 1

    def test_finds_all_descendants(self) -> None:
        parents = {1: 0, 2: 1, 3: 1, 4: 2, 5: 4, 6: 9}
        assert sorted(tree(parents, 2)) == [2, 4, 5]
        assert tree(parents, 6) == [6]


def test_a_table_lines_up() -> None:
    assert table(("a", "long"), [("xyz", "1")]).splitlines() == [
        "| a   | long |",
        "|-----|------|",
        "| xyz | 1    |",
    ]
