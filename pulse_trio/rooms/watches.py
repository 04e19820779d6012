"""Watches: which sessions follow whose presence.

A session names the users that it watches; the store says with which of them its user shares a conversation. When a
user is removed from one, a watch that was allowed through it may not be any more: all watches by and of this user
pause at once, and those of users who share another conversation resume when the store says so.
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
from pulse_trio.rooms.turns import Turns
from pulse_trio.store.base import Store, StoreUnavailable

DELAY: Final = 0.5  # seconds that changes of presence are batched before they are sent
MAX_FRAME_USERS: Final = 100  # about 11 KB
MAX_QUERIES: Final = 4  # at a time: many sessions at once must leave connections to the database for messages
MAX_QUERIES_OF_USER: Final = 2  # at a time: the sessions of one user, however many, do not delay those of others
MAX_SLICE: Final = 1_000  # watches handled before other tasks have their turn: about a millisecond
MAX_RECHECKED_USERS: Final = 1_000  # that one query about a removed member names

log = structlog.get_logger(__name__)


class Watch:
    """The users that one session follows.

    Attributes:
        users: the users; the store has allowed each of them.
        wanted: the list that its client sent last, until it is looked up.
        number: the number of its current list; what belongs to an earlier one is out of date.
    """

    __slots__ = ("connection", "is_looking", "number", "users", "wanted")

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.users: dict[UUID, None] = {}
        self.wanted: list[UUID] | None = None
        self.is_looking = False
        self.number = 0


class _Query:
    """A query to the store in progress: which users of `among` share a conversation with a user."""

    __slots__ = ("among", "is_stale", "user_id")

    def __init__(self, user_id: UUID, among: Iterable[UUID]) -> None:
        self.user_id = user_id
        self.among = frozenset(among)
        self.is_stale = False  # one of its users was removed from a conversation meanwhile


_Pair = tuple[Watch, UUID]  # a watch, and one user that it follows


class Watches:
    """Looks up which users may be watched, and notifies sessions of their presence.

    Args:
        store: knows which users share a conversation.
        online: knows which users are online.
        max_users: the users that one session may watch.
        timeout: seconds after which a list that could not be looked up is rejected.
        rand: gives the jitter of retries.
    """

    def __init__(self, store: Store, online: Online, *, max_users: int, timeout: float, rand: random.Random) -> None:
        self._store = store
        self._max_users = max_users
        self._timeout = timeout
        self._random = rand
        self._online = online
        self._nursery: trio.Nursery | None = None
        self._slots = trio.Semaphore(MAX_QUERIES)
        self._turns = Turns(MAX_QUERIES_OF_USER)
        self._watches: dict[Connection, Watch] = {}
        self._watchers: dict[UUID, dict[Watch, None]] = {}
        self._queries: dict[_Query, None] = {}
        self._paused: dict[UUID, dict[_Pair, int]] = {}  # removed user → paused pairs, with the number of the list
        self._news: dict[UUID, datetime] = {}  # watched users that came or left, and when
        self._has_news = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Sends changes of presence, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            while True:
                await self._has_news.wait()
                await trio.sleep(DELAY)
                self._has_news = trio.Event()
                news, self._news = self._news, {}
                await self._notify(news)

    def record_change(self, user_id: UUID, moment: datetime) -> None:
        """Records that a user came or left; the sessions that watch them are notified after `DELAY`."""
        if user_id in self._watchers:
            self._news[user_id] = moment
            self._has_news.set()

    def watch(self, connection: Connection, user_ids: list[UUID]) -> None:
        """Replaces the list of users that a session watches; the answer comes as frames.

        One list of a session is looked up at a time; of those that come meanwhile only the last counts.

        Raises:
            PulseError: it is too long.
        """
        if len(user_ids) > self._max_users:
            message = f"`user_ids` may name {self._max_users} users"
            raise PulseError(ErrorCode.INVALID_FRAME, message, field="user_ids")
        if not connection.is_open:
            return
        watch = self._watches.setdefault(connection, Watch(connection))
        watch.wanted = user_ids
        if not watch.is_looking:
            watch.is_looking = True
            assert self._nursery is not None
            self._nursery.start_soon(self._look_up_wanted, watch, name=f"watch of {connection.user.id}")

    def end(self, connection: Connection) -> None:
        """Forgets a session that has ended."""
        watch = self._watches.pop(connection, None)
        if watch is not None:
            self._set_users(watch, ())

    def recheck_user(self, user_id: UUID, connections: Iterable[Connection]) -> None:
        """Re-checks every watch by or of this user: they were, or may have been, removed from a conversation.

        Args:
            user_id: the user.
            connections: those of their sessions.
        """
        for query in self._queries:
            if user_id == query.user_id or user_id in query.among:
                query.is_stale = True
        own = [watch for watch in map(self._watches.get, connections) if watch is not None]
        pairs = [(watch, other) for watch in own for other in watch.users if other != user_id]
        pairs += [(watch, user_id) for watch in self._watchers.get(user_id, ()) if watch not in own]
        if not pairs:
            return
        is_running = user_id in self._paused
        paused = self._paused.setdefault(user_id, {})
        for watch, other in pairs:
            self._drop_user(watch, other)
            paused[watch, other] = watch.number
        if not is_running:
            assert self._nursery is not None
            self._nursery.start_soon(self._recheck, user_id, name=f"recheck watches of {user_id}")

    async def look_up(self, user_id: UUID, among: Sequence[UUID]) -> list[UserPresence]:
        """Returns the presence of those users that share a conversation with a user, and of the user if named.

        When this returns, none of them has been removed from a conversation since the look-up, unless `recheck_user`
        is still to be called for it.

        Raises:
            StoreUnavailable: they could not be looked up in time.
        Cancelled: nothing has happened.
        """
        query = _Query(user_id, among)
        self._queries[query] = None
        try:
            with trio.move_on_after(self._timeout):
                async with self._turns.turn(user_id), self._slots:
                    while True:
                        query.is_stale = False
                        recent = self._online.recent(among)
                        found = await self._store.acquaintances(user_id, among)
                        if not query.is_stale:
                            # No await from here until the caller goes on.
                            known = [each for each in among if each in found]
                            return [self._online.presence_of(each, found[each], recent.get(each)) for each in known]
            raise StoreUnavailable("the acquaintances took too long")
        finally:
            del self._queries[query]

    # --- inside ---

    async def _look_up_wanted(self, watch: Watch) -> None:
        """Looks up the list that a session wants, until no newer one has come."""
        while watch.wanted is not None and watch.connection in self._watches:
            wanted, watch.wanted = watch.wanted, None
            try:
                presences = await self._look_up_with_retries(watch.connection.user.id, wanted)
            except StoreUnavailable:
                _refuse(watch)
            else:
                if watch.connection in self._watches:
                    self._set_users(watch, [presence.user_id for presence in presences])
                    for frame in _frames(presences) or [encode(UsersFrame(users=[]))]:
                        watch.connection.deliver(frame)
        watch.is_looking = False

    async def _look_up_with_retries(self, user_id: UUID, among: Sequence[UUID]) -> list[UserPresence]:
        backoff = Backoff(self._random)
        deadline = trio.current_time() + self._timeout
        while True:
            try:
                return await self.look_up(user_id, among)
            except StoreUnavailable:
                if trio.current_time() >= deadline:
                    raise
            except Exception:
                log.exception("watch look-up failed", user_id=str(user_id))
                raise StoreUnavailable("the look-up failed") from None
            await backoff.wait()

    async def _recheck(self, user_id: UUID) -> None:
        """Resumes the watches that are still allowed after a removal."""
        paused = self._paused[user_id]
        while paused:
            part = list(paused)[:MAX_RECHECKED_USERS]
            # To share a conversation is mutual: one query serves the watches of either user.
            others = {_other(pair, user_id): None for pair in part}
            presences: list[UserPresence] | None = None
            try:
                presences = await self._look_up_with_retries(user_id, [user_id, *others])
            except StoreUnavailable:
                for watch in {watch: None for watch, _ in part}:
                    _refuse(watch)
            known = {presence.user_id: presence for presence in presences or ()}
            resumed: dict[Watch, list[UserPresence]] = {}
            for pair in part:
                watch, watched = pair
                is_latest = paused.pop(pair) == watch.number and watch.connection in self._watches
                if is_latest and _other(pair, user_id) in known:
                    self._add_user(watch, watched)
                    resumed.setdefault(watch, []).append(known[watched])
            for watch, missed in resumed.items():  # no change was sent while the watch was paused
                for frame in _frames(missed):
                    watch.connection.deliver(frame, ephemeral=True)
        del self._paused[user_id]

    async def _notify(self, news: dict[UUID, datetime]) -> None:
        """Notifies every watch of those of its users that came or left, in as few frames as possible."""
        touched: dict[Watch, list[UUID]] = {}
        count = 0
        for user_id in news:
            for watch in list(self._watchers.get(user_id, ())):
                touched.setdefault(watch, []).append(user_id)
                count += 1
            if count > MAX_SLICE:
                count = 0
                await trio.lowlevel.checkpoint()
        encoded: dict[tuple[UUID, ...], list[Encoded]] = {}  # many sessions watch the same few users
        for watch, user_ids in touched.items():
            allowed = tuple(user_id for user_id in user_ids if user_id in watch.users)  # still
            count += len(allowed)
            if allowed not in encoded:
                encoded[allowed] = _frames([self._online.presence_of(each, news[each]) for each in allowed])
            for frame in encoded[allowed]:
                watch.connection.deliver(frame, ephemeral=True)
            if count > MAX_SLICE:
                count = 0
                encoded.clear()  # presence may change in the pause
                await trio.lowlevel.checkpoint()

    def _set_users(self, watch: Watch, user_ids: Iterable[UUID]) -> None:
        for user_id in list(watch.users):
            self._drop_user(watch, user_id)
        watch.number += 1
        for user_id in user_ids:
            self._add_user(watch, user_id)

    def _add_user(self, watch: Watch, user_id: UUID) -> None:
        watch.users[user_id] = None
        self._watchers.setdefault(user_id, {})[watch] = None

    def _drop_user(self, watch: Watch, user_id: UUID) -> None:
        del watch.users[user_id]
        watchers = self._watchers[user_id]
        del watchers[watch]
        if not watchers:
            del self._watchers[user_id]


def _other(pair: _Pair, user_id: UUID) -> UUID:
    """Returns the other user of a (watcher, watched) pair."""
    watch, watched = pair
    return watch.connection.user.id if watched == user_id else watched


def _frames(presences: Sequence[UserPresence]) -> list[Encoded]:
    parts = (presences[at : at + MAX_FRAME_USERS] for at in range(0, len(presences), MAX_FRAME_USERS))
    return [encode(UsersFrame(users=list(part))) for part in parts]


def _refuse(watch: Watch) -> None:
    error = PulseError(
        ErrorCode.UNAVAILABLE, "The database does not answer; send `watch` again in a moment", field="user_ids"
    )
    watch.connection.refuse(error)
