"""Counters and histograms of a running service, updated where events happen.

They are on the path of every message, so they are cheap: numbers, lists and dicts of bounded size, without locks or a
library. `edge/operators/prometheus.py` reads them on request. Each service has a `Metrics` of its own.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
COUNTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024)

GONE: Final = 0
"""Stands for a close code if the client closed the connection or disappeared."""


class Histogram:
    """Counts of values by upper bound, and the sum of all values."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last one counts values above every bound
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Counts a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class CountedConnection(Protocol):
    """The part of a connection that metrics read."""

    is_session: bool

    @property
    def queued_bytes(self) -> int:
        """Bytes in its outbox."""


class Metrics:
    """The metrics of one service since its process started.

    Attributes:
        connections: open WebSockets.
        frames_in: frames read from clients, by class.
        frames_out: frames by type, multiplied by the connections that they were sent to.
        catch_up_frames: frames read from the store for connections that catch up.
        dropped_frames: ephemeral frames dropped for slow connections.
        closes: closed WebSockets by the close code that the server sent, or `GONE`.
        batch_messages: messages in each stored batch.
        commit_seconds: duration of the store's call for each batch.
        fanout_seconds: from the end of that call until every connection was sent its frames, or has them queued.
        delivery_seconds: of each message, from its arrival in the inbox to the same point.
        failed_batches: attempts to store a batch that failed or whose outcome is unknown.
        resumed_changes: changes missed, for each resume of a conversation.
        resumes_refused: resumes after which the client must reload the history.
        errors: errors sent to clients, by code, over HTTP and in frames.
        requests: HTTP responses, by operation and status.
        request_seconds: duration of requests, by operation.
        handshakes: responses to WebSocket handshakes, by status.
        login_failures: logins with a wrong name or password.
        loop_lag_seconds: delay of the event loop in running a scheduled task.
        checkout_seconds: wait for a connection of the pool, for each use of the database.
        pool_statistics: returns the figures of the pool, if there is one.
        message_pool_statistics: returns the figures of the pool for messages, if there is one.
        data_folder: the folder of the embedded PostgreSQL, if there is one.
    """

    def __init__(self) -> None:
        self.connections: dict[CountedConnection, None] = {}
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
        self.data_folder: Path | None = None
