"""Installs our classes inside Hypercorn, where its own modules look theirs up.

Each workaround has a test against a real process, which fails when a new Hypercorn changes what it depends on. On an
unsupported version nothing is installed, and a warning says so.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from importlib.metadata import version
from types import SimpleNamespace
from typing import Final

import h11._readers
import hypercorn.protocol
import hypercorn.protocol.h2
import hypercorn.protocol.h11
import hypercorn.trio.run
import structlog
import trio
from hypercorn.protocol import ws_stream

from pulse_trio.edge.server import request_head
from pulse_trio.edge.server.burst_listener import BurstListener
from pulse_trio.edge.server.gate import Gate, reserved_files
from pulse_trio.edge.server.http_protocol import HttpProtocol
from pulse_trio.edge.server.open_files import AcceptErrors, raise_open_files
from pulse_trio.edge.server.stream_writer import PendingWrites
from pulse_trio.edge.server.tcp_connection import TcpConnection
from pulse_trio.edge.server.websocket_handshake import PlainHandshake
from pulse_trio.edge.server.websocket_stream import WebSocketStream
from pulse_trio.edge.server.worker import draining_worker
from pulse_trio.settings import Settings

SUPPORTED_VERSIONS: Final = ("0.18.0",)

_ADVICE: Final = "raise the limit (ulimit -Hn, LimitNOFILE), or lower PULSE_MAX_CONNECTIONS"

log = structlog.get_logger(__name__)


def install(
    settings: Settings,
    *,
    stop: Callable[[], Awaitable[None]] | None = None,
    guard: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Installs the workarounds, for every server that this process starts from now on.

    Args:
        settings: the bounds of connections.
        stop: returns when the process is asked to end, for a server that is started without such a trigger
            (with `workers = 0` Hypercorn does not look at SIGTERM itself).
        guard: the server runs inside this context; it may change how a failure of the server ends the process.
    """
    found = version("hypercorn")
    if found not in SUPPORTED_VERSIONS:
        log.warning("unsupported Hypercorn version: workarounds not installed", version=found)
        return
    wanted = settings.max_connections + reserved_files(settings)
    files = raise_open_files(wanted) if settings.max_connections else None
    writes = PendingWrites(settings.write_timeout)
    gate = Gate(settings, files=files)
    if gate.max_open < settings.max_connections:
        log.warning("few open files allowed", allowed=files, connections=gate.max_open, needed=wanted, advice=_ADVICE)
    logging.getLogger("trio.serve_listeners").addFilter(AcceptErrors())
    TcpConnection.gate = gate
    TcpConnection.writes = writes
    HttpProtocol.settings = WebSocketStream.settings = settings
    worker = partial(draining_worker, stop=stop, guard=guard, on_end=writes.shorten, delay=settings.stop_delay)
    hypercorn.trio.run.worker_serve = worker
    bursts = SimpleNamespace(**{**vars(trio), "SocketListener": BurstListener})
    hypercorn.trio.run.trio = bursts  # type: ignore[assignment,attr-defined]  # its own name for Trio; nobody else's changes
    hypercorn.protocol.H11Protocol = HttpProtocol  # type: ignore[assignment,attr-defined]
    hypercorn.trio.run.TCPServer = TcpConnection  # type: ignore[assignment,attr-defined]
    hypercorn.protocol.h11.WSStream = WebSocketStream  # type: ignore[attr-defined]
    hypercorn.protocol.h2.WSStream = WebSocketStream  # type: ignore[attr-defined]
    ws_stream.Handshake = PlainHandshake  # type: ignore[misc]
    h11._readers._obsolete_line_fold = request_head.reject_folded
