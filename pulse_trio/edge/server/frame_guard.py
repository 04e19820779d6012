"""What one WebSocket sends beneath its messages: pings, pongs, pieces, and how long a message takes."""

import math
from io import BytesIO, StringIO

import trio

from pulse_trio.edge.buckets import TokenBucket
from pulse_trio.settings import Settings
from pulse_trio.texts import utf8_size


class FrameGuard:
    """Counts what a connection sends that is no whole message, and knows when one takes too long.

    Whole messages are counted where they are read (`limits.Flow`), so that each frame counts once. A read of the
    socket with which nothing came to an end counts as a frame: the bytes of one may come one by one.
    """

    __slots__ = ("_bucket", "_timeout", "deadline")

    def __init__(self, settings: Settings) -> None:
        self._bucket = TokenBucket(settings.pieces_per_second, settings.pieces_burst)
        self._timeout = settings.message_timeout
        self.deadline = math.inf  # on Trio's clock: when a message must have come to its end

    def take(self) -> bool:
        """Counts a frame that is no whole message; False when there are too many."""
        return self._bucket.take()

    def end_message(self) -> None:
        """A message has come to its end: what has begun now has its own time."""
        self.deadline = math.inf

    def end_read(self, *, frames: int, is_inside: bool) -> bool:
        """Notes the end of what one read of the socket brought; False when there are too many of them.

        Args:
            frames: how many frames it held, or pieces of frames with content.
            is_inside: whether a message has begun and not ended.
        """
        if not frames or is_inside:  # without a frame there is the beginning of one
            if math.isinf(self.deadline):
                self.deadline = trio.current_time() + self._timeout
        else:
            self.deadline = math.inf
        return frames > 0 or self._bucket.take()


class TooBig(Exception):
    """A message is over its limit."""


class MessageBuffer:
    """The message that is coming in, in the pieces that it comes in; counts bytes, and before it keeps them."""

    __slots__ = ("_most", "_size", "_value")

    def __init__(self, most: int) -> None:
        self._most = most  # bytes
        self._size = 0
        self._value: StringIO | BytesIO | None = None

    @property
    def is_begun(self) -> bool:
        """Whether a message has begun and not ended."""
        return self._value is not None

    def extend(self, data: str | bytes) -> None:
        """Adds a piece. Raises TooBig, and keeps nothing of it, when the message is over the limit."""
        self._size += utf8_size(data) if isinstance(data, str) else len(data)
        if self._size > self._most:
            self.clear()
            raise TooBig
        if self._value is None:
            self._value = StringIO() if isinstance(data, str) else BytesIO()
        self._value.write(data)  # type: ignore[arg-type]  # all pieces of a message are of one kind

    def take(self) -> str | bytes:
        """The whole message; from here on a new one."""
        assert self._value is not None
        value = self._value.getvalue()
        self.clear()
        return value

    def clear(self) -> None:
        self._size = 0
        self._value = None
