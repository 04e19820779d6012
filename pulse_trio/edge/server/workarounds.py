"""Installs our classes inside Hypercorn, where its own modules look theirs up.

Each workaround has a test against a real process, which fails when a new Hypercorn changes what it depends on. An
unsupported version is rejected at the start; if a setting overrides that, nothing is installed.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from socket import socket
from types import SimpleNamespace
from typing import Final

import h11._readers
import hypercorn.protocol
import hypercorn.protocol.h11
import hypercorn.trio.run
import structlog
import trio
from hypercorn.protocol import ws_stream

from pulse_trio.edge.server import request_head
from pulse_trio.edge.server.burst_listener import BurstListener, max_waiting
from pulse_trio.edge.server.gate import Gate, reserved_files
from pulse_trio.edge.server.http_protocol import HttpProtocol
from pulse_trio.edge.server.http_stream import HttpStream
from pulse_trio.edge.server.idle_connections import IdleConnections
from pulse_trio.edge.server.open_files import AcceptErrors, raise_open_files
from pulse_trio.edge.server.shared_load import SharedLoad
from pulse_trio.edge.server.stream_writer import PendingWrites
from pulse_trio.edge.server.tcp_connection import TcpConnection
from pulse_trio.edge.server.websocket_handshake import PlainHandshake
from pulse_trio.edge.server.websocket_stream import WebSocketStream
from pulse_trio.edge.server.worker import draining_worker, listen
from pulse_trio.errors import LaunchError
from pulse_trio.settings import Settings
from pulse_trio.settings_values import bind_address

SUPPORTED_VERSIONS: Final = ("0.18.0",)

_ADVICE: Final = "raise the limit (ulimit -Hn, LimitNOFILE), or lower PULSE_MAX_CONNECTIONS"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Supervised:
    """The parts that a worker has of its supervisor.

    Attributes:
        load: the connections of this worker and the others.
        metrics: the socket of `PULSE_METRICS_BIND`, which all workers share.
        is_replaced: returns whether another worker takes the place of this one, so that it need not wait for load
            balancers before it ends.
    """

    load: SharedLoad
    metrics: socket | None
    is_replaced: Callable[[], bool]


def install(
    settings: Settings,
    *,
    stop: Callable[[], Awaitable[None]] | None = None,
    guard: Callable[[], AbstractContextManager[None]] = nullcontext,
    supervised: Supervised | None = None,
) -> Gate | None:
    """Installs the workarounds, for every server that this process starts from now on.

    Args:
        settings: the bounds of connections.
        stop: returns when the process is asked to end, for a server that is started without such a trigger
            (with `workers = 0` Hypercorn does not look at SIGTERM itself).
        guard: the server runs inside this context; it may change how a failure of the server ends the process.
        supervised: what a worker has of its supervisor.

    Returns:
        The gate that counts the connections of this process; None for an unsupported version that a setting allows.

    Raises:
        LaunchError: the version of Hypercorn is unknown, or the address for metrics cannot be listened on.
    """
    if not is_supported(settings):
        return None
    wanted = settings.max_connections + reserved_files(settings)
    files = raise_open_files(wanted) if settings.max_connections else None
    writes = PendingWrites(settings.write_timeout)
    gate = Gate(settings, files=files)
    if gate.max_open < settings.max_connections:
        log.warning("few open files allowed", allowed=files, connections=gate.max_open, needed=wanted, advice=_ADVICE)
    logging.getLogger("trio.serve_listeners").addFilter(AcceptErrors())
    TcpConnection.gate = gate
    TcpConnection.writes = writes
    TcpConnection.idle = idle = IdleConnections()
    HttpProtocol.settings = WebSocketStream.settings = settings
    load = None if supervised is None else supervised.load
    BurstListener.load = load
    TcpConnection.load = nullcontext() if load is None else load
    metrics = None
    if settings.metrics_bind is not None:
        inherited = None if supervised is None else supervised.metrics
        metrics = _MetricsSocket(settings.metrics_bind, TcpConnection.gate, inherited)
    if metrics is not None and not settings.standby:  # a standby listens once it serves
        metrics.open()

    def end() -> None:
        if load is not None:
            load.close()
        writes.shorten()

    def delay() -> float:
        is_replaced = supervised is not None and supervised.is_replaced()
        return 0.0 if is_replaced else settings.stop_delay

    worker = partial(
        draining_worker,
        stop=stop,
        guard=guard,
        on_end=end,
        on_drained=idle.close,
        delay=delay,
        open_metrics=None if metrics is None else metrics.open,
    )
    hypercorn.trio.run.worker_serve = worker
    if files is not None:
        BurstListener.max_waiting = max_waiting(files)
    bursts = SimpleNamespace(**{**vars(trio), "SocketListener": BurstListener})
    hypercorn.trio.run.trio = bursts  # type: ignore[assignment,attr-defined]  # its own name for Trio; nobody else's changes
    hypercorn.protocol.H11Protocol = HttpProtocol  # type: ignore[assignment,attr-defined]
    hypercorn.trio.run.TCPServer = TcpConnection  # type: ignore[assignment,attr-defined]
    hypercorn.protocol.h11.HTTPStream = HttpStream  # type: ignore[attr-defined]
    hypercorn.protocol.h11.WSStream = WebSocketStream  # type: ignore[attr-defined]
    ws_stream.Handshake = PlainHandshake  # type: ignore[misc]
    h11._readers._obsolete_line_fold = request_head.reject_folded
    h11._readers.READERS[h11.CLIENT, h11.IDLE] = request_head.read_request
    return gate


def is_supported(settings: Settings) -> bool:
    """Returns False for an unsupported version of Hypercorn that a setting allows.

    Raises:
        LaunchError: no setting allows it.
    """
    found = version("hypercorn")
    if found in SUPPORTED_VERSIONS:
        return True
    known = ", ".join(SUPPORTED_VERSIONS)
    if not settings.allow_any_hypercorn:
        raise LaunchError(
            f"Hypercorn {found} is not supported: limits of connections and repairs would be missing; "
            f"run pip install 'hypercorn=={SUPPORTED_VERSIONS[-1]}', or set PULSE_ALLOW_ANY_HYPERCORN=true"
        )
    log.warning("unsupported Hypercorn version: limits and repairs are not installed", version=found, known=known)
    return False


def listen_for_metrics(bind: str) -> socket:
    """Listens on the address of `PULSE_METRICS_BIND`.

    Raises:
        LaunchError: it cannot be listened on.
    """
    sock = listen(*bind_address(bind))
    log.info("metrics are served", address=sock.getsockname()[:2])
    return sock


class _MetricsSocket:
    """The socket of `PULSE_METRICS_BIND`, opened at its first use."""

    def __init__(self, bind: str, gate: Gate, inherited: socket | None = None) -> None:
        self._bind = bind
        self._gate = gate
        self._socket = inherited
        if inherited is not None:
            gate.metrics_address = inherited.getsockname()[:2]

    def open(self) -> socket:
        """Returns the socket, which listens. Raises LaunchError if it cannot."""
        if self._socket is None:
            self._socket = listen_for_metrics(self._bind)
            self._gate.metrics_address = self._socket.getsockname()[:2]
        return self._socket
