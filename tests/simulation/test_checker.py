"""The checker, on short histories written by hand."""

from tests.simulation.checker import Checker
from tests.simulation.history import History

BOB = {"conversation": "c", "user": "bob"}


def committed(history: History, seq: int) -> None:
    history.add("commit", conversation="c", id=f"m{seq}", sender="bob", client_id=f"b{seq}", seq=seq, rev=seq)


async def marked_and_added_again(*, mark: int, stored: int) -> list[str]:
    """Returns the violations when a mark is sent, its user is removed and added, and a position is stored."""
    history = History()
    history.add("member_in", **BOB)
    committed(history, 1)
    history.add("open", **BOB, device="d", connection=1, after=None, session=1, expires=9e9)
    history.add("sent", device="d", connection=1, frame={"type": "read", "seq": mark})
    history.add("member_out", **BOB)
    history.add("member_in", **BOB)
    for seq in (2, 3):
        committed(history, seq)
    history.add("position", **BOB, seq=stored)
    return [violation.partition(":")[0] for violation in Checker(history).check()]


async def test_a_pending_mark_may_be_stored_after_its_user_was_added_again(autojump_clock: object) -> None:
    assert await marked_and_added_again(mark=3, stored=3) == []


async def test_a_position_that_nobody_asked_for_is_a_violation(autojump_clock: object) -> None:
    assert await marked_and_added_again(mark=3, stored=2) == ["a read position is what was asked for"]


async def test_a_position_before_the_addition_is_a_violation(autojump_clock: object) -> None:
    assert "a read position never goes back" in await marked_and_added_again(mark=3, stored=0)
