"""The inbox of a room: the commands that wait for the writer, and the choice of its next batch.

A batch has messages only, or revisions only (edits and deletions). It skips what it cannot take, but keeps the order of
each source: a flood of one kind delays its own connection, not the messages of others. A change of members or
properties is a batch of its own. The removal of a member is the next batch: what that member has sent must not delay
it. But after a change, messages and revisions of other sources have a turn, however many changes wait: one member may
request hundreds, each of a thousand users.
"""

from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import trio

from pulse_trio.errors import PulseError
from pulse_trio.model import Change, Command, Delete, Edit, Post, RemoveMember, text_chars
from pulse_trio.store.base import MAX_REVISIONS_OF_MESSAGE, Refusal

MAX_BATCH_CHARS: Final = 65_536  # of the texts of a batch; one text may be longer. Rooms with long ones take turns


class Sender(Protocol):
    """The sender of a command."""

    @property
    def source(self) -> object:
        """Identifies the connection or request that the command came from; its commands are kept in order."""

    def stored(self, changes: Sequence[Change], *, is_news: bool) -> None:
        """Takes the committed changes. `is_news` is false for a resend: the others already have them."""

    def settled(self) -> None:
        """Ends the wait for one of this sender's commands: it was stored or rejected."""

    def refuse(self, error: PulseError | Refusal, client_id: str | None) -> None:
        """Takes the reason why a command was not carried out."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A command on its way to the store.

    `deadline`: the time on Trio's clock at which it is rejected if it is not stored.
    """

    command: Command
    client_id: str | None
    sender: Sender
    deadline: float


class Inbox:
    """The commands that wait.

    Args:
        messages: commands that may wait; beyond it `put` waits, which slows the senders.
        batch_messages: messages or revisions of one batch at most.
    """

    __slots__ = (
        "_batch_messages",
        "_channel",
        "_is_open",
        "_last_kind",
        "_removals",
        "_sent",
        "_source",
        "_was_change",
        "_window",
    )

    def __init__(self, messages: int, batch_messages: int) -> None:
        # Bounded by PULSE_INBOX_MESSAGES: the unstored messages of a conversation that are held in memory.
        self._channel, self._source = trio.open_memory_channel[Submission](messages)
        self._sent = 0  # into the channel and not taken from it; asking an empty channel raises, which costs more
        self._batch_messages = batch_messages
        # Taken from the channel to choose a batch from, at most `batch_messages`; the others wait for later batches.
        self._window: deque[Submission] = deque()
        self._last_kind: type[Command] | None = None  # of the last batch: kinds have turns
        self._was_change = False  # the last batch was a change of members or properties
        # Removals do not wait in the channel: few, as one user is the owner, and requests are limited.
        self._removals: deque[Submission] = deque()
        self._is_open = True

    @property
    def is_open(self) -> bool:
        """True until `close` or `take_all`."""
        return self._is_open

    async def put(self, submission: Submission) -> None:
        """Puts a command into the inbox; waits while it is full. A removal does not wait, and comes next.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: the inbox was closed.
        Cancelled: it is not in the inbox.
        """
        if isinstance(submission.command, RemoveMember):
            if not self._is_open:
                raise trio.ClosedResourceError
            self._removals.append(submission)
            return
        self._sent += 1
        try:
            try:
                self._channel.send_nowait(submission)
            except trio.WouldBlock:
                await self._channel.send(submission)
        except BaseException:
            self._sent -= 1
            raise

    def put_nowait(self, submission: Submission) -> bool:
        """Puts a command, but no removal, into the inbox; False, with nothing done, if it is full or closed."""
        try:
            self._channel.send_nowait(submission)
        except (trio.WouldBlock, trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        self._sent += 1
        return True

    def first(self) -> Submission | None:
        """Returns the command that comes first; None if none waits. The next batch may begin with another kind."""
        if self._removals:
            return self._removals[0]
        if not self._window:
            self._fill_window(1)
        return self._window[0] if self._window else None

    def _fill_window(self, size: int) -> None:
        try:
            while self._sent and len(self._window) < size:
                self._window.append(self._source.receive_nowait())
                self._sent -= 1
        except (trio.WouldBlock, trio.EndOfChannel):
            pass  # the others were sent by tasks that wait, and are being cancelled

    def close(self) -> None:
        """Lets nothing more in; what is in it can still be taken."""
        self._is_open = False
        self._channel.close()

    def take_all(self) -> list[Submission]:
        """Closes the inbox, and takes everything that is in it."""
        self._is_open = False
        waiting = [*self._removals, *self._window]
        self._removals.clear()
        self._window.clear()
        with self._source, suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                waiting.append(self._source.receive_nowait())
        return waiting

    def take_batch(self) -> list[Submission]:
        """Takes a batch of the next kind; only if `first` returns a command.

        A resend of a message in the batch, with the same client_id, waits for a later one: it must find that one
        stored. So does a revision of a message that the batch has revised often enough.
        """
        self._fill_window(self._batch_messages)
        is_turn = self._was_change  # of messages and revisions: they pass the changes that wait
        kind = None if self._removals and not is_turn else self._next_kind(passes_changes=is_turn)
        self._was_change = kind is None
        if kind is None and self._removals:
            return [self._removals.popleft()]
        self._last_kind = kind
        if kind is None or len(self._window) == 1:
            return [self._window.popleft()]
        batch: list[Submission] = []
        skipped: list[Submission] = []
        delayed: set[object] = set()  # the sources of what was skipped
        taken: Counter[object] = Counter()
        chars = 0
        while self._window:
            found = _batch_kind(self._window[0].command)
            if found is None and not is_turn:
                break
            if found is not None and batch and chars + text_chars(self._window[0].command) > MAX_BATCH_CHARS:
                break
            submission = self._window.popleft()
            source = submission.sender.source
            if found is None:
                delayed.add(source)
                skipped.append(submission)
                continue
            key, limit = _repetition(submission.command)
            if found is not kind or source in delayed or taken[key] >= limit:
                delayed.add(source)
                skipped.append(submission)
            else:
                taken[key] += 1
                chars += text_chars(submission.command)
                batch.append(submission)
        self._window.extendleft(reversed(skipped))
        return batch

    def _next_kind(self, *, passes_changes: bool) -> type[Command] | None:
        """Returns the kind of the next batch: another than the last one, if one waits that nothing has to precede.

        None is a change, which comes if it is the first or, with `passes_changes`, if nothing else can come.
        """
        first: type[Command] | None = None
        sources: set[object] = set()
        for submission in self._window:
            kind = _batch_kind(submission.command)
            if kind is None:
                if not passes_changes:
                    break
            elif submission.sender.source not in sources:
                if kind is not self._last_kind:
                    return kind
                first = kind
            sources.add(submission.sender.source)
        return first


def _batch_kind(command: Command) -> type[Command] | None:
    """Returns the kind of a command whose batch may have several; None for one that is a batch of its own."""
    if isinstance(command, Post):
        return Post
    return Edit if isinstance(command, Edit | Delete) else None


def _repetition(command: Command) -> tuple[object, int]:
    """Returns a key, and the number of commands with that key that a batch may have."""
    if isinstance(command, Post):
        return (command.id if command.client_id is None else (command.actor_id, command.client_id)), 1
    assert isinstance(command, Edit | Delete)
    return command.message_id, MAX_REVISIONS_OF_MESSAGE
