"""Limits that protect accounts: failed logins, registrations, renewals of tokens.

The store counts them for all processes of the service, so that an attacker gains nothing by reaching several. While it
does not answer, attempts fail: none of them could succeed without it, and an attacker must not gain from an outage.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID

import trio

from pulse_trio.errors import too_many
from pulse_trio.networks import Networks
from pulse_trio.store.base import AttemptBucket, AttemptVerdict, Store, StoreError
from pulse_trio.texts import username_key

HOUR: Final = 3_600.0
PENDING_WAIT: Final = 1.0  # seconds until a retry, if only pending attempts are in the way
GIVE_BACK_TIMEOUT: Final = 1.0  # seconds that an answer waits for the store to count an attempt no more
# Seconds that a rejection is repeated without asking the store, at most until a token is back. Only attempts pending in
# other processes could make it outdated.
REJECTION_SECONDS: Final = 1.0
MAX_REJECTIONS: Final = 4_096  # an entry has some 500 bytes


class Attempts:
    """The attempts that wait for their end in this process, and the rejections of the last second."""

    __slots__ = ("_pending", "_rejections", "_store")

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending: Counter[bytes] = Counter()  # the buckets of pending attempts, by their keys
        self._rejections: dict[bytes, tuple[AttemptVerdict, float]] = {}  # with their times, the oldest first

    def is_pending(self, buckets: Sequence[AttemptBucket]) -> bool:
        """Returns whether a pending attempt has a token of one of these buckets, which it may give back."""
        return any(bucket.key in self._pending for bucket in buckets)

    async def start(self, groups: Sequence[Sequence[AttemptBucket]]) -> "Attempt | AttemptVerdict":
        """Counts an attempt: `Store.take_tokens`. Returns it, or the verdict that rejects it.

        Raises:
            StoreUnavailable: it may be counted.
        Cancelled: it may be counted.
        """
        first = b"".join(bucket.key for bucket in groups[0])
        every = b"".join(bucket.key for group in groups for bucket in group)
        for name in (first, every):
            known = self._known_rejection(name)
            if known is not None:
                return known
        asked = [bucket for group in groups for bucket in group]
        self.begin(asked)  # a parallel attempt that is rejected may be accepted once this one is forgiven
        try:
            verdict = await self._store.take_tokens(groups)
        finally:
            self.end(asked)
        if verdict.taken:
            return Attempt(self, [bucket for index in verdict.taken for bucket in groups[index]])
        if not any(map(self.is_pending, groups)):
            # A bucket of the first group rejects its attempts whatever else they are: with any username.
            self._remember_rejection(first if verdict.waits[0] else every, verdict)
        return verdict

    def _known_rejection(self, name: bytes) -> AttemptVerdict | None:
        if name not in self._rejections:
            return None
        verdict, since = self._rejections[name]
        passed = trio.current_time() - since
        if passed >= min(REJECTION_SECONDS, _wait(verdict)):
            del self._rejections[name]
            return None
        return AttemptVerdict((), tuple(max(0.0, wait - passed) for wait in verdict.waits))

    def _remember_rejection(self, name: bytes, verdict: AttemptVerdict) -> None:
        self._rejections.pop(name, None)
        self._rejections[name] = verdict, trio.current_time()
        if len(self._rejections) > MAX_REJECTIONS:
            del self._rejections[next(iter(self._rejections))]

    def begin(self, buckets: Sequence[AttemptBucket]) -> None:
        """Counts tokens as those of a pending attempt."""
        self._pending.update(bucket.key for bucket in buckets)

    def end(self, buckets: Sequence[AttemptBucket]) -> None:
        """Counts tokens as those of a pending attempt no more."""
        for bucket in buckets:
            self._pending[bucket.key] -= 1
            if not self._pending[bucket.key]:
                del self._pending[bucket.key]

    async def give_back(self, buckets: Sequence[AttemptBucket]) -> None:
        """Gives tokens back, also when cancelled; those that the store does not get in time come back by themselves."""
        with trio.move_on_after(GIVE_BACK_TIMEOUT) as scope:
            scope.shield = True
            with suppress(StoreError):
                await self._store.give_back_tokens(buckets)


class Attempt:
    """A pending attempt, which was counted. It counts as a failure unless it is forgiven."""

    __slots__ = ("_attempts", "_taken")

    def __init__(self, attempts: Attempts, taken: Sequence[AttemptBucket]) -> None:
        self._attempts = attempts
        self._taken = taken
        attempts.begin(taken)

    async def forgive(self) -> None:
        """Gives back what the attempt took: the password was right, or none was hashed.

        Cancelled: it is given back first, which takes at most GIVE_BACK_TIMEOUT.
        """
        taken = self._taken
        if taken:
            try:
                await self._attempts.give_back(taken)
            finally:
                self.fail()

    def fail(self) -> None:
        """Ends the attempt as a failure, which only time forgets."""
        taken, self._taken = self._taken, ()
        self._attempts.end(taken)


class Logins:
    """Failed logins of an address and of an account; both limits recover within an hour.

    Only failures count, because many people may share an address. A pending attempt counts as a failure until it ends,
    so that parallel attempts cannot exceed the limit; an attempt that only pending ones reject may be retried at once.
    An account under attack stays open to addresses without a failed login in the last hour: that gives an attacker one
    guess for each address, while locking the account would let anybody keep its user out. Names without an account
    count in the same way, so that a rejection does not reveal which names exist.
    """

    __slots__ = ("_attempts", "_networks", "_per_account", "_per_address")

    def __init__(self, attempts: Attempts, per_address: int, per_account: int, networks: Networks) -> None:
        self._attempts = attempts
        self._per_address = per_address
        self._per_account = per_account
        self._networks = networks

    async def start(self, address: str, username: str) -> Attempt:
        """Counts an attempt, before anything is looked up or hashed for it.

        Raises:
            PulseError: too many have failed or are pending; has `retry_after`.
            StoreUnavailable: it may be counted.
        Cancelled: it may be counted.
        """
        groups = [_of_address("login", address, self._per_address, self._networks)]
        if self._per_account:
            account = AttemptBucket(
                _key("account", username_key(username)), self._per_account / HOUR, self._per_account
            )
            # An address has a token in the last group if it has not failed in the last hour. One of the two is enough.
            groups += [[account], _of_address("newcomer", address, 1, self._networks)]
        attempt = await self._attempts.start(groups)
        if isinstance(attempt, Attempt):
            return attempt
        wanted = groups[:1] if attempt.waits[0] else groups[1:]
        if any(map(self._attempts.is_pending, wanted)):
            raise too_many("logins at a time", PENDING_WAIT)
        raise too_many("failed logins", _wait(attempt))


class Registrations:
    """Registrations of an address in an hour; those that hash a password count, successful or not."""

    __slots__ = ("_attempts", "_networks", "_per_address")

    def __init__(self, attempts: Attempts, per_address: int, networks: Networks) -> None:
        self._attempts = attempts
        self._per_address = per_address
        self._networks = networks

    async def start(self, address: str) -> Attempt:
        """Counts a registration.

        Raises:
            PulseError: there were too many; has `retry_after`.
            StoreUnavailable: it may be counted.
        Cancelled: it may be counted.
        """
        attempt = await self._attempts.start([_of_address("registration", address, self._per_address, self._networks)])
        if isinstance(attempt, Attempt):
            return attempt
        raise too_many("registrations", _wait(attempt))


class Renewals:
    """Renewals of tokens of a user in an hour, successful or not."""

    __slots__ = ("_attempts", "_per_user")

    def __init__(self, attempts: Attempts, per_user: int) -> None:
        self._attempts = attempts
        self._per_user = per_user

    async def start(self, user_id: UUID) -> None:
        """Counts a renewal.

        Raises:
            PulseError: there were too many; has `retry_after`.
            StoreUnavailable: it may be counted.
        Cancelled: it may be counted.
        """
        if not self._per_user:
            return
        bucket = AttemptBucket(_key("renewal", user_id.hex), self._per_user / HOUR, self._per_user)
        attempt = await self._attempts.start([[bucket]])
        if not isinstance(attempt, Attempt):
            raise too_many("renewals of tokens", _wait(attempt))
        attempt.fail()


def _of_address(kind: str, address: str, most: int, networks: Networks) -> list[AttemptBucket]:
    """Returns the buckets of an address and the networks around it: `most` tokens an hour; none without a limit."""
    if not most:
        return []
    return [AttemptBucket(_key(kind, key), most * factor / HOUR, most * factor) for key, factor in networks.of(address)]


def _wait(verdict: AttemptVerdict) -> float:
    """Returns the seconds until an attempt that a verdict rejects can be accepted."""
    first, *others = verdict.waits
    return first or min(others)


def _key(kind: str, text: str) -> bytes:
    """Returns the key of a bucket: a digest, so that it has one size and names nobody."""
    return hashlib.blake2b(text.encode(), digest_size=16, person=kind.encode()).digest()
