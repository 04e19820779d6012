"""A feed: the changes of one conversation, delivered to its audience in the order of rev.

Changes come from the room's writer as they are committed, and from other processes over the bus. A gap before one is
read from the store: it was committed without an answer, and its sender gave up before the retry; or the bus has lost
it. The bus closes most gaps by itself, so it has `GAP_WAIT` seconds for that. So a change of the members takes effect
at its own place in the order: what was committed before a user's removal reaches them, and nothing that was committed
after it does.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Final, Protocol
from uuid import UUID

import structlog
import trio

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.metrics import Metrics
from pulse_trio.model import AddMembers, Change, Kind, Member, Message, Post, Properties, highest_rev
from pulse_trio.protocol import Encoded
from pulse_trio.rooms.audience import Audience
from pulse_trio.rooms.catch_up import CatchUp
from pulse_trio.rooms.change_frames import encode_run, kind_of
from pulse_trio.rooms.connection import split
from pulse_trio.rooms.peers import Peers
from pulse_trio.rooms.sentences import Act, act_of
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.rooms.writer import Stored
from pulse_trio.store.base import Head

MAX_DELIVERIES_A_TURN: Final = 1_000  # to subscriptions, before other tasks have their turn: about 5 ms
GAP_WAIT: Final = 0.05  # seconds that the bus has to close a gap; it takes 0.2 to 26 ms
# Changes of other processes that wait for one before them; the store has those beyond it.
MAX_HELD: Final = 1_000

log = structlog.get_logger(__name__)


class Effects(Protocol):
    """The effects of changes on a room, beside the frames that carry them."""

    async def admit_ahead(self, members: Sequence[Member]) -> None:
        """Subscribes the sessions of many users who were added, spread over turns of the loop."""

    def apply_members(self, members: Sequence[Member]) -> None:
        """Subscribes the sessions of users who were added, and ends the subscriptions of users who were removed."""

    def announce_members(
        self, audience: Sequence[Subscription], mask: int, members: Sequence[Member], act: Act | None
    ) -> None:
        """Sends `added` and `removed` to clients that did not ask for members."""

    def announce_properties(
        self, audience: Sequence[Subscription], mask: int, properties: Properties, act: Act | None
    ) -> None:
        """Sends `renamed` to clients that did not ask for the properties."""


class Feed:
    """Delivers the changes of one conversation, each once.

    Args:
        conversation_id: the conversation.
        audience: the subscriptions of the room, which keeps them.
        effects: the room, for what changes do beside being sent.
        catch_up: reads committed changes.
        peers: are told of what is committed here.
        store_timeout: seconds after which a transaction that the store is still at has ended.
        metrics: counts the frames.
        on_rechecked: called when the task that `recheck_later` starts has ended.

    Attributes:
        last_seq: the highest seq delivered.
        last_rev: the highest rev delivered.
        last_revs: the highest rev delivered of each kind.
        known_rev: the highest rev that other processes are known to have committed.
    """

    __slots__ = (
        "_audience",
        "_catch_up",
        "_conversation_id",
        "_delivered",
        "_effects",
        "_fill_at",
        "_has_heard",
        "_held",
        "_is_delivering",
        "_is_filling",
        "_metrics",
        "_nursery",
        "_on_rechecked",
        "_peers",
        "_progress",
        "_recheck_scope",
        "_store_timeout",
        "known_rev",
        "last_rev",
        "last_revs",
        "last_seq",
    )

    def __init__(
        self,
        conversation_id: UUID,
        audience: Audience,
        effects: Effects,
        *,
        catch_up: CatchUp,
        peers: Peers,
        store_timeout: float,
        metrics: Metrics,
        on_rechecked: Callable[[], None],
    ) -> None:
        self.last_seq = 0
        self.last_rev = 0
        self.last_revs: dict[int, int] = {}
        self.known_rev = 0
        self._held: dict[int, tuple[Change, Act | None]] = {}  # changes of other processes that wait for one before
        self._has_heard: trio.Event | None = None  # made by who waits for a change of another process
        self._is_filling = False  # a task delivers what other processes have committed
        self._fill_at = float("inf")  # when it reads what is missing from the store, on Trio's clock
        self._peers = peers
        self._progress: trio.Event | None = None  # made by who waits for a rev
        self._conversation_id = conversation_id
        self._audience = audience
        self._effects = effects
        self._catch_up = catch_up
        self._store_timeout = store_timeout
        self._metrics = metrics
        self._on_rechecked = on_rechecked
        self._nursery: trio.Nursery | None = None
        self._recheck_scope: trio.CancelScope | None = None
        # One delivery at a time, as a large one is spread over turns. A `trio.Lock` would cost each message more.
        self._is_delivering = False
        self._delivered: trio.Event | None = None

    def open(self, head: Head, nursery: trio.Nursery) -> None:
        """Begins after a head of the conversation; `nursery` is the room's."""
        self.last_seq, self.last_rev = head.last_seq, head.last_rev
        self.last_revs = head.last_revs
        self._nursery = nursery
        self._fill()

    def close(self) -> None:
        """Stops the recheck, if one runs."""
        if self._recheck_scope is not None:
            self._recheck_scope.cancel()
        self._catch_up.forget(self._conversation_id)

    @property
    def head(self) -> Head:
        """The end of what was delivered; another feed may begin after it."""
        revs = self.last_revs
        return Head(
            self.last_seq,
            self.last_rev,
            message_rev=revs.get(Kind.MESSAGE, 0),
            members_rev=revs.get(Kind.MEMBER, 0),
            properties_rev=revs.get(Kind.CONVERSATION, 0),
        )

    def _head_before(self, rev: int) -> Head:
        """Returns the head before a change; it may be delivered already, if the answer to its commit was late."""
        head = self.head
        if head.last_rev < rev:
            return head
        revs = (head.last_rev, head.message_rev, head.members_rev, head.properties_rev)
        return Head(head.last_seq, *(min(each, rev - 1) for each in revs))

    @property
    def members_rev(self) -> int:
        """The rev of the latest change of the members that was delivered."""
        return self.last_revs.get(Kind.MEMBER, 0)

    def last_rev_of(self, mask: int) -> int:
        """Returns the highest rev delivered of the kinds of a mask; 0 before `open`."""
        return highest_rev(self.last_revs, mask)

    @property
    def is_rechecking(self) -> bool:
        """True while the task that `recheck_later` starts is running."""
        return self._recheck_scope is not None

    @property
    def is_behind(self) -> bool:
        """True while changes of other processes are to be delivered."""
        return self._is_filling or self.known_rev > self.last_rev

    async def release(self, stored: Sequence[Stored]) -> None:
        """Delivers a committed batch, and reports the outcome to its senders."""
        if self._peers.are_there:
            self._publish_messages(stored)
        news: list[Change] = []  # delivered together, but before anything else is, and before any await
        act: Act | None = None  # of the news
        for submission, changes in sorted(stored, key=_first_rev):
            asked = submission.command
            if isinstance(asked, Post):
                message = changes[0]
                assert isinstance(message, Message)
                if message.id != asked.id and not _is_same(message, asked):
                    error = PulseError(ErrorCode.CLIENT_ID_REUSED, field="client_id")
                    submission.sender.refuse(error, submission.client_id)
                    continue
                # A message that the recheck delivered before its answer came is no resend: its sender has it, too.
                is_own = message.id == asked.id
            else:
                is_own = False
                act = act_of(asked)
                if not changes:  # it found what another one did, whose answer may have been lost
                    await self._deliver_stored()
                elif not isinstance(changes[0], Message):  # it is alone in its batch
                    await self._fill_gap(changes[0].rev - 1)
                    self._peers.publish_changes(changes, self._head_before(changes[0].rev), act)
                    if isinstance(asked, AddMembers):
                        await self._admit_ahead(changes)
            is_news = False
            for change in changes:
                last_rev = news[-1].rev if news else self.last_rev
                if change.rev > last_rev + 1:
                    await self._deliver(news, act)
                    news = []
                    await self._fill_gap(change.rev - 1)
                if change.rev > last_rev:
                    is_news = True
                    news.append(change)
            if not is_news:
                await self._deliver(news, act)
                news = []
            submission.sender.stored(changes, is_news=is_news or is_own)
        await self._deliver(news, act)

    def release_now(self, stored: Sequence[Stored]) -> bool:
        """Does what `release` does with new messages, without waiting; returns False, and does nothing, if it cannot.

        It can if they follow what was delivered, nobody else is delivering, and the audience gets them in one turn.
        """
        if self._is_delivering or len(self._audience) >= MAX_DELIVERIES_A_TURN:
            return False
        news: list[Message] = []
        for rev, (submission, changes) in enumerate(stored, self.last_rev + 1):
            message = changes[0]
            if message.rev != rev or not isinstance(message, Message) or message.id != submission.command.id:
                return False
            news.append(message)
        if self._peers.are_there:
            self._peers.publish_changes(news, self.head, None)
        for submission, changes in stored:
            submission.sender.stored(changes, is_news=True)
        self._catch_up.forget(self._conversation_id)
        for _ in self._deliver_in_turns(news, Kind.MESSAGE, None):
            raise AssertionError("too large an audience for one turn")
        return True

    def hear(self, changes: Sequence[Change], act: Act | None) -> None:
        """Takes changes that another process has committed; they are delivered in the order of rev.

        Those that follow what was delivered are delivered at once. Others wait: the bus may bring what is missing.
        """
        self.known_rev = max(self.known_rev, changes[-1].rev)
        for change in changes:
            if change.rev > self.last_rev and len(self._held) < MAX_HELD:
                self._held[change.rev] = change, act
        if self._has_heard is not None:  # somebody waits, and delivers them
            self._has_heard.set()
        elif self._nursery is not None and not self._is_filling and self.known_rev > self.last_rev:
            is_short = len(changes) == 1 or isinstance(changes[0], Message)
            if is_short and not self._is_delivering and len(self._audience) < MAX_DELIVERIES_A_TURN:
                self._deliver_held_now()
        self._fill()

    async def wait_delivered(self, rev: int) -> None:
        """Returns when everything up to a rev has been delivered, as far as the audience takes it at once."""
        while self.last_rev < rev:
            if self._progress is None:
                self._progress = trio.Event()
            await self._progress.wait()

    def fill_later(self, rev: int, *, wait: float = 0.0) -> None:
        """Starts a task that delivers everything up to a rev that is committed.

        `wait`: seconds that the bus has for it, before it is read from the store.
        """
        self.known_rev = max(self.known_rev, rev)
        self._fill_at = min(self._fill_at, trio.current_time() + wait)
        self._fill()

    def _fill(self) -> None:
        if self.known_rev > self.last_rev and self._nursery is not None and not self._is_filling:
            self._is_filling = True
            self._nursery.start_soon(self._fill_gaps, name=f"gaps of {self._conversation_id}")

    async def _fill_gaps(self) -> None:
        """Delivers what other processes have committed, until everything known is delivered."""
        try:
            while self.known_rev > self.last_rev:
                known_rev = self.known_rev
                if not await self._wait_heard(known_rev, min(self._fill_at, trio.current_time() + GAP_WAIT)):
                    await self._deliver_stored()
                    self._fill_at = float("inf")
                    if self.known_rev == known_rev:
                        self.known_rev = min(known_rev, self.last_rev)  # what was not found belongs to another history
        finally:
            self._is_filling = False
        self._fill_at = float("inf")
        self._on_rechecked()

    async def _wait_heard(self, up_to_rev: int, deadline: float) -> bool:
        """Delivers changes of other processes up to a rev; returns False if the bus has not brought them in time."""
        while True:
            await self._deliver_held()
            if self.last_rev >= up_to_rev:
                return True
            with trio.move_on_at(deadline) as scope:
                if self._has_heard is None:
                    self._has_heard = trio.Event()
                has_heard = self._has_heard
                try:
                    await has_heard.wait()
                finally:
                    if self._has_heard is has_heard:
                        self._has_heard = None
            if scope.cancelled_caught:
                return self.last_rev >= up_to_rev

    async def _deliver_held(self) -> None:
        """Delivers the changes of other processes that follow what was delivered."""
        while found := self._take_held():
            for act, changes in found:
                await self._admit_ahead(changes)
                await self._deliver(changes, act)

    def _deliver_held_now(self) -> None:
        """Does what `_deliver_held` does, in this turn: the audience is small, also with the users that are added."""
        for act, changes in self._take_held():
            self._catch_up.forget(self._conversation_id)
            for kind, run in _runs(changes):
                if kind == Kind.MEMBER:
                    self._effects.apply_members([change for change in run if isinstance(change, Member)])
                for _ in self._deliver_in_turns(run, kind, act):
                    pass  # those who were just added make it a little larger than one turn should be

    def _take_held(self) -> list[tuple[Act | None, list[Change]]]:
        """Takes the changes that follow what was delivered; those of one act are together."""
        if not self._held:
            return []
        for rev in [rev for rev in self._held if rev <= self.last_rev]:
            del self._held[rev]
        found: list[tuple[Act | None, list[Change]]] = []
        rev = self.last_rev + 1
        while (held := self._held.pop(rev, None)) is not None:
            change, act = held
            if not found or found[-1][0] is not act:
                found.append((act, []))
            found[-1][1].append(change)
            rev += 1
        return found

    def _publish_messages(self, stored: Sequence[Stored]) -> None:
        """Publishes the messages of a batch, but no resends: they were published when they were new."""
        messages: list[Change] = []
        for submission, changes in stored:
            asked = submission.command
            found = [change for change in changes if isinstance(change, Message)]
            if not isinstance(asked, Post) or found[0].id == asked.id:
                messages += found
        if messages:
            self._peers.publish_changes(sorted(messages, key=_rev), self.head, None)

    async def _admit_ahead(self, changes: Sequence[Change]) -> None:
        """Prepares the delivery of changes, if many users were added by them: it must not take a long turn."""
        members = [change for change in changes if isinstance(change, Member)]
        if len(members) > 1:
            await self._effects.admit_ahead(members)

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
            await self._deliver_stored(publish=True)
            await trio.sleep(self._store_timeout)
            await self._deliver_stored(publish=True)
        if self._recheck_scope is scope:
            self._recheck_scope = None
            self._on_rechecked()

    async def _deliver_stored(self, *, publish: bool = False) -> None:
        """Delivers everything that the store has; publishes it if it may be a commit of this process."""
        while page := await self._catch_up.read_page(self._conversation_id, self.last_rev):
            if publish:
                self._peers.publish_changes(page, self.head, None)
            await self._admit_ahead(page)
            await self._deliver(page)
        if publish:  # also what a gap has brought before
            self._peers.publish_rev(self._conversation_id, self.last_rev)

    async def _fill_gap(self, up_to_rev: int) -> None:
        """Delivers changes up to a rev, from other processes or the store; the writer releases those after it."""
        if self._peers.are_there and self.last_rev < up_to_rev:
            await self._wait_heard(up_to_rev, trio.current_time() + GAP_WAIT)
        while self.last_rev < up_to_rev:
            page = await self._catch_up.read_page(self._conversation_id, self.last_rev)
            missed = [change for change in page if change.rev <= up_to_rev]
            log.info("a gap was filled", conversation_id=str(self._conversation_id), count=len(missed))
            await self._admit_ahead(missed)
            await self._deliver(missed)
            if not missed:
                return

    async def _deliver(self, changes: Sequence[Change], act: Act | None = None) -> None:
        """Delivers changes in the order of rev, those that were not delivered yet; each takes effect in its place.

        `act`: what they are of, if it is known; then it is of all of them.
        """
        if not changes:
            return
        while self._is_delivering:
            if self._delivered is None:
                self._delivered = trio.Event()
            await self._delivered.wait()
        self._is_delivering = True
        try:
            # `_fill_gap` and `_recheck` may both have read the same changes.
            news = [change for change in changes if change.rev > self.last_rev]
            if news:
                self._catch_up.forget(self._conversation_id)
                await self._deliver_in_order(news, act)
        finally:
            self._is_delivering = False
            if self._delivered is not None:
                self._delivered.set()
                self._delivered = None

    async def _deliver_in_order(self, news: Sequence[Change], act: Act | None) -> None:
        for kind, run in _runs(news):
            if kind == Kind.MEMBER:
                self._effects.apply_members([change for change in run if isinstance(change, Member)])
            await self._deliver_run(run, kind, act)

    async def _deliver_run(self, run: Sequence[Change], kind: int, act: Act | None) -> None:
        """Delivers changes of one kind to the whole audience."""
        for _ in self._deliver_in_turns(run, kind, act):
            # Not cancelled in between: the recheck would leave the rest without the change.
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _deliver_in_turns(self, run: Sequence[Change], kind: int, act: Act | None) -> Iterator[None]:
        """Delivers changes of one kind to the whole audience; yields where other tasks must have their turn."""
        groups = self._audience.snapshot()
        encoded = {mask: encode_run(run, mask, self.last_rev_of(mask)) for mask, _ in groups if mask & kind}
        self.last_rev = self.last_revs[kind] = run[-1].rev
        if self._progress is not None:
            self._progress.set()
            self._progress = None
        if kind == Kind.MESSAGE:
            self.last_seq = max(self.last_seq, *(change.seq for change in run if isinstance(change, Message)))
        for mask, subscriptions in groups:
            for at in range(0, len(subscriptions), MAX_DELIVERIES_A_TURN):
                part = subscriptions[at : at + MAX_DELIVERIES_A_TURN]
                if mask & kind and kind == Kind.MEMBER:
                    self._deliver_members(run[0].rev, *encoded[mask][0], part)
                elif mask & kind:
                    self._deliver_frames(encoded[mask], part)
                else:
                    self._announce(run, mask, part, act)
                if len(part) == MAX_DELIVERIES_A_TURN:
                    yield

    def _deliver_frames(self, encoded: Sequence[tuple[int, Encoded]], subscriptions: Sequence[Subscription]) -> None:
        for _, frame in encoded:
            self._metrics.frames_out[frame.kind] += len(subscriptions)
        for revs, frames in split(encoded):
            if len(frames) == 1:
                for subscription in subscriptions:
                    subscription.deliver_change(revs[0], frames[0])
            else:
                wire = b"".join(frame.wire for frame in frames)
                for subscription in subscriptions:
                    subscription.deliver_changes(revs, frames, wire)

    def _deliver_members(self, first_rev: int, rev: int, frame: Encoded, subscriptions: Sequence[Subscription]) -> None:
        self._metrics.frames_out[frame.kind] += len(subscriptions)
        for subscription in subscriptions:
            subscription.deliver_merged(first_rev, rev, frame)

    def _announce(
        self, run: Sequence[Change], mask: int, subscriptions: Sequence[Subscription], act: Act | None
    ) -> None:
        """Sends changes as `system` frames, to clients that did not ask for their kind."""
        members = [change for change in run if isinstance(change, Member)]
        if members:
            self._effects.announce_members(subscriptions, mask, members, act)
        for change in run:
            if isinstance(change, Properties):
                self._effects.announce_properties(subscriptions, mask, change, act)


def _runs(changes: Sequence[Change]) -> list[tuple[int, list[Change]]]:
    """Returns the changes of one kind that follow each other, with the kind."""
    return [(kind, list(run)) for kind, run in groupby(changes, key=kind_of)]


def _rev(change: Change) -> int:
    return change.rev


def _first_rev(stored: Stored) -> int:
    changes = stored[1]
    return changes[0].rev if changes else 0


def _is_same(message: Message, resent: Post) -> bool:
    return message.is_edited or message.is_deleted or message.content == resent.content
