"""Token buckets on Trio's clock: a single one, or one for each key.

A bucket holds up to `burst` tokens and gains `rate` of them a second. An action takes tokens; one that finds too few is
rejected. Example: with rate 1 and burst 5 a user may send 5 messages at once, and then one a second. Buckets are in
this process's memory and bounded; a restart forgets them.
"""

import math
from typing import Final

import trio

from pulse_trio.networks import Networks

MAX_BUCKETS: Final = 65_536  # of one kind; an entry has some 200 bytes


class TokenBucket:
    """A bucket, full at first; a rate of 0 is no limit."""

    __slots__ = ("_burst", "_level", "_rate", "_since")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._since = trio.current_time()

    def _refill(self) -> float:
        now = trio.current_time()
        self._level = min(self._burst, self._level + (now - self._since) * self._rate)
        self._since = now
        return self._level

    @property
    def is_full(self) -> bool:
        """True if no token is missing."""
        return not self._rate or self._refill() >= self._burst

    def has(self, tokens: float = 1) -> bool:
        """Returns whether there are so many tokens."""
        return not self._rate or self._refill() >= tokens

    def take(self, tokens: float = 1) -> bool:
        """Takes so many tokens, or none if there are too few; returns whether it took them."""
        if not self._rate:
            return True
        if self._refill() < tokens:
            return False
        self._level -= tokens
        return True

    def drain(self, tokens: float) -> None:
        """Takes so many tokens, or all if there are fewer."""
        if self._rate:
            self._level = max(0.0, self._refill() - tokens)

    def give_back(self, tokens: float = 1) -> None:
        """Gives back tokens that were not needed."""
        self._level = min(self._burst, self._refill() + tokens)

    def wait(self, tokens: float = 1) -> float:
        """Returns the seconds until there are so many tokens, if none are taken; infinite if there never are."""
        missing = tokens - self._refill()
        if not self._rate or missing <= 0:
            return 0.0
        return missing / self._rate if tokens <= self._burst else math.inf


class Buckets:
    """One bucket a key; full buckets are not kept.

    Beyond `max_entries` it forgets the bucket that was used longest ago. A client that wants its own one forgotten has
    to use all others first.
    """

    __slots__ = ("_burst", "_found", "_max_entries", "_rate")

    def __init__(self, rate: float, burst: float, max_entries: int = MAX_BUCKETS) -> None:
        self._rate = rate
        self._burst = burst
        self._max_entries = max_entries
        self._found: dict[str, tuple[TokenBucket, float]] = {}  # with the time of last use, the earliest first

    def __len__(self) -> int:
        return len(self._found)

    def take(self, key: str) -> bool:
        """Takes a token from the key's bucket, if it has one; returns whether it took it."""
        if not self._rate:
            return True
        now = trio.current_time()
        known = self._found.pop(key) if key in self._found else None
        bucket = TokenBucket(self._rate, self._burst) if known is None else known[0]
        self._found[key] = bucket, now
        self._forget(now)
        return bucket.take()

    def give_back(self, key: str) -> None:
        """Gives back a token that was not needed."""
        if key in self._found:
            bucket, _ = self._found[key]
            bucket.give_back()
            if bucket.is_full:
                del self._found[key]

    def has(self, key: str) -> bool:
        """Returns whether the key's bucket has a token."""
        return key not in self._found or self._found[key][0].has()

    def wait(self, key: str) -> float:
        """Returns the seconds until the key's bucket has a token."""
        return self._found[key][0].wait() if key in self._found else 0.0

    def _forget(self, now: float) -> None:
        """Forgets the buckets that are full again, and the least recently used if there are too many."""
        refilled = now - self._burst / self._rate
        while self._found:
            key, (_, used) = next(iter(self._found.items()))
            if used > refilled and len(self._found) <= self._max_entries:
                return
            del self._found[key]


class AddressBuckets:
    """Buckets for the addresses of clients, and for the networks around those of IPv6, which are larger.

    Args:
        rate: tokens a second of an address; 0 is no limit.
        burst: tokens that the bucket of an address holds.
        networks: how many times larger the buckets of networks are.
    """

    __slots__ = ("_buckets", "_networks")

    def __init__(self, rate: float, burst: float, networks: Networks) -> None:
        self._networks = networks
        factors = {1, networks.per_56, networks.per_48}
        self._buckets = {factor: Buckets(rate * factor, burst * factor) for factor in factors}

    def take(self, address: str) -> bool:
        """Takes a token of an address and of each network around it, or none; returns whether it took them."""
        taken: list[tuple[Buckets, str]] = []
        for key, factor in self._networks.of(address):
            if not self._buckets[factor].take(key):
                for buckets, other in taken:
                    buckets.give_back(other)
                return False
            taken.append((self._buckets[factor], key))
        return True

    def give_back(self, address: str) -> None:
        """Gives back tokens that were not needed."""
        for key, factor in self._networks.of(address):
            self._buckets[factor].give_back(key)

    def wait(self, address: str) -> float:
        """Returns the seconds until the address and the networks around it have a token."""
        return max(self._buckets[factor].wait(key) for key, factor in self._networks.of(address))
