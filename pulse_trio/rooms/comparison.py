"""Comparison with the store: finds what was committed, and was not heard of.

The bus may lose what it carries. Nothing later shows that the last change of a conversation was lost, or that a user
was added to one. So heads are compared with what was delivered, and memberships with what is indexed: all of them when
something may have been lost, and now and then; one where something was heard that cannot be right without it.
"""

import random
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import structlog
import trio

from pulse_trio.rooms.cluster_counters import ClusterCounters
from pulse_trio.rooms.conversation_index import ConversationIndex, pieces_of
from pulse_trio.rooms.feed import GAP_WAIT
from pulse_trio.rooms.member_updates import MemberUpdates
from pulse_trio.rooms.peers import Peers
from pulse_trio.rooms.registry import Rooms
from pulse_trio.rooms.room import Room
from pulse_trio.rooms.rooms_behind import RoomsBehind
from pulse_trio.rooms.session import Sessions
from pulse_trio.rooms.time_limit import in_time
from pulse_trio.rooms.user_feeds import UserFeeds
from pulse_trio.store.base import Head, NotAMember, Store, StoreUnavailable

MAX_COMPARED: Final = 1_000  # heads of one statement: about 10 ms of the database
SWEEP: Final = 30.0  # seconds between two comparisons that nobody asked for, at least
SWEPT_A_SECOND: Final = 1_000  # conversations that those comparisons read at most: 1 % of a core of the database

log = structlog.get_logger(__name__)


