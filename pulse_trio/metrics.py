"""What operators want to know of a running service: plain counts, kept where things happen.

Counting is a part of every message's way, so it costs next to nothing: numbers, lists and dicts of a bounded size,
no locks, no library. `edge/operators/prometheus.py` reads them when somebody asks. One record belongs to one service.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
COUNTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024)

GONE: Final = 0
"""In place of a close code: the client closed the connection, or has gone."""


class Histogram:
    """How many values fell up to each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last is of what is beyond every bound
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Watched(Protocol):
    """A connection, as far as this record needs it."""

    is_session: bool

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait for it."""


class Metrics:
    """The record of one service, from the start of its process on.

    Attributes:
        connections: the WebSockets that are open; each is here while its task runs.
        frames_in: frames of clients that were read, by their class.
        frames_out: frames by type, times the connections that they were for when they were put out.
        catch_up_frames: frames read from the store for connections that catch up.
        dropped_frames: frames that may be missed, and were, by connections that lag.
        closes: WebSockets that ended, by the close code that the server gave, or `GONE`.
        batch_messages: messages of each batch that was stored.
        commit_seconds: how long the store took for each batch, from asking to its answer.
        fanout_seconds: from that answer until every connection had its frames, or they waited for it.
        delivery_seconds: of each message from its being taken from its sender to the same point.
        failed_batches: attempts to store a batch that failed, or of which nobody knows.
        resumed_changes: how much each resume of a conversation had missed.
        resumes_refused: resumes where the client must load the history afresh.
        errors: errors that clients were told, by code, over HTTP and in frames.
        requests: answers over HTTP, by operation and status.
        request_seconds: how long they took, by operation.
        handshakes: answers to WebSocket handshakes, by status.
        login_failures: logins with a wrong name or password.
        loop_lag_seconds: how late the event loop was with a task that was to run.
        checkout_seconds: how long each use of the database waited for a connection of the pool.
        pool_statistics: the figures of the pool, if there is one.
        message_pool_statistics: those of the pool for messages.
    """

    def __init__(self) -> None:
        self.connections: dict[Watched, None] = {}
        self.frames_in: defaultdict[type, int] = defaultdict(int)
        self.frames_out: defaultdict[str, int] = defaultdict(int)
        self.catch_up_frames = 0
        self.dropped_frames = 0
        self.closes: defaultdict[int, int] = defaultdict(int)
        self.batch_messages = Histogram(COUNTS)
        self.commit_seconds = Histogram(SECONDS)
        self.fanout_seconds = Histogram(SECONDS)
        self.delivery_seconds = Histogram(SECONDS)
        self.failed_batches = 0
        self.resumed_changes = Histogram((0, *COUNTS, 4_096, 16_384))
        self.resumes_refused = 0
        self.errors: defaultdict[str, int] = defaultdict(int)
        self.requests: defaultdict[tuple[str, int], int] = defaultdict(int)
        self.request_seconds: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(SECONDS))
        self.handshakes: defaultdict[int, int] = defaultdict(int)
        self.login_failures = 0
        self.loop_lag_seconds = Histogram(SECONDS)
        self.checkout_seconds = Histogram(SECONDS)
        self.pool_statistics: Callable[[], Any] | None = None
        self.message_pool_statistics: Callable[[], Any] | None = None
