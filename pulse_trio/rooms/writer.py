"""The writer: the one task of a room that stores messages.

It takes one message, then whatever else has gathered, and appends all of it in one transaction; while
that commits, the next batch gathers. Nothing reaches a member before it is committed. The writer lives in
the room's nursery, not in a connection's: a message that was taken is stored although its sender has gone.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog
import trio

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.metrics import Metrics
from pulse_trio.rooms.backoff import Backoff
from pulse_trio.store.base import (
    Message,
    NewMessage,
    NoSuchMessage,
    NotAMember,
    NotYourMessage,
    Revision,
    Store,
    StoreRefused,
    StoreUnavailable,
)

ATTEMPT_LEAST: Final = 1.0  # seconds that an attempt gets however late it is: else none could ever succeed

_REFUSAL_ANSWERS: Final = {
    NotAMember: ErrorCode.NOT_A_MEMBER,
    NoSuchMessage: ErrorCode.NO_SUCH_MESSAGE,
    NotYourMessage: ErrorCode.NOT_YOUR_MESSAGE,
}
_REFUSALS: Final = tuple(_REFUSAL_ANSWERS)

log = structlog.get_logger(__name__)


class Sender(Protocol):
    """Who sent a message, or a change of one, as far as the room needs to know."""

    def stored(self, message: Message, *, is_news: bool) -> None:
        """It is committed; unless it `is_news`, everybody else has it already."""

    def settled(self) -> None:
        """One of this sender's messages has been answered, one way or the other."""

    def refuse(self, error: PulseError, client_id: str | None) -> None:
        """Tells the sender that a message was not stored."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A message, or a change of one, on its way to the store.

    `deadline`: the time on Trio's clock when its sender is told that it could not be stored.
    """

    message: NewMessage | Revision
    client_id: str | None
    sender: Sender
    deadline: float


Stored = tuple[Submission, Message]


