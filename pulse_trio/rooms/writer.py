"""The writer: the one task of a room that stores messages.

It takes one message, then all others that wait, and appends them in one transaction; while that commits, the next
batch collects. No client gets a message before it is committed. The writer runs in the room's nursery, not in a
connection's: a submitted message is stored although its sender has gone.
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

MIN_ATTEMPT: Final = 1.0  # seconds that an attempt gets however late it is: else none could ever succeed

_CODES: Final = {
    NotAMember: ErrorCode.NOT_A_MEMBER,
    NoSuchMessage: ErrorCode.NO_SUCH_MESSAGE,
    NotYourMessage: ErrorCode.NOT_YOUR_MESSAGE,
}
_REFUSALS: Final = tuple(_CODES)

log = structlog.get_logger(__name__)


class Sender(Protocol):
    """The sender of a message, or of a change of one."""

    def stored(self, message: Message, *, is_news: bool) -> None:
        """Takes the committed message. `is_news` is false for a resend: the others already have it."""

    def settled(self) -> None:
        """Ends the wait for one of this sender's commands: it was stored or rejected."""

    def refuse(self, error: PulseError, client_id: str | None) -> None:
        """Takes the reason why a command was not stored."""


@dataclass(frozen=True, slots=True)
class Submission:
    """A command on its way to the store: a message, or a change of one.

    `deadline`: the time on Trio's clock at which it is rejected if it is not stored.
    """

    command: NewMessage | Revision
    client_id: str | None
    sender: Sender
    deadline: float


Stored = tuple[Submission, Message]


class Writer:
    """Collects batches, commits them, and releases what is committed.

    Args:
        store: stores messages.
        release: called with the committed messages of each batch, in order; the next batch waits for it.
        inbox_messages: commands that may wait; beyond it `submit` waits, which slows the senders.
        batch_messages: messages of one transaction at most.
        store_timeout: seconds after which a command that cannot be stored is rejected.
        rand: gives the jitter of retries.
        metrics: counts batches.
        on_unknown_outcome: called when a command was rejected that may be committed.
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
        # Bounded by PULSE_INBOX_MESSAGES: the unstored messages of a conversation that are held in memory.
        self._inbox, self._source = trio.open_memory_channel[Submission](inbox_messages)
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

    async def submit(self, command: NewMessage | Revision, sender: Sender, client_id: str | None = None) -> None:
        """Puts a command into the inbox; waits while it is full. An error repeats `client_id`.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: `run` has ended, or `close` was called.
        Cancelled: it was not submitted, and will not be stored.
        """
        submission = Submission(command, client_id, sender, trio.current_time() + self._store_timeout)
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
        """Closes the inbox: `run` stores what is in it and returns."""
        self._inbox.close()

    async def run(self) -> None:
        """Stores commands until `close`, and what was submitted before it.

        Cancelled: what is not stored is rejected; the batch that is being stored may be committed.
        """
        carry: Submission | None = None
        try:
            while True:
                if carry is None:
                    try:
                        carry = await self._source.receive()
                    except trio.EndOfChannel:
                        return
                batch, carry = self._take_batch(carry)
                try:
                    await self._store_batch(batch)
                finally:
                    self._settle_batch(batch)
        finally:
            self._refuse_waiting(carry)

    def refuse_all(self, error: PulseError) -> None:
        """Rejects everything submitted; called instead of `run`."""
        self._refuse_waiting(None, error)

    def _refuse_waiting(self, carry: Submission | None, error: PulseError | None = None) -> None:
        """Closes the inbox, and rejects what is in it: no sender may wait for ever."""
        waiting = [] if carry is None else [carry]
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

    def _take_batch(self, first: Submission) -> tuple[list[Submission], Submission | None]:
        """Takes a batch that begins with `first`; also returns the submission that must wait for the next one.

        That is a resend of a message in the batch, with the same client_id: it must find that one stored. A change of
        a message is a batch of its own.
        """
        batch = [first]
        if isinstance(first.command, Revision):
            return batch, None
        seen = {_resend_key(first)}
        while len(batch) < self._batch_messages:
            try:
                submission = self._source.receive_nowait()
            except (trio.WouldBlock, trio.EndOfChannel):
                break
            key = _resend_key(submission)
            if isinstance(submission.command, Revision) or (submission.command.client_id is not None and key in seen):
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
                with trio.CancelScope(deadline=max(batch[0].deadline, now + MIN_ATTEMPT)):
                    rows = await self._write(batch)
                if rows is None:
                    raise StoreUnavailable("the store does not answer in time")
            except StoreUnavailable as error:
                # It may be committed. The retry sends the same ids, and gets the existing rows if it was.
                self._metrics.failed_batches += 1
                log.warning("messages not stored yet", count=len(batch), reason=type(error).__name__)
            except _REFUSALS as error:
                batch[0].sender.refuse(PulseError(_CODES[type(error)]), batch[0].client_id)
                return
            except StoreRefused as error:
                log.error("the store refused a batch", count=len(batch), reason=str(error))
                await self._store_singly(batch)
                return
            else:
                self._metrics.batch_messages.observe(len(batch))
                self._metrics.commit_seconds.observe(trio.current_time() - now)
                await self._release_batch(batch, rows)
                return
            waiting = self._refuse_expired(batch)
            if len(waiting) < len(batch):
                self._on_unknown_outcome()
            batch = waiting
            if batch:
                await backoff.wait()

    async def _write(self, batch: list[Submission]) -> Sequence[Message | None]:
        first = batch[0].command
        if isinstance(first, Revision):
            return [await self._store.revise(first)]
        return await self._store.append([s.command for s in batch if isinstance(s.command, NewMessage)])

    async def _store_singly(self, batch: list[Submission]) -> None:
        """Stores each message by itself, so that one that can never be stored does not fail the others."""
        if len(batch) == 1:
            error = PulseError(ErrorCode.NOT_STORED, "The message cannot be stored")
            batch[0].sender.refuse(error, batch[0].client_id)
            return
        for submission in batch:
            await self._store_batch([submission])

    async def _release_batch(self, batch: list[Submission], rows: Sequence[Message | None]) -> None:
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


def _resend_key(submission: Submission) -> tuple[object, object]:
    command = submission.command
    return (None, None) if isinstance(command, Revision) else (command.sender_id, command.client_id)
