"""Limits of users: frames, connections, changes over REST, logins and registrations.

Whatever exceeds a limit is rejected. The counts are in this process's memory and bounded; a restart forgets them.
"""

import hashlib
import math
from collections import Counter
from enum import Enum
from typing import Final, Self, TypeAlias
from uuid import UUID

import trio

from pulse_trio.buckets import AddressBuckets, Buckets, TokenBucket
from pulse_trio.errors import ErrorCode, PulseError, too_many
from pulse_trio.networks import Networks
from pulse_trio.settings import Settings
from pulse_trio.texts import username_key

HOUR: Final = 3_600.0
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


Token: TypeAlias = tuple[Buckets | AddressBuckets, str]
"""A token that an attempt took: its buckets and its key."""


class Attempt:
    """A pending attempt, which was counted. It counts as a failure unless it is forgiven."""

    __slots__ = ("_pending", "_taken")

    def __init__(self, taken: list[Token], pending: Counter[Token]) -> None:
        self._taken = taken  # the tokens that it took, as buckets and keys
        self._pending = pending
        pending.update(taken)

    def forgive(self) -> None:
        """Gives back what the attempt took: the password was right, or none was hashed."""
        for buckets, key in self._end():
            buckets.give_back(key)

    def fail(self) -> None:
        """Ends the attempt as a failure, which only time forgets."""
        self._end()

    def _end(self) -> list[Token]:
        taken, self._taken = self._taken, []
        for token in taken:
            self._pending[token] -= 1
            if not self._pending[token]:
                del self._pending[token]
        return taken


class Logins:
    """Failed logins of an address and of an account; both limits recover within an hour.

    Only failures count, because many people may share an address. A pending attempt counts as a failure until it ends,
    so that parallel attempts cannot exceed the limit; an attempt that only pending ones reject may be retried at once.
    An account under attack stays open to addresses without a failed login in the last hour: that gives an attacker one
    guess for each address, while locking the account would let anybody keep its user out. Names without an account
    count in the same way, so that a rejection does not reveal which names exist.
    """

    __slots__ = ("_accounts", "_addresses", "_newcomers", "_pending")

    def __init__(self, per_address: int, per_account: int, networks: Networks) -> None:
        self._addresses = AddressBuckets(per_address / HOUR, per_address, networks)
        self._accounts = Buckets(per_account / HOUR, per_account)
        # An address has a token here if it has not failed in the last hour.
        self._newcomers = AddressBuckets(1 / HOUR, 1, networks)
        self._pending: Counter[Token] = Counter()  # the tokens of pending attempts

    def start(self, address: str, username: str) -> Attempt:
        """Counts an attempt, before anything is looked up or hashed for it.

        Raises:
            PulseError: too many have failed or are pending; has `retry_after`.
        """
        account = _digest(username_key(username))
        if not self._addresses.take(address):
            raise self._rejection((self._addresses, address))
        wanted = ((self._accounts, account), (self._newcomers, address))  # one of them is enough
        taken = [(buckets, key) for buckets, key in wanted if buckets.take(key)]
        if not taken:
            self._addresses.give_back(address)
            raise self._rejection(*wanted)
        return Attempt([(self._addresses, address), *taken], self._pending)

    def _rejection(self, *wanted: Token) -> PulseError:
        if any(token in self._pending for token in wanted):  # it may be given back
            return too_many("logins at a time", ERROR_INTERVAL)
        return too_many("failed logins", min(buckets.wait(key) for buckets, key in wanted))


class Registrations:
    """Registrations of an address in an hour; those that hash a password count, successful or not."""

    __slots__ = ("_addresses",)

    def __init__(self, per_address: int, networks: Networks) -> None:
        self._addresses = AddressBuckets(per_address / HOUR, per_address, networks)

    def start(self, address: str) -> Attempt:
        """Counts a registration.

        Raises:
            PulseError: there were too many; has `retry_after`.
        """
        if not self._addresses.take(address):
            raise too_many("registrations", self._addresses.wait(address))
        return Attempt([(self._addresses, address)], Counter())


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
    """The limits of a running service."""

    def __init__(self, settings: Settings) -> None:
        self.connections = Connections(settings.connections_per_user)
        self.logins = Logins(
            settings.login_failures_per_address, settings.login_failures_per_account, settings.networks
        )
        self.registrations = Registrations(settings.registrations_per_address, settings.networks)
        self.renewals = UserRate(
            "renewals of tokens", settings.renewals_per_user / HOUR, max(1, settings.renewals_per_user)
        )
        self.messages = UserRate("messages", settings.edits_per_second, settings.edits_burst)
        self.edits = UserRate("edits and deletions", settings.edits_per_second, settings.edits_burst)
        self.reads = UserRate("read positions", settings.edits_per_second, settings.edits_burst)
        self.groups = UserRate(
            "changes of conversations", settings.group_changes_per_second, settings.group_changes_burst
        )
        self.searches = UserRate("searches for users", settings.searches_per_second, settings.searches_burst)
        self.presence = UserRate("requests for presence", settings.presence_per_second, settings.presence_burst)


def _digest(text: str) -> str:
    """Returns a key of a bounded size for a text of any size."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
