"""A listener that accepts many connections in a turn of the loop, and begins some of them, address by address."""

import errno
from socket import AF_INET6, inet_pton
from typing import ClassVar, Final

import trio

from pulse_trio.edge.lines import Lines
from pulse_trio.edge.server.shared_load import SharedLoad

MAX_BURST: Final = 16  # connections that begin in a turn: each begins a task and parses a request
MAX_WAITING: Final = 1_024  # connections that were accepted and have not begun; others wait in the kernel's queue

# Another worker took it, or the client has gone (accept(2)).
_NOTHING_ACCEPTED: Final = {errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.EINTR}


class BurstListener(trio.abc.Listener[trio.SocketStream]):
    """Like `trio.SocketListener`, which accepts one connection a turn, in the order they came.

    When the loop is busy, a turn takes some tens of milliseconds: behind 500 others, a connection waited for seconds
    before anything looked at it, a liveness probe as well. To accept a connection is cheap, to begin it is not. So the
    connections that have come are accepted at once, and begun in turns of their addresses: those of one address wait
    for each other, and a single one from another address for none of them. Behind a proxy all have its address.

    Several workers accept from one socket, and each wakes for each connection. So one that has more connections than
    the least loaded leaves it to the others for a moment; when nobody has taken it by then, it takes what has come.

    Attributes:
        max_waiting: the number of connections that may wait to begin; each has an open file.
        load: the connections of this worker and the others; None in a process without others.
    """

    max_waiting: ClassVar[int] = MAX_WAITING
    load: ClassVar[SharedLoad | None] = None

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
            if self.load is None:
                self._put(await self._listener.accept())
                self._accept_more()
            else:
                await self._accept_fairly(self.load)
            self._begun = 0
        self._begun += 1
        return self._waiting.take()

    async def _accept_fairly(self, load: SharedLoad) -> None:
        """Accepts at least one connection; none any longer once this worker drains: the others have the socket, too."""
        while not self._waiting:
            if load.is_closed:
                self.socket.close()
                await trio.sleep_forever()
            with load.accepting():
                await trio.lowlevel.wait_readable(self.socket)
                patience = load.patience()
                if patience:
                    await trio.sleep(patience)
                try:
                    self._accept_one(load)
                except OSError as error:
                    if error.errno not in _NOTHING_ACCEPTED:
                        raise
                else:
                    self._accept_more(MAX_BURST if patience else self.max_waiting, is_patient=bool(patience))

    def _accept_more(self, most: int | None = None, *, is_patient: bool = False) -> None:
        """Accepts what has come, up to `most`; among several workers only as long as no other has fewer.

        Args:
            most: the number of connections that may wait to begin afterwards; None: `max_waiting`.
            is_patient: the others have had their chance.
        """
        load = self.load
        if load is not None and load.is_closed:
            return
        while len(self._waiting) < (self.max_waiting if most is None else most):
            if load is not None and not is_patient and load.excess() > 0:
                return
            try:
                self._accept_one(load)
            except OSError:  # there is none, or it cannot be accepted: a later `accept` finds out
                return

    def _accept_one(self, load: SharedLoad | None) -> None:
        accepted, address = self.socket._sock.accept()  # type: ignore[attr-defined]  # the socket itself
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
        self._waiting.put(_host(address), stream)
        if load is not None:
            load.enter()

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
            if self.load is not None:
                self.load.leave()
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
