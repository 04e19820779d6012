"""A connection in memory that can go wrong: a small window, bytes in small pieces, a cut without close.

`trio.testing.memory_stream_pair` has no window: nobody who does not read would ever slow a sender.
"""

import random
import socket
from collections.abc import Callable

import trio

WINDOW = 8_192  # bytes in flight that were not read
IN_PIECES = 3_000  # bytes of each direction that come in small pieces: they show every way to split frames


class _Pipe:
    """One direction."""

    def __init__(self, piece: Callable[[], int]) -> None:
        self.data = bytearray()
        self.ended = False  # the sender has closed in order
        self.broken = False  # cut, or the receiver has closed
        self._small_piece = piece
        self._left = IN_PIECES
        self._changed = trio.Event()

    def _piece(self) -> int:
        return self._small_piece() if self._left > 0 else WINDOW

    def wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def cut(self) -> None:
        self.broken = True
        self.data.clear()
        self.wake()

    async def put(self, data: bytes, is_closed: Callable[[], bool], is_stopped: Callable[[], bool]) -> None:
        view = memoryview(bytes(data))
        while view:
            await trio.lowlevel.checkpoint()
            if is_stopped():
                await self._changed.wait()
                continue
            if is_closed() or self.ended:
                raise trio.ClosedResourceError
            if self.broken:
                raise trio.BrokenResourceError
            room = WINDOW - len(self.data)
            if room <= 0:
                await self._changed.wait()
                continue
            count = min(room, 64 * self._piece())
            self.data += view[:count]
            view = view[count:]
            self.wake()

    def put_now(self, data: bytes) -> int:
        """Takes as much as a non-blocking socket would; returns the bytes taken."""
        room = WINDOW - len(self.data)
        if self.broken or self.ended:
            raise BrokenPipeError
        if room <= 0:
            raise BlockingIOError
        count = min(room, 64 * self._piece(), len(data))
        self.data += data[:count]
        self.wake()
        return count

    async def get(self, most: int, is_closed: Callable[[], bool], is_stopped: Callable[[], bool]) -> bytes:
        await trio.lowlevel.checkpoint()
        while True:
            if is_stopped():
                await self._changed.wait()
                continue
            if is_closed():
                raise trio.ClosedResourceError
            if self.data:
                count = min(most, self._piece())
                data = bytes(self.data[:count])
                del self.data[:count]
                self._left -= count
                self.wake()
                return data
            if self.broken:
                raise trio.BrokenResourceError
            if self.ended:
                return b""
            await self._changed.wait()


class FakeSocket:
    """A socket with the addresses that Hypercorn asks for."""

    family = socket.AF_INET

    def getpeername(self) -> tuple[str, int]:
        return "192.0.2.1", 50_000

    def getsockname(self) -> tuple[str, int]:
        return "192.0.2.2", 80


def _never() -> bool:
    return False


class End(trio.abc.HalfCloseableStream):
    """One end of a connection; `is_stopped`: its process stands still, and neither reads nor writes."""

    def __init__(self, outgoing: _Pipe, incoming: _Pipe, is_stopped: Callable[[], bool] = _never) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self._is_stopped = is_stopped
        self._closed = False
        self.gone = False  # it has vanished: the other end hears nothing, not even a close
        self._sending = trio._util.ConflictDetector("another task sends")
        self._receiving = trio._util.ConflictDetector("another task receives")
        self.socket = FakeSocket()

    def _is_closed(self) -> bool:
        return self._closed or self.gone

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._sending:
            await self._outgoing.put(bytes(data), self._is_closed, self._is_stopped)

    def send_now(self, data: bytes) -> int:
        """Sends as a non-blocking `socket.send` does; the server writes to a client with it."""
        if self._closed:
            raise OSError
        if self._is_stopped():
            raise BlockingIOError
        return self._outgoing.put_now(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        with self._receiving:
            most = 65_536 if max_bytes is None else max_bytes
            return await self._incoming.get(most, self._is_closed, self._is_stopped)

    async def send_eof(self) -> None:
        with self._sending:
            await trio.lowlevel.checkpoint()
            if self._closed:
                raise trio.ClosedResourceError
            self._outgoing.ended = True
            self._outgoing.wake()

    async def aclose(self) -> None:
        if not self._closed and not self.gone:
            self._outgoing.ended = True
            self._outgoing.wake()
            self._incoming.cut()
        self._closed = True
        await trio.lowlevel.checkpoint()


class Connection:
    """Both ends. `cut` breaks it and loses the bytes in flight, often in the middle of a frame.

    `is_stopped`: the process of the server's end stands still; `wake` must follow when it goes on.
    """

    def __init__(self, rand: random.Random, is_stopped: Callable[[], bool] = _never) -> None:
        sizes = rand.choice([(1, 7, 100), (7, 100, 4_096), (100, 4_096), (4_096,), (4_096,), (65_536,)])
        self._up = _Pipe(lambda: rand.choice(sizes))
        self._down = _Pipe(lambda: rand.choice(sizes))
        self.client = End(self._up, self._down)
        self.server = End(self._down, self._up, is_stopped)

    def wake(self) -> None:
        """Lets both ends look again whether they may go on."""
        self._up.wake()
        self._down.wake()

    def cut(self) -> None:
        """Breaks both directions."""
        self._up.cut()
        self._down.cut()

    def vanish(self) -> None:
        """Removes the client without a signal: bytes of the server are lost, until the window is full."""
        self.client.gone = True
        self._up.wake()
        self._down.wake()
