"""Bounds on what one WebSocket sends beside whole messages: pings, pongs, fragments, and slow messages."""

import math
from io import BytesIO, StringIO

import trio

from pulse_trio.buckets import TokenBucket
from pulse_trio.settings import Settings
from pulse_trio.texts import utf8_size


class FrameGuard:
    """Counts frames that are no whole message, and has the deadline of the message that has begun.

    Whole messages are counted where they are read (`limits.Flow`), so that each frame counts once. A read of the socket
    that ends no frame counts as one, because a client may send a frame byte by byte.
    """

    __slots__ = ("_bucket", "_timeout", "deadline")

    def __init__(self, settings: Settings) -> None:
        self._bucket = TokenBucket(settings.pieces_per_second, settings.pieces_burst)
        self._timeout = settings.message_timeout
        self.deadline = math.inf  # on Trio's clock: when the message that has begun must have ended

    def take(self) -> bool:
        """Counts a frame that is no whole message; False when there are too many."""
        return self._bucket.take()

    def end_message(self) -> None:
        """Ends a message; the next one has a deadline of its own."""
        self.deadline = math.inf

    def end_read(self, *, frames: int, is_inside: bool) -> bool:
        """Ends one read of the socket; False when there are too many that end no frame.

        Args:
            frames: the number of frames, or of fragments with content, that the read ended.
            is_inside: a message has begun and not ended.
        """
        if not frames or is_inside:  # without a frame the read brought the beginning of one
            if math.isinf(self.deadline):
                self.deadline = trio.current_time() + self._timeout
        else:
            self.deadline = math.inf
        return frames > 0 or self._bucket.take()


class TooBig(Exception):
    """A message exceeds `PULSE_MAX_FRAME_BYTES`."""


class MessageBuffer:
    """The fragments of one message; their bytes are counted before they are kept."""

    __slots__ = ("_max_bytes", "_size", "_value")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._size = 0
        self._value: StringIO | BytesIO | None = None

    @property
    def is_begun(self) -> bool:
        """True while a message has begun and not ended."""
        return self._value is not None

    def extend(self, data: str | bytes) -> None:
        """Adds a fragment. Raises TooBig, and drops the message, when it exceeds the limit."""
        self._size += utf8_size(data) if isinstance(data, str) else len(data)
        if self._size > self._max_bytes:
            self.clear()
            raise TooBig
        if self._value is None:
            self._value = StringIO() if isinstance(data, str) else BytesIO()
        self._value.write(data)  # type: ignore[arg-type]  # all fragments of a message have one type

    def take(self) -> str | bytes:
        """Returns the whole message and begins a new one."""
        assert self._value is not None
        value = self._value.getvalue()
        self.clear()
        return value

    def clear(self) -> None:
        self._size = 0
        self._value = None
