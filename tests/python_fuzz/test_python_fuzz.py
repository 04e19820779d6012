"""The Python client keeps its promises on bad networks; the fuzz finds planted bugs."""

import os
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from pulse_trio.client import Message, frame_codec
from pulse_trio.client.outgoing import Outgoing, Pending
from pulse_trio.client.pages import History
from pulse_trio.client.progress import Progress
from pulse_trio.client.roster import Roster
from pulse_trio.client.unread import Unread
from tests.python_fuzz.round import fuzz
from tests.support.server import Server

Patch = pytest.MonkeyPatch
Start = Callable[..., Server]

ACTS = 8
PLANTED_ROUNDS = 4


def test_a_client_keeps_its_promises_on_bad_networks(start_server: Start) -> None:
    seed = random.SystemRandom().randrange(10**9)
    result = fuzz(start_server, seed, ACTS)
    assert not result.violations, (f"python -m tests.python_fuzz --rounds 1 --start {seed}", result.violations[:10])
    assert not {"stored", "acknowledged", "unanswered", "Offline"} - set(result.counters), "never happened"


def resend_as_another(patch: Patch) -> None:
    """A resent message gets a new `client_id`."""
    due = Outgoing._is_due

    def is_due(self: Outgoing, pending: Pending, now: float) -> bool:
        if due(self, pending, now):
            if pending.connection:
                pending.client_id += "'"
            return True
        return False

    patch.setattr(Outgoing, "_is_due", is_due)


def skip_a_change(patch: Patch) -> None:
    """A reconnection resumes one change too far."""
    query = Progress.query

    def skipping(self: Progress, *, resumes: bool) -> str:
        if self.cursor is not None and 2 < self.cursor < self.head_rev:
            self.cursor += 1
        return query(self, resumes=resumes)

    patch.setattr(Progress, "query", skipping)


def repeat_changes(patch: Patch) -> None:
    """A change that came before is shown again."""
    patch.setattr(Progress, "has", lambda _self, _rev: False)


def drop_when_full(patch: Patch) -> None:
    """Unread events beyond the bound are dropped."""
    put = Unread.put

    def dropping(self: Unread, event: Any, rev: int | None = None) -> None:
        if not self.is_full or rev is None:
            put(self, event, rev)

    patch.setattr(Unread, "put", dropping)
    patch.setattr(Unread, "is_full", property(lambda self: len(self) >= 3))


def forget_reads(patch: Patch) -> None:
    """A read position that was under way when the connection broke is not sent again."""
    connected = Outgoing.connected

    def keeping(self: Outgoing, number: int) -> None:
        sent = self._sent_seq
        connected(self, number)
        self._sent_seq = sent

    patch.setattr(Outgoing, "connected", keeping)


def forget_who_left(patch: Patch) -> None:
    """Users who left while the room was offline stay active."""
    take = Roster.take_active

    def keeping(self: Roster, frame: Any) -> None:
        before = self.active
        take(self, frame)
        self.active |= before

    patch.setattr(Roster, "take_active", keeping)


def leave_holes(patch: Patch) -> None:
    """A page of the history begins one message too late."""
    load = History._load

    async def skipping(self: History) -> None:
        await load(self)
        if self._before_seq is not None:
            self._before_seq -= 1

    patch.setattr(History, "_load", skipping)


def show_edits_of_deleted_messages(patch: Patch) -> None:
    """A record from the history differs from the one of a frame."""

    def message_of(frame: Any) -> Message:
        message = original(frame)
        if message.is_deleted:
            msgspec.structs.force_setattr(message, "is_edited", True)
        return message

    original = frame_codec.message_of
    patch.setattr(frame_codec, "message_of", message_of)


PLANTED = [
    resend_as_another,
    skip_a_change,
    repeat_changes,
    drop_when_full,
    forget_reads,
    forget_who_left,
    leave_holes,
    show_edits_of_deleted_messages,
]


@pytest.mark.skipif("PULSE_TEST_PYTHON_FUZZ" not in os.environ, reason="minutes: part of `make fuzz-python-client`")
@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_planted_bugs_are_found(start_server: Start, monkeypatch: Patch, plant: Callable[[Patch], None]) -> None:
    plant(monkeypatch)
    for seed in range(PLANTED_ROUNDS):
        if fuzz(start_server, seed, ACTS).violations:
            return
    raise AssertionError(plant.__doc__)
