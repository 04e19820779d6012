"""The verdicts on promises: each must be able to be a "no"."""

from collections.abc import Sequence

import pytest

from benchmarks.observed import FailedStore, Frozen, Order, Restart, SentTwice, Verdict, promises_table, swapped_pairs


def failed_store(
    *, shown: bool = False, stored: bool = False, answer: str = "", serves: bool = True, ended: bool = False
) -> Verdict:
    return FailedStore(shown=shown, stored=stored, answer=answer, serves=serves, ended=ended).verdict()


class TestFailedStore:
    def test_is_kept_if_the_message_is_stored_and_shown_later(self) -> None:
        assert failed_store(shown=True, stored=True).is_kept

    @pytest.mark.parametrize("answer", ["an error", "a closed connection"])
    def test_is_kept_if_nobody_gets_it_and_its_sender_learns_it(self, answer: str) -> None:
        assert failed_store(answer=answer) == Verdict(True, f"nobody got it, its sender got {answer}")

    def test_is_broken_by_what_is_shown_and_not_stored(self) -> None:
        assert not failed_store(shown=True, answer="an error").is_kept

    def test_is_broken_by_what_is_stored_and_not_shown(self) -> None:
        assert not failed_store(stored=True, answer="an error").is_kept

    def test_is_broken_by_silence(self) -> None:
        assert not failed_store().is_kept

    def test_is_broken_by_a_server_that_ends_or_serves_no_more(self) -> None:
        assert failed_store(ended=True).reason == "the server ended"
        assert not failed_store(shown=True, stored=True, serves=False).is_kept


class TestSentTwice:
    def test_is_kept_if_it_is_stored_and_shown_once(self) -> None:
        assert SentTwice(shown=1, stored=1, ids="same id").verdict().is_kept

    @pytest.mark.parametrize(("shown", "stored"), [(2, 1), (1, 2), (2, 2), (0, 1), (0, 0)])
    def test_is_broken_by_any_other_number(self, shown: int, stored: int) -> None:
        assert not SentTwice(shown=shown, stored=stored, ids="same id").verdict().is_kept


class TestOrder:
    SENT = (("a-0", "a-1"), ("b-0", "b-1"))

    def verdict(self, *live: Sequence[str], stored: Sequence[str] | None = None) -> Verdict:
        return Order(self.SENT, live, live[0] if stored is None else stored).verdict()

    def test_is_kept_by_any_order_that_keeps_each_sender_s(self) -> None:
        assert self.verdict(("a-0", "b-0", "b-1", "a-1"), ("a-0", "b-0", "b-1", "a-1")).is_kept

    def test_is_broken_by_a_swapped_pair_of_one_sender(self) -> None:
        found = self.verdict(("a-1", "a-0", "b-0", "b-1"))
        assert found == Verdict(False, "1 of 2 neighbours of one sender were swapped")

    def test_is_broken_by_readers_who_disagree(self) -> None:
        found = self.verdict(("a-0", "a-1", "b-0", "b-1"), ("a-0", "b-0", "a-1", "b-1"))
        assert found == Verdict(False, "readers saw different orders")

    def test_is_broken_by_a_history_in_another_order(self) -> None:
        found = self.verdict(("a-0", "a-1", "b-0", "b-1"), stored=("b-0", "a-0", "a-1", "b-1"))
        assert found == Verdict(False, "the stored order is another than the live one")

    @pytest.mark.parametrize("wrong", [("a-0", "a-1", "b-0"), ("a-0", "a-1", "b-0", "b-1", "b-1"), ()])
    def test_is_broken_by_what_is_missing_or_repeated(self, wrong: Sequence[str]) -> None:
        right = ("a-0", "a-1", "b-0", "b-1")
        assert not self.verdict(right, wrong).is_kept
        assert not self.verdict(right, stored=wrong).is_kept

    def test_counts_neighbours(self) -> None:
        assert swapped_pairs([["x", "y", "z"]], ["z", "y", "x"]) == 2
        assert swapped_pairs([["x", "y", "z"]], ["y", "z", "x"]) == 1


class TestFrozen:
    def test_is_kept_if_pings_and_typing_go_on(self) -> None:
        assert Frozen(0.001, 0.002, 0.003, is_delivered=True).verdict().is_kept

    def test_says_what_waits_beside_the_message(self) -> None:
        found = Frozen(0.001, 0.002, None, is_delivered=True).verdict()
        assert found.is_kept
        assert "beside the message" in found.reason

    @pytest.mark.parametrize(("ping", "typing"), [(None, 0.001), (1.5, 0.001), (0.001, None), (0.001, 1.5)])
    def test_is_broken_by_what_waits_for_the_database(self, ping: float | None, typing: float | None) -> None:
        assert not Frozen(ping, typing, 0.001, is_delivered=True).verdict().is_kept

    def test_is_broken_by_a_message_that_never_comes(self) -> None:
        assert not Frozen(0.001, 0.001, 0.001, is_delivered=False).verdict().is_kept


class TestRestart:
    STORED = ("a", "b", "c", "d")

    def verdict(self, before: Sequence[str], after: Sequence[str], acknowledged: Sequence[str] = ()) -> Verdict:
        return Restart(before, after, acknowledged, self.STORED, "a way").verdict()

    def test_is_kept_if_everything_is_there_once(self) -> None:
        assert self.verdict(("a", "b"), ("c", "d"), ("b", "c")).is_kept

    def test_is_broken_by_a_missed_message(self) -> None:
        assert self.verdict(("a", "b"), ("d",)) == Verdict(False, "1 of 4 messages missed, 0 twice (a way)")

    def test_is_broken_by_a_repeated_message(self) -> None:
        assert self.verdict(("a", "b"), ("b", "c", "d")) == Verdict(False, "0 of 4 messages missed, 1 twice (a way)")

    def test_is_broken_by_an_acknowledged_message_that_is_gone(self) -> None:
        assert not self.verdict(("a", "b"), ("c", "d"), ("e",)).is_kept


def test_a_table_has_a_column_for_each_server_and_counts_what_is_kept() -> None:
    yes, no = Verdict(True, "once"), Verdict(False, "twice")
    lines = promises_table({"first": {"x": yes, "y": no}, "second": {"x": yes}}).splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == ["", "x", "y"]
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == ["first", "yes: once", "**no**: twice"]
    assert [cell.strip() for cell in lines[3].split("|")[1:-1]] == ["second", "yes: once", ""]
    assert [cell.strip() for cell in lines[4].split("|")[1:-1]] == ["kept", "2 of 2", "0 of 2"]
