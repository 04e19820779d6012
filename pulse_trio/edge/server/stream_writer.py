"""All writes to one client: frames at once while the socket is free, the rest in turn, each with a deadline."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
import trio

from pulse_trio.edge.server.gate import Gate
from pulse_trio.rooms.connection import NOT_TAKEN

LAST_WRITE: Final = 1.0  # seconds that a write may still take once the server ends
GONE_TIMEOUT: Final = 2.0  # seconds for a connection to end after its client has gone, also past cancellation
PIECE_BYTES: Final = 65_536  # the client must take so many in `PULSE_WRITE_TIMEOUT`, or it is not reading

log = structlog.get_logger(__name__)


class PendingWrites:
    """The pending writes of all connections, and the time that each has.

    Args:
        timeout: seconds for each piece of `PIECE_BYTES`.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.is_ending = False
        self._scopes: set[trio.CancelScope] = set()

    def begin(self) -> trio.CancelScope:
        """Opens the scope of a write: shielded, past cancellation and SIGTERM, with a deadline. `end` must follow."""
        scope = trio.move_on_after(LAST_WRITE if self.is_ending else self.timeout, shield=True)
        self._scopes.add(scope)
        return scope

    def end(self, scope: trio.CancelScope) -> None:
        """Forgets a write."""
        self._scopes.discard(scope)

    def shorten(self) -> None:
        """Gives every write at most `LAST_WRITE` seconds from now on: the server ends."""
        self.is_ending = True
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, trio.current_time() + LAST_WRITE)


class StreamWriter:
    """Writes to one client, so that nothing is overtaken and a client that does not read is disconnected.

    `write_nowait` needs no task, lock or copy: through Quart, ASGI, wsproto and a shielded write a frame costs some
    60 µs of CPU, this way a few. Over TLS only the stream can make records, so `write_nowait` takes nothing there.

    Args:
        stream: the connection.
        lock: held while anything writes to the stream, or closes it.
        gate: counts clients that were disconnected because they did not read.
        writes: the pending writes of all connections.
        on_gone: called when a write finds that the client has gone.
    """

    __slots__ = (
        "_frames",
        "_gate",
        "_is_cut",
        "_kept",
        "_lock",
        "_on_gone",
        "_send",
        "_stream",
        "_writers",
        "_writes",
        "active_at",
        "is_abandoned",
        "is_free",
        "is_shut",
    )

    def __init__(
        self,
        stream: Any,
        lock: trio.Lock,
        gate: Gate,
        writes: PendingWrites,
        on_gone: Callable[[], Awaitable[None]],
    ) -> None:
        self._stream = stream
        self._lock: trio.Lock | None = lock
        self._gate = gate
        self._writes = writes
        self._on_gone = on_gone
        self._kept = b""  # frames that `write_nowait` took and the network did not
        self._writers = 0  # tasks that write to the stream, or wait for the lock
        self._frames: trio.CancelScope | None = None  # while frames are being written
        self._is_cut = False  # the frames being written were abandoned
        self.active_at = trio.current_time()  # when the client last sent something, or took a piece of an answer
        self.is_shut = False  # a close frame was sent, or the connection has ended: no frame may follow
        self.is_abandoned = False  # the stream ended in the middle of a frame: nothing can follow
        if isinstance(stream, trio.SocketStream):
            self._send: Callable[[bytes], int] | None = stream.socket._sock.send  # type: ignore[attr-defined]  # the socket itself
        else:
            self._send = getattr(stream, "send_now", None)  # of streams in memory
        self.is_free = self._send is not None  # frames can go straight to the socket

    @property
    def timeout(self) -> float:
        """Seconds that the client has to take a piece."""
        return self._writes.timeout

    @property
    def lock(self) -> trio.Lock:
        """Held while anything writes to the stream, or closes it."""
        if self._lock is None:
            self._lock = trio.Lock()
        return self._lock

    def drop_lock(self) -> None:
        """Frees the lock until it is needed again; most WebSockets never need it after their handshake."""
        if not self._writers:
            self._lock = None

    def _update(self) -> None:
        """Computes `is_free`, which `write_nowait` reads for every frame of every subscription."""
        self.is_free = self._send is not None and not (self._kept or self._writers or self.is_shut)

    def write_nowait(self, data: bytes) -> int:
        """Writes whole frames at once if nothing else is being written and the connection is open.

        Returns:
            The bytes that the network has not taken: they are kept, and if there are any `flush` must follow.
            NOT_TAKEN: nothing was written, use `write`.
        """
        if not self.is_free:
            return NOT_TAKEN
        try:
            left = len(data) - self._send(data)  # type: ignore[misc]  # not None while it is free
        except OSError:  # it would block, or is broken: `write` finds out
            return NOT_TAKEN
        if left:
            self._kept = data[-left:]
            self._update()
        return left

    async def write(self, data: bytes, *, is_frames: bool = False) -> None:
        """Writes after everything that was kept; disconnects a client that does not read. A dead one is no error.

        Args:
            data: the bytes to write.
            is_frames: they are WebSocket frames, dropped if a close frame has gone before them.

        Cancelled: while it waits for its turn, nothing was written. Once it writes, it goes on until the client has
        taken everything, or has gone.
        """
        self._writers += 1
        self.is_free = False
        try:
            async with self.lock:
                is_gone = await self._write(data, is_frames=is_frames)
        finally:
            self._writers -= 1
            self._update()
        if is_gone:
            self.shut()
            with trio.move_on_after(GONE_TIMEOUT, shield=True):
                await self._on_gone()

    async def flush(self) -> None:
        """Writes what was kept; a dead connection is no error."""
        if self._kept:
            await self.write(b"")
        else:
            await trio.lowlevel.checkpoint()

    def abandon(self) -> None:
        """Drops frames that the network has not taken; if there were any, the connection ends with no close frame."""
        if self._kept:
            self._kept = b""
            self.is_abandoned = self.is_shut = True
            self._update()
        elif self._frames is not None:
            self._is_cut = True
            self._frames.cancel()

    def shut(self) -> None:
        """Drops all frames from now on: a close frame is being sent, or the connection has ended."""
        self.is_shut = True
        self.is_free = False

    async def _write(self, data: bytes, *, is_frames: bool) -> bool:
        """Writes, under the lock; returns whether the client has gone."""
        kept, self._kept = self._kept, b""
        data = kept + (b"" if is_frames and self.is_shut else data)
        if self.is_abandoned:
            await self._cut()
            return True
        scope = self._writes.begin()
        self._frames = scope if kept or is_frames else None
        try:
            with scope:
                await self._send_pieces(data, scope)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return True
        finally:
            self._writes.end(scope)
            self._frames = None
        if scope.cancelled_caught:
            if not self._is_cut:
                self._gate.stalled += 1
                log.info("slow reader disconnected")
            await self._cut()
        return scope.cancelled_caught

    async def _cut(self) -> None:
        """Closes the stream at once. Shielded: the end of the connection must follow, and it never waits."""
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)

    async def _send_pieces(self, data: bytes, scope: trio.CancelScope) -> None:
        """Writes piece by piece: each piece that the client takes renews the deadline, until the server ends."""
        if len(data) <= PIECE_BYTES:
            await self._stream.send_all(data)
            return
        with memoryview(data) as view:
            for start in range(0, len(data), PIECE_BYTES):
                if start and not self._writes.is_ending:
                    self.active_at = trio.current_time()  # a client that only takes is there as well
                    scope.deadline = self.active_at + self._writes.timeout
                await self._stream.send_all(view[start : start + PIECE_BYTES])
