"""The metrics of a service in the format of Prometheus, built when they are requested."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from pulse_trio import __version__
from pulse_trio.auth.hash_queue import HashKind, HashQueue
from pulse_trio.edge.response_budget import ResponseBudget
from pulse_trio.edge.server.gate import Gate
from pulse_trio.edge.siblings import Family
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
    free_bytes: int | None,
    slot: int | None = None,
) -> tuple[bytes, str]:
    """Returns all metrics as text, and its content type.

    Args:
        metrics: the metrics of the service.
        hub: its rooms.
        hash_queue: its queue for password hashes.
        answers: the HTTP answers in progress.
        gate: the gate of its server, if there is one.
        accept: the request's `Accept` header, which may prefer OpenMetrics.
        database_answers: True if the database answered the readiness check.
        free_bytes: room on the disk of the data folder; None if unknown, or if there is no data folder.
        slot: that of this worker, which becomes a label of each series; None in a process without others.
    """
    registry = CollectorRegistry(auto_describe=False)
    service = _Service(
        metrics, hub, hash_queue, answers, gate, database_answers=database_answers, free_bytes=free_bytes
    )
    registry.register(service)
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry if slot is None else _Labelled(registry, slot)), content_type


class _Labelled(Collector):
    """The metrics of a registry, with the slot of this worker as a label of each series."""

    def __init__(self, registry: CollectorRegistry, slot: int) -> None:
        self._registry = registry
        self._slot = str(slot)

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            family.samples = [
                sample._replace(labels={**sample.labels, "worker": self._slot}) for sample in family.samples
            ]
            yield family


_FAMILY: Final = re.compile(r"^# HELP (?=\S)", re.MULTILINE)
_END: Final = "# EOF\n"  # of OpenMetrics


def split_families(text: str) -> list[Family]:
    """Splits an exposition into its families, so that those of several workers can be joined without parsing them."""
    found = []
    for part in _FAMILY.split(text.removesuffix(_END))[1:]:
        description, kind, body = part.split("\n", 2)
        found.append((description.split(" ", 1)[0], f"# HELP {description}\n{kind}\n", body))
    return found


def join_families(workers: Mapping[int, Sequence[Family] | None], accept: str) -> str:
    """Joins the metrics of all workers, and adds which of them answered.

    Args:
        workers: the families of each worker by slot; None for one that did not answer.
        accept: the request's `Accept` header, as for `exposition`.
    """
    heads: dict[str, str] = {}
    bodies: defaultdict[str, list[str]] = defaultdict(list)
    for families in workers.values():
        for name, head, body in families or ():
            heads.setdefault(name, head)
            bodies[name].append(body)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Up(workers))
    encode, content_type = choose_encoder(accept)
    ((name, head, body),) = split_families(encode(registry).decode())
    end = _END if content_type.startswith("application/openmetrics-text") else ""
    return head + body + "".join(heads[name] + "".join(bodies[name]) for name in heads) + end


class _Up(Collector):
    """Collects which workers answered."""

    def __init__(self, workers: Mapping[int, object | None]) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        values = {str(slot): int(found is not None) for slot, found in sorted(self._workers.items())}
        text = "1 if the worker answered for its metrics, else 0."
        yield _gauges("pulse_process_up", text, "worker", values)


class _Service(Collector):
    """Collects the metrics of the service for one request."""

    def __init__(
        self,
        metrics: Metrics,
        hub: Hub,
        hash_queue: HashQueue,
        answers: ResponseBudget,
        gate: Gate | None,
        *,
        database_answers: bool,
        free_bytes: int | None,
    ) -> None:
        self._database_answers = database_answers
        self._free_bytes = free_bytes
        self._metrics = metrics
        self._hub = hub
        self._hash_queue = hash_queue
        self._answers = answers
        self._gate = gate

    def collect(self) -> Iterator[Metric]:
        yield _gauges("pulse_build_info", "Always 1, with the running version as a label.", "version", {__version__: 1})
        yield _gauge("pulse_draining", "1 while the service shuts down, else 0.", int(self._hub.draining))
        yield _gauge("pulse_database_up", "1 if the database answers, else 0.", int(self._database_answers))
        if self._free_bytes is not None:
            text = "Free space on the disk of the data folder, for this account."
            yield _gauge("pulse_data_free_bytes", text, self._free_bytes)
        yield from self._cluster()
        yield from self._connections()
        yield from self._frames()
        yield from self._messages()
        yield from self._requests()
        yield from self._pool()
        if self._gate is not None:
            yield from _gate_metrics(self._gate)
        lag = self._metrics.loop_lag_seconds
        yield _histogram(
            "pulse_loop_lag_seconds", "Delay between the time a task was due and the time the event loop ran it.", lag
        )

    def _cluster(self) -> Iterator[Metric]:
        cluster = self._hub.cluster
        if cluster is None:
            return
        bus, counters = cluster.bus_counters, cluster.counters
        yield _gauge("pulse_bus_connected", "1 if the bus takes and delivers items.", cluster.is_connected)
        yield _gauge("pulse_lease_valid", "1 if this process may deliver frames.", cluster.lease.is_valid())
        yield _gauge("pulse_peers", "Other processes that were heard of lately.", len(cluster.presence.alive))
        both = {"out": bus.batches_out, "in": bus.batches_in}
        yield _counters("pulse_bus_batches", "Batches on the bus.", "direction", both)
        both = {"out": bus.items_out, "in": bus.items_in}
        yield _counters("pulse_bus_items", "Items in them.", "direction", both)
        both = {"out": bus.bytes_out, "in": bus.bytes_in}
        yield _counters("pulse_bus_bytes", "Bytes in them.", "direction", both)
        lost = {"dropped": bus.dropped_items, "unanswered": bus.failed_batches, "missed": bus.gaps}
        text = "Losses: items not sent, batches without an answer, and batches of others that did not come in time."
        yield _counters("pulse_bus_losses", text, "kind", lost)
        yield _counter("pulse_bus_disconnects", "Connections to the engine that were lost.", bus.disconnects)
        yield _counter("pulse_peer_changes", "Items about changes of other processes.", counters.changes_in)
        text = "Rooms opened for changes of other processes."
        yield _counter("pulse_peer_rooms_opened", text, counters.rooms_opened)
        text = "Comparisons with the database that the bus asked for."
        yield _counter("pulse_head_comparisons", text, counters.comparisons)
        text = "Conversations that a comparison found behind."
        yield _counter("pulse_heads_behind", text, counters.found_behind)
        yield _counter("pulse_removals_confirmed", "Removals that all processes had to confirm.", counters.removals)

    def _connections(self) -> Iterator[Metric]:
        sessions = queued = most = 0
        for connection in self._metrics.connections:
            sessions += connection.is_session
            queued += connection.queued_bytes
            most = max(most, connection.queued_bytes)
        kinds = {"session": sessions, "conversation": len(self._metrics.connections) - sessions}
        yield _gauges("pulse_websockets", "Open WebSockets.", "kind", kinds)
        yield _gauge("pulse_rooms", "Conversations in memory.", self._hub.room_count)
        yield _gauge("pulse_outbox_bytes", "Bytes waiting for clients, over all WebSockets.", queued)
        yield _gauge("pulse_outbox_max_bytes", "Bytes waiting for the slowest client.", most)
        # Zeros, too: Prometheus does not count the first event of a series that begins with it.
        counts: dict[int, int] = {GONE: 0, **dict.fromkeys(map(int, CloseCode), 0)}
        counts.update(self._metrics.closes)
        closes = {"gone" if code == GONE else str(int(code)): count for code, count in counts.items()}
        text = "Closed WebSockets, by the service's close code; gone: closed by the client or the network."
        yield _counters("pulse_closes", text, "code", closes)

    def _frames(self) -> Iterator[Metric]:
        metrics = self._metrics
        received: dict[str, int] = {}
        for kind, count in metrics.frames_in.items():
            received[str(kind.__struct_config__.tag)] = count  # type: ignore[attr-defined]  # a msgspec.Struct
        yield _counters("pulse_frames_received", "Frames received from clients.", "type", received)
        text = "Frames sent, counted once for each connection."
        yield _counters("pulse_frames_sent", text, "type", metrics.frames_out)
        text = "Frames read from the database for connections that resume."
        yield _counter("pulse_catch_up_frames", text, metrics.catch_up_frames)
        text = "Typing and presence frames dropped for slow connections."
        yield _counter("pulse_dropped_frames", text, metrics.dropped_frames)

    def _messages(self) -> Iterator[Metric]:
        metrics = self._metrics
        yield _histogram("pulse_batch_messages", "Messages and changes in a batch.", metrics.batch_messages)
        text = "Time to commit a batch."
        yield _histogram("pulse_commit_seconds", text, metrics.commit_seconds)
        text = "Time from the commit until a batch was sent to every connection, or waited in its outbox."
        yield _histogram("pulse_fanout_seconds", text, metrics.fanout_seconds)
        text = "Time from the receipt of a message to the end of its fan-out."
        yield _histogram("pulse_delivery_seconds", text, metrics.delivery_seconds)
        text = "Attempts to store a batch that failed or whose outcome is unknown; they are retried."
        yield _counter("pulse_failed_batches", text, metrics.failed_batches)
        text = "Changes that a connection had missed when it resumed a conversation."
        yield _histogram("pulse_resumed_changes", text, metrics.resumed_changes)
        text = "Resumes refused because the client must reload the history."
        yield _counter("pulse_resumes_refused", text, metrics.resumes_refused)

    def _requests(self) -> Iterator[Metric]:
        metrics = self._metrics
        requests = CounterMetricFamily("pulse_requests", "HTTP answers.", labels=["operation", "status"])
        for (operation, status), count in sorted(metrics.requests.items()):
            requests.add_metric([operation, str(status)], count)
        yield requests
        seconds = HistogramMetricFamily(
            "pulse_request_seconds", "Time to answer an HTTP request.", labels=["operation"]
        )
        for operation, histogram in sorted(metrics.request_seconds.items()):
            seconds.add_metric([operation], *_buckets(histogram))
        yield seconds
        text = "Bytes of HTTP answers in progress."
        yield _gauge("pulse_answer_bytes", text, self._answers.size)
        handshakes = {str(status): count for status, count in metrics.handshakes.items()}
        yield _counters("pulse_handshakes", "Answers to WebSocket handshakes.", "status", handshakes)
        text = "Errors sent to clients, over HTTP and in frames."
        errors = {**{code.code: 0 for code in ErrorCode}, **metrics.errors}
        yield _counters("pulse_errors", text, "code", errors)
        yield _counter("pulse_login_failures", "Logins with a wrong username or password.", metrics.login_failures)
        waiting = {kind.value: self._hash_queue.waiting(kind) for kind in HashKind}
        yield _gauges("pulse_password_queue", "Logins and registrations waiting for a password hash.", "kind", waiting)

    def _pool(self) -> Iterator[Metric]:
        metrics = self._metrics
        if metrics.pool_statistics is None:
            return
        now = metrics.pool_statistics()
        pools = [now] if metrics.message_pool_statistics is None else [now, metrics.message_pool_statistics()]
        states = {"idle": now.idle, "lent": now.size - now.idle}
        text = "Database connections, without those for storing messages."
        yield _gauges("pulse_pool_connections", text, "state", states)
        for each in pools[1:]:
            states = {"idle": each.idle, "lent": each.size - each.idle}
            yield _gauges("pulse_message_connections", "Database connections for storing messages.", "state", states)
        yield _gauge("pulse_pool_waiting", "Tasks waiting for a database connection.", now.waiting)
        yield _counter("pulse_pool_opened", "Database connections opened.", sum(each.opened for each in pools))
        discarded = sum(each.discarded for each in pools)
        yield _counter("pulse_pool_discarded", "Database connections discarded.", discarded)
        text = "Failed attempts to connect to the database."
        yield _counter("pulse_pool_connect_errors", text, sum(each.connect_errors for each in pools))
        text = "Time that a use of the database waited for a connection."
        yield _histogram("pulse_pool_checkout_seconds", text, metrics.checkout_seconds)


def _gate_metrics(gate: Gate) -> Iterator[Metric]:
    yield _gauge("pulse_tcp_connections", "Open TCP connections.", gate.open)
    text = "Connections and requests rejected before the application saw them."
    yield _counters("pulse_turned_away", text, "code", gate.rejected)
    yield _counter("pulse_stalled_clients", "Connections closed because their client did not read.", gate.stalled)
    cuts = {str(int(code)): count for code, count in gate.violations.items()}
    text = "WebSockets closed for a protocol violation, by close code; pulse_closes counts them as gone."
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
    """Returns the cumulative counts of a histogram, as Prometheus wants them, and its total."""
    bounds: Iterable[str] = (*(str(float(bound)) for bound in histogram.bounds), "+Inf")
    return list(zip(bounds, accumulate(histogram.counts), strict=True)), histogram.total
