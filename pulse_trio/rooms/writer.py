"""The writer: the one task of a room that carries out commands.

It carries out what waits in the inbox, one batch after the other; while one commits, the next collects. No client gets
a change before it is committed. The writer runs in the room's nursery, not in a connection's: a submitted message is
stored although its sender has gone.

New messages take the short way: the store takes a batch from the inbox when it can, and calls back with the answer,
which is released at once. The task owns that batch, but sleeps while all goes well. Everything else wakes it, and is
done by the task: other commands, a store that cannot take a batch now, an answer with an error, a refusal or a resend,
a gap before it, an audience too large for one turn. When the task ends, no answer has an effect any more.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from uuid import UUID

import structlog
import trio

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.metrics import Metrics
from pulse_trio.model import Change, Command, Post
from pulse_trio.rooms.backoff import Backoff
from pulse_trio.rooms.inbox import Inbox, Sender, Submission
from pulse_trio.rooms.outages import Outages
from pulse_trio.store.base import Answer, Outcome, Refusal, Store, StoreError, StoreRefused, StoreUnavailable

MIN_ATTEMPT: Final = 1.0  # seconds that an attempt gets however late it is: else none could ever succeed

log = structlog.get_logger(__name__)

Stored = tuple[Submission, tuple[Change, ...]]


class _ShortWay:
    """A batch on the short way: a `Handover`.

    Attributes:
        began: when it was handed over, on Trio's clock.
        batch: empty until it is taken from the inbox.
        answer: the store's; None if the batch must be carried out by `Store.apply`.
    """

    __slots__ = ("_writer", "answer", "batch", "began", "conversation_id", "deadline")

    def __init__(self, writer: "Writer", first: Submission) -> None:
        self._writer = writer
        self.conversation_id: UUID = first.command.conversation_id
        self.began = trio.current_time()
        self.deadline = max(first.deadline, self.began + MIN_ATTEMPT)
        self.batch: list[Submission] = []
        self.answer: Answer = None

    def take(self) -> Sequence[Post]:
        return self._writer.take(self)

    def on_answer(self, answer: Answer) -> None:
        self.answer = answer
        self._writer.on_answer(self)


class Writer:
    """Collects batches, commits them, and releases what is committed.

    Args:
        store: carries out commands.
        release: called with the committed changes of each batch; the next batch waits for it.
        inbox_messages: commands that may wait; beyond it `submit` waits, which slows the senders.
        batch_messages: messages or revisions of one transaction at most.
        store_timeout: seconds after which a command that cannot be stored is rejected.
        rand: gives the jitter of retries.
        release_now: `release` without waiting, of new messages; returns False, and does nothing, if it had to wait.
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
        release_now: Callable[[Sequence[Stored]], bool] = lambda _: False,
        metrics: Metrics | None = None,
        outages: Outages | None = None,
        on_unknown_outcome: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._release = release
        self._release_now = release_now
        self._on_unknown_outcome = on_unknown_outcome
        self._store_timeout = store_timeout
        self._random = rand
        self._metrics = Metrics() if metrics is None else metrics
        self._outages = Outages() if outages is None else outages
        self._inbox = Inbox(inbox_messages, batch_messages)
        self._short_way: _ShortWay | None = None  # the batch that the store has been handed
        self._left: _ShortWay | None = None  # a batch that the short way has left to the task
        self._fault: Exception | None = None  # of the short way; the task raises it
        self._sleeping: trio.Event | None = None  # the task waits for it; None while it is awake, or does not run
        self._unsettled = 0
        self._idle: trio.Event | None = None  # made by who waits for it

    @property
    def unsettled(self) -> int:
        """The number of commands that were submitted and neither stored nor rejected yet."""
        return self._unsettled

    async def wait_idle(self) -> None:
        """Returns when every command submitted has been stored or rejected."""
        while self._unsettled:
            if self._idle is None:
                self._idle = trio.Event()
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
        try:
            await self._inbox.put(submission)
        except BaseException:
            self._settle(1)
            raise
        self._continue()

    def submit_now(self, command: Command, sender: Sender, client_id: str | None = None) -> bool:
        """Submits as `submit`, but no removal; False, with nothing done, if the inbox is full or closed."""
        submission = Submission(command, client_id, sender, trio.current_time() + self._store_timeout)
        if not self._inbox.put_nowait(submission):
            return False
        self._unsettled += 1
        self._continue()
        return True

    def close(self) -> None:
        """Closes the inbox: `run` stores what is in it and returns."""
        self._inbox.close()
        self._wake()

    async def run(self) -> None:
        """Stores commands until `close`, and what was submitted before it.

        Raises:
            Exception: a fault in `release`, `release_now` or the store, which is ours.
        Cancelled: what is not stored is rejected; the batch that is being stored may be committed.
        """
        try:
            while True:
                if self._fault is not None:
                    raise self._fault
                if self._left is not None:
                    await self._store_left()
                elif self._short_way is not None or self._inbox.first() is None:
                    if self._short_way is None and not self._inbox.is_open:
                        return
                    self._sleeping = trio.Event()
                    await self._sleeping.wait()
                elif not self._hand_over():
                    await self._store_and_settle(self._inbox.take_batch())
        finally:
            self._sleeping = None
            self._end()

    def refuse_all(self, error: PulseError) -> None:
        """Rejects everything submitted; called instead of `run`."""
        self._refuse_waiting(error)

    def _end(self) -> None:
        """Settles what is under way, and rejects what waits: no sender may wait for ever."""
        for way in (self._short_way, self._left):
            if way is not None:
                self._settle_batch(way.batch)
        self._short_way = self._left = None
        self._refuse_waiting(not_stored())

    def _refuse_waiting(self, error: PulseError) -> None:
        waiting = self._inbox.take_all()
        for submission in waiting:
            submission.sender.refuse(error, submission.client_id)
        self._settle_batch(waiting)

    # --- the short way ---

    def _continue(self) -> None:
        """Continues with what waits in the inbox, if the task sleeps and nothing is under way."""
        if self._sleeping is not None and self._short_way is None and not self._hand_over():
            self._wake()

    def _hand_over(self) -> bool:
        """Hands the next batch to the store; returns False if that is for the task, or nothing waits."""
        first = self._inbox.first()
        if first is None or not isinstance(first.command, Post):
            return False
        way = _ShortWay(self, first)
        if not self._store.apply_soon(way):
            return False
        self._short_way = way
        return True

    def take(self, way: _ShortWay) -> Sequence[Post]:
        """Takes a batch from the inbox for the store; none if it is the task's, or the task has ended."""
        if self._short_way is not way:
            return ()
        try:
            way.batch = self._inbox.take_batch()
            posts = [submission.command for submission in way.batch if isinstance(submission.command, Post)]
        except Exception as fault:
            self._fault = fault
        else:
            if len(posts) == len(way.batch):
                return posts
        self._short_way, self._left = None, way
        self._wake()
        return ()

    def on_answer(self, way: _ShortWay) -> None:
        """Releases a batch, and hands over the next; wakes the task if there is more to do."""
        if self._short_way is not way:
            return  # the task has ended
        try:
            if self._release_plain(way):
                self._short_way = None
                self._settle_batch(way.batch)
                if self._hand_over() or (self._inbox.is_open and self._inbox.first() is None):
                    return
        except Exception as fault:
            self._fault = fault
        if self._short_way is way:
            self._short_way, self._left = None, way
        self._wake()

    def _release_plain(self, way: _ShortWay) -> bool:
        """Releases an answer in which each message is new; returns False, and does nothing, for any other."""
        if not isinstance(way.answer, list):
            return False
        stored: list[Stored] = []
        for submission, outcome in zip(way.batch, way.answer, strict=True):
            if isinstance(outcome, Refusal):
                return False
            stored.append((submission, outcome))
        began = trio.current_time()
        if not self._release_now(stored):
            return False
        self._metrics.batch_messages.observe(len(stored))
        self._metrics.commit_seconds.observe(began - way.began)
        self._observe_release(stored, began)
        return True

    def _wake(self) -> None:
        if self._sleeping is not None:
            self._sleeping.set()
            self._sleeping = None

    # --- the task ---

    async def _store_left(self) -> None:
        """Does what the short way has left: the answer of the store is that of the first attempt."""
        assert self._left is not None
        way = self._left
        if not way.batch:  # the deadline has passed before the store took it
            way.batch = self._inbox.take_batch()
            if not isinstance(way.batch[0].command, Post):
                way.answer = None
        try:
            await self._store_batch(way.batch, way if way.answer is not None else None)
        finally:
            self._left = None
            self._settle_batch(way.batch)

    async def _store_and_settle(self, batch: list[Submission]) -> None:
        try:
            await self._store_batch(batch)
        finally:
            self._settle_batch(batch)

    async def _store_batch(self, batch: list[Submission], attempt: _ShortWay | None = None) -> None:
        """Stores a batch, and releases it. `attempt`: the first attempt, if it has been made."""
        backoff = Backoff(self._random)
        is_retry = False
        while batch:
            began = trio.current_time() if attempt is None else attempt.began
            try:
                if attempt is None:
                    outcomes = await self._apply(batch)
                elif isinstance(attempt.answer, StoreError):
                    raise type(attempt.answer)(*attempt.answer.args) from attempt.answer
                else:
                    assert attempt.answer is not None
                    outcomes = attempt.answer
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
                self._metrics.commit_seconds.observe(trio.current_time() - began)
                await self._release_batch(batch, outcomes)
                # The store knows the ids of what it has carried out. An earlier attempt at another command may still be
                # carried out, if its connection was lost on the way: then the retry does not stand for it.
                if is_retry and not all(isinstance(outcome, tuple) and outcome for outcome in outcomes):
                    self._on_unknown_outcome()
                return
            is_retry = True
            attempt = None
            waiting = self._refuse_expired(batch)
            if len(waiting) < len(batch):
                self._on_unknown_outcome()
            batch = waiting
            if batch:
                await backoff.wait()

    async def _apply(self, batch: list[Submission]) -> list[Outcome]:
        outcomes = None
        with trio.CancelScope(deadline=max(batch[0].deadline, trio.current_time() + MIN_ATTEMPT)):
            outcomes = await self._store.apply([submission.command for submission in batch])
        if outcomes is None:
            raise StoreUnavailable("the store does not answer in time")
        return outcomes

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
            self._observe_release(stored, began)

    def _observe_release(self, stored: Sequence[Stored], began: float) -> None:
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

    def _settle_batch(self, batch: Sequence[Submission]) -> None:
        for submission in batch:
            submission.sender.settled()
        self._settle(len(batch))

    def _settle(self, count: int) -> None:
        self._unsettled -= count
        if self._unsettled == 0 and self._idle is not None:
            self._idle.set()
            self._idle = None


def not_stored() -> PulseError:
    """Makes the error for a message that may or may not be stored; resending it is safe."""
    return PulseError(ErrorCode.NOT_STORED)


def not_a_member() -> PulseError:
    """Makes the error for users who are not in the conversation; the same if it does not exist."""
    return PulseError(ErrorCode.NOT_A_MEMBER)
