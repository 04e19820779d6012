"""Read positions: what members say that they have read, gathered, stored in one statement, and told.

All conversations share the statement, so what a crowd reads within a moment is one round trip. A position that is
stored is told to the conversation's room; if there is none it is opened, one at a time, for whoever has a session.
"""

import random
from collections.abc import Mapping
from typing import Final
from uuid import UUID

import structlog
import trio

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.protocol import Position, ReadFrame, encode
from pulse_trio.rooms.backoff import Backoff
from pulse_trio.rooms.connection import Connection
from pulse_trio.rooms.registry import Rooms
from pulse_trio.rooms.room import Room
from pulse_trio.rooms.session import Sessions
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.rooms.writer import not_a_member
from pulse_trio.store.base import NotAMember, ReadMark, ReadState, Store, StoreUnavailable

GATHER: Final = 0.2  # seconds that marks are gathered: nobody sees the difference, and a crowd is one statement
BATCH: Final = 1_000  # most marks of one statement; beyond it a batch gains nothing
UNTOLD: Final = 1_024  # conversations whose room is yet to be opened to tell what was read; more are not told

log = structlog.get_logger(__name__)


class _Asked:
    """A mark that is to be stored, and who is to be told if it is not."""

    __slots__ = ("askers", "deadline", "seq")

    def __init__(self, seq: int, deadline: float) -> None:
        self.seq = seq
        self.deadline = deadline
        self.askers: dict[Connection, Subscription] = {}


# Conversation, user, and whether the room knew that there is such a message: one that is beyond the last must not
# spoil the others of its user. So there are at most two of each member.
_Key = tuple[UUID, UUID, bool]


