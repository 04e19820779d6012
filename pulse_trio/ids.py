"""Identifiers: UUID version 7 (RFC 9562, section 5.7), which sort by creation time."""

import os
import re
from collections.abc import Callable
from uuid import UUID

from pulse_trio.clock import Clock, utc_now

_RANDOM_BITS = 74  # rand_a (12) and rand_b (62)
_RANDOM_MASK = (1 << _RANDOM_BITS) - 1
_CANONICAL_FORM = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


class IdSource:
    """Makes strictly increasing UUIDs, even within a millisecond and when the clock steps back.

    Within one millisecond the random part grows by a random step ("monotonic random", RFC 9562, section 6.2, method 2),
    so that ids of one process sort in creation order.

    Args:
        clock: source of the time.
        random_bytes: source of randomness; a test passes a seeded one.
    """

    __slots__ = ("_clock", "_millisecond", "_random", "_random_bytes")

    def __init__(self, clock: Clock = utc_now, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._clock = clock
        self._random_bytes = random_bytes
        self._millisecond = -1
        self._random = 0

    def __call__(self) -> UUID:
        millisecond = int(self._clock().timestamp() * 1000)
        if millisecond > self._millisecond:
            # The top bit stays free, so that steps within this millisecond do not overflow soon.
            self._random = int.from_bytes(self._random_bytes(10), "big") & (_RANDOM_MASK >> 1)
        else:
            millisecond = self._millisecond
            self._random += 1 + int.from_bytes(self._random_bytes(4), "big")
            if self._random > _RANDOM_MASK:
                millisecond += 1
                self._random = int.from_bytes(self._random_bytes(10), "big") & (_RANDOM_MASK >> 1)
        self._millisecond = millisecond
        rand_a, rand_b = self._random >> 62, self._random & ((1 << 62) - 1)
        return UUID(int=millisecond << 80 | 0x7 << 76 | rand_a << 64 | 0b10 << 62 | rand_b)


def parse_uuid(text: str) -> UUID | None:
    """Parses a UUID in its canonical form (36 characters, any case); returns None for any other text."""
    # UUID() alone also accepts braces, hyphens anywhere, underscores and digits of other scripts.
    return UUID(text) if _CANONICAL_FORM.fullmatch(text) else None
