"""The hub: what the edge asks of the rooms.

It has the connection manager's operations of the specification under their names.
"""

import random
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Final
from uuid import UUID

import structlog
import trio

from pulse_trio.clock import Clock
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.ids import IdSource
from pulse_trio.metrics import Metrics
from pulse_trio.protocol import (
    CloseCode,
    DeleteMessage,
    EditMessage,
    SendMessage,
    SendResume,
    ServerFrame,
    UserPresence,
    encode,
)
from pulse_trio.rooms.backoff import Backoff
from pulse_trio.rooms.catch_up import CatchUp
from pulse_trio.rooms.connection import Connection, Transport, open_connection
from pulse_trio.rooms.lobby import Lobby
from pulse_trio.rooms.membership import MembershipChanges, PendingJoin
from pulse_trio.rooms.online import Online
from pulse_trio.rooms.read_positions import ReadPositions
from pulse_trio.rooms.registry import Rooms
from pulse_trio.rooms.room import Room
from pulse_trio.rooms.session import Session, Sessions
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.rooms.watches import Watches
from pulse_trio.rooms.writer import not_a_member, not_stored
from pulse_trio.settings import Settings
from pulse_trio.store.base import (
    Members,
    Message,
    NewMessage,
    NotAMember,
    ReadState,
    Revision,
    Store,
    StoreUnavailable,
    User,
)

DRAIN_TIMEOUT: Final = 2.5  # seconds, below Hypercorn's graceful_timeout: what the writers hold is stored in it
ANNOUNCEMENTS: Final = 64  # rooms that open at a time to tell of a change: so many that few are missed
TYPING_INTERVAL: Final = 1.0  # seconds between two typing frames about one user: clients send one every two seconds
LOOK_UPS: Final = 4  # of memberships for sessions at a time, so that the others' messages find a connection
USERS_A_TURN: Final = 50  # whose sessions are taken in before other tasks have their turn: a few milliseconds
DOUBTS: Final = 64  # changes of members with a lost answer that are looked into at a time; more must be asked for again
RESTARTING: Final = "the server restarts; reconnect in a moment"

log = structlog.get_logger(__name__)


class ForeignConversation(PulseError):
    """The answer to a frame about a conversation that is not its sender's.

    Args:
        was_looked_up: whether the store was asked, and not only the memory of a moment ago.
    """

    def __init__(self, *, was_looked_up: bool) -> None:
        error = not_a_member()
        super().__init__(error.code, error.message)
        self.was_looked_up = was_looked_up


