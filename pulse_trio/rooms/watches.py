"""Watches: which sessions are told who of which users is online.

A session names whom it wants to be told of; the store says with whom of them its user shares a conversation. When
somebody is removed from one, what was allowed through it may not be any more: everything between them and the others
stops at once, and goes on where the store says that they still share another.
"""

import random
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog
import trio

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.protocol import Encoded, UserPresence, UsersFrame, encode
from pulse_trio.rooms.backoff import Backoff
from pulse_trio.rooms.connection import Connection
from pulse_trio.rooms.online import Online
from pulse_trio.store.base import Store, StoreUnavailable

GATHER: Final = 0.5  # seconds that comings and goings are gathered before they are told
FRAME_USERS: Final = 100  # most users in one frame: about 11 KB
QUERIES: Final = 4  # at a time, so that a storm of sessions leaves connections to the database for messages
SLICE: Final = 1_000  # watches looked at before other tasks have their turn: about a millisecond
DOUBTS: Final = 1_000  # users that one question about a removed member names

log = structlog.get_logger(__name__)


class Watch:
    """Of whom a session is told.

    Attributes:
        users: of these; the store has allowed each of them.
        wanted: whom its client asked for, until that is looked up.
        number: of its latest list: what belongs to one before is out of date.
    """

    __slots__ = ("connection", "is_looking", "number", "users", "wanted")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.users: dict[UUID, None] = {}
        self.wanted: list[UUID] | None = None
        self.is_looking = False
        self.number = 0


class _Query:
    """A question to the store under way: who of `among` shares a conversation with a user."""

    __slots__ = ("among", "is_stale", "user_id")

    def __init__(self, user_id: UUID, among: Iterable[UUID]) -> None:
        self.user_id = user_id
        self.among = frozenset(among)
        self.is_stale = False  # somebody whom it is about was removed from a conversation meanwhile


_Pair = tuple[Watch, UUID]  # a watch, and whom it is of


