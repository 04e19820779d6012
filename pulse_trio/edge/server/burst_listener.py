"""A listener that accepts many connections in a turn of the loop, and begins some of them, address by address."""

from socket import AF_INET6, inet_pton
from typing import ClassVar, Final

import trio

from pulse_trio.edge.lines import Lines

MAX_BURST: Final = 16  # connections that begin in a turn: each begins a task and parses a request
MAX_WAITING: Final = 1_024  # connections that were accepted and have not begun; others wait in the kernel's queue


class BurstListener(trio.abc.Listener[trio.SocketStream]):
    """Like `trio.SocketListener`, which accepts one connection a turn, in the order they came.

    When the loop is busy, a turn takes some tens of milliseconds: behind 500 others, a connection waited for seconds
    before anything looked at it, a liveness probe as well. To accept a connection is cheap, to begin it is not. So the
    connections that have come are accepted at once, and begun in turns of their addresses: those of one address wait
    for each other, and a single one from another address for none of them. Behind a proxy all have its address.

    Attributes:
        max_waiting: the number of connections that may wait to begin; each has an open file.
    """

    max_waiting: ClassVar[int] = MAX_WAITING

    def __init__(self, socket: trio.socket.SocketType) -> None:
        self.socket = socket
        self._listener = trio.SocketListener(socket)
        self._waiting: Lines[trio.SocketStream] = Lines()  # bounded by `max_waiting`
        self._begun = 0  # in this turn of the loop

    async def accept(self) -> trio.SocketStream:
        """Returns a connection; at once, up to `MAX_BURST` times, when others have come as well.

        Raises:
            OSError: the connection could not be accepted.
            ClosedResourceError: the listener was closed.
        """
        if self._begun >= MAX_BURST and self._waiting:
            await trio.lowlevel.checkpoint()
            self._begun = 0
            self._accept_more()
        if not self._waiting:
            self._put(await self._listener.accept())
            self._begun = 0
            self._accept_more()
        self._begun += 1
        return self._waiting.take()

    def _accept_more(self) -> None:
        socket = self.socket._sock  # type: ignore[attr-defined]  # the socket itself
        while len(self._waiting) < self.max_waiting:
            try:
                accepted, address = socket.accept()
            except OSError:  # there is none, or it cannot be accepted: a later `accept` finds out
                return
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
            self._waiting.put(_host(address), stream)

    def _put(self, stream: trio.SocketStream) -> None:
        try:
            address = stream.socket.getpeername()
        except OSError:  # it has gone: whoever serves it finds out
            address = ""
        self._waiting.put(_host(address), stream)

    async def aclose(self) -> None:
        """Closes the listener, and the connections that have not begun."""
        while self._waiting:
            self._waiting.take().socket.close()
        await self._listener.aclose()


def max_waiting(files: int) -> int:
    """Returns the number of connections that may wait to begin, by the number of files that the process may open.

    Nobody counts them: they must fit into what is kept for other purposes than clients (`gate.reserved_files`).
    """
    return min(MAX_WAITING, max(MAX_BURST, files // 128))


def _host(address: object) -> str:
    """Returns the host of an address, for IPv6 its network (/64); empty for a Unix socket, whose clients have none."""
    if not isinstance(address, tuple):
        return ""
    host = str(address[0])
    if ":" not in host or host.startswith("::ffff:"):
        return host
    return inet_pton(AF_INET6, host.partition("%")[0])[:8].hex()
