"""Limits of what users do: frames, connections, changes over REST, logins and registrations.

What is over is refused. Everything is in this process's memory and bounded; a restart forgets it.
"""

import hashlib
import ipaddress
import math
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import Final, Self
from uuid import UUID

import trio
from quart import Request

from pulse_trio.edge.buckets import Buckets, TokenBucket
from pulse_trio.errors import ErrorCode, PulseError, too_many
from pulse_trio.settings import Settings
from pulse_trio.texts import username_key

HOUR: Final = 3_600.0
ERROR_INTERVAL: Final = 1.0  # seconds between `rate_limited` errors of one connection, or they would be a flood


class Verdict(Enum):
    """What becomes of a frame."""

    TAKE = 1
    REFUSE_ALOUD = 2  # and say so
    REFUSE = 3  # it was said less than a second ago
    CLOSE = 4


class Flow:
    """What one connection sends: so many frames and bytes a second, and bursts.

    What is over is refused. Once a further burst has been refused without a pause in which the buckets fill up
    again, the connection is to be closed.
    """

    __slots__ = ("_buckets", "_bursts", "_refused", "_told")

    def __init__(self, settings: Settings) -> None:
        # A frame of the largest size must pass, or it would be refused for ever.
        bytes_burst = max(settings.bytes_burst, settings.max_frame_bytes)
        self._buckets = (
            TokenBucket(settings.frames_per_second, settings.frames_burst),
            TokenBucket(settings.bytes_per_second, bytes_burst),
        )
        self._bursts = (settings.frames_burst, bytes_burst)
        self._refused = [0, 0]  # frames and bytes since the buckets were full
        self._told = -math.inf

    def judge(self, size: int) -> Verdict:
        """Counts a frame of `size` bytes, and says what to do with it."""
        costs = (1, size)
        if self._refused[0] and all(bucket.is_full for bucket in self._buckets):
            self._refused = [0, 0]
        if all(bucket.has(cost) for bucket, cost in zip(self._buckets, costs, strict=True)):
            for bucket, cost in zip(self._buckets, costs, strict=True):
                bucket.take(cost)
            return Verdict.TAKE
        self._refused = [refused + cost for refused, cost in zip(self._refused, costs, strict=True)]
        if any(refused > burst for refused, burst in zip(self._refused, self._bursts, strict=True)):
            return Verdict.CLOSE
        now = trio.current_time()
        if now - self._told < ERROR_INTERVAL:
            return Verdict.REFUSE
        self._told = now
        return Verdict.REFUSE_ALOUD

    def charge(self, frames: int) -> None:
        """Counts a frame that was taken as so many more, since it cost as much; the next ones may be refused for it."""
        self._buckets[0].drain(frames)


class Connections:
    """Counts the connections of each user; at most `most` of one, 0 is no limit."""

    __slots__ = ("_most", "_open")

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: dict[UUID, int] = {}

    def count(self, user_id: UUID) -> int:
        """How many the user has."""
        return self._open.get(user_id, 0)

    def hold(self, user_id: UUID) -> "ConnectionPlace":
        """Takes a place for one connection.

        Raises:
            PulseError: the user has as many as there may be.
        """
        if self._most and self.count(user_id) >= self._most:
            message = f"You have {self._most} connections open, which is the most; close one first"
            raise PulseError(ErrorCode.TOO_MANY_CONNECTIONS, message, retry_after=ERROR_INTERVAL)
        self._open[user_id] = self.count(user_id) + 1
        return ConnectionPlace(self, user_id)

    def give_up(self, user_id: UUID) -> None:
        """A place of the user's is free again."""
        self._open[user_id] -= 1
        if not self._open[user_id]:
            del self._open[user_id]


class ConnectionPlace:
    """A place for a connection: a context manager that gives it up at its end."""

    __slots__ = ("_connections", "_user_id")

    def __init__(self, connections: Connections, user_id: UUID) -> None:
        self._connections = connections
        self._user_id = user_id

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._connections.give_up(self._user_id)


class Attempt:
    """An attempt that was let through and counted. It counts unless it is forgiven."""

    __slots__ = ("_taken", "_under_way")

    def __init__(self, taken: list[tuple[Buckets, str]], under_way: Counter[tuple[Buckets, str]]) -> None:
        self._taken = taken
        self._under_way = under_way
        under_way.update(taken)

    def forgive(self) -> None:
        """Counts the attempt no more: the password was right, or none was hashed."""
        for buckets, key in self._end():
            buckets.give_back(key)

    def fail(self) -> None:
        """Counts the attempt as one that came to its end: only with time is it forgotten."""
        self._end()

    def _end(self) -> list[tuple[Buckets, str]]:
        taken, self._taken = self._taken, []
        for place in taken:
            self._under_way[place] -= 1
            if not self._under_way[place]:
                del self._under_way[place]
        return taken


