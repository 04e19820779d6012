"""Memberships outside of rooms: looked up for sessions, and notified where no room is open yet."""

import random
from collections.abc import Sequence
from typing import Final
from uuid import UUID

import structlog
import trio

from pulse_trio.buckets import Buckets
from pulse_trio.errors import PulseError, too_many
from pulse_trio.model import MyMembership
from pulse_trio.rooms.backoff import Backoff
from pulse_trio.rooms.peers import Peers
from pulse_trio.rooms.refusals import Refusals
from pulse_trio.rooms.registry import Rooms
from pulse_trio.rooms.session import Session, Sessions
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.rooms.turns import MAX_USERS_A_TURN, Turns
from pulse_trio.rooms.user_feeds import UserFeeds
from pulse_trio.rooms.writer import not_a_member, not_stored
from pulse_trio.settings import Settings
from pulse_trio.store.base import Head, Members, NotAMember, Store, StoreUnavailable

MAX_LOOK_UPS: Final = 4  # for sessions at a time: messages of other users must find a connection to the database
MAX_LOOK_UPS_OF_USER: Final = 1  # at a time, over all sessions: others wait for one of theirs, not for all
CREATED: Final = Head(last_seq=0, last_rev=0)  # of a conversation that was just created
MAX_RECHECKS: Final = 64  # creations with a lost answer that are looked up at a time; others must be sent again

log = structlog.get_logger(__name__)


class ForeignConversation(PulseError):
    """The answer to a frame about a conversation that its sender is no member of.

    Args:
        was_looked_up: True if the store was asked, False if the answer was remembered.
    """

    def __init__(self, *, was_looked_up: bool) -> None:
        error = not_a_member()
        super().__init__(error.code, error.message)
        self.was_looked_up = was_looked_up


