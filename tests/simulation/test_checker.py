"""The checker, on short histories written by hand."""

from typing import Any

import pytest

from tests.simulation.checker import Checker
from tests.simulation.history import History

BOB = {"conversation": "c", "user": "bob"}


def added(history: History, user: str, *, rev: int, user_rev: int, read_seq: int = 0) -> None:
    history.add("member_in", conversation="c", user=user, rev=rev, actor="a", user_rev=user_rev, read_seq=read_seq)


def removed(history: History, user: str, *, rev: int, user_rev: int) -> None:
    history.add("member_out", conversation="c", user=user, rev=rev, actor="a", user_rev=user_rev, read_seq=0)


def committed(history: History, seq: int, *, rev: int, sender: str = "bob") -> None:
    text = {"id": f"m{seq}", "sender": sender, "client_id": f"b{seq}", "content": "", "edited": False, "deleted": False}
    history.add("commit", conversation="c", seq=seq, rev=rev, **text)


def opened(history: History, *, after: int | None, features: str | None = None) -> None:
    history.add("open", **BOB, device="d", connection=1, after=after, session=1, expires=9e9, features=features)


def came(history: History, seq: int, *, rev: int, sender: str = "bob", **fields: Any) -> None:
    frame = {"type": "message", "rev": rev, "seq": seq, "message_id": f"m{seq}", "content": "", "sender_id": sender}
    history.add("frame", **BOB, device="d", connection=1, frame={**frame, **fields})


def named(history: History) -> list[str]:
    """Returns the promises that are broken."""
    return [violation.partition(":")[0] for violation in Checker(history).check()]


async def marked_and_added_again(*, mark: int, stored: int) -> list[str]:
    """Returns the violations when a mark is sent, its user is removed and added, and a position is stored."""
    history = History()
    added(history, "bob", rev=0, user_rev=1)
    committed(history, 1, rev=1)
    opened(history, after=None)
    history.add("sent", device="d", connection=1, frame={"type": "read", "seq": mark})
    removed(history, "bob", rev=2, user_rev=2)
    added(history, "bob", rev=3, user_rev=3, read_seq=1)
    for seq in (2, 3):
        committed(history, seq, rev=seq + 2)
    history.add("position", **BOB, seq=stored, user_rev=4)
    return named(history)


async def test_a_pending_mark_may_be_stored_after_its_user_was_added_again(autojump_clock: object) -> None:
    assert await marked_and_added_again(mark=3, stored=3) == []


async def test_a_position_that_nobody_asked_for_is_a_violation(autojump_clock: object) -> None:
    assert await marked_and_added_again(mark=3, stored=2) == ["a read position is what was asked for"]


async def test_a_position_before_the_addition_is_a_violation(autojump_clock: object) -> None:
    assert "a read position never goes back" in await marked_and_added_again(mark=3, stored=0)


@pytest.mark.parametrize(
    ("features", "prev_rev", "promises"),
    [
        (None, None, []),
        (None, 1, ["a right prev_rev"]),
        ("", 1, []),
        ("", None, ["a right prev_rev"]),
        ("", 0, ["a right prev_rev"]),
        ("", 2, ["a right prev_rev"]),  # of a kind that it did not ask for
        ("members", 1, ["no gap at resume"]),
        ("members", 2, ["no gap at resume", "a right prev_rev"]),  # its client sees that it has missed one
    ],
)
async def test_a_change_of_another_kind_may_be_skipped(
    features: str | None, prev_rev: int | None, promises: list[str], autojump_clock: object
) -> None:
    history = History()
    added(history, "bob", rev=0, user_rev=1)
    opened(history, after=0, features=features)
    committed(history, 1, rev=1)
    came(history, 1, rev=1, **({} if features is None else {"prev_rev": 0}))
    added(history, "carol", rev=2, user_rev=1)
    committed(history, 2, rev=3)
    came(history, 2, rev=3, **({} if prev_rev is None else {"prev_rev": prev_rev}))
    assert named(history) == promises


@pytest.mark.parametrize(("rev", "promises"), [(2, []), (4, ["a removed member gets nothing"])])
async def test_what_was_committed_before_a_removal_may_come_after_it(
    rev: int, promises: list[str], autojump_clock: object
) -> None:
    history = History()
    added(history, "bob", rev=0, user_rev=1)
    added(history, "carol", rev=1, user_rev=1)
    opened(history, after=1)
    committed(history, 1, rev=2, sender="carol")
    removed(history, "bob", rev=3, user_rev=2)
    committed(history, 2, rev=4, sender="carol")
    if rev == 4:
        came(history, 1, rev=2, sender="carol")
    came(history, rev // 2, rev=rev, sender="carol")
    assert named(history) == promises


@pytest.mark.parametrize(
    ("me_rev", "prev_me_rev", "promises"),
    [
        (3, 1, []),  # 2 has been superseded by 3
        (3, 2, ["a right prev_me_rev"]),
        (2, 1, []),
        (1, 0, ["no repeat of memberships"]),
    ],
)
async def test_memberships_come_in_order(
    me_rev: int, prev_me_rev: int, promises: list[str], autojump_clock: object
) -> None:
    history = History()
    added(history, "bob", rev=0, user_rev=1)
    history.add("me", device="d", user="bob", session=1, me=1, is_loaded=True)
    removed(history, "bob", rev=1, user_rev=2)
    added(history, "bob", rev=2, user_rev=3)
    frame = {"conversation_id": "c", "is_member": me_rev != 2, "read_seq": 0}
    frame |= {"me_rev": me_rev, "prev_me_rev": prev_me_rev}
    history.add("membership", device="d", session=1, frame=frame, user="bob", features="me")
    assert named(history) == promises


async def test_a_rev_that_did_not_come_is_named_in_the_calm(autojump_clock: object) -> None:
    history = History()
    added(history, "bob", rev=0, user_rev=1)
    opened(history, after=0)
    committed(history, 1, rev=1)
    history.add("settled", device="d", connection=1)
    assert named(history) == ["every rev is heard of"]
