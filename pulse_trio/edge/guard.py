"""What one WebSocket sends beneath its messages: pings, pongs, pieces, and how long a message takes."""

import math
from typing import Any, ClassVar

import trio

from pulse_trio.edge.buckets import TokenBucket
from pulse_trio.settings import Settings


class Bounds:
    """The bounds of every WebSocket."""

    pieces_per_second: ClassVar[float] = 500
    pieces_burst: ClassVar[float] = 5_000
    message_timeout: ClassVar[float] = 30.0  # seconds

    @classmethod
    def take(cls, settings: Settings) -> None:
        pass
