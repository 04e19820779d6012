"""Changes of members, applied to rooms, sessions and watches; and memberships, looked up for sessions."""

import random
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Final
from uuid import UUID

import structlog
import trio

from pulse_trio.errors import PulseError
from pulse_trio.protocol import CloseCode
from pulse_trio.rooms.backoff import Backoff
from pulse_trio.rooms.lobby import Lobby
from pulse_trio.rooms.membership import MembershipChanges, PendingJoin
from pulse_trio.rooms.registry import Rooms
from pulse_trio.rooms.session import Session, Sessions
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.rooms.watches import Watches
from pulse_trio.rooms.writer import not_a_member, not_stored
from pulse_trio.store.base import Members, Store, StoreUnavailable

MAX_LOOK_UPS: Final = 4  # for sessions at a time: messages of other users must find a connection to the database
MAX_USERS_A_TURN: Final = 50  # are added before other tasks have their turn: a few milliseconds
MAX_RECHECKS: Final = 64  # changes with a lost answer that are looked up at a time; others must be sent again

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
    """Applies changes of members, each when the store has answered.

    Args:
        store: knows the members.
        rooms: the rooms in memory.
        sessions: the sessions of this process.
        changes: the changes in progress.
        lobby: closes sessions.
        watches: must be checked again after a removal.
        timeout: seconds that one look-up may take.
        rand: gives the jitter of retries.
    """

    def __init__(
        self,
        store: Store,
        rooms: Rooms,
        sessions: Sessions,
        changes: MembershipChanges,
        lobby: Lobby,
        watches: Watches,
        *,
        timeout: float,
        rand: random.Random,
    ) -> None:
        self._store = store
        self._rooms = rooms
        self._sessions = sessions
        self._changes = changes
        self._lobby = lobby
        self._watches = watches
        self._timeout = timeout
        self._random = rand
        self._look_ups = trio.Semaphore(MAX_LOOK_UPS)
        self._rechecks = 0

    def pending_join(self, conversation_id: UUID, user_id: UUID) -> PendingJoin:
        """Collects changes of a user's membership while their connection is set up; a context manager."""
        return self._changes.pending_join(conversation_id, user_id)

    def changing(self, conversation_id: UUID, adding: Sequence[UUID] = ()) -> AbstractContextManager[None]:
        """Wraps a change of members, from before the store is asked until `add_users` or `remove_user` has its answer.

        Of changes that overlap, the one that was committed later wins, whichever answer comes first. A room that
        opens meanwhile and finds users of `adding` to be members notifies their sessions.
        """
        return self._changes.in_progress(conversation_id, adding)

    async def add_users(
        self, conversation_id: UUID, user_ids: Sequence[UUID], version: int, *, newcomers: Collection[UUID] = ()
    ) -> list[UUID]:
        """Subscribes the sessions of users who are members as of a version, and notifies those that were not.

        It may be repeated, and is spread over turns of the loop. Returns the users without a known later change.
        Cancelled: between two turns.

        Args:
            conversation_id: the conversation.
            user_ids: the users.
            version: of the members.
            newcomers: users who were no members before. An earlier removal may not have its answer yet, so their
                clients may not know of it.
        """
        current: list[UUID] = []
        for at in range(0, len(user_ids), MAX_USERS_A_TURN):
            if at:
                await trio.lowlevel.checkpoint()
            part = user_ids[at : at + MAX_USERS_A_TURN]
            current += self._add_users_now(conversation_id, part, version, newcomers, many=len(user_ids) > 1)
        return current

    def _add_users_now(
        self, conversation_id: UUID, user_ids: Sequence[UUID], version: int, newcomers: Collection[UUID], *, many: bool
    ) -> list[UUID]:
        room = self._rooms.get(conversation_id)
        is_open = room is not None and room.opened.is_set()  # then sessions outside have missed what it sent
        current = []
        for user_id in user_ids:
            if not self._changes.record_change(conversation_id, user_id, version, is_member=True):
                continue
            current.append(user_id)
            for session in self._sessions.of(user_id):
                if room is None or room.subscription_of(session.connection.transport) is None:
                    session.added(conversation_id, version, is_news=is_open or user_id in newcomers)
        if room is not None:
            room.add_members(current, version, many=many)
        return current

    def remove_user(self, conversation_id: UUID, user_id: UUID, version: int, reason: str) -> bool:
        """Closes the connections of a user who is no member as of a version, and notifies their sessions.

        When this returns True nothing of the conversation is delivered to the user any more. False: they were added
        again later.
        """
        if not self._changes.record_change(conversation_id, user_id, version, is_member=False):
            return False
        room = self._rooms.get(conversation_id)
        if room is not None:
            room.remove_member(user_id, version)
            room.close_user(user_id, CloseCode.REMOVED, reason)
        for session in self._sessions.of(user_id):
            subscription = session.removed(conversation_id, version)
            if room is not None and subscription is not None:
                room.leave(subscription)
        self._watches.recheck_user(user_id, (session.connection for session in self._sessions.of(user_id)))
        return True

    def reconnect_user(self, conversation_id: UUID, user_id: UUID) -> None:
        """Closes a user's connections when the outcome of their removal is unknown.

        When they reconnect, their membership is looked up again.
        """
        self._changes.mark_uncertain(conversation_id, user_id)
        room = self._rooms.get(conversation_id)
        reason = "the membership is in doubt; reconnect"
        if room is not None:
            room.recheck_members()
            room.close_user(user_id, CloseCode.INTERNAL_ERROR, reason)
        for session in self._sessions.of(user_id):
            session.connection.close(CloseCode.INTERNAL_ERROR, reason)
            self._lobby.close(session)
        self._watches.recheck_user(user_id, ())

    def recheck_later(self, conversation_id: UUID, *, added: Sequence[UUID] = (), removed: Sequence[UUID] = ()) -> None:
        """Starts a task that looks up whether a change with a lost answer was committed, and applies it if so.

        At most `MAX_RECHECKS` run at a time; a change beyond that takes effect when its client sends it again.
        """
        if self._rechecks >= MAX_RECHECKS:
            log.warning("too many changes of members to recheck", conversation_id=str(conversation_id))
            return
        self._rechecks += 1
        change = ExitStack()
        change.enter_context(self.changing(conversation_id, added))  # at once: no other change may come in between
        name = f"recheck members of {conversation_id}"
        self._rooms.nursery.start_soon(self._recheck, change, conversation_id, added, removed, name=name)

    async def _recheck(
        self, change: ExitStack, conversation_id: UUID, added: Sequence[UUID], removed: Sequence[UUID]
    ) -> None:
        try:
            with change:
                is_announced = False
                for newcomers in (added, ()):  # now, and when the transactions that the database is still at have ended
                    members = await self._look_up_members(conversation_id)
                    known = set(members.ids)
                    present = [user_id for user_id in added if user_id in known]
                    present = await self.add_users(conversation_id, present, members.version, newcomers=newcomers)
                    gone = [
                        user_id
                        for user_id in removed
                        if user_id not in known
                        and self.remove_user(conversation_id, user_id, members.version, "removed from the conversation")
                    ]
                    if present and not is_announced:
                        self._rooms.announce(conversation_id, "added", "Users were added", present[0], present)
                    if gone and not is_announced:
                        self._rooms.announce(conversation_id, "removed", "Users were removed", gone[0], gone)
                    is_announced = is_announced or bool(present or gone)
                    await trio.sleep(self._timeout)
        except Exception:
            log.exception("recheck of members failed", conversation_id=str(conversation_id))
        finally:
            self._rechecks -= 1

    async def find_subscription(self, session: Session, conversation_id: UUID) -> Subscription:
        """Returns a session's subscription to a conversation, for a frame that its client sends there.

        If the session has none yet, the store is asked whether its user is a member: no room opens for a
        conversation of others. A session waits for its own look-up, so it has one at a time, and all sessions
        together have `MAX_LOOK_UPS`.

        Raises:
            ForeignConversation: the user is not a member.
            PulseError: it could not be looked up in time.
        Cancelled: nothing has happened.
        """
        subscription = session.subscriptions.get(conversation_id)
        if subscription is not None:
            return subscription
        if session.is_refused(conversation_id):
            raise ForeignConversation(was_looked_up=False)
        user_id = session.user.id
        with self.pending_join(conversation_id, user_id) as pending:
            version = await self._look_up_membership(conversation_id, user_id)
            if version is not None:
                pending.version = version
            # A user who was added while the answer was on its way is a member, whatever it says.
            if pending.is_revoked or (version is None and not pending.is_admitted):
                session.remember_refusal(conversation_id)
                raise ForeignConversation(was_looked_up=True)
        room = self._rooms.get(conversation_id)
        if version is not None and room is not None and room.opened.is_set() and session.connection.is_open:
            # The answer to their addition was lost, or is late.
            await self.add_users(conversation_id, [user_id], version)
        return session.subscription(conversation_id)

    async def _look_up_membership(self, conversation_id: UUID, user_id: UUID) -> int | None:
        """Asks `Store.membership`, again and again for as long as a message may wait."""
        backoff = Backoff(self._random)
        with trio.move_on_after(self._timeout):
            while True:
                try:
                    async with self._look_ups:
                        return await self._store.membership(conversation_id, user_id)
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
