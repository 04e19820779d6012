"""Limits of users: frames, connections, changes over REST; with the limits that protect accounts (`attempts`).

Whatever exceeds a limit is rejected. The counts are in this process's memory and bounded; a restart forgets them. Each
process has its own: they bound what its clients can cost it.
"""

import math
from enum import Enum
from typing import Final, Self
from uuid import UUID

import trio

from pulse_trio.buckets import Buckets, TokenBucket
from pulse_trio.edge.attempts import Attempts, Logins, Registrations, Renewals
from pulse_trio.errors import ErrorCode, PulseError, too_many
from pulse_trio.settings import Settings
from pulse_trio.store.base import Store

ERROR_INTERVAL: Final = 1.0  # seconds between `rate_limited` errors of one connection, or they would be a flood


class Verdict(Enum):
    """The verdict on a frame."""

    ACCEPT = 1
    REFUSE = 2  # send an error
    DROP = 3  # an error was sent less than a second ago
    CLOSE = 4  # close the connection


class Flow:
    """The rate limit of one connection: frames and bytes a second, and bursts of both.

    Frames beyond it are refused. Once a further burst has been refused without a pause in which the buckets fill up
    again, the connection must be closed.
    """

    __slots__ = ("_buckets", "_bursts", "_error_at", "_refused")

    def __init__(self, settings: Settings) -> None:
        # A frame of the largest size must pass, or it would always be refused.
        bytes_burst = max(settings.bytes_burst, settings.max_frame_bytes)
        self._buckets = (
            TokenBucket(settings.frames_per_second, settings.frames_burst),
            TokenBucket(settings.bytes_per_second, bytes_burst),
        )
        self._bursts = (settings.frames_burst, bytes_burst)
        self._refused = [0, 0]  # frames and bytes since the buckets were full
        self._error_at = -math.inf  # when an error was last sent

    def judge(self, size: int) -> Verdict:
        """Counts a frame of `size` bytes and returns what to do with it."""
        costs = (1, size)
        if self._refused[0] and all(bucket.is_full for bucket in self._buckets):
            self._refused = [0, 0]
        if all(bucket.has(cost) for bucket, cost in zip(self._buckets, costs, strict=True)):
            for bucket, cost in zip(self._buckets, costs, strict=True):
                bucket.take(cost)
            return Verdict.ACCEPT
        self._refused = [refused + cost for refused, cost in zip(self._refused, costs, strict=True)]
        if any(refused > burst for refused, burst in zip(self._refused, self._bursts, strict=True)):
            return Verdict.CLOSE
        now = trio.current_time()
        if now - self._error_at < ERROR_INTERVAL:
            return Verdict.DROP
        self._error_at = now
        return Verdict.REFUSE

    def take_now(self, size: int) -> bool:
        """Counts a frame that `judge` would accept; False, with nothing counted, if `judge` must decide."""
        frames, total = self._buckets
        if self._refused[0] or not frames.take():
            return False
        if not total.take(size):
            frames.give_back()
            return False
        return True

    def give_back(self, size: int) -> None:
        """Gives back what `take_now` has counted."""
        frames, total = self._buckets
        frames.give_back()
        total.give_back(size)

    def charge(self, frames: int) -> None:
        """Counts an accepted frame as so many more, because it cost as much; the next ones may be refused for it."""
        self._buckets[0].drain(frames)


class Connections:
    """The connections of each user, at most `max_per_user` of one; 0 is no limit."""

    __slots__ = ("_max_per_user", "_open")

    def __init__(self, max_per_user: int) -> None:
        self._max_per_user = max_per_user
        self._open: dict[UUID, int] = {}

    def count(self, user_id: UUID) -> int:
        """Returns the number of a user's connections."""
        return self._open.get(user_id, 0)

    def hold(self, user_id: UUID) -> "UserSlot":
        """Takes a slot for one connection.

        Raises:
            PulseError: the user has the maximum already.
        """
        if self._max_per_user and self.count(user_id) >= self._max_per_user:
            message = f"You have {self._max_per_user} connections open, the maximum; close one first"
            raise PulseError(ErrorCode.TOO_MANY_CONNECTIONS, message, retry_after=ERROR_INTERVAL)
        self._open[user_id] = self.count(user_id) + 1
        return UserSlot(self, user_id)

    def give_back(self, user_id: UUID) -> None:
        """Frees a slot of a user."""
        self._open[user_id] -= 1
        if not self._open[user_id]:
            del self._open[user_id]


class UserSlot:
    """A user's slot for one connection: a context manager that frees it at its end."""

    __slots__ = ("_connections", "_user_id")

    def __init__(self, connections: Connections, user_id: UUID) -> None:
        self._connections = connections
        self._user_id = user_id

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._connections.give_back(self._user_id)


class UserRate:
    """The rate of one kind of REST requests of each user; over WebSocket a connection's `Flow` counts them.

    Args:
        name: the kind, for the error's sentence.
        rate: requests a second; 0 is no limit.
        burst: requests at once.
    """

    __slots__ = ("_name", "_users")

    def __init__(self, name: str, rate: float, burst: float) -> None:
        self._name = name
        self._users = Buckets(rate, burst)

    def start(self, user_id: UUID) -> None:
        """Counts a request, successful or not.

        Raises:
            PulseError: there were too many; has `retry_after`.
        """
        if not self._users.take(user_id.hex):
            raise too_many(self._name, self._users.wait(user_id.hex))


class Limits:
    """The limits of a running service.

    Args:
        settings: their bounds.
        store: counts logins, registrations and renewals, for all processes.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        attempts = Attempts(store)
        self.logins = Logins(
            attempts, settings.login_failures_per_address, settings.login_failures_per_account, settings.networks
        )
        self.registrations = Registrations(attempts, settings.registrations_per_address, settings.networks)
        self.renewals = Renewals(attempts, settings.renewals_per_user)
        self.connections = Connections(settings.connections_per_user)
        self.messages = UserRate("messages", settings.edits_per_second, settings.edits_burst)
        self.edits = UserRate("edits and deletions", settings.edits_per_second, settings.edits_burst)
        self.reads = UserRate("read positions", settings.edits_per_second, settings.edits_burst)
        self.groups = UserRate(
            "changes of conversations", settings.group_changes_per_second, settings.group_changes_burst
        )
        self.searches = UserRate("searches for users", settings.searches_per_second, settings.searches_burst)
        self.presence = UserRate("requests for presence", settings.presence_per_second, settings.presence_burst)
