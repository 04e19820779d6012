"""A feed: the changes of one conversation, delivered to its subscriptions in the order of rev.

Changes come from the room's writer as they are committed. A gap before one is read from the store: it was committed
without an answer, and its sender gave up before the retry.
"""

from collections.abc import Callable, Mapping, Sequence
from uuid import UUID

import structlog
import trio

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.metrics import Metrics
from pulse_trio.protocol import encode
from pulse_trio.rooms.catch_up import CatchUp
from pulse_trio.rooms.connection import Transport, pieces
from pulse_trio.rooms.message_frames import change_frame
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.rooms.writer import Stored
from pulse_trio.store.base import Head, Message, NewMessage

log = structlog.get_logger(__name__)


class Feed:
    """Delivers the changes of one conversation, each once.

    Args:
        conversation_id: the conversation.
        subscriptions: those of the room, which keeps them.
        catch_up: reads committed changes.
        store_timeout: seconds after which a transaction that the store is still at has ended.
        metrics: counts the frames.
        on_rechecked: called when the task that `recheck_later` starts has ended.

    Attributes:
        last_seq: the highest seq delivered.
        last_rev: the highest rev delivered.
    """

    __slots__ = (
        "_catch_up",
        "_conversation_id",
        "_metrics",
        "_nursery",
        "_on_rechecked",
        "_recheck_scope",
        "_store_timeout",
        "_subscriptions",
        "last_rev",
        "last_seq",
    )

    def __init__(
        self,
        conversation_id: UUID,
        subscriptions: Mapping[Transport, Subscription],
        *,
        catch_up: CatchUp,
        store_timeout: float,
        metrics: Metrics,
        on_rechecked: Callable[[], None],
    ) -> None:
        self.last_seq = 0
        self.last_rev = 0
        self._conversation_id = conversation_id
        self._subscriptions = subscriptions
        self._catch_up = catch_up
        self._store_timeout = store_timeout
        self._metrics = metrics
        self._on_rechecked = on_rechecked
        self._nursery: trio.Nursery | None = None
        self._recheck_scope: trio.CancelScope | None = None

    def open(self, head: Head, nursery: trio.Nursery) -> None:
        """Begins after the head of the conversation; `nursery` is the room's."""
        self.last_seq, self.last_rev = head.last_seq, head.last_rev
        self._nursery = nursery

    def close(self) -> None:
        """Stops the recheck, if one runs."""
        if self._recheck_scope is not None:
            self._recheck_scope.cancel()
        self._catch_up.forget(self._conversation_id)

    @property
    def is_rechecking(self) -> bool:
        """True while the task that `recheck_later` starts is running."""
        return self._recheck_scope is not None

    async def release(self, stored: Sequence[Stored]) -> None:
        """Delivers a committed batch, and reports the outcome to its senders."""
        news: list[Message] = []  # delivered together, but before anything else is, and before any await
        for submission, message in sorted(stored, key=lambda item: item[1].rev):
            asked = submission.command
            if isinstance(asked, NewMessage) and message.id != asked.id and not _is_same(message, asked):
                error = PulseError(ErrorCode.CLIENT_ID_REUSED, field="client_id")
                submission.sender.refuse(error, submission.client_id)
                continue
            last_rev = news[-1].rev if news else self.last_rev
            is_news = message.rev > last_rev
            if message.rev > last_rev + 1:
                self._deliver(news)
                news = []
                await self._fill_gap(message.rev - 1)
            if is_news:
                news.append(message)
            else:
                self._deliver(news)
                news = []
            # A message that the recheck delivered before its answer came is no resend: its sender has it, too.
            is_own = isinstance(asked, NewMessage) and message.id == asked.id
            submission.sender.stored(message, is_news=is_news or is_own)
        self._deliver(news)

    def recheck_later(self) -> None:
        """Starts a task that looks for a commit whose answer was lost: all subscriptions must get it, and soon."""
        assert self._nursery is not None
        if self._recheck_scope is not None:
            self._recheck_scope.cancel()
        self._recheck_scope = trio.CancelScope()
        self._nursery.start_soon(self._recheck, self._recheck_scope, name=f"recheck {self._conversation_id}")

    async def _recheck(self, scope: trio.CancelScope) -> None:
        """Delivers what the store has: now, and again when the transactions that it is still at have ended."""
        with scope:
            for _ in range(2):
                while page := await self._catch_up.read_page(self._conversation_id, self.last_rev):
                    self._deliver(page)
                await trio.sleep(self._store_timeout)
        if self._recheck_scope is scope:
            self._recheck_scope = None
            self._on_rechecked()

    async def _fill_gap(self, up_to_rev: int) -> None:
        """Delivers changes from the store up to a rev; the writer releases those after it."""
        while self.last_rev < up_to_rev:
            page = await self._catch_up.read_page(self._conversation_id, self.last_rev)
            missed = [message for message in page if message.rev <= up_to_rev]
            log.info("a gap was filled", conversation_id=str(self._conversation_id), count=len(missed))
            self._deliver(missed)
            if not missed:
                return

    def _deliver(self, messages: Sequence[Message]) -> None:
        """Delivers changes to every subscription, in the order of rev."""
        # `_fill_gap` and `_recheck` may both have read the same changes.
        news = [message for message in messages if message.rev > self.last_rev]
        if not news:
            return
        self._catch_up.forget(self._conversation_id)
        self.last_rev = news[-1].rev
        self.last_seq = max(self.last_seq, *(message.seq for message in news))
        frames = [encode(change_frame(message)) for message in news]
        subscriptions = list(self._subscriptions.values())
        for frame in frames:
            self._metrics.frames_out[frame.kind] += len(subscriptions)
        at = 0
        for piece in pieces(frames):
            revs = [message.rev for message in news[at : at + len(piece)]]
            at += len(piece)
            if len(piece) == 1:
                for subscription in subscriptions:
                    subscription.deliver_change(revs[0], piece[0])
            else:
                wire = b"".join(frame.wire for frame in piece)
                for subscription in subscriptions:
                    subscription.deliver_changes(revs, piece, wire)


def _is_same(message: Message, resent: NewMessage) -> bool:
    return message.is_edited or message.is_deleted or message.content == resent.content