class MemberUpdates:
    """Looks up memberships, and notifies the members of conversations that were created.

    Args:
        store: knows the members.
        rooms: the rooms in memory.
        sessions: the sessions of this process.
        user_feeds: are sent what changes for a user alone.
        peers: the other processes.
        refusals: those who are no members, as recent look-ups found.
        settings: the limits.
        rand: gives the jitter of retries.
    """

    def __init__(
        self,
        store: Store,
        rooms: Rooms,
        sessions: Sessions,
        user_feeds: UserFeeds,
        peers: Peers,
        refusals: Refusals,
        settings: Settings,
        *,
        rand: random.Random,
    ) -> None:
        self._store = store
        self._rooms = rooms
        self._sessions = sessions
        self._user_feeds = user_feeds
        self._peers = peers
        self._timeout = settings.store_timeout
        self._random = rand
        self._refusals = refusals
        self._look_ups = trio.Semaphore(MAX_LOOK_UPS)
        self._turns = Turns(MAX_LOOK_UPS_OF_USER)
        # Look-ups that found no member. A session whose client has gone learns of that after the frames that it has
        # received: a few sessions full of such frames would go on for a minute.
        self._foreign = Buckets(settings.foreign_look_ups_per_second, settings.foreign_look_ups_burst)
        self._rechecks = 0

    async def notify_created(
        self, conversation_id: UUID, member_ids: Sequence[UUID], memberships: Sequence[MyMembership]
    ) -> None:
        """Notifies the sessions of the members of a new conversation, in all processes; spread over turns of the loop.

        Args:
            conversation_id: the conversation.
            member_ids: its members.
            memberships: what the creation changed for each of them; those that are missing are read from the store.

        Cancelled: between two turns.
        """
        self._peers.publish_created(conversation_id, member_ids, memberships)
        await self.notify_here(conversation_id, member_ids, memberships)

    async def notify_here(
        self, conversation_id: UUID, member_ids: Sequence[UUID], memberships: Sequence[MyMembership]
    ) -> None:
        """Does what `notify_created` does, in this process."""
        self._refusals.forget(conversation_id)
        known = {membership.user_id: membership for membership in memberships}
        for at in range(0, len(member_ids), MAX_USERS_A_TURN):
            if at:
                await trio.lowlevel.checkpoint()
            for user_id in member_ids[at : at + MAX_USERS_A_TURN]:
                sessions = self._sessions.of(user_id)
                if sessions and self._peers.members_rev_of(conversation_id):
                    self._peers.check_user(user_id)  # the members have changed since, and the user may be removed
                    continue
                if sessions:
                    user_rev = known[user_id].user_rev if user_id in known else 0
                    self._peers.member_added(conversation_id, user_id, user_rev, CREATED)
                for session in sessions:
                    session.notify_added(conversation_id)
                if user_id in known:
                    self._user_feeds.apply(known[user_id])
                else:
                    self._user_feeds.read(user_id)

    def forget_refusals(self, conversation_id: UUID) -> None:
        """Forgets who was refused in a conversation: another process has added users to it."""
        self._refusals.forget(conversation_id)

    def recheck_creation(self, conversation_id: UUID, member_ids: Sequence[UUID]) -> None:
        """Starts a task that looks up whether a creation with a lost answer was committed, and notifies if so.

        At most `MAX_RECHECKS` run at a time; a creation beyond that is found when its members load their lists.
        """
        if self._rechecks >= MAX_RECHECKS:
            log.warning("too many creations to recheck", conversation_id=str(conversation_id))
            return
        self._rechecks += 1
        name = f"recheck creation of {conversation_id}"
        self._rooms.nursery.start_soon(self._recheck, conversation_id, member_ids, name=name)

    async def _recheck(self, conversation_id: UUID, member_ids: Sequence[UUID]) -> None:
        try:
            for _ in range(2):  # now, and when the transactions that the database is still at have ended
                members = await self._look_up_members(conversation_id)
                if members.ids:
                    await self.notify_created(conversation_id, member_ids, ())
                    return
                await trio.sleep(self._timeout)
        except Exception:
            log.exception("recheck of a creation failed", conversation_id=str(conversation_id))
        finally:
            self._rechecks -= 1

    async def find_subscription(self, session: Session, conversation_id: UUID) -> Subscription:
        """Returns a session's subscription to a conversation, for a frame that its client sends there.

        If the session has none yet, the store is asked whether its user is a member: no room opens for a
        conversation of others. All sessions of a user have `MAX_LOOK_UPS_OF_USER` look-ups at a time, those of all
        users together `MAX_LOOK_UPS`. A refusal is remembered for a second.

        Raises:
            ForeignConversation: the user is not a member.
            PulseError: too many look-ups found that, or it could not be looked up in time.
        Cancelled: nothing has happened.
        """
        while (subscription := session.subscriptions.get(conversation_id)) is None:
            member_rev, was_looked_up = await self._look_up_membership(conversation_id, session.user.id)
            if conversation_id in session.subscriptions:
                continue  # added while the answer was on its way
            if member_rev is None:
                raise ForeignConversation(was_looked_up=was_looked_up)
            room = self._rooms.get(conversation_id)
            if self._peers.are_there and session.connection.is_open:
                await self._attach_early(session, conversation_id, member_rev)
                continue
            if room is None or not room.opened.is_set() or not session.connection.is_open:
                return session.subscription(conversation_id)
            # A session outside of an open room: its user was added, and the room has not heard of it yet.
            if member_rev >= room.feed.members_rev:
                room.attach(session, member_rev, is_news=True)
        return subscription

    async def _attach_early(self, session: Session, conversation_id: UUID, member_rev: int) -> None:
        """Subscribes a session whose user was added by another process, before the bus has said so.

        Raises:
            PulseError: the room could not be opened.
        """
        try:
            async with self._rooms.opened(conversation_id, session.user.id) as room:
                members_rev = max(room.feed.members_rev, self._peers.members_rev_of(conversation_id))
                if member_rev >= members_rev and session in self._sessions:
                    self._peers.member_added(conversation_id, session.user.id, 0, room.feed.head)
                    room.attach(session, member_rev, is_news=True)
        except (StoreUnavailable, NotAMember):
            raise not_stored() from None

    async def _look_up_membership(self, conversation_id: UUID, user_id: UUID) -> tuple[int | None, bool]:
        """Asks `Store.membership`, again and again for as long as a message may wait.

        Returns its answer, and True; or None, and False, if a refusal is remembered.

        Raises:
            PulseError: too many look-ups found no member, or the store did not answer in time.
        """
        backoff = Backoff(self._random)
        with trio.move_on_after(self._timeout):
            while True:
                if self._needs_no_look_up(conversation_id, user_id):
                    return None, False
                try:
                    async with self._turns.turn(user_id), self._look_ups:
                        if self._needs_no_look_up(conversation_id, user_id):  # by what another session found meanwhile
                            return None, False
                        with self._refusals.look_up(conversation_id) as look_up:
                            member_rev = await self._store.membership(conversation_id, user_id)
                            if member_rev is None:
                                self._foreign.take(str(user_id))
                                self._refusals.remember(conversation_id, user_id, look_up)
                        return member_rev, True
                except StoreUnavailable:
                    await backoff.wait()
        raise not_stored()

    async def _look_up_members(self, conversation_id: UUID) -> Members:
        """Asks `Store.members`, until the store answers."""
        backoff = Backoff(self._random)
        while True:
            try:
                with trio.fail_after(self._timeout):
                    return await self._store.members(conversation_id)
            except (StoreUnavailable, trio.TooSlowError):
                await backoff.wait()

    def _needs_no_look_up(self, conversation_id: UUID, user_id: UUID) -> bool:
        """True if the user is known to be no member. Raises PulseError if too many look-ups found that."""
        if self._refusals.is_refused(conversation_id, user_id):
            return True
        key = str(user_id)
        if not self._foreign.has(key):
            raise too_many("frames about conversations that you are not a member of", self._foreign.wait(key))
        return False
