"""A listener that accepts several connections in a turn of the loop."""

from collections import deque
from typing import Final

import trio

MAX_BURST: Final = 16  # connections of a turn: each begins a task and parses a request


class BurstListener(trio.abc.Listener[trio.SocketStream]):
    """Like `trio.SocketListener`, which accepts one connection a turn.

    When the loop is busy, a turn takes some tens of milliseconds: behind 500 others, a connection waited for seconds
    before anything looked at it, a liveness probe as well.
    """

    def __init__(self, socket: trio.socket.SocketType) -> None:
        self.socket = socket
        self._listener = trio.SocketListener(socket)
        self._accepted: deque[trio.SocketStream] = deque()  # at most `MAX_BURST`

    async def accept(self) -> trio.SocketStream:
        """Returns a connection; at once, up to `MAX_BURST` times, when others have come as well.

        Raises:
            OSError: the connection could not be accepted.
            ClosedResourceError: the listener was closed.
        """
        if not self._accepted:
            self._accepted.append(await self._listener.accept())
            self._accept_more()
        return self._accepted.popleft()

    def _accept_more(self) -> None:
        socket = self.socket._sock  # type: ignore[attr-defined]  # the socket itself
        while len(self._accepted) < MAX_BURST:
            try:
                accepted, _ = socket.accept()
            except OSError:  # there is none, or it cannot be accepted: the next `accept` finds out
                return
            self._accepted.append(trio.SocketStream(trio.socket.from_stdlib_socket(accepted)))

    async def aclose(self) -> None:
        """Closes the listener, and the connections that nobody has taken."""
        while self._accepted:
            self._accepted.popleft().socket.close()
        await self._listener.aclose()
