"""Read positions: how far members say that they have read; batched, stored in one statement, and sent to the others.

All conversations share the statement, so what a crowd reads within `DELAY` is one round trip. A stored position is
sent in its conversation's room. If there is no room, but there are sessions, one opens for that, one at a time.
"""

import random
from collections.abc import Mapping
from typing import Final
from uuid import UUID

import structlog
import trio

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.model import MyMembership
from pulse_trio.protocol import Position, ReadFrame, encode
from pulse_trio.rooms.backoff import Backoff
from pulse_trio.rooms.connection import Connection
from pulse_trio.rooms.outages import Outages
from pulse_trio.rooms.peers import Peers
from pulse_trio.rooms.registry import Rooms
from pulse_trio.rooms.room import Room
from pulse_trio.rooms.session import Sessions
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.rooms.user_feeds import UserFeeds
from pulse_trio.rooms.writer import not_a_member
from pulse_trio.store.base import NotAMember, ReadMark, ReadState, Store, StoreUnavailable

DELAY: Final = 0.2  # seconds that positions are batched: too short to notice, and a crowd is one statement
MAX_BATCH: Final = 1_000  # positions of one statement; a larger one gains nothing
MAX_UNSENT: Final = 1_024  # conversations that wait for their room to open; positions of more are not sent

log = structlog.get_logger(__name__)


class _Request:
    """A read position waiting to be stored, and the connections to notify if it cannot be."""

    __slots__ = ("deadline", "seq", "subscriptions")

    def __init__(self, seq: int, deadline: float) -> None:
        self.seq = seq
        self.deadline = deadline
        self.subscriptions: dict[Connection, Subscription] = {}


# Conversation, user, and True if the room knew that there is such a message: a position beyond the last message must
# not fail the others of its user. So there are at most two requests of a member.
_Key = tuple[UUID, UUID, bool]