class ReadPositions:
    """Takes marks, stores them and tells what moved.

    Args:
        store: where positions are.
        rooms: who is told.
        sessions: whether anybody is connected for whom a room would be opened.
        timeout: seconds after which a mark that cannot be stored is refused.
        rand: where the jitter of retries comes from.
    """

    def __init__(self, store: Store, rooms: Rooms, sessions: Sessions, *, timeout: float, rand: random.Random) -> None:
        self._store = store
        self._rooms = rooms
        self._sessions = sessions
        self._timeout = timeout
        self._random = rand
        self._asked: dict[_Key, _Asked] = {}
        self._storing: dict[_Key, _Asked] = {}
        self._came = trio.Event()
        self._hurry = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self._untold: dict[UUID, dict[UUID, int]] = {}
        self._untold_came = trio.Event()

    async def run(self) -> None:
        """Stores and tells, until cancelled. A fault of one batch ends that batch only."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._open_and_tell, name="tell what was read")
            backoff = Backoff(self._random)
            while True:
                await self._came.wait()
                with trio.move_on_after(GATHER):
                    await self._hurry.wait()
                if await self._store_batch():
                    backoff = Backoff(self._random)
                else:
                    await backoff.wait()

    async def finish(self) -> None:
        """Returns when everything that was asked is stored or refused; does not wait for more to gather."""
        while self._asked or self._storing:
            self._hurry.set()
            await self._idle.wait()

    async def ask(self, subscription: Subscription, seq: int) -> None:
        """Takes a mark of a connection; the answer is a frame: where its user stands, or an error.

        Each counts among the connection's messages that wait for the database, so that it is not read while too many
        do.
        Cancelled: it was not taken.
        """
        room = self._rooms.get(subscription.conversation_id)
        user_id = subscription.connection.user.id
        known_seq = 0 if room is None else room.read_seqs.get(user_id, 0)
        if room is not None and seq <= known_seq and _answer(room, subscription, known_seq):
            return
        is_known = room is not None and room.opened.is_set() and seq <= room.feed.last_seq
        key = subscription.conversation_id, user_id, is_known
        asked = self._asked.get(key)
        if asked is not None and subscription.connection in asked.askers:
            asked.seq = max(asked.seq, seq)
            return
        try:
            subscription.connection.capacity.acquire_nowait()
        except trio.WouldBlock:
            self._hurry.set()
            await subscription.connection.capacity.acquire()
        if subscription.connection.is_open:
            self._put(key, seq, trio.current_time() + self._timeout, {subscription.connection: subscription})
        else:  # closed meanwhile: what it still sends is not taken
            subscription.connection.capacity.release()

    async def mark(self, conversation_id: UUID, user_id: UUID, seq: int) -> ReadState:
        """Stores a mark at once, for somebody who need not be connected; where they then stand.

        Raises:
            NotAMember: they are not in the conversation, or there is none.
            PulseError: there is no such message.
            StoreUnavailable: it could not be stored in time; it may be, all the same.
        Cancelled: it may be stored or not.
        """
        backoff = Backoff(self._random)
        with trio.move_on_after(self._timeout):
            while True:
                (standing,) = await self._store.mark_read([ReadMark(conversation_id, user_id, seq)])
                if standing is None:
                    raise NotAMember
                if seq > standing.last_seq:
                    raise _no_such_message()
                if seq <= standing.read_seq:
                    self._tell(conversation_id, {user_id: standing.read_seq})
                    return standing
                await backoff.wait()
        raise StoreUnavailable("the position could not be stored in time")

    # --- inside ---

    def _put(self, key: _Key, seq: int, deadline: float, askers: Mapping[Connection, Subscription]) -> None:
        """Adds a mark to what is to be stored; each asker holds one place of its connection's capacity for it."""
        asked = self._asked.setdefault(key, _Asked(seq, deadline))
        asked.seq = max(asked.seq, seq)
        asked.deadline = min(asked.deadline, deadline)
        for connection, subscription in askers.items():
            if connection in asked.askers:
                connection.capacity.release()
            asked.askers[connection] = subscription
        if self._idle.is_set():
            self._idle = trio.Event()
        self._came.set()

    async def _store_batch(self) -> bool:
        """Stores what has gathered, or as much as goes into a statement; False: it must be tried again."""
        keys = list(self._asked)[:BATCH]
        batch = self._storing = {key: self._asked.pop(key) for key in keys}
        standings: list[ReadState | None] | None = None
        try:
            with trio.fail_after(self._timeout):
                marks = [ReadMark(key[0], key[1], asked.seq) for key, asked in batch.items()]
                standings = await self._store.mark_read(marks)
        except (StoreUnavailable, trio.TooSlowError) as error:
            log.warning("read positions not stored yet", count=len(batch), reason=type(error).__name__)
        except Exception:
            log.exception("read positions could not be stored", count=len(batch))
            for asked in batch.values():
                self._settle(asked, _not_stored())
            batch = {}
        is_whole = self._sort_out(batch, standings)
        self._storing = {}
        self._rest()
        return is_whole

    def _sort_out(self, batch: dict[_Key, _Asked], standings: list[ReadState | None] | None) -> bool:
        """Tells what moved, refuses what cannot be, and keeps the rest for another time, if it may wait so long."""
        moved: dict[UUID, dict[UUID, int]] = {}
        is_whole = True
        now = trio.current_time()
        for place, (key, asked) in enumerate(batch.items()):
            conversation_id, user_id, _ = key
            standing = None if standings is None else standings[place]
            if standings is not None and standing is None:
                self._settle(asked, not_a_member())
            elif standing is not None and asked.seq > standing.last_seq:
                self._settle(asked, _no_such_message())
            elif standing is not None and asked.seq <= standing.read_seq:
                self._settle(asked)
                room = self._rooms.get(conversation_id)
                if room is not None and standing.read_seq <= room.read_seqs.get(user_id, 0):
                    for subscription in asked.askers.values():  # it is no news, so nobody else is told
                        _answer(room, subscription, standing.read_seq)
                moved.setdefault(conversation_id, {})[user_id] = standing.read_seq
            elif asked.deadline <= now:
                self._settle(asked, _not_stored())
            else:
                is_whole = False
                self._put(key, asked.seq, asked.deadline, asked.askers)
        for conversation_id, positions in moved.items():
            self._tell(conversation_id, positions)
        return is_whole

    def _settle(self, asked: _Asked, error: PulseError | None = None) -> None:
        for connection, subscription in asked.askers.items():
            connection.capacity.release()
            if error is not None:
                subscription.refuse(error)

    def _rest(self) -> None:
        """What came while the last batch was stored goes on at once if it is a batch, else it gathers."""
        self._hurry = trio.Event()
        if not self._asked:
            self._came = trio.Event()
            self._idle.set()
        elif len(self._asked) >= BATCH:
            self._hurry.set()

    def _tell(self, conversation_id: UUID, positions: dict[UUID, int]) -> None:
        room = self._rooms.get(conversation_id)
        if room is not None and room.opened.is_set():
            room.tell_read(positions)
        elif (room is not None or self._sessions) and (conversation_id in self._untold or len(self._untold) < UNTOLD):
            self._untold.setdefault(conversation_id, {}).update(positions)
            self._untold_came.set()

    async def _open_and_tell(self) -> None:
        """Opens rooms for what was read where none was; one at a time, so that nobody can make us open many at once."""
        while True:
            await self._untold_came.wait()
            self._untold_came = trio.Event()
            while self._untold:
                conversation_id = next(iter(self._untold))
                try:
                    async with self._rooms.opened(conversation_id) as room:
                        room.tell_read(self._untold.pop(conversation_id))
                except (NotAMember, StoreUnavailable):
                    del self._untold[conversation_id]  # it may be missed


def _answer(room: Room, subscription: Subscription, seq: int) -> bool:
    """Tells one connection how far its user has read, if it is in the room (still)."""
    attached = room.subscription_of(subscription.connection.transport)
    if attached is None:
        return False
    positions = [Position(subscription.connection.user.id, seq)]
    attached.deliver(encode(ReadFrame(conversation_id=room.conversation_id, positions=positions)), ephemeral=True)
    return True


def _no_such_message() -> PulseError:
    return PulseError(ErrorCode.NO_SUCH_MESSAGE, field="seq")


def _not_stored() -> PulseError:
    return PulseError(ErrorCode.NOT_STORED, "The read position could not be stored in time; send it again", field="seq")
