"""Identifiers: UUID version 7 (RFC 9562, section 5.7), which sort by the time they were made."""

import os
import re
from collections.abc import Callable
from uuid import UUID

from pulse_trio.clock import Clock, utc_now

_RANDOM_BITS = 74  # rand_a (12) and rand_b (62)
_RANDOM_MASK = (1 << _RANDOM_BITS) - 1
_USUAL_FORM = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)


class IdSource:
    """Makes UUIDs that rise strictly, also within a millisecond and when the clock steps back.

    Within one millisecond the random part of the last id is raised by a random step ("monotonic
    random", RFC 9562, section 6.2, method 2), so ids of one process sort in the order they were made.

    Args:
        clock: where the time comes from.
        random_bytes: where the randomness comes from; a test passes a seeded one.
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
            # The top bit stays free, so that raising it within this millisecond cannot overflow soon.
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
    """The UUID that `text` writes in its usual form (36 characters, any case), or None."""
    # UUID() alone also takes braces, hyphens anywhere, underscores and digits of other scripts.
    return UUID(text) if _USUAL_FORM.fullmatch(text) else None
