"""Each user's own sequence, delivered to their sessions that ask for it (the feature `me`).

It numbers the changes of the user's memberships: they were added, removed, or their read position moved, on any of
their devices. Changes come from rooms and from read positions, in any order; they are delivered in the order of
`user_rev`, and a gap is read from the store, where each membership is found once, as it now is.
"""

import random
from collections.abc import Sized
from typing import Final
from uuid import UUID

import structlog
import trio

from pulse_trio.model import Member, MyMembership
from pulse_trio.protocol import CloseCode, Encoded, MembershipFrame, encode
from pulse_trio.rooms.backoff import Backoff
from pulse_trio.rooms.peers import Peers
from pulse_trio.rooms.session import MyPlace, Session
from pulse_trio.rooms.turns import Turns
from pulse_trio.store.base import NotAMember, Store, StoreUnavailable

PAGE_CHANGES: Final = 256  # read at a time: about 40 KB of frames
MAX_READS: Final = 4  # at a time: messages must find a connection to the database
MAX_READS_OF_USER: Final = 2  # at a time: the sessions of one user, however many, do not delay those of others

log = structlog.get_logger(__name__)


class _Feed:
    """The sequence of one user.

    Attributes:
        last_rev: the highest `user_rev` delivered; None until it is looked up.
        known_rev: the highest one that is known to be committed.
        must_read: something is committed whose number is not known.
        is_reading: a task reads what follows `last_rev`.
        followers: sessions that ask for it.
    """

    __slots__ = ("followers", "is_reading", "known_rev", "last_rev", "must_read")

    def __init__(self) -> None:
        self.last_rev: int | None = None
        self.known_rev = 0
        self.must_read = False
        self.is_reading = False
        self.followers: dict[Session, None] = {}


