"""The connections that wait for a request, which end at once when the server does."""

from typing import Protocol


class IdleConnection(Protocol):
    """A connection that waits for a request."""

    def end_idle(self) -> None:
        """Ends the connection, because the server ends."""


class IdleConnections:
    """The idle connections of a process.

    Attributes:
        is_closed: the server ends: no connection may wait for a request any more.
    """

    def __init__(self) -> None:
        self.is_closed = False
        self._idle: dict[IdleConnection, None] = {}

    def add(self, connection: IdleConnection) -> None:
        """Adds a connection that waits for a request from now on."""
        self._idle[connection] = None

    def discard(self, connection: IdleConnection) -> None:
        """Removes a connection, if it is there."""
        self._idle.pop(connection, None)

    def close(self) -> None:
        """Ends all of them, and those that would be idle from now on."""
        self.is_closed = True
        for connection in list(self._idle):
            connection.end_idle()
