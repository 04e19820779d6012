"""Proxy on a free port between the service and its PostgreSQL, which breaks the connection."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

# The end of an answer after which the session is outside any transaction: what it did is committed.
IDLE = b"Z\x00\x00\x00\x05I"
COMPLETE = ord("C")  # of a statement
CHUNK = 65_536


def kinds(answer: bytes) -> set[int]:
    """The kinds of messages in an answer of PostgreSQL: a letter and a length, each."""
    found, place = set(), 0
    while place < len(answer):
        found.add(answer[place])
        place += 1 + int.from_bytes(answer[place + 1 : place + 5], "big")
    return found


class Proxy:
    """Hands bytes on, until it is told otherwise.

    Attributes:
        lose_answers: how many of the next answers to statements are lost, each with its connection.
        lost: how many were.
        is_cut: whether connections are refused.
        replace: what is sent to the server as something else of the same length.
        hold: the next answer to a request with these bytes is held back until `let_go`; then none is any more.
        held: set while an answer is held back.
    """

    def __init__(self, conninfo: str, nursery: trio.Nursery) -> None:
        self._params = conninfo_to_dict(conninfo)
        self._nursery = nursery
        self._open: set[trio.CancelScope] = set()
        self._change = trio.Event()
        self.lose_answers = 0
        self.lost = 0
        self.is_cut = False
        self.replace = (b"", b"")
        self.hold = b""
        self.held = trio.Event()
        self._released = trio.Event()
        self.port = 0

    @property
    def conninfo(self) -> str:
        """Returns the connection string of the database through this proxy."""
        own = {"host": "127.0.0.1", "port": self.port, "sslmode": "disable", "gssencmode": "disable"}
        return make_conninfo("", **{**self._params, **own})

    async def cut(self) -> None:
        """Ends all connections and refuses new ones, until `mend`."""
        self.is_cut = True
        for scope in self._open:
            scope.cancel()
        while self._open:
            await self._change.wait()

    def mend(self) -> None:
        """Connections are taken again."""
        self.is_cut = False

    def let_go(self) -> None:
        """Sends the answer that is held back."""
        self._released.set()

    async def wait_lost(self, count: int) -> None:
        """Returns when so many answers have been lost."""
        while self.lost < count:
            await self._change.wait()

    def _changed(self) -> None:
        change, self._change = self._change, trio.Event()
        change.set()

    async def serve(self) -> None:
        """Takes connections until cancelled."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        self._nursery.start_soon(trio.serve_listeners, self._connection, [listener])

    async def _connection(self, client: trio.SocketStream) -> None:
        path = f"{self._params['host']}/.s.PGSQL.{self._params['port']}"
        with trio.CancelScope() as scope:
            self._open.add(scope)
            try:
                if self.is_cut:
                    return
                server = await trio.open_unix_socket(path)
                async with server, trio.open_nursery() as nursery:
                    must_hold = trio.Event()
                    nursery.start_soon(self._requests, client, server, scope, must_hold)
                    await self._answers(client, server, must_hold)
                    scope.cancel()
            except* (OSError, trio.BrokenResourceError):
                pass  # one side has gone: the other is told by the end of its connection
            finally:
                with trio.CancelScope(shield=True):
                    await trio.aclose_forcefully(client)
                self._open.discard(scope)
                self._changed()

    async def _requests(
        self, client: trio.SocketStream, server: trio.SocketStream, scope: trio.CancelScope, must_hold: trio.Event
    ) -> None:
        while data := await client.receive_some(CHUNK):
            if self.hold and self.hold in data:
                self.hold = b""
                must_hold.set()
            await server.send_all(data.replace(*self.replace) if self.replace[0] else data)
        scope.cancel()

    async def _answers(self, client: trio.SocketStream, server: trio.SocketStream, must_hold: trio.Event) -> None:
        held = b""
        while data := await server.receive_some(CHUNK):
            held += data
            if must_hold.is_set():
                self.held.set()
                await self._released.wait()
            if self.lose_answers:
                if not held.endswith(IDLE):
                    continue  # not a byte of an answer that may be lost
                is_statement = COMPLETE in kinds(held)  # not the greeting of a new session
            else:
                is_statement = False
            if is_statement:
                self.lose_answers -= 1
                self.lost += 1
                self._changed()
                return
            await client.send_all(held)
            held = b""


@asynccontextmanager
async def open_proxy(conninfo: str) -> AsyncIterator[Proxy]:
    """A proxy to the database of a Unix socket, running while the block does."""
    async with trio.open_nursery() as nursery:
        proxy = Proxy(conninfo, nursery)
        await proxy.serve()
        try:
            yield proxy
        finally:
            nursery.cancel_scope.cancel()
