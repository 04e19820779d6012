"""The oracle of the fuzz names each broken promise."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID

import msgspec
import pytest

from pulse_trio.client import GroupDetails, Member, Message, User
from tests.python_fuzz.oracle import Records, Revised, Sent, Truth, View, judge

ANN, BEN, TEAM = UUID(int=1), UUID(int=2), UUID(int=3)
NOW = datetime(2026, 2, 4, tzinfo=UTC)


def message(seq: int, content: str, *, rev: int | None = None, **fields: bool) -> Message:
    return Message(
        id=UUID(int=100 + seq),
        conversation_id=TEAM,
        sender_id=ANN,
        sender_username="ann",
        content=content,
        created_at=NOW,
        updated_at=NOW,
        seq=seq,
        rev=rev or seq,
        client_id=f"ann-{seq}",
        **fields,
    )


HELLO, EDITED = message(1, "Hello"), message(2, "Ho", rev=3, is_edited=True)


class Played:
    """A round without a fault: two messages, the second one edited; Ben was removed, and the group renamed."""

    def __init__(self) -> None:
        self.records = Records()
        self.view = View("ben", TEAM)
        self.records.views.append(self.view)
        for stored, content in ((HELLO, "Hello"), (EDITED, "Hi")):
            sent = Sent(TEAM, ANN, f"ann-{stored.seq}", content, acknowledged=[stored])
            self.records.sent[sent.client_id] = sent
        self.edit = Revised(EDITED.id, "Ho", is_done=True, rev=3)
        self.records.revised.append(self.edit)
        self.view.show(HELLO, is_new=True)
        self.view.show(EDITED, is_new=False)
        self.view.learn(Member(BEN, "ben", False, 4))
        self.view.name(GroupDetails("New", None, ANN, 5))
        self.view.rev = 5
        first = frozenset({ANN, BEN})
        self.truth = Truth(TEAM, 5, "New", None, [HELLO, EDITED], frozenset({User(ANN, "ann")}), first)

    def store(self, *messages: Message) -> None:
        self.truth = replace(self.truth, messages=list(messages))


def test_a_round_without_a_fault_has_no_violation() -> None:
    played = Played()
    assert judge(played.records, [played.truth]) == []


def refuse(played: Played) -> None:
    """An answer said that a message which is stored is not."""
    sent = played.records.sent["ann-1"]
    sent.acknowledged.clear()
    sent.is_refused = True


def leave_open(played: Played) -> None:
    """A send has no end."""
    played.records.sent["ann-3"] = Sent(TEAM, ANN, "ann-3", "Hey")


def delete(played: Played) -> None:
    """A deletion was acknowledged, and the message is there."""
    played.records.revised.append(Revised(HELLO.id, None, is_done=True))


def send_later(played: Played) -> None:
    """A later edit was acknowledged, and an earlier one is stored."""
    played.records.revised.append(Revised(EDITED.id, "Hu", is_done=True, rev=4))


FAULTS: dict[str, Callable[[Played], object]] = {
    "a history has no gap": lambda played: played.store(EDITED),
    "acknowledged is stored": lambda played: played.store(HELLO),
    "what is stored was sent": lambda played: played.records.sent.pop("ann-1"),
    "a message is stored once": lambda played: played.store(
        HELLO, EDITED, msgspec.structs.replace(message(3, "Hello"), client_id="ann-1")
    ),
    "rejected is not stored": refuse,
    "every send ends": leave_open,
    "a message is as it was left": lambda played: setattr(played.edit, "content", "Hu"),
    "a message is as it was left: Message": delete,
    "acknowledged is stored: Message": send_later,
    "a room catches up": lambda played: setattr(played.view, "rev", 4),
    "events show what the server has": lambda played: played.view.messages.pop(1),
    "events show what the server has: ben": lambda played: played.view.messages.update({3: message(3, "Hey")}),
    "events show who is a member": lambda played: played.view.members.clear(),
    "events show the name": lambda played: played.view.name(GroupDetails("Old", None, ANN, 6)),
    "events come once, in order": lambda played: played.view.show(HELLO, is_new=False),
    "a new message is new": lambda played: played.view.show(message(1, "Hello", rev=6), is_new=True),
    "a seq is one message": lambda played: (
        played.view.show(message(1, "Hello", rev=6), is_new=False)
        or played.view.show(msgspec.structs.replace(message(1, "Hello", rev=7), id=ANN), is_new=False)
    ),
    "records of one rev are equal": lambda played: (
        played.records.saw(HELLO) or played.records.saw(message(1, "Hello", is_edited=True))
    ),
}


@pytest.mark.parametrize("promise", FAULTS)
def test_each_broken_promise_is_named(promise: str) -> None:
    played = Played()
    FAULTS[promise](played)
    found = judge(played.records, [played.truth])
    assert any(violation.startswith(promise) for violation in found), found
