"""The lobby: where sessions come in, say where they want to go on, and leave."""

from collections.abc import Callable
from uuid import UUID

import trio

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.metrics import Metrics
from pulse_trio.protocol import SendResume, SessionFrame, encode
from pulse_trio.rooms.catch_up import CatchUp
from pulse_trio.rooms.connection import Transport, open_connection
from pulse_trio.rooms.membership import MembershipChanges
from pulse_trio.rooms.registry import Rooms
from pulse_trio.rooms.session import Session, Sessions
from pulse_trio.settings import Settings
from pulse_trio.store.base import Head, Store, StoreUnavailable, User


class Lobby:
    """Opens sessions, resumes them and closes them.

    Args:
        store: who knows who is in a conversation.
        rooms: those that a session comes into at once.
        sessions: where it is registered for those that open later.
        members: the changes of members that are under way.
        catch_up: reads committed changes.
        settings: the bounds.
        metrics: where sessions and resumes are counted.
    """

    def __init__(
        self,
        store: Store,
        rooms: Rooms,
        sessions: Sessions,
        members: MembershipChanges,
        catch_up: CatchUp,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._rooms = rooms
        self._sessions = sessions
        self._members = members
        self._catch_up = catch_up
        self._settings = settings
        self._metrics = metrics

    async def open(self, user: User, websocket: Transport, *, on_ended: Callable[[], object]) -> Session:
        """Registers a connection for all of a user's conversations.

        What is committed after its first frame has been sent will be sent on it, once it has started: by
        `resume`, `Session.start`, or by itself after `PULSE_RESUME_WAIT` seconds. So the session is in all open rooms
        of its user before that frame is sent, and rooms that open later take it in.

        Args:
            user: who connects.
            websocket: the connection; `close` must follow, whatever happens to it.
            on_ended: called once when nothing more will be sent on the connection.

        Raises:
            StoreUnavailable: the user's conversations could not be looked up.
        Cancelled: the session is not registered.
        """
        greeting = encode(SessionFrame(user_id=user.id, username=user.username, epoch=self._store.epoch))
        connection = open_connection(user, websocket, self._settings, on_ended, self._metrics, greeting=greeting)
        session = Session(connection, self._catch_up.send_page)
        self._sessions.add(session)
        try:
            memberships, changed = await self._memberships(session, None)
        except BaseException:
            self.close(session)
            raise
        for conversation_id in {**memberships, **changed}:
            room = self._rooms.get(conversation_id)
            is_in = changed.get(conversation_id, True) and session.connection.is_open  # not closed meanwhile
            if room is not None and room.opened.is_set() and is_in:
                room.attach(session)
        session.is_greeted = True
        self._rooms.nursery.start_soon(self._run_session, session, name=f"session {user.id}")
        self._rooms.nursery.start_soon(self._start_session, session, name=f"start of session {user.id}")
        return session

    async def resume(self, session: Session, frame: SendResume) -> None:
        """Starts a session that goes on where its client was; what cannot be resumed is told to the client.

        Raises:
            PulseError: it has started already, or the frame asks for too much; then it has not started.
            StoreUnavailable: the user's conversations could not be looked up; the session must be closed.
        Cancelled: the session must be closed.
        """
        most = self._settings.resume_conversations
        if len(frame.revs) > most:
            raise PulseError(ErrorCode.INVALID_FRAME, f"`revs` may name {most} conversations", field="revs")
        if session.is_started:
            raise PulseError(ErrorCode.CANNOT_RESUME, "`resume` must come first; load the history afresh")
        session.waiting.cancel()
        if frame.epoch is not None and frame.epoch != self._store.epoch:
            self._refuse_resume(session, None)
        elif frame.revs:
            memberships, changed = await self._memberships(session, list(frame.revs))
            for conversation_id, rev in frame.revs.items():
                room = self._rooms.get(conversation_id)
                if conversation_id in changed:
                    if changed[conversation_id]:  # where it stands is not known here
                        self._refuse_resume(session, conversation_id)
                elif conversation_id not in memberships:
                    # Removed after it had been taken in, and the answer to that is still on its way.
                    subscription = session.removed(conversation_id)
                    if room is not None and subscription is not None:
                        room.leave(subscription)
                else:
                    last_rev = max(memberships[conversation_id].last_rev, 0 if room is None else room.feed.last_rev)
                    if rev > last_rev:
                        self._refuse_resume(session, conversation_id)
                    else:
                        session.resume(conversation_id, rev, last_rev)
                        if room is not None and room.opened.is_set():
                            room.attach(session)  # if it was added while the store failed, nobody has told the room
                        self._metrics.resumed_changes.observe(last_rev - rev)
        session.start()

    def close(self, session: Session) -> None:
        """Takes a session out of everything; one that is out already is no error."""
        self._sessions.discard(session)
        session.waiting.cancel()
        for conversation_id, subscription in session.subscriptions.items():
            room = self._rooms.get(conversation_id)
            if room is not None:
                room.leave(subscription)
        session.subscriptions.clear()
        session.connection.leave()

    async def _memberships(
        self, session: Session, among: list[UUID] | None
    ) -> tuple[dict[UUID, Head], dict[UUID, bool]]:
        """The session's conversations, and those to which it was added (True), or removed from, since then."""
        noted = session.changed = {}
        try:
            with trio.move_on_after(self._settings.store_timeout):
                memberships = await self._store.memberships(session.user.id, among)
                changed = {
                    conversation_id: is_member
                    for conversation_id, (version, is_member) in noted.items()
                    if conversation_id not in memberships or version > memberships[conversation_id].members_version
                }
                for conversation_id, head in memberships.items():
                    # A removal of an earlier version, whose answer is still on its way, is none for this session.
                    self._members.record(conversation_id, session.user.id, head.members_version, is_member=True)
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
        error = PulseError(ErrorCode.CANNOT_RESUME)
        self._metrics.resumes_refused += 1
        session.connection.refuse(error, None, conversation_id)
