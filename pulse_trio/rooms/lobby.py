"""The lobby: where sessions open, resume and close."""

from collections.abc import Callable, Mapping
from typing import Final
from uuid import UUID

import trio
from msgspec import UNSET

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.metrics import Metrics
from pulse_trio.model import NO_FEATURES, Features, User, highest_rev
from pulse_trio.protocol import CloseCode, FeaturesFrame, SendResume, SessionFrame, encode
from pulse_trio.rooms.catch_up import CatchUp
from pulse_trio.rooms.connection import Transport, open_connection
from pulse_trio.rooms.online import Online
from pulse_trio.rooms.peers import Peers
from pulse_trio.rooms.registry import RESTARTING, Rooms
from pulse_trio.rooms.session import Session, Sessions
from pulse_trio.rooms.time_limit import in_time
from pulse_trio.rooms.user_feeds import UserFeeds
from pulse_trio.rooms.watches import Watches
from pulse_trio.settings import Settings
from pulse_trio.store.base import Head, Memberships, Store

MAX_MEMBERSHIPS: Final = 1_000  # read at a time: 4 ms of the loop


class Lobby:
    """Opens sessions, resumes them and closes them.

    Args:
        store: knows the conversations of a user.
        rooms: the rooms in memory; a session is subscribed to those of its user at once.
        sessions: the sessions of this process; rooms that open later subscribe them.
        user_feeds: are sent what changes for a user alone.
        catch_up: reads committed changes.
        online: counts the connections of each user.
        watches: forgets a session that has ended.
        peers: the other processes; indexes the conversations of each session.
        settings: the bounds.
        metrics: counts sessions and resumes.
    """

    def __init__(
        self,
        store: Store,
        rooms: Rooms,
        sessions: Sessions,
        user_feeds: UserFeeds,
        catch_up: CatchUp,
        online: Online,
        watches: Watches,
        peers: Peers,
        settings: Settings,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._rooms = rooms
        self._sessions = sessions
        self._user_feeds = user_feeds
        self._catch_up = catch_up
        self._online = online
        self._watches = watches
        self._peers = peers
        self._settings = settings
        self._metrics = metrics

    async def open(
        self,
        user: User,
        websocket: Transport,
        *,
        on_ended: Callable[[], object],
        features: Features = NO_FEATURES,
    ) -> Session:
        """Registers a connection for all of a user's conversations.

        Every change that is committed after its first frame is sent reaches it, once the session has started: by
        `resume`, `Session.start`, or by itself after `PULSE_RESUME_WAIT` seconds. So it is subscribed to all open
        rooms of its user before that frame is sent, and rooms that open later subscribe it.

        Args:
            user: the user.
            websocket: the connection; `close` must follow, whatever happens to it.
            on_ended: called once when nothing more will be sent on the connection.
            features: the kinds of changes that the client asked for in the handshake.

        Raises:
            StoreUnavailable: the user's conversations could not be looked up.
        Cancelled: the session is not registered.
        """

        def ended() -> None:
            self._online.remove_connection(user.id)
            self._watches.end(connection)
            on_ended()
            self.close(session)
            session.ended.set()

        connection = open_connection(
            user,
            websocket,
            self._settings,
            ended,
            self._metrics,
            features=features,
            is_session=True,
            permit=self._peers.permit,
        )
        session = Session(connection, self._catch_up.send_page)
        self._online.add_connection(user.id)
        self._sessions.add(session)
        self._peers.add_user(user.id)
        if features.has_me:
            self._user_feeds.follow(session)
        try:
            with in_time(self._settings.store_timeout, "the memberships"):
                user_rev = await self._subscribe(session)
        except BaseException:
            self.close(session)
            self._online.remove_connection(user.id)
            session.ended.set()  # a drain may wait for it
            raise
        greeting = SessionFrame(
            user_id=user.id,
            username=user.username,
            epoch=self._store.epoch,
            features=features.names if features.are_asked else UNSET,
            me_rev=user_rev if features.has_me else UNSET,
        )
        connection.greeting = encode(greeting)
        if features.has_me:
            self._user_feeds.begin(session, user_rev)
        session.is_greeted = True
        connection.begin(self._rooms.nursery)
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
        if session not in self._sessions:
            return  # it has ended
        session.waiting.cancel()
        is_other_history = frame.epoch is not None and frame.epoch != self._store.epoch
        features = session.connection.features
        if frame.features is not None:
            features = Features.of(frame.features, is_session=True)
            self._user_feeds.end(session)
            if features.has_me:
                self._user_feeds.follow(session)
        memberships = Memberships({}, 0)
        if frame.features is not None or (frame.revs and not is_other_history):
            with in_time(self._settings.store_timeout, "the memberships"):
                memberships = await self._look_up(session, [] if is_other_history else list(frame.revs))
        if session not in self._sessions:  # it has ended meanwhile
            return
        if frame.features is not None:
            self._change_features(session, features, memberships.user_rev)
        if is_other_history:
            self._refuse_resume(session, None)
        if features.has_me and frame.me is not None:
            self._resume_me(session, frame.me, is_other_history=is_other_history)
        if not is_other_history:
            for conversation_id, rev in frame.revs.items():
                self._resume_conversation(session, conversation_id, rev, memberships.heads.get(conversation_id))
        session.start()

    def close(self, session: Session) -> None:
        """Removes a session from all rooms and from this process, if it is still there."""
        self._sessions.discard(session)
        if not self._sessions.of(session.user.id):
            self._peers.remove_user(session.user.id)
        self._user_feeds.end(session)
        session.waiting.cancel()
        for conversation_id, subscription in session.subscriptions.items():
            room = self._rooms.get(conversation_id)
            if room is not None:
                room.leave(subscription)
        session.subscriptions.clear()
        session.connection.leave()

    async def _look_up(self, session: Session, among: list[UUID]) -> Memberships:
        """Looks up memberships; of a user who was removed meanwhile, again."""
        found = Memberships({}, 0)
        heads: dict[UUID, Head] = {}
        while True:
            session.removals = {}
            try:
                found = await self._store.memberships(session.user.id, among)
                heads.update(found.heads)
                among = [
                    conversation_id
                    for conversation_id, rev in session.removals.items()
                    if conversation_id in heads and heads[conversation_id].members_rev < rev
                ]
            finally:
                session.removals = None
            if not among:
                return Memberships(heads, found.user_rev)
            for conversation_id in among:
                del heads[conversation_id]

    async def _subscribe(self, session: Session) -> int:
        """Subscribes a session to all open rooms of its user; returns the user's `user_rev` as of the look-up.

        A look-up that is older than what a room has delivered of its members is repeated. Users who are added
        meanwhile are subscribed by the feed of the room, as the session is known already.
        """
        user_id = session.user.id
        if self._peers.are_there:
            return await self._index(session)
        memberships = await self._store.memberships(user_id, limit=MAX_MEMBERSHIPS + 1)
        if len(memberships.heads) <= MAX_MEMBERSHIPS:
            await self._attach(session, memberships.heads)
        else:  # few of so many conversations have a room; those that open from now on subscribe the session
            open_ids = self._rooms.open_ids()
            for at in range(0, len(open_ids), MAX_MEMBERSHIPS):
                found = await self._store.memberships(user_id, open_ids[at : at + MAX_MEMBERSHIPS])
                await self._attach(session, found.heads)
        return memberships.user_rev

    async def _index(self, session: Session) -> int:
        """Subscribes a session to all open rooms of its user, and indexes all their conversations.

        Returns the user's `user_rev` as of the first page of the look-up.
        """
        user_id = session.user.id
        after: UUID | None = None
        user_rev: int | None = None
        while True:
            page = await self._store.memberships(user_id, limit=MAX_MEMBERSHIPS, after=after)
            user_rev = page.user_rev if user_rev is None else user_rev
            await self._attach(session, page.heads)
            if len(page.heads) < MAX_MEMBERSHIPS:
                self._peers.indexed(user_id, user_rev)
                return user_rev
            after = max(page.heads)

    async def _attach(self, session: Session, heads: Mapping[UUID, Head]) -> None:
        """Subscribes a session to the rooms of these conversations that are open."""
        while heads and session.connection.is_open:
            stale = []
            for conversation_id, head in heads.items():
                room = self._rooms.get(conversation_id)
                is_open = room is not None and room.opened.is_set()
                members_rev = room.feed.members_rev if room is not None and is_open else 0
                if head.members_rev < max(members_rev, self._peers.members_rev_of(conversation_id)):
                    stale.append(conversation_id)
                    continue
                if session in self._sessions:  # it may have ended meanwhile
                    self._peers.index(session, conversation_id, head)
                if room is not None and is_open:
                    room.attach(session, head.members_rev)
            heads = (await self._store.memberships(session.user.id, stale)).heads if stale else {}

    def _change_features(self, session: Session, features: Features, user_rev: int) -> None:
        """Applies the features of a `resume` frame, and answers with them: at once, so that no frame comes between."""
        session.change_features(features)
        for conversation_id, old in session.subscriptions.items():
            renewed = session.subscriptions[conversation_id] = old.renewed()
            room = self._rooms.get(conversation_id)
            if room is not None:
                room.replace(old, renewed)
        if features.has_me:
            self._user_feeds.begin(session, user_rev)
        answer = FeaturesFrame(features=features.names, me_rev=user_rev if features.has_me else UNSET)
        session.connection.first_frame = encode(answer)

    def _resume_me(self, session: Session, rev: int, *, is_other_history: bool) -> None:
        """Resumes the user's own sequence after a rev."""
        if is_other_history or rev > max(session.me.cursor, self._user_feeds.last_rev(session.user.id)):
            self._metrics.resumes_refused += 1
            session.connection.refuse(PulseError(ErrorCode.CANNOT_RESUME, field="me"))
        else:
            self._user_feeds.resume(session, rev)

    def _resume_conversation(self, session: Session, conversation_id: UUID, rev: int, head: Head | None) -> None:
        """Resumes one conversation after a rev; `head` is None if its user is no member."""
        room = self._rooms.get(conversation_id)
        is_open = room is not None and room.opened.is_set()
        mask = session.connection.features.mask
        known_rev, sent_rev = (
            (room.feed.last_rev, room.feed.last_rev_of(mask)) if room is not None and is_open else (0, 0)
        )
        if head is None:
            subscription = session.subscriptions.get(conversation_id)
            if subscription is None:
                session.resume_foreign(conversation_id, rev)
            else:  # its feed has added the user since the look-up, or will end the subscription
                indexed = self._peers.head_of(conversation_id)
                known_rev = max(known_rev, subscription.target, 0 if indexed is None else indexed.last_rev)
                session.resume(conversation_id, min(rev, known_rev), sent_rev, 0)
            return
        last_rev = max(head.last_rev, known_rev)
        if rev > last_rev:
            self._refuse_resume(session, conversation_id)
            return
        if room is not None and is_open and head.members_rev >= room.feed.members_rev:
            room.attach(session, head.members_rev)  # a commit with a lost answer may have added its user
        session.resume(
            conversation_id,
            rev,
            max(highest_rev(head.last_revs, mask), sent_rev),
            head.members_rev,
            may_repeat=self._rooms.may_repeat(conversation_id, head.last_rev),
        )
        self._metrics.resumed_changes.observe(last_rev - rev)

    async def _start_session(self, session: Session) -> None:
        with session.waiting:
            await trio.sleep(self._settings.resume_wait)
            session.start()

    def _refuse_resume(self, session: Session, conversation_id: UUID | None) -> None:
        self._metrics.resumes_refused += 1
        session.connection.refuse(PulseError(ErrorCode.CANNOT_RESUME), None, conversation_id)