class Comparison:
    """Compares what this process knows with the store.

    Args:
        peers: the other processes, as the rooms see them: indexes what is found.
        store: the store.
        sessions: the sessions of this process.
        index: which of its users are in which conversations.
        rooms: its rooms.
        behind: lets conversations catch up that are behind.
        members: its additions and removals.
        user_feeds: the own sequences of its users.
        counters: figures for metrics.
        timeout: seconds that one read may take.
        rand: gives the jitter of retries.
    """

    def __init__(
        self,
        peers: Peers,
        store: Store,
        sessions: Sessions,
        index: ConversationIndex,
        rooms: Rooms,
        behind: RoomsBehind,
        members: MemberUpdates,
        user_feeds: UserFeeds,
        counters: ClusterCounters,
        *,
        timeout: float,
        rand: random.Random,
    ) -> None:
        self._peers = peers
        self._store = store
        self._sessions = sessions
        self._index = index
        self._rooms = rooms
        self._behind = behind
        self._members = members
        self._user_feeds = user_feeds
        self._counters = counters
        self._timeout = timeout
        self._random = rand
        self._to_compare: dict[UUID, None] = {}  # conversations whose head must be looked at
        self._to_check: dict[tuple[UUID, UUID], None] = {}  # conversation, user: they may have been added
        self._to_compare_users: dict[UUID, None] = {}  # users whose list must be looked at
        self._missed_comparison: set[UUID] = set()  # users whose list was being looked up during one
        self._must_compare_all = False
        self._has_work = trio.Event()

    def compare_all_soon(self) -> None:
        """Compares all heads and memberships: something may have been lost."""
        self._must_compare_all = True
        self._has_work.set()

    def compare_soon(self, conversation_id: UUID) -> None:
        """Compares one head: changes of it may have been heard and dropped."""
        self._to_compare[conversation_id] = None
        self._has_work.set()

    def check_soon(self, conversation_id: UUID, user_id: UUID) -> None:
        """Asks the store whether a user here is a member, if the index does not have them."""
        if not self._index.has(conversation_id, user_id):
            self._to_check[conversation_id, user_id] = None
            self._has_work.set()

    def check_user(self, user_id: UUID) -> None:
        """Compares the memberships of a user soon."""
        self._to_compare_users[user_id] = None
        self._has_work.set()

    def user_indexed(self, user_id: UUID) -> None:
        """Compares the memberships of a user whose list was being looked up during a comparison."""
        if user_id in self._missed_comparison:
            self._missed_comparison.discard(user_id)
            self.check_user(user_id)

    def forget_user(self, user_id: UUID) -> None:
        """Forgets a user whose last session here has ended."""
        self._missed_comparison.discard(user_id)

    async def run(self) -> None:
        """Compares heads when that was asked for, and now and then; until cancelled."""
        while True:
            pause = max(SWEEP, len(self._index) / SWEPT_A_SECOND)
            with trio.move_on_after(pause) as scope:
                await self._has_work.wait()
            self._has_work = trio.Event()
            self._must_compare_all |= scope.cancelled_caught
            try:
                await self._do_work()
            except (StoreUnavailable, NotAMember) as error:
                log.warning("heads not compared yet", reason=str(error))
                await trio.sleep(self._random.uniform(0.5, 1.5))
                self._has_work.set()

    async def _do_work(self) -> None:
        """Makes the comparisons that were asked for.

        Raises:
            StoreUnavailable, NotAMember: the store did not answer; what is left is tried again.
        """
        some, self._to_compare = list(self._to_compare), {}
        is_all, self._must_compare_all = self._must_compare_all, False
        try:
            await self._compare(some)
            if is_all:
                await self._compare_indexed()
                await self._compare([each for each in self._rooms.open_ids() if each not in self._index])
                await self._compare_users()
        except BaseException:
            self._to_compare |= dict.fromkeys(some)
            self._must_compare_all |= is_all
            raise
        while self._to_check:
            key = conversation_id, user_id = next(iter(self._to_check))
            await self.index_missing(user_id, [conversation_id])
            self._to_check.pop(key, None)
        while self._to_compare_users:
            user_id = next(iter(self._to_compare_users))
            await self._compare_memberships(user_id)
            self._to_compare_users.pop(user_id, None)

    async def _compare(self, conversation_ids: list[UUID]) -> None:
        """Compares heads with what was delivered, and lets those catch up that are behind.

        Raises:
            StoreUnavailable: they could not be read.
        """
        for piece in pieces_of(conversation_ids, MAX_COMPARED):
            with in_time(self._timeout, "the heads"):
                heads = await self._store.heads(piece)
            for conversation_id, head in heads.items():
                self._counters.found_behind += head.last_rev > self._behind.delivered_rev(conversation_id)
                self._behind.come_to(conversation_id, head.last_rev)

    async def _compare_indexed(self) -> None:
        """Compares the heads of all conversations in the index.

        Raises:
            StoreUnavailable: they could not be read.
        """
        for conversation_ids in self._index.pieces(MAX_COMPARED):
            await self._compare(conversation_ids)

    async def _compare_users(self) -> None:
        """Finds users here whose own sequence has gone on, and compares their memberships.

        Raises:
            StoreUnavailable: they could not be read.
        """
        for piece in pieces_of(self._index.user_ids, MAX_COMPARED):
            with in_time(self._timeout, "the heads"):
                revs = await self._store.user_revs(piece)
            for user_id, user_rev in revs.items():
                known = self._index.rev_of(user_id)
                if known == -1:
                    self._missed_comparison.add(user_id)
                elif known is not None and known < user_rev:
                    await self._compare_memberships(user_id)

    async def _compare_memberships(self, user_id: UUID) -> None:
        """Finds the conversations that a user was added to or removed from without being heard of.

        Raises:
            StoreUnavailable: they could not be read.
        """
        after: UUID | None = None
        user_rev: int | None = None
        found: dict[UUID, Head] = {}
        while True:
            with in_time(self._timeout, "the heads"):
                page = await self._store.memberships(user_id, limit=MAX_COMPARED, after=after)
            user_rev = page.user_rev if user_rev is None else user_rev
            found |= page.heads
            if len(page.heads) < MAX_COMPARED:
                break
            after = max(page.heads)
        for conversation_id, head in found.items():
            is_missing = not self._index.has(conversation_id, user_id)
            if is_missing and not await self._add_missed(conversation_id, user_id, head):
                await self.index_missing(user_id, [conversation_id])
        gone = [each for each in self._index.conversations_of(user_id) if each not in found]
        await self._compare(gone)
        await trio.lowlevel.checkpoint_if_cancelled()
        self._user_feeds.read(user_id)
        self._index.set_rev(user_id, user_rev)

    async def index_missing(self, user_id: UUID, conversation_ids: Sequence[UUID]) -> None:
        """Indexes conversations of a user that are not indexed for them; leaves out those that they have left again.

        Raises:
            StoreUnavailable, NotAMember: they could not be looked up.
        Cancelled: some are indexed.
        """
        while missing := [each for each in conversation_ids if not self._index.has(each, user_id)]:
            with in_time(self._timeout, "the heads"):
                heads = (await self._store.memberships(user_id, missing)).heads
            stale = [each for each, head in heads.items() if not await self._add_missed(each, user_id, head)]
            if not stale or not self._sessions.of(user_id):
                return
            conversation_ids = stale

    async def _add_missed(self, conversation_id: UUID, user_id: UUID, head: Head) -> bool:
        """Adds a user to a conversation whose addition was not heard of, as of a head.

        Returns False if they may have been removed since that head.

        Raises:
            StoreUnavailable, NotAMember: its room could not be opened.
        """
        if self._rooms.get(conversation_id) is None:
            return self._add_now(conversation_id, user_id, head, None)
        async with self._rooms.opened(conversation_id, None) as room:
            return self._add_now(conversation_id, user_id, head, room)

    def _add_now(self, conversation_id: UUID, user_id: UUID, head: Head, room: Room | None) -> bool:
        """Does what `_add_missed` does; the room is open, or there is none."""
        sessions = self._sessions.of(user_id)
        if not sessions or self._index.has(conversation_id, user_id):
            return True
        members_rev = 0 if room is None else room.feed.members_rev
        if head.members_rev < max(members_rev, self._peers.members_rev_of(conversation_id)):
            return False
        self._members.forget_refusals(conversation_id)
        if room is None:
            self._peers.index(sessions[0], conversation_id, head)
            sessions[0].notify_added(conversation_id)
            return True
        self._index.add(conversation_id, user_id, room.feed.head)
        for session in sessions:
            room.attach(session, head.members_rev, is_news=True)
        room.feed.fill_later(head.last_rev, wait=GAP_WAIT)
        return True
