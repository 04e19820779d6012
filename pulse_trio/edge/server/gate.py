"""Who may connect: connections of the process and of an address, and how often an address may ask.

Without proxies the peer is the client, and is judged before anything is read from it. Behind proxies of one's own it
is known first when the head of a request has come: then requests and WebSockets are counted, as connections are the
proxy's.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from http import HTTPStatus
from typing import Final

import msgspec
import structlog
import trio

from pulse_trio.edge.buckets import Buckets
from pulse_trio.edge.client_address import client_address
from pulse_trio.edge.responses import ErrorBody
from pulse_trio.errors import ErrorCode, PulseError, too_many
from pulse_trio.settings import Settings

RESERVED_FILES: Final = 256  # at most, of those that a process may open: the database, logs, listeners, a margin
ANSWERED_AT_ONCE: Final = 100  # connections that are told why they are turned away; others are closed
LOG_INTERVAL: Final = 10.0  # seconds between lines about those turned away
LINGER: Final = 1.0  # seconds that a client has to read why its connection ends
BEGIN_WAIT: Final = 0.2  # seconds for the first bytes of a request from one that is turned away
RECEIVE_BYTES: Final = 65_536
RETRY: Final = 1.0  # seconds until a place may be free
PROBE: Final = b"GET /healthz "
ALIVE_BODY: Final = b'{"status":"ok"}'
ALIVE_HEADERS: Final = [
    ("content-type", "application/json"),
    ("content-length", str(len(ALIVE_BODY))),
    ("connection", "close"),
]

log = structlog.get_logger(__name__)


class Gate:
    """Counts connections and requests; `most` of 0 and rates of 0 are no limits."""

    def __init__(self, settings: Settings, *, files: int | None = None) -> None:
        """Takes the bounds from the settings; `files` is how many the system lets the process open, None any."""
        most = settings.max_connections or math.inf
        self._most = most if files is None else min(most, files - min(RESERVED_FILES, files // 4))
        self._most_of_address = settings.connections_per_address
        self._proxies = settings.trusted_proxies
        self._requests = Buckets(settings.requests_per_second, settings.requests_burst)
        self._open = 0
        self._of_address: dict[str, int] = {}
        self._answering = 0
        self._logged = -math.inf
        self._unlogged = 0
        self.turned_away: defaultdict[str, int] = defaultdict(int)  # connections and requests, by error code
        self.stalled = 0  # clients that were cut because they did not read
        self.cuts: defaultdict[int, int] = defaultdict(int)  # WebSockets closed for breaking a rule, by close code

    @property
    def open(self) -> int:
        """How many connections there are."""
        return self._open

    def count(self, address: str) -> int:
        """How many connections an address has."""
        return self._of_address.get(address, 0)

    def admit(self, peer: str | None) -> "Place":
        """A place for a connection that was accepted; its owner must `leave` it.

        Args:
            peer: the address at the other end; None if it has none, as on a Unix socket.

        Raises:
            PulseError: there is none.
        """
        if self._open >= self._most:
            raise self._noted(
                PulseError(ErrorCode.UNAVAILABLE, "The server is full; try again in a moment", retry_after=RETRY), peer
            )
        if peer is None or self._proxies:
            place = Place(self, peer)
        else:
            address = client_address(peer, (), 0)
            self.check(address)
            self.ask(address)
            place = Place(self, peer, is_paid=True)
            place.hold(address)
        self._open += 1
        return place

    def check(self, address: str) -> None:
        """Raises PulseError when the address has as many connections as it may."""
        if self._most_of_address and self.count(address) >= self._most_of_address:
            message = f"Your address has {self._most_of_address} connections open, which is the most; close one first"
            raise self._noted(PulseError(ErrorCode.TOO_MANY_CONNECTIONS, message, retry_after=RETRY), address)

    def ask(self, address: str) -> None:
        """Counts a request of an address. Raises PulseError when there are too many."""
        if not self._requests.take(address):
            raise self._noted(too_many("requests of your address", self._requests.wait(address)), address)

    def ask_behind(self, place: "Place", forwarded: Sequence[str], *, is_websocket: bool) -> None:
        """Counts a request on a connection; see `Place.ask`."""
        if place.peer is None and not self._proxies:
            return
        address = client_address(place.peer, forwarded, self._proxies)
        if self._proxies and is_websocket:
            self.check(address)
        self.ask(address)
        if self._proxies and is_websocket:
            place.hold(address)

    def enter(self, address: str) -> None:
        self._of_address[address] = self.count(address) + 1

    def leave(self, addresses: Sequence[str]) -> None:
        self._open -= 1
        for address in addresses:
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]

    @contextmanager
    def answering(self) -> Iterator[bool]:
        """Around the answer to one who is turned away; gives whether there is to be one."""
        if self._answering >= ANSWERED_AT_ONCE:
            yield False
            return
        self._answering += 1
        try:
            yield True
        finally:
            self._answering -= 1

    async def turn_away(self, stream: trio.abc.Stream, error: PulseError) -> None:
        """Tells a client why it has no place, without waiting for all of its request; over TLS it is only closed.

        A second at most; whoever calls this closes the stream. To who asks whether the process lives the answer is
        yes: one that is full, or has answered enough for now, must not be ended for it.
        """
        with self.answering() as is_told:
            if not is_told or not isinstance(stream, trio.abc.HalfCloseableStream):
                return
            with trio.move_on_after(LINGER), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                begun = b""
                with trio.move_on_after(BEGIN_WAIT):
                    begun = bytes(await stream.receive_some(RECEIVE_BYTES))
                await stream.send_all(ALIVE if begun.startswith(PROBE) else http_answer(error))
                await stream.send_eof()
                # Closed with its request unread, the connection would be reset, and the answer lost.
                while await stream.receive_some(RECEIVE_BYTES):
                    pass

    def _noted(self, error: PulseError, who: str | None) -> PulseError:
        """Counts that somebody is turned away, and logs it now and then: a line for each would be a flood."""
        self.turned_away[error.code.code] += 1
        now = trio.current_time()
        if now - self._logged < LOG_INTERVAL:
            self._unlogged += 1
            return error
        log.warning("a client is turned away", code=error.code.code, address=who, more_before=self._unlogged)
        self._logged, self._unlogged = now, 0
        return error


_current: Final[ContextVar[Gate | None]] = ContextVar("gate", default=None)


def current_gate() -> Gate | None:
    """The gate that the connection came through which this task serves, if the server has one."""
    return _current.get()


def set_gate(gate: Gate) -> None:
    """For this task and those that it starts from now on."""
    _current.set(gate)


class Place:
    """One connection's."""

    __slots__ = ("_addresses", "_gate", "_is_paid", "peer")

    def __init__(self, gate: Gate, peer: str | None, *, is_paid: bool = False) -> None:
        self.peer = peer
        self._gate = gate
        self._is_paid = is_paid  # its first request was counted when it was accepted
        self._addresses: list[str] = []

    def ask(self, forwarded: Sequence[str], *, is_websocket: bool) -> None:
        """Counts a request.

        Args:
            forwarded: its `X-Forwarded-For` headers.
            is_websocket: whether it asks for a WebSocket.

        Raises:
            PulseError: there are too many of its address, or it has too many WebSockets behind a proxy.
        """
        if self._is_paid:
            self._is_paid = False
        else:
            self._gate.ask_behind(self, forwarded, is_websocket=is_websocket)

    def hold(self, address: str) -> None:
        """Counts this connection as one of an address."""
        self._gate.enter(address)
        self._addresses.append(address)

    def leave(self) -> None:
        """The connection has ended."""
        self._gate.leave(self._addresses)


def http_answer(error: PulseError) -> bytes:
    """The whole answer to a client whose request is not waited for."""
    body = error_body(error)
    return _plain(HTTPStatus(error.code.status), error_headers(error, body), body)


def _plain(status: HTTPStatus, headers: Sequence[tuple[str, str]], body: bytes) -> bytes:
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in headers)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


ALIVE: Final = _plain(HTTPStatus.OK, ALIVE_HEADERS, ALIVE_BODY)


def error_body(error: PulseError) -> bytes:
    """The JSON of an error."""
    return msgspec.json.encode(ErrorBody(error.code.code, error.message))


def error_headers(error: PulseError, body: bytes) -> list[tuple[str, str]]:
    """The headers of an answer with which the connection ends."""
    headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
    if error.retry_after is not None:
        headers.append(("retry-after", str(math.ceil(error.retry_after))))
    return headers


def allowed_files(wanted: int) -> int | None:
    """Asks the system to let this process open so many files; how many it does, None if it has no such limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return None
    best = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if best > soft:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (best, hard))
        except (OSError, ValueError):
            return soft
        return best
    return soft
