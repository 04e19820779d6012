"""Observations of the trials of promises, and the verdict on each. No I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from benchmarks.figures import table

PATIENCE = 1.0  # seconds that a ping or typing may take while the database stands still


@dataclass(frozen=True, slots=True)
class Verdict:
    """True for a promise that was kept, and the reason."""

    is_kept: bool
    reason: str

    def __str__(self) -> str:
        return f"{'yes' if self.is_kept else '**no**'}: {self.reason}"


@dataclass(frozen=True, slots=True)
class FailedStore:
    """A message was sent while its table was away.

    Attributes:
        shown: somebody else got it.
        stored: it is in the history at the end.
        answer: what the sender got instead: "an error", "a closed connection"; "" for nothing.
        serves: a message sent after the table is back reaches everybody.
        ended: the server's process has ended.
    """

    shown: bool
    stored: bool
    answer: str
    serves: bool
    ended: bool

    def verdict(self) -> Verdict:
        if self.ended:
            return Verdict(False, "the server ended")
        if self.shown and not self.stored:
            return Verdict(False, "everybody got a message that is not stored")
        if self.stored and not self.shown:
            return Verdict(False, "a message was stored that nobody got")
        if not self.serves:
            return Verdict(False, "no message came through after the table was back")
        if self.stored:
            return Verdict(True, "stored and shown once the table was back")
        if not self.answer:
            return Verdict(False, "nobody got it, and its sender was not told")
        return Verdict(True, f"nobody got it, its sender got {self.answer}")


@dataclass(frozen=True, slots=True)
class SentTwice:
    """A message was sent again, on a new connection, with the id of the first.

    Attributes:
        shown: how often a reader got it.
        stored: how often it is in the history.
        ids: the server's ids that say that it is the same, in words.
    """

    shown: int
    stored: int
    ids: str

    def verdict(self) -> Verdict:
        if self.stored == self.shown == 1:
            return Verdict(True, f"stored and shown once ({self.ids})")
        return Verdict(False, f"stored {_times(self.stored)}, shown {_times(self.shown)} ({self.ids})")


@dataclass(frozen=True, slots=True)
class Order:
    """Several senders sent one message after the other, without waiting.

    Attributes:
        sent: the messages of each sender in order.
        live: the messages that each reader got, in order.
        stored: the history, oldest first.
    """

    sent: Sequence[Sequence[str]]
    live: Sequence[Sequence[str]]
    stored: Sequence[str]

    def verdict(self) -> Verdict:
        every = {message for messages in self.sent for message in messages}
        for name, found in (*(("a reader", seen) for seen in self.live), ("the history", self.stored)):
            if len(found) != len(every) or set(found) != every:
                return Verdict(False, f"{name} has {len(set(found))} of {len(every)} messages, {len(found)} in all")
        problems = []
        if any(seen != self.live[0] for seen in self.live):
            problems.append("readers saw different orders")
        if swapped := swapped_pairs(self.sent, self.live[0]):
            pairs = sum(len(messages) - 1 for messages in self.sent)
            problems.append(f"{swapped} of {pairs} neighbours of one sender were swapped")
        if list(self.live[0]) != list(self.stored):
            problems.append("the stored order is another than the live one")
        if problems:
            return Verdict(False, ", ".join(problems))
        return Verdict(True, f"{len(every)} messages in one order")


@dataclass(frozen=True, slots=True)
class Frozen:
    """The database stood still while a message waited for it.

    Attributes:
        ping: the longest answer to a ping in the conversation of that message, in seconds; None if one did not come.
        typing: the longest delivery of typing in another conversation, in seconds; None if one did not come.
        typing_beside: the same in the conversation of the message; not judged.
        is_delivered: the message came when the database went on.
    """

    ping: float | None
    typing: float | None
    typing_beside: float | None
    is_delivered: bool

    def verdict(self) -> Verdict:
        if not _in_time(self.ping):
            return Verdict(False, f"pings took {_duration(self.ping)}")
        if not _in_time(self.typing):
            return Verdict(False, f"typing in another conversation took {_duration(self.typing)}")
        if not self.is_delivered:
            return Verdict(False, "the message that waited never came")
        beside = "" if _in_time(self.typing_beside) else f"; typing beside the message: {_duration(self.typing_beside)}"
        return Verdict(True, f"ping at most {_duration(self.ping)}, typing {_duration(self.typing)}{beside}")


@dataclass(frozen=True, slots=True)
class Restart:
    """A reader was away while the server was killed and started again.

    Attributes:
        before: the messages that it had.
        after: the messages that it got when it was back, as its client shows them.
        acknowledged: the messages that their senders had seen coming back.
        stored: the history, oldest first.
        how: how it resumed, in words.
    """

    before: Sequence[str]
    after: Sequence[str]
    acknowledged: Sequence[str]
    stored: Sequence[str]
    how: str

    def verdict(self) -> Verdict:
        if lost := set(self.acknowledged) - set(self.stored):
            return Verdict(False, f"{len(lost)} acknowledged messages are not in the history")
        shown = [*self.before, *self.after]
        missed, twice = set(self.stored) - set(shown), len(shown) - len(set(shown))
        if missed or twice:
            return Verdict(False, f"{len(missed)} of {len(self.stored)} messages missed, {twice} twice ({self.how})")
        return Verdict(True, f"nothing missed, nothing twice ({self.how})")


def swapped_pairs(sent: Sequence[Sequence[str]], seen: Sequence[str]) -> int:
    """Returns how often a message was seen before the one that its sender sent right before it."""
    place = {message: at for at, message in enumerate(seen)}
    return sum(place[later] < place[earlier] for messages in sent for earlier, later in pairwise(messages))


def promises_table(found: Mapping[str, Mapping[str, Verdict]]) -> str:
    """Formats a Markdown table: a row for each promise, a column for each server.

    `found`: promise → server → verdict.
    """
    servers = list(dict.fromkeys(name for verdicts in found.values() for name in verdicts))
    rows = [[promise, *(str(verdicts.get(name, "")) for name in servers)] for promise, verdicts in found.items()]
    kept = [sum(verdicts[name].is_kept for verdicts in found.values() if name in verdicts) for name in servers]
    rows.append(["kept", *(f"{number} of {len(found)}" for number in kept)])
    return table(("", *servers), rows)


def _in_time(seconds: float | None) -> bool:
    return seconds is not None and seconds <= PATIENCE


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "as long as it stood still"
    return f"{seconds * 1e3:.1f} ms" if seconds < PATIENCE else f"{seconds:.1f} s"


def _times(count: int) -> str:
    return {0: "never", 1: "once", 2: "twice"}.get(count, f"{count} times")