class UserFeeds:
    """The sequences of users that have sessions with the feature `me`.

    Args:
        store: the store.
        peers: the other processes.
        timeout: seconds that one read may take.
        rand: gives the jitter of retries.
    """

    def __init__(self, store: Store, peers: Peers, *, timeout: float, rand: random.Random) -> None:
        self._store = store
        self._peers = peers
        self._timeout = timeout
        self._random = rand
        self._feeds: dict[UUID, _Feed] = {}
        self._reads = trio.Semaphore(MAX_READS)
        self._turns = Turns(MAX_READS_OF_USER)
        self._nursery: trio.Nursery | None = None

    def __len__(self) -> int:
        return len(self._feeds)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs the tasks that read gaps, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def follow(self, session: Session) -> None:
        """Notes for a session what changes from now on, until `end`; then its `user_rev` is looked up."""
        self._feeds.setdefault(session.user.id, _Feed()).followers[session] = None

    def begin(self, session: Session, user_rev: int) -> None:
        """Delivers to a session that is followed what comes after `user_rev`, once it has started."""
        user_id = session.user.id
        feed = self._feeds[user_id]
        if feed.last_rev is None:
            feed.last_rev = user_rev
        session.me.cursor = user_rev
        session.me.target = max(user_rev, feed.last_rev)
        session.me.catch_up_later = lambda: session.connection.run_later(lambda: self._send_page(session))
        self._note(user_id, feed, user_rev)

    def resume(self, session: Session, user_rev: int) -> None:
        """Sets a session that is followed back to the last change that its client has; only before it starts."""
        session.me.target = max(session.me.target, session.me.cursor)
        session.me.cursor = user_rev

    def last_rev(self, user_id: UUID) -> int:
        """Returns the highest `user_rev` known of a user with sessions that ask for it; 0 for others."""
        feed = self._feeds.get(user_id)
        return 0 if feed is None else feed.known_rev

    def end(self, session: Session) -> None:
        """Forgets a session that has ended, or does not ask for it any more."""
        session.me = MyPlace()
        feed = self._feeds.get(session.user.id)
        if feed is not None:
            feed.followers.pop(session, None)
            if not feed.followers:
                del self._feeds[session.user.id]

    def apply_member(self, member: Member, read_seq: int) -> None:
        """Delivers the addition or removal of a user to their own sessions.

        `read_seq`: the read position with which users are added as of this change.
        """
        feed = self._feeds.get(member.user_id)
        if feed is None:
            return
        if member.user_rev:
            position = read_seq if member.is_member else 0
            change = MyMembership(member.conversation_id, member.user_id, member.user_rev, member.is_member, position)
            self.apply(change)
        else:
            self.read(member.user_id)

    def apply(self, change: MyMembership) -> None:
        """Delivers a change of a user's membership to their own sessions, after those before it."""
        feed = self._feeds.get(change.user_id)
        if feed is None:
            return
        if feed.last_rev is not None and change.user_rev == feed.last_rev + 1 and not feed.is_reading:
            self._deliver(feed, feed.last_rev, change)
        self._note(change.user_id, feed, change.user_rev)

    def read(self, user_id: UUID) -> None:
        """Reads what has changed for a user, if they have sessions that ask for it; the numbers are not known."""
        feed = self._feeds.get(user_id)
        if feed is not None:
            feed.must_read = True
            self._note(user_id, feed, 0)

    def _note(self, user_id: UUID, feed: _Feed, user_rev: int) -> None:
        """Records that changes up to `user_rev` are committed; starts to read those that were not delivered."""
        feed.known_rev = max(feed.known_rev, user_rev)
        if feed.last_rev is None or feed.is_reading:
            return
        if feed.must_read or feed.known_rev > feed.last_rev:
            assert self._nursery is not None
            feed.is_reading = True
            self._nursery.start_soon(self._read, user_id, feed, name=f"memberships of {user_id}")

    async def _read(self, user_id: UUID, feed: _Feed) -> None:
        """Reads and delivers what follows `last_rev`, until everything known is delivered.

        A fault ends the sessions that ask for it: they reconnect, and resume after what they have.
        """
        try:
            while feed.followers and feed.last_rev is not None:
                if not feed.must_read and feed.known_rev <= feed.last_rev:
                    return
                feed.must_read = False
                known_rev = feed.known_rev
                page = await self._read_page(user_id, feed.last_rev, feed.followers)
                for change in page:
                    if change.user_rev > feed.last_rev:
                        self._deliver(feed, feed.last_rev, change)
                if len(page) < PAGE_CHANGES and feed.known_rev == known_rev:
                    feed.known_rev = feed.last_rev  # what was not found has gone with its conversation
        except Exception:
            log.exception("memberships could not be read", user_id=str(user_id))
            for session in list(feed.followers):
                session.connection.close(CloseCode.INTERNAL_ERROR, "your memberships could not be read; reconnect")
        finally:
            feed.is_reading = False

    async def _read_page(self, user_id: UUID, after_rev: int, readers: Sized) -> list[MyMembership]:
        """Reads the next page; retries until the store answers, or none of its readers is left."""
        backoff = Backoff(self._random)
        while readers:
            try:
                async with self._turns.turn(user_id), self._reads:
                    with trio.fail_after(self._timeout):
                        page = await self._store.user_changes(user_id, after_rev=after_rev, limit=PAGE_CHANGES)
                if self._peers.are_there:
                    added = [change.conversation_id for change in page if change.is_member]
                    await self._peers.index_missing(user_id, added)
                return page
            except (StoreUnavailable, NotAMember, trio.TooSlowError):
                await backoff.wait()
        return []

    def _deliver(self, feed: _Feed, last_rev: int, change: MyMembership) -> None:
        """Delivers a change that comes after `last_rev`."""
        frame = _encode(change, last_rev)
        feed.last_rev = change.user_rev
        feed.known_rev = max(feed.known_rev, change.user_rev)
        for session in list(feed.followers):
            if not session.me.is_live:
                session.me.target = max(session.me.target, change.user_rev)
            elif change.user_rev > session.me.cursor:
                _advance(session, change)
                session.connection.deliver(frame)

    async def _send_page(self, session: Session) -> None:
        """Sends a session the next page of missed changes; makes it live if that was the last page.

        Between the last page and `is_live` there is no await, so the client misses none and gets none twice.
        """
        me = session.me
        as_of = me.target
        page = await self._read_page(session.user.id, me.cursor, (session,))
        frames = []
        for change in page:
            frames.append(_encode(change, me.cursor))
            _advance(session, change)
        if frames:
            await session.connection.send_now(frames)
        if len(page) < PAGE_CHANGES and me.target <= max(me.cursor, as_of):
            me.is_live = True  # what was not found has gone with its conversation
        else:
            me.catch_up_later()


def _advance(session: Session, change: MyMembership) -> None:
    """Records that a change is sent to a client."""
    session.me.cursor = change.user_rev
    if not change.is_member:
        session.ended_subscriptions.pop(change.conversation_id, None)


def _encode(change: MyMembership, prev_rev: int) -> Encoded:
    return encode(
        MembershipFrame(
            conversation_id=change.conversation_id,
            is_member=change.is_member,
            read_seq=change.read_seq,
            me_rev=change.user_rev,
            prev_me_rev=prev_rev,
        )
    )
