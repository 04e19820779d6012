"""The lobby: where sessions open, resume and close."""

from collections.abc import Callable
from uuid import UUID

import trio

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.metrics import Metrics
from pulse_trio.protocol import CloseCode, SendResume, SessionFrame, encode
from pulse_trio.rooms.catch_up import CatchUp
from pulse_trio.rooms.connection import Transport, open_connection
from pulse_trio.rooms.membership import MembershipChanges
from pulse_trio.rooms.online import Online
from pulse_trio.rooms.registry import RESTARTING, Rooms
from pulse_trio.rooms.session import Session, Sessions
from pulse_trio.rooms.watches import Watches
from pulse_trio.settings import Settings
from pulse_trio.store.base import Head, Store, StoreUnavailable, User


class Lobby:
    """Opens sessions, resumes them and closes them.

    Args:
        store: knows the conversations of a user.
        rooms: the rooms in memory; a session is subscribed to those of its user at once.
        sessions: the sessions of this process; rooms that open later subscribe them.
        changes: the changes of memberships in progress.
        catch_up: reads committed changes.
        online: counts the connections of each user.
        watches: forgets a session that has ended.
        settings: the bounds.
        metrics: counts sessions and resumes.
    """

    def __init__(
        self,
        store: Store,
        rooms: Rooms,
        sessions: Sessions,
        changes: MembershipChanges,
        catch_up: CatchUp,
        online: Online,
        watches: Watches,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._rooms = rooms
        self._sessions = sessions
        self._changes = changes
        self._catch_up = catch_up
        self._online = online
        self._watches = watches
        self._settings = settings
        self._metrics = metrics

    async def open(self, user: User, websocket: Transport, *, on_ended: Callable[[], object]) -> Session:
        """Registers a connection for all of a user's conversations.

        Every change that is committed after its first frame is sent reaches it, once the session has started: by
        `resume`, `Session.start`, or by itself after `PULSE_RESUME_WAIT` seconds. So it is subscribed to all open
        rooms of its user before that frame is sent, and rooms that open later subscribe it.

        Args:
            user: the user.
            websocket: the connection; `close` must follow, whatever happens to it.
            on_ended: called once when nothing more will be sent on the connection.

        Raises:
            StoreUnavailable: the user's conversations could not be looked up.
        Cancelled: the session is not registered.
        """

        def ended() -> None:
            self._online.remove_connection(user.id)
            self._watches.end(connection)
            on_ended()

        greeting = encode(SessionFrame(user_id=user.id, username=user.username, epoch=self._store.epoch))
        connection = open_connection(user, websocket, self._settings, ended, self._metrics, greeting=greeting)
        session = Session(connection, self._catch_up.send_page)
        self._online.add_connection(user.id)
        self._sessions.add(session)
        try:
            memberships, changed = await self._memberships(session, None)
        except BaseException:
            self.close(session)
            self._online.remove_connection(user.id)
            raise
        for conversation_id in {**memberships, **changed}:
            room = self._rooms.get(conversation_id)
            is_member = changed.get(conversation_id, True)
            if room is not None and room.opened.is_set() and is_member and connection.is_open:  # not closed meanwhile
                room.attach(session)
        session.is_greeted = True
        self._rooms.nursery.start_soon(self._run_session, session, name=f"session {user.id}")
        self._rooms.nursery.start_soon(self._start_session, session, name=f"start of session {user.id}")
        if self._rooms.is_draining:  # the drain closed the other sessions before this one opened
            connection.close(CloseCode.RESTART, RESTARTING)
        return session

    async def resume(self, session: Session, frame: SendResume) -> None:
        """Starts a session where its client left off; a conversation that cannot be resumed gets an `error` frame.

        Raises:
            PulseError: it has started already, or the frame names too much; then it has not started.
            StoreUnavailable: the user's conversations could not be looked up; the session must be closed.
        Cancelled: the session must be closed.
        """
        max_conversations = self._settings.resume_conversations
        if len(frame.revs) > max_conversations:
            message = f"`revs` may name {max_conversations} conversations"
            raise PulseError(ErrorCode.INVALID_FRAME, message, field="revs")
        if session.is_started:
            raise PulseError(ErrorCode.CANNOT_RESUME, "`resume` must come first; reload the history")
        session.waiting.cancel()
        if frame.epoch is not None and frame.epoch != self._store.epoch:
            self._refuse_resume(session, None)
        elif frame.revs:
            memberships, changed = await self._memberships(session, list(frame.revs))
            for conversation_id, rev in frame.revs.items():
                if conversation_id in changed:
                    if changed[conversation_id]:  # its head is not known here
                        self._refuse_resume(session, conversation_id)
                else:
                    self._resume_conversation(session, conversation_id, rev, memberships.get(conversation_id))
        session.start()

    def close(self, session: Session) -> None:
        """Removes a session from all rooms and from this process, if it is still there."""
        self._sessions.discard(session)
        session.waiting.cancel()
        for conversation_id, subscription in session.subscriptions.items():
            room = self._rooms.get(conversation_id)
            if room is not None:
                room.leave(subscription)
        session.subscriptions.clear()
        session.connection.leave()

    def _resume_conversation(self, session: Session, conversation_id: UUID, rev: int, head: Head | None) -> None:
        """Resumes one conversation after a rev; `head` is None if its user is no member."""
        room = self._rooms.get(conversation_id)
        if head is None:
            # Removed after it had been subscribed, and the answer to that is still on its way.
            subscription = session.removed(conversation_id)
            if room is not None and subscription is not None:
                room.leave(subscription)
            return
        last_rev = max(head.last_rev, 0 if room is None else room.feed.last_rev)
        if rev > last_rev:
            self._refuse_resume(session, conversation_id)
            return
        session.resume(conversation_id, rev, last_rev)
        if room is not None and room.opened.is_set():
            room.attach(session)  # a room does not hear of a member who was added while the store failed
        self._metrics.resumed_changes.observe(last_rev - rev)

    async def _memberships(
        self, session: Session, among: list[UUID] | None
    ) -> tuple[dict[UUID, Head], dict[UUID, bool]]:
        """Looks up the session's conversations.

        Also returns those to which its user was added (True), or from which they were removed, since the look-up.
        """
        recorded = session.changed = {}
        try:
            with trio.move_on_after(self._settings.store_timeout):
                memberships = await self._store.memberships(session.user.id, among)
                changed = {
                    conversation_id: is_member
                    for conversation_id, (version, is_member) in recorded.items()
                    if conversation_id not in memberships or version > memberships[conversation_id].members_version
                }
                for conversation_id, head in memberships.items():
                    # A removal of an earlier version, whose answer is still on its way, is none for this session.
                    self._changes.record(conversation_id, session.user.id, head.members_version, is_member=True)
                return memberships, changed
        finally:
            session.changed = None
        raise StoreUnavailable("the memberships took too long")

    async def _run_session(self, session: Session) -> None:
        try:
            await session.connection.run()
        finally:
            self.close(session)
            session.ended.set()

    async def _start_session(self, session: Session) -> None:
        with session.waiting:
            await trio.sleep(self._settings.resume_wait)
            session.start()

    def _refuse_resume(self, session: Session, conversation_id: UUID | None) -> None:
        self._metrics.resumes_refused += 1
        session.connection.refuse(PulseError(ErrorCode.CANNOT_RESUME), None, conversation_id)