class Hub:
    """All rooms of this process.

    Args:
        store: where messages are.
        settings: the bounds of rooms and members.
        clock: gives messages their timestamp.
        ids: gives messages their id.
        rand: where the jitter of retries comes from.
        metrics: where it is counted what happens.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        *,
        clock: Clock,
        ids: IdSource,
        rand: random.Random | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._ids = ids
        self._random = rand = random.Random() if rand is None else rand  # noqa: S311  # jitter, not a secret
        self._metrics = metrics = Metrics() if metrics is None else metrics
        self._catch_up = catch_up = CatchUp(store, settings.store_timeout, rand)
        self._sessions = Sessions()
        self._announcing = 0
        self._typing: dict[Connection, None] = {}  # sessions whose typing opens a room at this moment
        self._typed: dict[tuple[UUID, UUID], float] = {}  # what was typed in the last `TYPING_INTERVAL`, oldest first
        self._members = MembershipChanges()
        self._rooms = Rooms(store, self._sessions, self._members, catch_up, settings, rand, metrics)
        self._lobby = Lobby(store, self._rooms, self._sessions, self._members, catch_up, settings, metrics)
        self._read_positions = ReadPositions(
            store, self._rooms, self._sessions, timeout=settings.store_timeout, rand=rand
        )
        self._online = Online(store, clock)
        self._watches = Watches(
            store, self._online, most=settings.watched_users, timeout=settings.store_timeout, rand=rand
        )
        self._online.on_change = self._watches.note
        self._joining: dict[tuple[UUID, UUID], list[PendingJoin]] = {}
        self._look_ups = trio.Semaphore(LOOK_UPS)
        self._doubts = 0
        self.draining = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The nursery in which rooms and sessions live, until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._rooms.run)
            await nursery.start(self._watches.run)
            nursery.start_soon(self._read_positions.run, name="read positions")
            nursery.start_soon(self._online.run, name="when users were seen")
            task_status.started()

    async def drain(self) -> None:
        """Takes nobody in any more, closes every connection with 1012 and lets what is to be stored be stored.

        Returns after `DRAIN_TIMEOUT` seconds at the latest.
        """
        self.draining = True
        for session in self._sessions.all():
            session.connection.close(CloseCode.RESTART, RESTARTING)
        for room in self._rooms.all():
            room.close_all(CloseCode.RESTART, RESTARTING)
        with trio.move_on_after(DRAIN_TIMEOUT):
            await self._read_positions.finish()
            while going := [
                *(session.ended for session in self._sessions.all()),
                *(room.ended for room in self._rooms.going()),
            ]:
                await going[0].wait()
            await self._online.finish()  # now that the last have left

    # --- the connection manager of the specification ---

    async def connect(
        self,
        conversation_id: UUID,
        user: User,
        websocket: Transport,
        *,
        pending: PendingJoin | None = None,
        on_ended: Callable[[], object] = lambda: None,
        after_rev: int | None = None,
        epoch: str | None = None,
    ) -> Subscription:
        """Registers a connection of a user of the conversation; opens its room if need be.

        Args:
            conversation_id: where to join; the caller has checked that the user is in it.
            user: who connects.
            websocket: the connection; `disconnect` must follow, whatever happens to it.
            pending: from `pending_join`, taken before that check.
            on_ended: called once when nothing more will be sent on the connection.
            after_rev: resume: what changed after it is sent before anything live.
            epoch: the epoch of the history that `after_rev` belongs to, if the client knows it.

        Raises:
            PulseError: it cannot resume there; the client must load the history afresh.
            NotAMember: the user has been removed since the check, or the conversation is gone.
            StoreUnavailable: the room could not be opened.
        Cancelled: the connection is not registered.
        """
        async with self._rooms.opened(conversation_id) as room:
            last_rev = room.feed.last_rev
            if after_rev is not None and after_rev > last_rev:
                # A commit whose answer was lost is not known here yet, but a client may have read it in the store.
                last_rev = (await self._store.head(conversation_id)).last_rev
            if pending is not None and pending.is_revoked:
                raise NotAMember
            if pending is not None and pending.is_doubtful:
                raise StoreUnavailable("the membership is in doubt")
            if pending is not None:
                self._members.record(conversation_id, user.id, pending.version, is_member=True)
            is_other_history = epoch is not None and epoch != self._store.epoch
            if after_rev is not None and (after_rev > last_rev or is_other_history):
                self._metrics.resumes_refused += 1
                raise PulseError(ErrorCode.CANNOT_RESUME)
            if after_rev is not None:
                self._metrics.resumed_changes.observe(last_rev - after_rev)

            def ended() -> None:
                self._online.leave(user.id)
                on_ended()

            connection = open_connection(user, websocket, self._settings, ended, self._metrics)
            cursor = room.feed.last_rev if after_rev is None else after_rev
            subscription = Subscription(connection, conversation_id, cursor, self._catch_up.send_page)
            room.join(subscription)
            self._online.enter(user.id)
            if self.draining:  # it came in after `drain` had closed the others
                room.close_all(CloseCode.RESTART, RESTARTING)
        return subscription

    def disconnect(self, conversation_id: UUID, user_id: UUID, websocket: Transport) -> None:
        """Takes a connection out of its room; one that is not in it is no error."""
        room = self._rooms.get(conversation_id)
        subscription = None if room is None else room.subscription_of(websocket)
        if room is not None and subscription is not None and subscription.connection.user.id == user_id:
            room.leave(subscription)

    async def broadcast(self, conversation_id: UUID, message: ServerFrame, exclude_user_id: UUID | None = None) -> None:
        """Sends a frame to all connections of a conversation, but for those of one user."""
        await trio.lowlevel.checkpoint()
        room = self._rooms.get(conversation_id)
        if room is not None:
            room.broadcast(encode(message), exclude_user_id=exclude_user_id)

    def get_active_users(self, conversation_id: UUID) -> set[str]:
        """The ids of the users that are connected to a conversation."""
        return {str(user_id) for user_id in self.list_active_users(conversation_id)}

    def list_active_users(self, conversation_id: UUID) -> list[UUID]:
        """The same, in the order they came."""
        room = self._rooms.get(conversation_id)
        return [] if room is None else room.active_users

    def get_connection_count(self, conversation_id: UUID) -> int:
        """How many connections a conversation has."""
        room = self._rooms.get(conversation_id)
        return 0 if room is None else room.connection_count

    # --- sessions ---

    async def open_session(self, user: User, websocket: Transport, *, on_ended: Callable[[], object]) -> Session:
        """Registers a connection for all of a user's conversations; see `Lobby.open`."""

        def ended() -> None:
            self._online.leave(user.id)
            self._watches.end(session.connection)
            on_ended()

        self._online.enter(user.id)
        try:
            session = await self._lobby.open(user, websocket, on_ended=ended)
        except BaseException:
            self._online.leave(user.id)
            raise
        if self.draining:  # it came in after `drain` had closed the others
            session.connection.close(CloseCode.RESTART, RESTARTING)
        return session

    async def resume(self, session: Session, frame: SendResume) -> None:
        """Starts a session that goes on where its client was; see `Lobby.resume`."""
        await self._lobby.resume(session, frame)

    def close_session(self, session: Session) -> None:
        """Takes a session out of everything; one that is out already is no error."""
        self._lobby.close(session)

    # --- what clients and REST ask for ---

    def pending_join(self, conversation_id: UUID, user_id: UUID) -> PendingJoin:
        """Notes changes of a user's membership, until the end of what it returns, while their connection is set up."""
        return PendingJoin(self._joining, (conversation_id, user_id))

    async def send_message(self, conversation_id: UUID, subscription: Subscription, frame: SendMessage) -> None:
        """Takes a message; the answer comes as a frame. Waits while too many are unstored.

        Cancelled: the message was not taken.
        """
        if self._typed:  # whoever types on after a message is seen to type at once
            self._typed.pop((conversation_id, subscription.connection.user.id), None)
        message = self._message(conversation_id, subscription.connection.user, frame.content, frame.client_id)
        await self._submit(subscription, message, frame.client_id)

    async def send_revision(
        self, conversation_id: UUID, subscription: Subscription, frame: EditMessage | DeleteMessage
    ) -> None:
        """Takes an edit or a deletion; the answer comes as a frame.

        Cancelled: it was not taken.
        """
        content = frame.content if isinstance(frame, EditMessage) else None
        revision = self._revision(conversation_id, frame.message_id, subscription.connection.user, content)
        await self._submit(subscription, revision, frame.client_id)

    async def post(
        self, conversation_id: UUID, sender: User, content: str, client_id: str | None
    ) -> tuple[Message, bool]:
        """Stores a message of somebody who need not be connected; returns it, and whether it was not stored before.

        Raises:
            PulseError: it was refused, or could not be stored in time.
            NotAMember: the sender is not in the conversation, or it does not exist.
            StoreUnavailable: the room could not be opened.
        Cancelled: it may be stored or not.
        """
        asked = self._message(conversation_id, sender, content, client_id)
        async with self._rooms.opened(conversation_id) as room:
            message = await room.store(asked, client_id)
        is_new = message.id == asked.id
        # The store finds what was stored before also for who has been removed since.
        if not is_new and await self._store.membership(conversation_id, sender.id) is None:
            raise NotAMember
        return message, is_new

    async def revise(self, conversation_id: UUID, message_id: UUID, actor: User, content: str | None) -> Message:
        """Edits a message, or deletes it with None, through its room; returns it as it then is.

        Raises:
            PulseError: it was refused, or could not be stored in time.
            NotAMember: the conversation does not exist, or the actor is not in it.
            StoreUnavailable: the room could not be opened.
        Cancelled: the change may be made or not.
        """
        async with self._rooms.opened(conversation_id) as room:
            return await room.store(self._revision(conversation_id, message_id, actor, content))

    async def _submit(self, subscription: Subscription, message: NewMessage | Revision, client_id: str | None) -> None:
        if subscription.connection.close_code is not None:
            room = None  # what a connection still sends while it is being closed is not answered
        elif subscription.connection.is_session:
            room = self._rooms.room(subscription.conversation_id)  # opens while the message waits in its inbox
        else:
            room = self._rooms.get(subscription.conversation_id)
        if room is None:
            await trio.lowlevel.checkpoint()
            return
        with room.held():
            await room.submit(subscription, message, client_id)

    def _message(self, conversation_id: UUID, sender: User, content: str, client_id: str | None) -> NewMessage:
        return NewMessage(
            id=self._ids(),
            conversation_id=conversation_id,
            sender_id=sender.id,
            content=content,
            client_id=client_id,
            created_at=self._clock(),
        )

    def _revision(self, conversation_id: UUID, message_id: UUID, actor: User, content: str | None) -> Revision:
        return Revision(
            id=self._ids(),
            conversation_id=conversation_id,
            message_id=message_id,
            actor_id=actor.id,
            content=content,
            made_at=self._clock(),
        )

    def send_typing(self, conversation_id: UUID, subscription: Subscription) -> None:
        """Notifies the other users of the conversation that this one is typing, once in `TYPING_INTERVAL` seconds."""
        if not self._may_type(conversation_id, subscription.connection.user.id):
            return
        room = self._rooms.get(conversation_id)
        if room is not None and room.opened.is_set():
            self._type(room, subscription)
        elif subscription.connection.is_session and subscription.connection not in self._typing:
            self._typing[subscription.connection] = None  # one at a time: a client cannot make us open many at once
            self._rooms.nursery.start_soon(self._open_and_type, subscription, name=f"typing in {conversation_id}")

    def _may_type(self, conversation_id: UUID, user_id: UUID) -> bool:
        now = trio.current_time()
        while self._typed and now - next(iter(self._typed.values())) >= TYPING_INTERVAL:
            del self._typed[next(iter(self._typed))]
        key = conversation_id, user_id
        if key in self._typed:
            return False
        self._typed[key] = now
        return True

    async def _open_and_type(self, subscription: Subscription) -> None:
        try:
            async with self._rooms.opened(subscription.conversation_id) as room:
                self._type(room, subscription)
        except NotAMember:
            subscription.refuse(not_a_member())
        except StoreUnavailable:
            pass  # typing may be missed
        finally:
            del self._typing[subscription.connection]

    def _type(self, room: Room, subscription: Subscription) -> None:
        attached = room.subscription_of(subscription.connection.transport)
        if attached is not None:
            room.typing(attached)
        elif subscription.connection.is_session and subscription.connection.is_open:
            subscription.refuse(not_a_member())

    async def send_read(self, subscription: Subscription, seq: int) -> None:
        """Takes how far a user has read; if it is refused, the client gets an error frame.

        Cancelled: it was not taken.
        """
        await self._read_positions.ask(subscription, seq)

    async def mark_read(self, conversation_id: UUID, user_id: UUID, seq: int) -> ReadState:
        """The same for who need not be connected; see `ReadPositions.mark`."""
        return await self._read_positions.mark(conversation_id, user_id, seq)

    def watch(self, session: Session, user_ids: list[UUID]) -> None:
        """Tells a session from now on who of these users is online; see `Watches.watch`."""
        self._watches.watch(session.connection, user_ids)

    async def presence(self, user_id: UUID, of: UUID) -> UserPresence | None:
        """Whether somebody is online; None if the two share no conversation. Raises StoreUnavailable."""
        found = await self._watches.look_up(user_id, [of])
        return found[0] if found else None

    async def place(self, session: Session, conversation_id: UUID) -> Subscription:
        """A session's place in a conversation, for what its client sends there.

        Where the session has none yet, the store is asked whether its user is a member: no room opens for a
        conversation that is not the user's. A session waits for its own question, so that it has one under way at a
        time, and all sessions together have `LOOK_UPS`.

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
            version = await self._membership(conversation_id, user_id)
            if version is not None:
                pending.version = version
            # Whoever was added while the answer was on its way is a member, whatever it says.
            if pending.is_revoked or (version is None and not pending.is_admitted):
                session.refuse_for_a_while(conversation_id)
                raise ForeignConversation(was_looked_up=True)
        room = self._rooms.get(conversation_id)
        if version is not None and room is not None and room.opened.is_set() and session.connection.is_open:
            # The answer to their addition was lost, or is late.
            await self.add_users(conversation_id, [user_id], version)
        return session.subscription(conversation_id)

    async def _membership(self, conversation_id: UUID, user_id: UUID) -> int | None:
        """As `Store.membership`, for as long as a message may wait."""
        backoff = Backoff(self._random)
        with trio.move_on_after(self._settings.store_timeout):
            while True:
                try:
                    async with self._look_ups:
                        return await self._store.membership(conversation_id, user_id)
                except StoreUnavailable:
                    await backoff.wait()
        raise not_stored()

    def changing_members(self, conversation_id: UUID, adding: Sequence[UUID] = ()) -> AbstractContextManager[None]:
        """Wraps a change of members, from before the store is asked until `add_users` or `remove_user` has its answer.

        The sessions of users who are being added are notified, too, when a room opens and finds them to be members.

        Of changes that overlap, the one that was committed later wins, whichever answer comes first.
        """
        return self._members.in_progress(conversation_id, adding)

    async def add_users(
        self, conversation_id: UUID, user_ids: Sequence[UUID], version: int, *, newcomers: Collection[UUID] = ()
    ) -> list[UUID]:
        """Takes in the sessions of users who are members as of a version, and notifies those that were not in yet.

        It may be repeated, and is spread over turns of the loop. Returns the users of whom no later change is known.
        Cancelled: between two turns.

        Args:
            conversation_id: which conversation.
            user_ids: the users.
            version: of the members.
            newcomers: those of them who were no members before. The removal that came in between may not have been
                answered yet, so that their clients have not heard of it.
        """
        current: list[UUID] = []
        for at in range(0, len(user_ids), USERS_A_TURN):
            if at:
                await trio.lowlevel.checkpoint()
            part = user_ids[at : at + USERS_A_TURN]
            current += self._add_users_now(conversation_id, part, version, newcomers, with_others=len(user_ids) > 1)
        return current

    def _add_users_now(
        self,
        conversation_id: UUID,
        user_ids: Sequence[UUID],
        version: int,
        newcomers: Collection[UUID],
        *,
        with_others: bool,
    ) -> list[UUID]:
        room = self._rooms.get(conversation_id)
        is_open = room is not None and room.opened.is_set()  # then who is not in it has missed what it sent
        current = []
        for user_id in user_ids:
            for pending in self._joining.get((conversation_id, user_id), ()):
                pending.record_change(version, is_member=True)
            if not self._members.record(conversation_id, user_id, version, is_member=True):
                continue
            current.append(user_id)
            for session in self._sessions.of(user_id):
                if room is None or room.subscription_of(session.connection.transport) is None:
                    session.added(conversation_id, version, is_news=is_open or user_id in newcomers)
        if room is not None:
            room.admit(current, version, with_others=with_others)
        return current

    def remove_user(self, conversation_id: UUID, user_id: UUID, version: int, reason: str) -> bool:
        """Closes the connections of a user who is no member as of a version, and notifies their sessions.

        When this returns True nothing of the conversation is delivered to the user any more. False: they were added
        again later.
        """
        for pending in self._joining.get((conversation_id, user_id), ()):
            pending.record_change(version, is_member=False)
        if not self._members.record(conversation_id, user_id, version, is_member=False):
            return False
        room = self._rooms.get(conversation_id)
        if room is not None:
            room.dismiss(user_id, version)
            room.close_user(user_id, CloseCode.REMOVED, reason)
        for session in self._sessions.of(user_id):
            subscription = session.removed(conversation_id, version)
            if room is not None and subscription is not None:
                room.leave(subscription)
        self._watches.doubt(user_id, (session.connection for session in self._sessions.of(user_id)))
        return True

    def reconnect_user(self, conversation_id: UUID, user_id: UUID) -> None:
        """Closes a user's connections because nobody knows whether they were removed.

        When they come back their membership is looked up again.
        """
        for pending in self._joining.get((conversation_id, user_id), ()):
            pending.is_doubtful = True
        room = self._rooms.get(conversation_id)
        reason = "the membership is in doubt; reconnect"
        if room is not None:
            room.doubt_members()
            room.close_user(user_id, CloseCode.INTERNAL_ERROR, reason)
        for session in self._sessions.of(user_id):
            session.connection.close(CloseCode.INTERNAL_ERROR, reason)
            self._lobby.close(session)
        self._watches.doubt(user_id, ())

    def doubt_change(self, conversation_id: UUID, *, added: Sequence[UUID] = (), removed: Sequence[UUID] = ()) -> None:
        """Looks up, as soon as the store answers, whether a change of members with a lost answer was committed.

        What was is applied, as if its answer had come. There may be `DOUBTS` such changes at a time; what is beyond
        takes effect when it is asked for again.
        """
        if self._doubts >= DOUBTS:
            log.warning("too many changes of members in doubt", conversation_id=str(conversation_id))
            return
        self._doubts += 1
        change = ExitStack()
        change.enter_context(self._members.in_progress(conversation_id, added))  # at once: nothing may come in between
        name = f"doubt about members of {conversation_id}"
        self._rooms.nursery.start_soon(self._resolve_change, change, conversation_id, added, removed, name=name)

    async def _resolve_change(
        self, change: ExitStack, conversation_id: UUID, added: Sequence[UUID], removed: Sequence[UUID]
    ) -> None:
        try:
            with change:
                announced = False
                for newcomers in (added, ()):  # now, and what the database was still at
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
                    if present and not announced:
                        self.announce(conversation_id, "added", "Users were added", present[0], present)
                    if gone and not announced:
                        self.announce(conversation_id, "removed", "Users were removed", gone[0], gone)
                    announced = announced or bool(present or gone)
                    await trio.sleep(self._settings.store_timeout)
        except Exception:
            log.exception("a change of members could not be looked up", conversation_id=str(conversation_id))
        finally:
            self._doubts -= 1

    async def _look_up_members(self, conversation_id: UUID) -> Members:
        """As `Store.members`; asks again until the store answers."""
        backoff = Backoff(self._random)
        while True:
            try:
                with trio.fail_after(self._settings.store_timeout):
                    return await self._store.members(conversation_id)
            except (StoreUnavailable, trio.TooSlowError):
                await backoff.wait()

    def announce(
        self, conversation_id: UUID, event: str, content: str, user_id: UUID, user_ids: Sequence[UUID] = ()
    ) -> None:
        """Sends every connection one frame about something that happened to the conversation; see `Room.announce`.

        Where its room is not open, but there are sessions, it opens for that: some of them may be its members'. That
        may be missed, as when the store fails.
        """
        room = self._rooms.get(conversation_id)
        if room is not None and room.opened.is_set():
            room.announce(event, content, user_id, user_ids)
        elif self._sessions and self._announcing < ANNOUNCEMENTS:
            self._announcing += 1
            name = f"{event} in {conversation_id}"
            self._rooms.nursery.start_soon(
                self._open_and_announce, conversation_id, event, content, user_id, user_ids, name=name
            )

    async def _open_and_announce(
        self, conversation_id: UUID, event: str, content: str, user_id: UUID, user_ids: Sequence[UUID]
    ) -> None:
        try:
            async with self._rooms.opened(conversation_id) as room:
                room.announce(event, content, user_id, user_ids)
        except (NotAMember, StoreUnavailable):
            pass
        finally:
            self._announcing -= 1

    @property
    def room_count(self) -> int:
        """How many rooms are in memory."""
        return len(self._rooms)
