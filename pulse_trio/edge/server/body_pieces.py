"""Bounds on the pieces in which requests arrive: a body can come in chunks of one byte, each of which costs the same.

Pieces of WebSocket messages are bounded by `frame_guard`, with the same settings.
"""

from collections.abc import Callable
from typing import Any, Final

import h11

from pulse_trio.buckets import TokenBucket
from pulse_trio.errors import PulseError, too_many
from pulse_trio.settings import Settings

PIECES_OF_REQUEST: Final = 20  # pieces that cost about as much as a request
RETRY_SECONDS: Final = 1.0


class PieceGuard:
    """Counts the pieces of one connection's requests, and a request of its address for every few of them.

    Args:
        settings: the rate and the burst of a connection.
        count_request: counts a request; may raise PulseError.
    """

    __slots__ = ("_bucket", "_count_request", "_uncounted", "problem")

    def __init__(self, settings: Settings, count_request: Callable[[], None]) -> None:
        self._bucket = TokenBucket(settings.pieces_per_second, settings.pieces_burst)
        self._count_request = count_request
        self._uncounted = 0  # pieces since a request was counted for them
        self.problem: PulseError | None = None  # the reason why no further piece is taken

    def begin_request(self) -> None:
        """Begins a request, which was counted and may have a few pieces."""
        self._uncounted = 0

    def take(self) -> None:
        """Counts a piece. Raises PulseError when there are too many, of the connection or of its address."""
        try:
            if not self._bucket.take():
                raise too_many("pieces of requests", RETRY_SECONDS)
            self._uncounted += 1
            if self._uncounted >= PIECES_OF_REQUEST:
                self._uncounted = 0
                self._count_request()
        except PulseError as error:
            self.problem = error
            raise


class GuardedParser(h11.Connection):
    """h11's parser of a client's requests, which counts each piece of a body.

    Attributes:
        events: the number of events so far. A read of the socket that brings none is a piece as well.
        begun: the bytes of a request whose head is not complete, or is malformed.
    """

    def __init__(self, guard: PieceGuard, max_head_bytes: int) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=max_head_bytes)
        self._guard = guard
        self.events = 0
        self.begun = b""

    def next_event(self) -> Any:
        """Returns the next event. Raises RemoteProtocolError when it is a piece too many."""
        if self.their_state is h11.IDLE:  # the next event takes the bytes away, also when it finds them malformed
            self.begun = self.trailing_data[0]
        event = super().next_event()
        if event is h11.NEED_DATA or event is h11.PAUSED:
            return event
        self.events += 1
        if isinstance(event, h11.Request):
            self.begun = b""
        elif isinstance(event, h11.Data):
            try:
                self._guard.take()
            except PulseError as error:
                raise h11.RemoteProtocolError(error.message, error_status_hint=error.code.status) from None
        return event