class ReadPositions:
    """Stores read positions, and notifies the other members.

    Args:
        store: stores them.
        rooms: the rooms in memory.
        sessions: the sessions of this process; if there are none, no room opens.
        user_feeds: are sent the positions of their user.
        peers: the other processes, which are sent all of them.
        outages: logs failed attempts.
        timeout: seconds after which a position that cannot be stored is rejected.
        rand: gives the jitter of retries.
    """

    def __init__(
        self,
        store: Store,
        rooms: Rooms,
        sessions: Sessions,
        user_feeds: UserFeeds,
        peers: Peers,
        outages: Outages,
        *,
        timeout: float,
        rand: random.Random,
    ) -> None:
        self._store = store
        self._rooms = rooms
        self._sessions = sessions
        self._user_feeds = user_feeds
        self._peers = peers
        self._outages = outages
        self._timeout = timeout
        self._random = rand
        self._requests: dict[_Key, _Request] = {}
        self._storing: dict[_Key, _Request] = {}
        self._has_requests = trio.Event()
        self._skip_delay = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self._unsent: dict[UUID, dict[UUID, int]] = {}
        self._has_unsent = trio.Event()

    async def run(self) -> None:
        """Stores positions and notifies, until cancelled. A fault of one batch ends that batch only."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._open_rooms, name="rooms for read positions")
            backoff = Backoff(self._random)
            while True:
                await self._has_requests.wait()
                with trio.move_on_after(DELAY):
                    await self._skip_delay.wait()
                if await self._store_batch():
                    backoff = Backoff(self._random)
                else:
                    await backoff.wait()

    async def finish(self) -> None:
        """Returns when every request is stored or rejected; does not wait for `DELAY`."""
        while self._requests or self._storing:
            self._skip_delay.set()
            await self._idle.wait()

    async def request_read(self, subscription: Subscription, seq: int) -> None:
        """Requests that a position of a connection's user be stored.

        The answer is a frame: the stored position, or an error. Each request counts among the connection's messages
        that wait for the database, so no more frames of it are read while there are too many.

        Cancelled: it was not requested.
        """
        connection = subscription.connection
        room = self._rooms.get(subscription.conversation_id)
        user_id = connection.user.id
        known_seq = 0 if room is None else room.read_seqs.get(user_id, 0)
        if room is not None and seq <= known_seq and _answer(room, subscription, known_seq):
            return
        is_known = room is not None and room.opened.is_set() and seq <= room.feed.last_seq
        key = subscription.conversation_id, user_id, is_known
        request = self._requests.get(key)
        if request is not None and connection in request.subscriptions:
            request.seq = max(request.seq, seq)
            return
        try:
            connection.capacity.acquire_nowait()
        except trio.WouldBlock:
            self._skip_delay.set()
            await connection.capacity.acquire()
        if connection.is_open:
            self._put(key, seq, trio.current_time() + self._timeout, {connection: subscription})
        else:  # closed meanwhile: its frames are not handled any more
            connection.capacity.release()

    async def mark_read(self, conversation_id: UUID, user_id: UUID, seq: int) -> ReadState:
        """Stores a position at once, of a user who need not be connected; returns the position that is then stored.

        Raises:
            NotAMember: they are not in the conversation, or there is none.
            PulseError: there is no such message.
            StoreUnavailable: it could not be stored in time; it may be, all the same.
        Cancelled: it may be stored or not.
        """
        is_known = False
        try:
            with trio.move_on_after(self._timeout):
                backoff = Backoff(self._random)
                while True:
                    (state,) = await self._store.mark_read([ReadMark(conversation_id, user_id, seq)])
                    is_known = True
                    if state is None:
                        raise NotAMember
                    if seq > state.last_seq:
                        raise _no_such_message()
                    if seq <= state.read_seq:
                        self._user_feeds.apply(_membership(conversation_id, user_id, state))
                        self._peers.publish_read(conversation_id, [(user_id, state.read_seq, state.user_rev)])
                        self.notify_here(conversation_id, {user_id: state.read_seq})
                        return state
                    await backoff.wait()
            raise StoreUnavailable("the position could not be stored in time")
        finally:
            if not is_known:  # it may be stored all the same
                self._user_feeds.read(user_id)

    # --- inside ---

    def _put(self, key: _Key, seq: int, deadline: float, subscriptions: Mapping[Connection, Subscription]) -> None:
        """Adds a request; each of its connections holds one slot of its capacity for it."""
        request = self._requests.setdefault(key, _Request(seq, deadline))
        request.seq = max(request.seq, seq)
        request.deadline = min(request.deadline, deadline)
        for connection, subscription in subscriptions.items():
            if connection in request.subscriptions:
                connection.capacity.release()
            request.subscriptions[connection] = subscription
        if self._idle.is_set():
            self._idle = trio.Event()
        self._has_requests.set()

    async def _store_batch(self) -> bool:
        """Stores the next batch; returns False if a part of it must be retried."""
        keys = list(self._requests)[:MAX_BATCH]
        batch = self._storing = {key: self._requests.pop(key) for key in keys}
        states: list[ReadState | None] | None = None
        try:
            with trio.fail_after(self._timeout):
                marks = [ReadMark(key[0], key[1], request.seq) for key, request in batch.items()]
                states = await self._store.mark_read(marks)
        except (StoreUnavailable, trio.TooSlowError) as error:
            self._outages.record("read positions not stored yet", error, len(batch))
        except Exception:
            log.exception("read positions could not be stored", count=len(batch))
            for request in batch.values():
                self._resolve(request, _not_stored())
            batch = {}
        is_whole = self._handle_states(batch, states)
        self._storing = {}
        self._start_next_batch()
        return is_whole

    def _handle_states(self, batch: dict[_Key, _Request], states: list[ReadState | None] | None) -> bool:
        """Notifies of positions that moved, rejects invalid and expired requests, and keeps the others for a retry.

        Returns False if there are any to retry. `states` is None if the store did not answer.
        """
        moved: dict[UUID, dict[UUID, ReadState]] = {}
        is_whole = True
        now = trio.current_time()
        for position, (key, request) in enumerate(batch.items()):
            conversation_id, user_id, _ = key
            state = None if states is None else states[position]
            if states is not None and state is None:
                self._resolve(request, not_a_member())
            elif state is not None and request.seq > state.last_seq:
                self._resolve(request, _no_such_message())
            elif state is not None and request.seq <= state.read_seq:
                self._resolve(request)
                self._user_feeds.apply(_membership(conversation_id, user_id, state))
                room = self._rooms.get(conversation_id)
                if room is not None and state.read_seq <= room.read_seqs.get(user_id, 0):
                    for subscription in request.subscriptions.values():  # it is no news, so only these are notified
                        _answer(room, subscription, state.read_seq)
                moved.setdefault(conversation_id, {})[user_id] = state
            elif request.deadline <= now:
                self._resolve(request, _not_stored())
                self._user_feeds.read(user_id)  # it may be stored all the same
            else:
                is_whole = False
                self._put(key, request.seq, request.deadline, request.subscriptions)
        for conversation_id, states_of in moved.items():
            positions = [(user_id, state.read_seq, state.user_rev) for user_id, state in states_of.items()]
            self._peers.publish_read(conversation_id, positions)
            self.notify_here(conversation_id, {user_id: seq for user_id, seq, _ in positions})
        return is_whole

    def _resolve(self, request: _Request, error: PulseError | None = None) -> None:
        """Ends a request, with an error if it is rejected."""
        for connection, subscription in request.subscriptions.items():
            connection.capacity.release()
            if error is not None:
                subscription.refuse(error)

    def _start_next_batch(self) -> None:
        """Starts the next batch at once if a full one is waiting."""
        self._skip_delay = trio.Event()
        if not self._requests:
            self._has_requests = trio.Event()
            self._idle.set()
        elif len(self._requests) >= MAX_BATCH:
            self._skip_delay.set()

    def notify_here(self, conversation_id: UUID, positions: dict[UUID, int]) -> None:
        """Sends positions that have moved to the sessions and connections of this process."""
        room = self._rooms.get(conversation_id)
        if room is not None and room.opened.is_set():
            # What waits here is older: after these, and perhaps after a removal of its user, it would be a step back.
            room.notify_read({**self._unsent.pop(conversation_id, {}), **positions})
        elif (room is not None or self._sessions) and (
            conversation_id in self._unsent or len(self._unsent) < MAX_UNSENT
        ):
            self._unsent.setdefault(conversation_id, {}).update(positions)
            self._has_unsent.set()

    async def _open_rooms(self) -> None:
        """Opens rooms for stored positions, one at a time: a client cannot make us open many at once."""
        while True:
            await self._has_unsent.wait()
            self._has_unsent = trio.Event()
            while self._unsent:
                conversation_id = next(iter(self._unsent))
                try:
                    async with self._rooms.opened(conversation_id, None) as room:
                        room.notify_read(self._unsent.pop(conversation_id, {}))
                except (NotAMember, StoreUnavailable):
                    self._unsent.pop(conversation_id, None)  # these frames are ephemeral


def _answer(room: Room, subscription: Subscription, seq: int) -> bool:
    """Sends one connection its user's position; returns False if it is not in the room any more."""
    attached = room.subscription_of(subscription.connection.transport)
    if attached is None:
        return False
    positions = [Position(subscription.connection.user.id, seq)]
    attached.deliver(encode(ReadFrame(conversation_id=room.conversation_id, positions=positions)), ephemeral=True)
    return True


def _membership(conversation_id: UUID, user_id: UUID, state: ReadState) -> MyMembership:
    return MyMembership(conversation_id, user_id, state.user_rev, True, state.read_seq)


def _no_such_message() -> PulseError:
    return PulseError(ErrorCode.NO_SUCH_MESSAGE, field="seq")


def _not_stored() -> PulseError:
    return PulseError(ErrorCode.NOT_STORED, "The read position could not be stored in time; send it again", field="seq")