class Writer:
    """Batches, commits and hands over what is committed.

    Args:
        store: where messages go.
        release: called with the committed messages of each batch, in order; the next batch waits for it.
        inbox_messages: how many may wait; then `submit` waits, which slows the senders.
        batch_messages: most messages of one transaction.
        store_timeout: seconds after which a message that cannot be stored is refused.
        rand: where the jitter of retries comes from.
        metrics: where batches are counted.
        on_unknown_outcome: called when a message was refused that may be committed.
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
        on_unknown_outcome: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._release = release
        self._on_unknown_outcome = on_unknown_outcome
        self._batch_messages = batch_messages
        self._store_timeout = store_timeout
        self._random = rand
        self._metrics = Metrics() if metrics is None else metrics
        # Bounded by PULSE_INBOX_MESSAGES: the most that a conversation may hold in memory unstored.
        self._inbox, self._source = trio.open_memory_channel[Submission](inbox_messages)
        self._unsettled = 0
        self._idle = trio.Event()
        self._idle.set()

    @property
    def unsettled(self) -> int:
        """Messages that were submitted and neither stored nor refused yet."""
        return self._unsettled

    async def wait_idle(self) -> None:
        """Returns when every message submitted has been stored or refused."""
        while self._unsettled:
            await self._idle.wait()

    async def submit(self, message: NewMessage | Revision, sender: Sender, client_id: str | None = None) -> None:
        """Hands a message, or a change of one, to the writer; waits while the inbox is full.

        `client_id` is told back if it is refused.

        Raises trio.BrokenResourceError or trio.ClosedResourceError when `run` has ended or `close` was called.
        Cancelled: the message was not taken, and will not be stored.
        """
        submission = Submission(message, client_id, sender, trio.current_time() + self._store_timeout)
        self._unsettled += 1
        if self._idle.is_set():
            self._idle = trio.Event()
        try:
            try:
                self._inbox.send_nowait(submission)
            except trio.WouldBlock:
                await self._inbox.send(submission)
        except BaseException:
            self._settle(1)
            raise

    def close(self) -> None:
        """No more messages come: `run` stores what it has and returns."""
        self._inbox.close()

    async def run(self) -> None:
        """Stores messages until `close`, and what was submitted before it."""
        carry: Submission | None = None
        try:
            while True:
                if carry is None:
                    try:
                        carry = await self._source.receive()
                    except trio.EndOfChannel:
                        return
                batch, carry = self._gather(carry)
                try:
                    await self._store_batch(batch)
                finally:
                    self._answered(batch)
        finally:
            self._abandon(carry)

    def refuse_all(self, error: PulseError) -> None:
        """Instead of `run`: nothing of what was submitted can be stored."""
        self._abandon(None, error)

    def _abandon(self, carry: Submission | None, error: PulseError | None = None) -> None:
        """When `run` fails: whoever waits for an answer, or for room in the inbox, waits no longer."""
        waiting = [] if carry is None else [carry]
        with self._source:
            try:
                while True:
                    waiting.append(self._source.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                pass
        for submission in waiting:
            submission.sender.refuse(not_stored() if error is None else error, submission.client_id)
        self._answered(waiting)

    def _answered(self, batch: list[Submission]) -> None:
        for submission in batch:
            submission.sender.settled()
        self._settle(len(batch))

    def _gather(self, first: Submission) -> tuple[list[Submission], Submission | None]:
        """A batch that begins with `first`, and the message that must wait for the next one.

        That is one with the client_id of another in the batch: it is a resend, and must find that one stored. A
        change of a message is a batch of its own.
        """
        batch = [first]
        if isinstance(first.message, Revision):
            return batch, None
        seen = {_resend_key(first)}
        while len(batch) < self._batch_messages:
            try:
                submission = self._source.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            key = _resend_key(submission)
            if isinstance(submission.message, Revision) or (submission.message.client_id is not None and key in seen):
                return batch, submission
            seen.add(key)
            batch.append(submission)
        return batch, None

    async def _store_batch(self, batch: list[Submission]) -> None:
        backoff = Backoff(self._random)
        while batch:
            now = trio.current_time()
            try:
                rows = None
                with trio.CancelScope(deadline=max(batch[0].deadline, now + ATTEMPT_LEAST)):
                    rows = await self._write(batch)
                if rows is None:
                    raise StoreUnavailable("the store does not answer in time")
            except StoreUnavailable as error:
                # Whether it was committed is not known: the same ids are sent again, and come back as the
                # rows that exist if it was.
                self._metrics.failed_batches += 1
                log.warning("messages not stored yet", count=len(batch), reason=type(error).__name__)
            except _REFUSALS as error:
                batch[0].sender.refuse(PulseError(_REFUSAL_ANSWERS[type(error)]), batch[0].client_id)
                return
            except StoreRefused as error:
                log.error("the store refused a batch", count=len(batch), reason=str(error))
                await self._store_singly(batch)
                return
            else:
                self._metrics.batch_messages.observe(len(batch))
                self._metrics.commit_seconds.observe(trio.current_time() - now)
                await self._hand_over(batch, rows)
                return
            waiting = self._refuse_expired(batch)
            if len(waiting) < len(batch):
                self._on_unknown_outcome()
            batch = waiting
            if batch:
                await backoff.wait()

    async def _write(self, batch: list[Submission]) -> Sequence[Message | None]:
        first = batch[0].message
        if isinstance(first, Revision):
            return [await self._store.revise(first)]
        return await self._store.append([s.message for s in batch if isinstance(s.message, NewMessage)])

    async def _store_singly(self, batch: list[Submission]) -> None:
        """One message that can never be stored must not take the others with it."""
        if len(batch) == 1:
            error = PulseError(ErrorCode.NOT_STORED, "The message cannot be stored")
            batch[0].sender.refuse(error, batch[0].client_id)
            return
        for submission in batch:
            await self._store_batch([submission])

    async def _hand_over(self, batch: list[Submission], rows: Sequence[Message | None]) -> None:
        stored: list[Stored] = []
        for submission, row in zip(batch, rows, strict=True):
            if row is None:
                submission.sender.refuse(not_a_member(), submission.client_id)
            else:
                stored.append((submission, row))
        if stored:
            began = trio.current_time()
            await self._release(stored)
            now = trio.current_time()
            self._metrics.fanout_seconds.observe(now - began)
            for submission, _ in stored:
                self._metrics.delivery_seconds.observe(now - submission.deadline + self._store_timeout)

    def _refuse_expired(self, batch: list[Submission]) -> list[Submission]:
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
    """The answer for what is not stored, or may be: sending it again does no harm."""
    return PulseError(ErrorCode.NOT_STORED)


def not_a_member() -> PulseError:
    """The answer for who is not in the conversation, or for one that does not exist."""
    return PulseError(ErrorCode.NOT_A_MEMBER)


def _resend_key(submission: Submission) -> tuple[object, object]:
    message = submission.message
    return (None, None) if isinstance(message, Revision) else (message.sender_id, message.client_id)