class Watches:
    """Looks up what may be watched, and tells what changes.

    Args:
        store: who shares a conversation with whom.
        online: who is online.
        most: most users that one session may watch.
        timeout: seconds after which a session is told that its list could not be looked up.
        rand: where the jitter of retries comes from.
    """

    def __init__(self, store: Store, online: Online, *, most: int, timeout: float, rand: random.Random) -> None:
        self._store = store
        self._most = most
        self._timeout = timeout
        self._random = rand
        self._online = online
        self._nursery: trio.Nursery | None = None
        self._slots = trio.Semaphore(QUERIES)
        self._watches: dict[Connection, Watch] = {}
        self._watchers: dict[UUID, dict[Watch, None]] = {}
        self._queries: dict[_Query, None] = {}
        self._doubts: dict[UUID, dict[_Pair, int]] = {}  # removed user → what is held back, by number of the list
        self._news: dict[UUID, datetime] = {}  # who came or went, and when; of watched users only
        self._came = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Tells, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                await self._came.wait()
                await trio.sleep(GATHER)
                self._came = trio.Event()
                news, self._news = self._news, {}
                await self._tell(news)

    def note(self, user_id: UUID, moment: datetime) -> None:
        """Somebody has come or gone: whoever watches them is told in a moment."""
        if user_id in self._watchers:
            self._news[user_id] = moment
            self._came.set()

    def watch(self, connection: Connection, user_ids: list[UUID]) -> None:
        """Takes a session's list, in place of the one before; the answer comes as frames.

        One list of a session is looked up at a time; of those that come meanwhile only the last counts.

        Raises:
            PulseError: it is too long.
        """
        if len(user_ids) > self._most:
            message = f"`user_ids` may name {self._most} users"
            raise PulseError(ErrorCode.INVALID_FRAME, message, field="user_ids")
        if not connection.is_open:
            return
        watch = self._watches.setdefault(connection, Watch(connection))
        watch.wanted = user_ids
        if not watch.is_looking:
            watch.is_looking = True
            assert self._nursery is not None
            self._nursery.start_soon(self._look_up, watch, name=f"watch of {connection.user.id}")

    def end(self, connection: Connection) -> None:
        """The session has gone."""
        watch = self._watches.pop(connection, None)
        if watch is not None:
            self._set(watch, ())

    def doubt(self, user_id: UUID, connections: Iterable[Connection]) -> None:
        """Somebody was removed from a conversation, or may have been: whom they may watch is asked anew, and who them.

        Args:
            user_id: who.
            connections: their sessions'.
        """
        for query in self._queries:
            if user_id == query.user_id or user_id in query.among:
                query.is_stale = True
        own = [watch for watch in map(self._watches.get, connections) if watch is not None]
        pairs = [(watch, other) for watch in own for other in watch.users if other != user_id]
        pairs += [(watch, user_id) for watch in self._watchers.get(user_id, ()) if watch not in own]
        if not pairs:
            return
        is_asking = user_id in self._doubts
        held_back = self._doubts.setdefault(user_id, {})
        for watch, other in pairs:
            self._drop(watch, other)
            held_back[watch, other] = watch.number
        if not is_asking:
            assert self._nursery is not None
            self._nursery.start_soon(self._resolve, user_id, name=f"doubt about {user_id}")

    async def look_up(self, user_id: UUID, among: Sequence[UUID]) -> list[UserPresence]:
        """Who is online of those that share a conversation with a user, and the user if named.

        Nobody has been removed from a conversation since it was looked up when this returns, unless `doubt` is still
        to be called for it.
        Raises StoreUnavailable.
        """
        query = _Query(user_id, among)
        self._queries[query] = None
        try:
            with trio.move_on_after(self._timeout):
                async with self._slots:
                    while True:
                        query.is_stale = False
                        recent = self._online.recent(among)
                        found = await self._store.acquaintances(user_id, among)
                        if not query.is_stale:
                            # No await from here until the caller goes on.
                            known = [each for each in among if each in found]
                            return [self._online.standing(each, found[each], recent.get(each)) for each in known]
            raise StoreUnavailable("the acquaintances took too long")
        finally:
            del self._queries[query]

    # --- inside ---

    async def _look_up(self, watch: Watch) -> None:
        """Looks up what a session wants, until it wants nothing new."""
        while watch.wanted is not None and watch.connection in self._watches:
            wanted, watch.wanted = watch.wanted, None
            try:
                standings = await self._look_up_patiently(watch.connection.user.id, wanted)
            except StoreUnavailable:
                _refuse(watch)
            else:
                if watch.connection in self._watches:
                    self._set(watch, [standing.user_id for standing in standings])
                    for frame in _frames(standings) or [encode(UsersFrame(users=[]))]:
                        watch.connection.deliver(frame)
        watch.is_looking = False

    async def _look_up_patiently(self, user_id: UUID, among: Sequence[UUID]) -> list[UserPresence]:
        """As `look_up`, again and again for a while."""
        backoff = Backoff(self._random)
        deadline = trio.current_time() + self._timeout
        while True:
            try:
                return await self.look_up(user_id, among)
            except StoreUnavailable:
                if trio.current_time() >= deadline:
                    raise
            except Exception:
                log.exception("who may be watched could not be looked up", user_id=str(user_id))
                raise StoreUnavailable("the look-up failed") from None
            await backoff.wait()

    async def _resolve(self, user_id: UUID) -> None:
        """Lets go on what is still allowed of what was stopped when somebody was removed."""
        held_back = self._doubts[user_id]
        while held_back:
            part = list(held_back)[:DOUBTS]
            # Whether two share a conversation is the same for both: one question does for the watches of either.
            others = {_other(pair, user_id): None for pair in part}
            standings: list[UserPresence] | None = None
            try:
                standings = await self._look_up_patiently(user_id, [user_id, *others])
            except StoreUnavailable:
                for watch in {watch: None for watch, _ in part}:
                    _refuse(watch)
            known = {standing.user_id: standing for standing in standings or ()}
            again: dict[Watch, list[UserPresence]] = {}
            for pair in part:
                watch, watched = pair
                is_latest = held_back.pop(pair) == watch.number and watch.connection in self._watches
                if is_latest and _other(pair, user_id) in known:
                    self._add(watch, watched)
                    again.setdefault(watch, []).append(known[watched])
            for watch, missed in again.items():  # what happened meanwhile was not told
                for frame in _frames(missed):
                    watch.connection.deliver(frame, ephemeral=True)
        del self._doubts[user_id]

    async def _tell(self, news: dict[UUID, datetime]) -> None:
        """Tells every watch of those of its users who came or went, in as few frames as can be."""
        touched: dict[Watch, list[UUID]] = {}
        count = 0
        for user_id in news:
            for watch in list(self._watchers.get(user_id, ())):
                touched.setdefault(watch, []).append(user_id)
                count += 1
            if count > SLICE:
                count = 0
                await trio.lowlevel.checkpoint()
        encoded: dict[tuple[UUID, ...], list[Encoded]] = {}  # most watch the same few
        for watch, user_ids in touched.items():
            allowed = tuple(user_id for user_id in user_ids if user_id in watch.users)  # still
            count += len(allowed)
            if allowed not in encoded:
                encoded[allowed] = _frames([self._online.standing(each, news[each]) for each in allowed])
            for frame in encoded[allowed]:
                watch.connection.deliver(frame, ephemeral=True)
            if count > SLICE:
                count = 0
                encoded.clear()  # who is online may change in the pause
                await trio.lowlevel.checkpoint()

    def _set(self, watch: Watch, user_ids: Iterable[UUID]) -> None:
        for user_id in list(watch.users):
            self._drop(watch, user_id)
        watch.number += 1
        for user_id in user_ids:
            self._add(watch, user_id)

    def _add(self, watch: Watch, user_id: UUID) -> None:
        watch.users[user_id] = None
        self._watchers.setdefault(user_id, {})[watch] = None

    def _drop(self, watch: Watch, user_id: UUID) -> None:
        del watch.users[user_id]
        watchers = self._watchers[user_id]
        del watchers[watch]
        if not watchers:
            del self._watchers[user_id]


def _other(pair: _Pair, user_id: UUID) -> UUID:
    """Of a watch and whom it is of, the one who is not this user."""
    watch, watched = pair
    return watch.connection.user.id if watched == user_id else watched


def _frames(standings: Sequence[UserPresence]) -> list[Encoded]:
    parts = (standings[at : at + FRAME_USERS] for at in range(0, len(standings), FRAME_USERS))
    return [encode(UsersFrame(users=list(part))) for part in parts]


def _refuse(watch: Watch) -> None:
    error = PulseError(
        ErrorCode.UNAVAILABLE, "The database does not answer; send `watch` again in a moment", field="user_ids"
    )
    watch.connection.refuse(error)
