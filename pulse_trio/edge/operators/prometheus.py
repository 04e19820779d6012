"""The record of a service as Prometheus reads it. Nothing of this is touched until somebody asks."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from pulse_trio import __version__
from pulse_trio.auth.hash_queue import HashKind, HashQueue
from pulse_trio.edge.response_budget import ResponseBudget
from pulse_trio.edge.server.gate import Gate
from pulse_trio.errors import ErrorCode
from pulse_trio.metrics import GONE, Histogram, Metrics
from pulse_trio.protocol import CloseCode
from pulse_trio.rooms.hub import Hub


def exposition(
    metrics: Metrics,
    hub: Hub,
    hash_queue: HashQueue,
    answers: ResponseBudget,
    gate: Gate | None,
    accept: str,
    *,
    database_answers: bool,
) -> tuple[bytes, str]:
    """All figures as text, and its content type.

    Args:
        metrics: the record of the service.
        hub: its rooms.
        hash_queue: its queue for password hashes.
        answers: the answers that are under way.
        gate: that of the server which serves it, if it has one.
        accept: the request's `Accept` header, which may prefer OpenMetrics.
        database_answers: what `/readyz` would say of the database.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Service(metrics, hub, hash_queue, answers, gate, database_answers=database_answers))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Service(Collector):
    """Reads the record once."""

    def __init__(
        self,
        metrics: Metrics,
        hub: Hub,
        hash_queue: HashQueue,
        answers: ResponseBudget,
        gate: Gate | None,
        *,
        database_answers: bool,
    ) -> None:
        self._database_answers = database_answers
        self._metrics = metrics
        self._hub = hub
        self._hash_queue = hash_queue
        self._answers = answers
        self._gate = gate

    def collect(self) -> Iterator[Metric]:
        yield _gauges("pulse_build_info", "1, with the version that runs.", "version", {__version__: 1})
        yield _gauge("pulse_draining", "Whether the service is ending: 1 or 0.", int(self._hub.draining))
        yield _gauge("pulse_database_up", "Whether the database answers: 1 or 0.", int(self._database_answers))
        yield from self._connections()
        yield from self._frames()
        yield from self._messages()
        yield from self._requests()
        yield from self._pool()
        if self._gate is not None:
            yield from _of_gate(self._gate)
        lag = self._metrics.loop_lag_seconds
        yield _histogram("pulse_loop_lag_seconds", "How late the event loop ran a task that was due.", lag)

    def _connections(self) -> Iterator[Metric]:
        sessions = queued = most = 0
        for connection in self._metrics.connections:
            sessions += connection.is_session
            queued += connection.queued_bytes
            most = max(most, connection.queued_bytes)
        kinds = {"session": sessions, "conversation": len(self._metrics.connections) - sessions}
        yield _gauges("pulse_websockets", "WebSockets that are open.", "kind", kinds)
        yield _gauge("pulse_rooms", "Conversations in memory.", self._hub.room_count)
        yield _gauge("pulse_outbox_bytes", "Bytes that wait for clients, of all WebSockets.", queued)
        yield _gauge("pulse_outbox_max_bytes", "Bytes that wait for the client that lags most.", most)
        # Zeros, too: of a series that begins with its first event Prometheus would not see that one.
        counts: dict[int, int] = {GONE: 0, **dict.fromkeys(map(int, CloseCode), 0)}
        counts.update(self._metrics.closes)
        closes = {"gone" if code == GONE else str(int(code)): count for code, count in counts.items()}
        text = "WebSockets that ended, by the service's close code; gone: by the client or the network."
        yield _counters("pulse_closes", text, "code", closes)

    def _frames(self) -> Iterator[Metric]:
        metrics = self._metrics
        received: dict[str, int] = {}
        for kind, count in metrics.frames_in.items():
            received[str(kind.__struct_config__.tag)] = count  # type: ignore[attr-defined]  # a msgspec.Struct
        yield _counters("pulse_frames_received", "Frames of clients that were read.", "type", received)
        text = "Frames put out, times the connections that they were for."
        yield _counters("pulse_frames_sent", text, "type", metrics.frames_out)
        text = "Frames read from the database for connections that catch up."
        yield _counter("pulse_catch_up_frames", text, metrics.catch_up_frames)
        text = "Typing and presence frames that were dropped for connections that lag."
        yield _counter("pulse_dropped_frames", text, metrics.dropped_frames)

    def _messages(self) -> Iterator[Metric]:
        metrics = self._metrics
        yield _histogram("pulse_batch_messages", "Messages and changes of a batch.", metrics.batch_messages)
        text = "From handing a batch to the store to its answer."
        yield _histogram("pulse_commit_seconds", text, metrics.commit_seconds)
        text = "From that answer until every connection had the batch, or it waited in their outboxes."
        yield _histogram("pulse_fanout_seconds", text, metrics.fanout_seconds)
        text = "Of each message: from its being taken from its sender to the end of its fan-out."
        yield _histogram("pulse_delivery_seconds", text, metrics.delivery_seconds)
        text = "Attempts to store a batch that failed, or of which nobody knows; they are made again."
        yield _counter("pulse_failed_batches", text, metrics.failed_batches)
        text = "Changes that a connection had missed in a conversation that it resumed."
        yield _histogram("pulse_resumed_changes", text, metrics.resumed_changes)
        text = "Resumes where the client must load the history afresh."
        yield _counter("pulse_resumes_refused", text, metrics.resumes_refused)

    def _requests(self) -> Iterator[Metric]:
        metrics = self._metrics
        requests = CounterMetricFamily("pulse_requests", "Answers over HTTP.", labels=["operation", "status"])
        for (operation, status), count in sorted(metrics.requests.items()):
            requests.add_metric([operation, str(status)], count)
        yield requests
        seconds = HistogramMetricFamily("pulse_request_seconds", "How long answers took.", labels=["operation"])
        for operation, histogram in sorted(metrics.request_seconds.items()):
            seconds.add_metric([operation], *_buckets(histogram))
        yield seconds
        text = "Bytes of answers over HTTP that are being made or written."
        yield _gauge("pulse_answer_bytes", text, self._answers.size)
        handshakes = {str(status): count for status, count in metrics.handshakes.items()}
        yield _counters("pulse_handshakes", "Answers to WebSocket handshakes.", "status", handshakes)
        text = "Errors that clients were told, over HTTP and in frames."
        errors = {**{code.code: 0 for code in ErrorCode}, **metrics.errors}
        yield _counters("pulse_errors", text, "code", errors)
        yield _counter("pulse_login_failures", "Logins with a wrong name or password.", metrics.login_failures)
        waiting = {kind.value: self._hash_queue.waiting(kind) for kind in HashKind}
        yield _gauges("pulse_password_queue", "Attempts that wait for a password hash.", "kind", waiting)

    def _pool(self) -> Iterator[Metric]:
        metrics = self._metrics
        if metrics.pool_statistics is None:
            return
        now = metrics.pool_statistics()
        pools = [now] if metrics.message_pool_statistics is None else [now, metrics.message_pool_statistics()]
        states = {"idle": now.idle, "lent": now.size - now.idle}
        text = "Connections to the database for everything but storing messages."
        yield _gauges("pulse_pool_connections", text, "state", states)
        for each in pools[1:]:
            states = {"idle": each.idle, "lent": each.size - each.idle}
            yield _gauges("pulse_message_connections", "Connections for storing messages.", "state", states)
        yield _gauge("pulse_pool_waiting", "Tasks that wait for a connection to the database.", now.waiting)
        yield _counter(
            "pulse_pool_opened", "Connections to the database that were made.", sum(each.opened for each in pools)
        )
        discarded = sum(each.discarded for each in pools)
        yield _counter("pulse_pool_discarded", "Connections to the database that were thrown away.", discarded)
        text = "Attempts to connect to the database that failed."
        yield _counter("pulse_pool_connect_errors", text, sum(each.connect_errors for each in pools))
        text = "How long each use of the database waited for a connection."
        yield _histogram("pulse_pool_checkout_seconds", text, metrics.checkout_seconds)


def _of_gate(gate: Gate) -> Iterator[Metric]:
    yield _gauge("pulse_tcp_connections", "TCP connections that are open.", gate.open)
    text = "Connections and requests that were turned away before the application saw them."
    yield _counters("pulse_turned_away", text, "code", gate.rejected)
    yield _counter("pulse_stalled_clients", "Clients that were cut because they did not read.", gate.stalled)
    cuts = {str(int(code)): count for code, count in gate.violations.items()}
    text = "WebSockets closed for breaking a rule of the protocol, by close code; of pulse_closes they are gone."
    yield _counters("pulse_protocol_closes", text, "code", cuts)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _gauges(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)


def _counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, value in sorted(values.items()):
        family.add_metric([key], value)
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    buckets, total = _buckets(histogram)
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=total)


def _buckets(histogram: Histogram) -> tuple[list[Any], float]:
    """The counts as Prometheus has them: each with all that are below it."""
    bounds: Iterable[str] = (*(str(float(bound)) for bound in histogram.bounds), "+Inf")
    return list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.total