class Logins:
    """Failed logins of an address and of an account; both fill up again within an hour.

    Only what failed counts, as many people may share an address. An attempt that is under way takes the place of a
    failure, so that many at once do not get past; what is refused for those alone may come back at once. An account
    that somebody guesses at is still open to an address with no failed login in the last hour: one guess each is what
    that gives an attacker with many addresses, while locking an account would let anybody keep its user out. Names
    without an account count in the same way, and say nothing.
    """

    __slots__ = ("_accounts", "_addresses", "_strangers", "_under_way")

    def __init__(self, per_address: int, per_account: int) -> None:
        self._addresses = Buckets(per_address / HOUR, per_address)
        self._accounts = Buckets(per_account / HOUR, per_account)
        self._strangers = Buckets(1 / HOUR, 1)  # who has not failed of late has a token here
        self._under_way: Counter[tuple[Buckets, str]] = Counter()  # attempts, of which none has failed yet

    def start(self, address: str, username: str) -> Attempt:
        """Counts an attempt, before anything is looked up or hashed for it.

        Raises:
            PulseError: too many have failed, or are under way; says when to try again.
        """
        account = _digest(username_key(username))
        if not self._addresses.take(address):
            raise self._refusal((self._addresses, address))
        asked = ((self._accounts, account), (self._strangers, address))
        taken = [(buckets, key) for buckets, key in asked if buckets.take(key)]
        if not taken:
            self._addresses.give_back(address)
            raise self._refusal(*asked)
        return Attempt([(self._addresses, address), *taken], self._under_way)

    def _refusal(self, *asked: tuple[Buckets, str]) -> PulseError:
        if any(place in self._under_way for place in asked):  # what they took may be given back
            return too_many("logins at a time", ERROR_INTERVAL)
        return too_many("failed logins", min(buckets.wait(key) for buckets, key in asked))


class Registrations:
    """Registrations of an address in an hour, whatever becomes of them, if they cost a password hash."""

    __slots__ = ("_addresses",)

    def __init__(self, per_address: int) -> None:
        self._addresses = Buckets(per_address / HOUR, per_address)

    def start(self, address: str) -> Attempt:
        """Counts a registration.

        Raises:
            PulseError: there were too many; says when to try again.
        """
        if not self._addresses.take(address):
            raise too_many("registrations", self._addresses.wait(address))
        return Attempt([(self._addresses, address)], Counter())


class Changes:
    """Requests of one kind that a user sends over REST; over WebSocket a connection's flow counts them."""

    __slots__ = ("_users", "_what")

    def __init__(self, what: str, rate: float, burst: float) -> None:
        self._what = what
        self._users = Buckets(rate, burst)

    def start(self, user_id: UUID) -> None:
        """Counts a request, whatever becomes of it.

        Raises:
            PulseError: there were too many; says when to try again.
        """
        if not self._users.take(user_id.hex):
            raise too_many(self._what, self._users.wait(user_id.hex))


class Limits:
    """All limits of a running service."""

    def __init__(self, settings: Settings) -> None:
        self.connections = Connections(settings.connections_per_user)
        self.logins = Logins(settings.login_failures_per_address, settings.login_failures_per_account)
        self.registrations = Registrations(settings.registrations_per_address)
        self.renewals = Changes(
            "renewals of tokens", settings.renewals_per_user / HOUR, max(1, settings.renewals_per_user)
        )
        self.messages = Changes("messages", settings.edits_per_second, settings.edits_burst)
        self.edits = Changes("edits and deletions", settings.edits_per_second, settings.edits_burst)
        self.reads = Changes("read positions", settings.edits_per_second, settings.edits_burst)
        self.groups = Changes(
            "changes of conversations", settings.group_changes_per_second, settings.group_changes_burst
        )
        self.presence = Changes("requests for presence", settings.presence_per_second, settings.presence_burst)


def client_address(peer: str | None, forwarded: Sequence[str], trusted_proxies: int) -> str:
    """Who asks, as a key for limits; of IPv6 the network, as one client has all of a /64.

    Args:
        peer: the address at the other end of the connection, if it has one.
        forwarded: the `X-Forwarded-For` headers, in the order they came.
        trusted_proxies: how many proxies of one's own stand before the service. Each adds the address that it was
            called from at the end, so the client is so many entries from there; what stands before is the client's
            own invention.
    """
    hops = [hop.strip() for line in forwarded for hop in line.split(",")]
    # With fewer entries than proxies all were written by proxies: the first is the farthest that is known.
    hop = hops[-min(trusted_proxies, len(hops))] if trusted_proxies and hops else ""
    for text in (hop, peer or ""):
        host = text[1:].partition("]")[0] if text.startswith("[") else text
        if host.count(":") == 1:
            host = host.partition(":")[0]
        try:
            found = ipaddress.ip_address(host)
        except ValueError:
            continue
        if isinstance(found, ipaddress.IPv4Address):
            return str(found)
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Address(int(found) >> 64 << 64)) + "/64"
    return "unknown"


def request_address(request: Request, trusted_proxies: int) -> str:
    """The client of a request, as a key for limits; see `client_address`."""
    peer = request.scope.get("client")
    forwarded = request.headers.getlist("X-Forwarded-For")
    return client_address(None if peer is None else peer[0], forwarded, trusted_proxies)


def _digest(text: str) -> str:
    """A key of a bounded size for a text of any."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
