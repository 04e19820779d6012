"""The contract between a client's TCP connection and what runs on it."""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, Protocol

from pulse_trio.edge.server.gate import Gate, Slot
from pulse_trio.edge.server.stream_writer import StreamWriter
from pulse_trio.edge.server.transport import Transport


class ClientConnection(Protocol):
    """A TCP connection, as its HTTP protocol, its WebSocket and its transport use it.

    Attributes:
        slot: the connection as the gate counts it.
        writer: makes all writes to the client.
        websocket: the `WebSocketStream` that has this connection to itself; None until its handshake.
        ping_at: on Trio's clock, when the next ping is due; infinite for none.
    """

    slot: Slot
    writer: StreamWriter
    websocket: Any
    ping_at: float

    @property
    def gate(self) -> Gate:
        """Counts connections and requests."""

    async def read(self) -> bool:
        """Waits for the client and handles what it sends; False when there is nothing more to read."""

    def wake(self) -> None:
        """Makes a waiting `read` return, because its connection has changed."""

    def carry_on(self, serve: Callable[[], Awaitable[None]]) -> None:
        """Lets the connection's own task run `serve` from now on, in place of the framework's work."""

    def open_transport(self) -> Transport:
        """Opens the transport of its WebSocket, before the handshake is answered."""


_current: Final[ContextVar[ClientConnection]] = ContextVar("client_connection")


def current_connection() -> ClientConnection:
    """Returns the connection that this task serves."""
    return _current.get()


def set_connection(connection: ClientConnection) -> None:
    """Sets the connection for this task and those that it starts from now on."""
    _current.set(connection)
