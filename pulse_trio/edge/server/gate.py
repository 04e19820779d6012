"""The gate: bounds connections of the process and of an address, and the rate of requests of an address.

Without proxies the peer is the client, and is judged before anything is read from it. Behind the operator's own proxies
the client is not known before the head of a request has arrived: then requests and WebSockets are counted, because the
connections are the proxy's.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Final

import structlog
import trio

from pulse_trio.buckets import AddressBuckets
from pulse_trio.edge.client_address import Proxies, parse_address
from pulse_trio.edge.hosts import Hosts
from pulse_trio.edge.log_samples import LogSampler
from pulse_trio.edge.server.plain_responses import Asked, PlainResponses, encode
from pulse_trio.edge.server.request_turns import RequestTurns
from pulse_trio.edge.turns import Turns
from pulse_trio.errors import ErrorCode, PulseError, too_many
from pulse_trio.settings import Settings

MAX_REJECTING: Final = 100  # rejected connections that are answered at a time; others are just closed
_OTHER_SESSIONS: Final = 7  # of the database, beside PULSE_POOL_MAX: for messages, the lock and a command
_OWN_FILES: Final = 40  # listeners, the poller, logs, locks, a margin
_EASY_OWN_FILES: Final = 139  # the same where there are files enough: PULSE_POOL_MAX=10 then reserves 256
LINGER: Final = 1.0  # seconds that a client has to read why its connection ends
REQUEST_WAIT: Final = 0.2  # seconds for the first bytes of a rejected connection's request
RECEIVE_BYTES: Final = 65_536
RETRY_SECONDS: Final = 1.0  # until a slot may be free
PROBE: Final = b"GET /healthz "

log = structlog.get_logger(__name__)


def reserved_files(settings: Settings, files: int | None = None) -> int:
    """Returns how many files are kept for other purposes than clients: the database, rejections, the process itself.

    Args:
        settings: all settings.
        files: the number of files that the process may open; None if there are enough.
    """
    sessions = settings.pool_max + _OTHER_SESSIONS
    most = sessions + MAX_REJECTING + _EASY_OWN_FILES
    if files is None:
        return most
    least = sessions + _max_rejecting(files) + _OWN_FILES
    return min(most, max(files // 4, least), files * 3 // 4)


def _max_rejecting(files: int | None) -> int:
    return MAX_REJECTING if files is None else max(1, min(MAX_REJECTING, files // 8))


class Gate:
    """Counts connections and requests; a bound or a rate of 0 is no limit.

    Args:
        settings: the bounds.
        files: the number of files that the process may open; None for no limit.

    Attributes:
        max_open: the number of connections that may be open at a time; infinite if it has no limit.
        rejected: connections and requests that were rejected, by error code.
        stalled: clients that were disconnected because they did not read.
        violations: WebSockets that were closed for breaking a rule, by close code.
        responses: makes the answers to what is rejected.
        hosts: the host names under which the service answers.
        beginning: gives requests their turns to begin.
        metrics_address: the address and port that are listened on for the metrics alone, if any.
        turns: spread the large work of all WebSockets.
    """

    def __init__(self, settings: Settings, *, files: int | None = None) -> None:
        wanted = settings.max_connections or math.inf
        self.max_open = wanted if files is None else min(wanted, files - reserved_files(settings, files))
        self._max_rejecting = _max_rejecting(files)
        self._max_per_address = settings.connections_per_address
        self._proxies = Proxies(settings)
        self._requests = AddressBuckets(settings.requests_per_second, settings.requests_burst, settings.networks)
        self._networks = settings.networks
        self._open = 0
        self._of_address: dict[str, int] = {}  # of networks as well
        self._rejecting = 0  # connections that are being answered with an error
        self._samples = LogSampler()
        self.rejected: defaultdict[str, int] = defaultdict(int)
        self.stalled = 0
        self.violations: defaultdict[int, int] = defaultdict(int)
        self.responses = PlainResponses(settings)
        self.hosts = Hosts(settings)
        self.beginning = RequestTurns()
        self.metrics_address: tuple[str, int] | None = None
        self.turns = Turns()

    def is_for_metrics(self, host: str, port: int | None) -> bool:
        """Returns whether connections to an address of this machine are for the metrics (`PULSE_METRICS_BIND`)."""
        if self.metrics_address is None or port != self.metrics_address[1]:
            return False
        bound = parse_address(self.metrics_address[0])
        return bound is None or bound.is_unspecified or bound == parse_address(host)

    @property
    def open(self) -> int:
        """The number of connections."""
        return self._open

    def count(self, address: str) -> int:
        """Returns the number of connections of an address."""
        return self._of_address.get(address, 0)

    def admit(self, peer: str | None) -> "Slot":
        """Returns a slot for a connection that was accepted; its owner must call `leave`.

        Args:
            peer: the address at the other end; None if it has none, as on a Unix socket.

        Raises:
            PulseError: the server is full, or the address has too many connections or requests.
        """
        if self._open >= self.max_open:
            message = "The server is full; retry in a moment"
            raise self._count_rejected(PulseError(ErrorCode.UNAVAILABLE, message, retry_after=RETRY_SECONDS), peer)
        if peer is None or self._proxies.is_proxy(peer):
            slot = Slot(self, peer)
        else:
            address = self._proxies.client(peer, ()).key
            self._check_connections(address)
            self._count_request(address)
            slot = Slot(self, peer, is_first_counted=True)
            slot.hold(address)
        self._open += 1
        return slot

    def _check_connections(self, address: str) -> None:
        """Raises PulseError when the address has as many connections as it may."""
        counted = self._networks.of(address) if self._max_per_address else ()
        if any(self.count(key) >= self._max_per_address * factor for key, factor in counted):
            message = f"Your address has {self._max_per_address} connections open, the maximum; close one first"
            error = PulseError(ErrorCode.TOO_MANY_CONNECTIONS, message, retry_after=RETRY_SECONDS)
            raise self._count_rejected(error, address)

    def _count_request(self, address: str) -> None:
        """Counts a request of an address. Raises PulseError when there are too many."""
        if not self._requests.take(address):
            error = too_many("requests of your address", self._requests.wait(address))
            raise self._count_rejected(error, address)

    def count_request(self, slot: "Slot", forwarded: Sequence[str], *, is_websocket: bool) -> None:
        """Counts a request on a connection; see `Slot.count_request`."""
        is_proxy = self._proxies.is_proxy(slot.peer)
        if slot.peer is None and not is_proxy:
            return
        address = self._proxies.client(slot.peer, forwarded).key
        if is_proxy and is_websocket:
            self._check_connections(address)
        self._count_request(address)
        if is_proxy and is_websocket:
            slot.hold(address)

    def client_key(self, peer: str | None, forwarded: Sequence[str]) -> str:
        """Returns the address that a request counts for."""
        return self._proxies.client(peer, forwarded).key

    def enter(self, address: str) -> None:
        """Counts a connection of an address."""
        for key, _ in self._networks.of(address):
            self._of_address[key] = self.count(key) + 1

    def leave(self, addresses: Sequence[str]) -> None:
        """Ends a connection, which was counted for these addresses."""
        self._open -= 1
        for address in addresses:
            for key, _ in self._networks.of(address):
                self._of_address[key] -= 1
                if not self._of_address[key]:
                    del self._of_address[key]

    @contextmanager
    def answering(self) -> Iterator[bool]:
        """Bounds how many rejected clients are answered at once; yields whether this one is."""
        if self._rejecting >= self._max_rejecting:
            yield False
            return
        self._rejecting += 1
        try:
            yield True
        finally:
            self._rejecting -= 1

    async def reject(self, stream: trio.abc.Stream, error: PulseError) -> None:
        """Answers a client that has no slot with an error, without reading all of its request; over TLS with nothing.

        Takes at most `LINGER` seconds; the caller closes the stream. A liveness probe gets 200: a process that is
        full, or has answered enough for now, must not be restarted for it.
        """
        with self.answering() as is_answered:
            if not is_answered or not isinstance(stream, trio.abc.HalfCloseableStream):
                return
            with trio.move_on_after(LINGER), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                begun = b""
                with trio.move_on_after(REQUEST_WAIT):
                    begun = bytes(await stream.receive_some(RECEIVE_BYTES))
                asked, is_probe = Asked.of_bytes(begun), begun.startswith(PROBE)
                headers, body = self.responses.alive(asked) if is_probe else self.responses.error(error, asked)
                status = 200 if is_probe else error.code.status
                await stream.send_all(encode(status, headers, body, is_head=asked.is_head))
                await stream.send_eof()
                # Closed with its request unread, the connection would be reset, and the answer lost.
                while await stream.receive_some(RECEIVE_BYTES):
                    pass

    def _count_rejected(self, error: PulseError, address: str | None) -> PulseError:
        """Counts a rejection, and logs a sample of them: a line for each would be a flood."""
        self.rejected[error.code.code] += 1
        suppressed = self._samples.take()
        if suppressed is not None:
            log.warning("connection rejected", code=error.code.code, address=address, suppressed=suppressed)
        return error


_current: Final[ContextVar[Gate | None]] = ContextVar("gate", default=None)


def current_gate() -> Gate | None:
    """Returns the gate of the connection that this task serves; None on an unsupported version of Hypercorn."""
    return _current.get()


def set_gate(gate: Gate) -> None:
    """Sets the gate for this task and those that it starts from now on."""
    _current.set(gate)


class Slot:
    """One accepted connection, as the gate counts it.

    Args:
        gate: the gate that admitted it.
        peer: the address at the other end, if it has one.
        is_first_counted: its first request was counted when it was accepted.
    """

    __slots__ = ("_addresses", "_gate", "_is_first_counted", "peer")

    def __init__(self, gate: Gate, peer: str | None, *, is_first_counted: bool = False) -> None:
        self.peer = peer
        self._gate = gate
        self._is_first_counted = is_first_counted
        self._addresses: list[str] = []

    def count_request(self, forwarded: Sequence[str], *, is_websocket: bool) -> None:
        """Counts a request.

        Args:
            forwarded: its `X-Forwarded-For` headers.
            is_websocket: it is the handshake of a WebSocket.

        Raises:
            PulseError: the address has made too many requests, or has too many WebSockets behind a proxy.
        """
        if self._is_first_counted:
            self._is_first_counted = False
        else:
            self._gate.count_request(self, forwarded, is_websocket=is_websocket)

    def address(self, forwarded: Sequence[str]) -> str:
        """Returns the address that a request with these `X-Forwarded-For` headers counts for."""
        return self._gate.client_key(self.peer, forwarded)

    @property
    def client(self) -> str:
        """The address that this connection counts for; empty if it has none."""
        return self._addresses[-1] if self._addresses else self.peer or ""

    def hold(self, address: str) -> None:
        """Counts this connection as one of an address, once."""
        if address not in self._addresses:
            self._gate.enter(address)
            self._addresses.append(address)

    def leave(self) -> None:
        """Gives the slot back, because the connection has ended."""
        self._gate.leave(self._addresses)
