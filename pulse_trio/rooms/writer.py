"""The writer: the one task of a room that carries out commands.

It takes what waits and carries it out in one transaction; while that commits, the next batch collects. A batch has
messages only, or revisions only (edits and deletions). It skips what it cannot take, but keeps the order of each
source: a flood of one kind delays its own connection, not the messages of others. A change of members or properties is
a batch of its own, and nothing overtakes it. The removal of a member is the next batch: what that member has sent must
not delay it. No client gets a change before it is committed. The writer runs in the room's nursery, not in a
connection's: a submitted message is stored although its sender has gone.
"""

import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
import trio

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.metrics import Metrics
from pulse_trio.model import Change, Command, Delete, Edit, Post, RemoveMember
from pulse_trio.rooms.backoff import Backoff
from pulse_trio.rooms.outages import Outages
from pulse_trio.store.base import (
    MAX_REVISIONS_OF_MESSAGE,
    Outcome,
    Refusal,
    Store,
    StoreRefused,
    StoreUnavailable,
)

MIN_ATTEMPT: Final = 1.0  # seconds that an attempt gets however late it is: else none could ever succeed

log = structlog.get_logger(__name__)


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


Stored = tuple[Submission, tuple[Change, ...]]


class Writer:
    """Collects batches, commits them, and releases what is committed.

    Args:
        store: carries out commands.
        release: called with the committed changes of each batch; the next batch waits for it.
        inbox_messages: commands that may wait; beyond it `submit` waits, which slows the senders.
        batch_messages: messages or revisions of one transaction at most.
        store_timeout: seconds after which a command that cannot be stored is rejected.
        rand: gives the jitter of retries.
        metrics: counts batches.
        outages: logs failed attempts.
        on_unknown_outcome: called when a command was rejected, or found nothing to do, that may be committed later.
    """

    def __init__(
        self,
        store: Store,
        release: Callable[[Sequence[Stored]], Awaitable[None]],
        *,
        inbox_messages: int,
        batch_messages: int,
        store_timeout: float,
        rand: random.Random,
        metrics: Metrics | None = None,
        outages: Outages | None = None,
        on_unknown_outcome: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._release = release
        self._on_unknown_outcome = on_unknown_outcome
        self._batch_messages = batch_messages
        self._store_timeout = store_timeout
        self._random = rand
        self._metrics = Metrics() if metrics is None else metrics
        self._outages = Outages() if outages is None else outages
        # Bounded by PULSE_INBOX_MESSAGES: the unstored messages of a conversation that are held in memory.
        self._inbox, self._source = trio.open_memory_channel[Submission](inbox_messages)
        # Taken from the inbox to choose a batch from, at most `batch_messages`; the others wait for later batches.
        self._window: deque[Submission] = deque()
        self._last_kind: type[Command] | None = None  # of the last batch: kinds have turns
        # Removals that came while others waited in the inbox: few, as one user is the owner, and requests are limited.
        self._removals: deque[Submission] = deque()
        self._unsettled = 0
        self._idle = trio.Event()
        self._idle.set()

    @property
    def unsettled(self) -> int:
        """The number of commands that were submitted and neither stored nor rejected yet."""
        return self._unsettled

    async def wait_idle(self) -> None:
        """Returns when every command submitted has been stored or rejected."""
        while self._unsettled:
            await self._idle.wait()

    async def submit(self, command: Command, sender: Sender, client_id: str | None = None) -> None:
        """Puts a command into the inbox; waits while it is full. An error repeats `client_id`.

        A removal waits neither for room in the inbox nor for what is in it.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: `run` has ended, or `close` was called.
        Cancelled: it was not submitted, and will not be stored.
        """
        submission = Submission(command, client_id, sender, trio.current_time() + self._store_timeout)
        self._unsettled += 1
        if self._idle.is_set():
            self._idle = trio.Event()
        try:
            if isinstance(command, RemoveMember) and self._has_waiting():
                self._removals.append(submission)
                return
            try:
                self._inbox.send_nowait(submission)
            except trio.WouldBlock:
                await self._inbox.send(submission)
        except BaseException:
            self._settle(1)
            raise

    def _has_waiting(self) -> bool:
        """True if `run` will find something that waits, so that it does not wait itself when it looks next."""
        inbox = self._inbox.statistics()
        return inbox.open_send_channels > 0 and (bool(self._window) or inbox.current_buffer_used > 0)

    def close(self) -> None:
        """Closes the inbox: `run` stores what is in it and returns."""
        self._inbox.close()

    async def run(self) -> None:
        """Stores commands until `close`, and what was submitted before it.

        Cancelled: what is not stored is rejected; the batch that is being stored may be committed.
        """
        try:
            while True:
                if self._removals:
                    batch = [self._removals.popleft()]
                else:
                    if not self._window:
                        try:
                            self._window.append(await self._source.receive())
                        except trio.EndOfChannel:
                            return
                    batch = self._take_batch()
                try:
                    await self._store_batch(batch)
                finally:
                    self._settle_batch(batch)
        finally:
            self._refuse_waiting()

    def refuse_all(self, error: PulseError) -> None:
        """Rejects everything submitted; called instead of `run`."""
        self._refuse_waiting(error)

    def _refuse_waiting(self, error: PulseError | None = None) -> None:
        """Closes the inbox, and rejects what is in it: no sender may wait for ever."""
        waiting = [*self._removals, *self._window]
        self._removals.clear()
        self._window.clear()
        with self._source:
            try:
                while True:
                    waiting.append(self._source.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                pass
        for submission in waiting:
            submission.sender.refuse(not_stored() if error is None else error, submission.client_id)
        self._settle_batch(waiting)

    def _settle_batch(self, batch: list[Submission]) -> None:
        for submission in batch:
            submission.sender.settled()
        self._settle(len(batch))

    def _take_batch(self) -> list[Submission]:
        """Takes a batch of the next kind.

        A resend of a message in the batch, with the same client_id, waits for a later one: it must find that one
        stored. So does a revision of a message that the batch has revised often enough.
        """
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while len(self._window) < self._batch_messages:
                self._window.append(self._source.receive_nowait())
        kind = self._last_kind = self._next_kind()
        if kind is None or len(self._window) == 1:
            return [self._window.popleft()]
        batch: list[Submission] = []
        skipped: list[Submission] = []
        delayed: set[object] = set()  # the sources of what was skipped
        taken: Counter[object] = Counter()
        while self._window and (found := _batch_kind(self._window[0].command)) is not None:
            submission = self._window.popleft()
            source, (key, limit) = submission.sender.source, _repetition(submission.command)
            if found is not kind or source in delayed or taken[key] >= limit:
                delayed.add(source)
                skipped.append(submission)
            else:
                taken[key] += 1
                batch.append(submission)
        self._window.extendleft(reversed(skipped))
        return batch

    def _next_kind(self) -> type[Command] | None:
        """Returns the kind of the next batch: another than the last one, if one waits that nothing has to precede."""
        first = _batch_kind(self._window[0].command)
        if first is None or first is not self._last_kind:
            return first
        sources: set[object] = set()
        for submission in self._window:
            kind = _batch_kind(submission.command)
            if kind is None:
                break
            if kind is not first and submission.sender.source not in sources:
                return kind
            sources.add(submission.sender.source)
        return first

    async def _store_batch(self, batch: list[Submission]) -> None:
        backoff = Backoff(self._random)
        is_retry = False
        while batch:
            now = trio.current_time()
            try:
                outcomes = None
                with trio.CancelScope(deadline=max(batch[0].deadline, now + MIN_ATTEMPT)):
                    outcomes = await self._store.apply([submission.command for submission in batch])
                if outcomes is None:
                    raise StoreUnavailable("the store does not answer in time")
            except StoreUnavailable as error:
                # It may be committed. The retry sends the same ids, and gets the changes as they are if it was.
                self._metrics.failed_batches += 1
                self._outages.record("messages not stored yet", error, len(batch))
            except StoreRefused as error:
                log.error("the store refused a batch", count=len(batch), reason=str(error))
                if is_retry:
                    self._on_unknown_outcome()
                await self._store_singly(batch)
                return
            else:
                self._metrics.batch_messages.observe(len(batch))
                self._metrics.commit_seconds.observe(trio.current_time() - now)
                await self._release_batch(batch, outcomes)
                # The store knows the ids of what it has carried out. An earlier attempt at another command may still be
                # carried out, if its connection was lost on the way: then the retry does not stand for it.
                if is_retry and not all(isinstance(outcome, tuple) and outcome for outcome in outcomes):
                    self._on_unknown_outcome()
                return
            is_retry = True
            waiting = self._refuse_expired(batch)
            if len(waiting) < len(batch):
                self._on_unknown_outcome()
            batch = waiting
            if batch:
                await backoff.wait()

    async def _store_singly(self, batch: list[Submission]) -> None:
        """Stores each message by itself, so that one that can never be stored does not fail the others."""
        if len(batch) == 1:
            error = PulseError(ErrorCode.NOT_STORED, "The message cannot be stored")
            batch[0].sender.refuse(error, batch[0].client_id)
            return
        for submission in batch:
            await self._store_batch([submission])

    async def _release_batch(self, batch: list[Submission], outcomes: Sequence[Outcome]) -> None:
        stored: list[Stored] = []
        for submission, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Refusal):
                submission.sender.refuse(outcome, submission.client_id)
            else:
                stored.append((submission, outcome))
        if stored:
            began = trio.current_time()
            await self._release(stored)
            now = trio.current_time()
            self._metrics.fanout_seconds.observe(now - began)
            for submission, _ in stored:
                self._metrics.delivery_seconds.observe(now - submission.deadline + self._store_timeout)

    def _refuse_expired(self, batch: list[Submission]) -> list[Submission]:
        """Rejects submissions past their deadline; returns the others."""
        now = trio.current_time()
        waiting = []
        for submission in batch:
            if submission.deadline <= now:
                submission.sender.refuse(not_stored(), submission.client_id)
            else:
                waiting.append(submission)
        return waiting

    def _settle(self, count: int) -> None:
        self._unsettled -= count
        if self._unsettled == 0:
            self._idle.set()


def not_stored() -> PulseError:
    """Makes the error for a message that may or may not be stored; resending it is safe."""
    return PulseError(ErrorCode.NOT_STORED)


def not_a_member() -> PulseError:
    """Makes the error for users who are not in the conversation; the same if it does not exist."""
    return PulseError(ErrorCode.NOT_A_MEMBER)


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
