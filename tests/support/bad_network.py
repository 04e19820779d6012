"""A bad network between clients and a service: a TCP proxy whose faults come from a seed.

Each connection has one fate, which the seed and the number of the connection decide: it works, is refused, cut,
stalled, half-open, deaf or mute, dribbles, or is late. REST and WebSocket have connections of their own, so delays
bring their answers and frames into another order. Times differ between runs: a seed decides what can happen, and not
each byte. All times are seconds of Trio's clock.
"""

import math
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

CHUNK: Final = 16_384
MAX_CHUNKS: Final = 64  # on their way in one direction: a megabyte; then the sender waits, as on a slow line
MAX_PIECE: Final = 40  # bytes of a connection that dribbles
SECONDS: Final = {"stall": (0.2, 6.0), "late": (0.05, 1.5), "dribble": (0.0005, 0.004)}
"""Shortest and longest delay of a fault."""

WEIGHTS: Final = {
    "works": 8,
    "refuse": 1,
    "cut": 4,
    "lose answer": 2,
    "stall": 2,
    "half-open": 2,
    "deaf": 1,  # the client gets nothing more; the service gets all
    "mute": 1,  # the service gets nothing more; the client gets all
    "dribble": 2,
    "late answers": 3,
    "late requests": 2,
}
"""Weights by which each fate is drawn."""


@dataclass(frozen=True, slots=True)
class Fate:
    """The fault of a connection.

    Attributes:
        kind: one of `WEIGHTS`.
        after: bytes, of both directions together, after which it happens.
        seconds: of a stall, of the delay of each chunk, or between the pieces of one that dribbles.
        is_reset: the end is an RST, not a FIN.
    """

    kind: str
    after: int
    seconds: float
    is_reset: bool


def fate_of(seed: int, number: int) -> Fate:
    """Draws the fate of a connection."""
    draw = random.Random(f"{seed} {number}")
    (kind,) = draw.choices(list(WEIGHTS), list(WEIGHTS.values()))
    low, high = SECONDS.get(kind.partition(" ")[0], (0.0, 0.0))
    seconds = 0.0 if high == 0 else math.exp(draw.uniform(math.log(low), math.log(high)))
    return Fate(kind, int(math.exp(draw.uniform(math.log(50), math.log(30_000)))), seconds, draw.random() < 0.5)


class BadNetwork:
    """The proxy, from `open_bad_network`.

    Attributes:
        port: where clients connect, on 127.0.0.1.
        seen: how many connections had each fate.
    """

    def __init__(self, target: Callable[[], int], seed: int) -> None:
        self.port = 0
        self.seen: Counter[str] = Counter()
        self._target = target
        self._seed = seed
        self._number = 0
        self._is_calm = False
        self._bad: set[trio.CancelScope] = set()
        self._open: set[trio.CancelScope] = set()

    @property
    def url(self) -> str:
        """Returns the address for clients."""
        return f"http://127.0.0.1:{self.port}"

    def calm(self) -> None:
        """Ends the connections that have a fault; new ones have none."""
        self._is_calm = True
        for scope in self._bad:
            scope.cancel()

    def rough(self) -> None:
        """Ends what `calm` began: new connections have faults again."""
        self._is_calm = False

    def cut(self) -> None:
        """Ends every connection."""
        for scope in self._open:
            scope.cancel()

    async def connection(self, client: trio.SocketStream) -> None:
        """Serves a connection until its end."""
        self._number += 1
        fate = Fate("works", 0, 0.0, is_reset=False) if self._is_calm else fate_of(self._seed, self._number)
        self.seen[fate.kind] += 1
        with trio.CancelScope() as scope:
            self._open.add(scope)
            if fate.kind != "works":
                self._bad.add(scope)
            try:
                if fate.kind != "refuse":
                    await self._relay(client, fate)
            except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # one side has gone, or the service is not there: the client sees the end of its connection
            finally:
                self._bad.discard(scope)
                self._open.discard(scope)
                with trio.CancelScope(shield=True):
                    await _end(client, is_reset=fate.is_reset)

    async def _relay(self, client: trio.SocketStream, fate: Fate) -> None:
        server = await trio.open_tcp_stream("127.0.0.1", self._target())
        line = _Line(fate)
        try:
            async with trio.open_nursery() as nursery:
                for source, sink, is_answer in ((client, server, False), (server, client, True)):
                    send, receive = trio.open_memory_channel[tuple[float, bytes]](MAX_CHUNKS)
                    nursery.start_soon(_take, line, source, send, is_answer)
                    nursery.start_soon(_give, line, sink, receive)
                await line.ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await _end(server, is_reset=fate.is_reset)
        if fate.kind == "half-open" and line.is_broken:
            # The service has lost the connection, and the client hears nothing of it.
            while await client.receive_some(CHUNK):
                pass


class _Line:
    """The two directions of a connection."""

    def __init__(self, fate: Fate) -> None:
        self.fate = fate
        self.ended = trio.Event()
        self.is_broken = False
        self._passed = 0
        self._has_stalled = False

    def end(self, *, is_broken: bool = False) -> None:
        """Ends both directions; `is_broken`: by the fate."""
        self.is_broken |= is_broken
        self.ended.set()

    def delay(self, is_answer: bool) -> float:
        """Returns the delay of a chunk, in seconds."""
        kind = self.fate.kind
        is_late = kind == "late answers" if is_answer else kind == "late requests"
        return self.fate.seconds if is_late else 0.0

    async def pass_on(self, size: int, is_answer: bool) -> bool:
        """Waits for a stall to end; returns False if the chunk is lost, with the connection."""
        self._passed += size
        kind = self.fate.kind
        if kind == "lose answer" and is_answer and self._passed > self.fate.after:
            self.end(is_broken=True)
        if kind in {"cut", "half-open"} and self._passed > self.fate.after:
            self.end(is_broken=True)
        if kind == "stall" and self._passed > self.fate.after and not self._has_stalled:
            self._has_stalled = True
            await trio.sleep(self.fate.seconds)
        return not self.is_broken

    def is_lost(self, is_answer: bool) -> bool:
        """Returns True if a chunk does not arrive although its connection stays."""
        lost = {"deaf": True, "mute": False}
        return self._passed > self.fate.after and lost.get(self.fate.kind) is is_answer

    def pieces(self, chunk: bytes) -> list[bytes]:
        """Returns a chunk in the pieces in which it arrives."""
        if self.fate.kind != "dribble" or len(chunk) > MAX_PIECE * 100:
            return [chunk]
        return [chunk[at : at + MAX_PIECE] for at in range(0, len(chunk), MAX_PIECE)]


async def _take(
    line: _Line, source: trio.SocketStream, send: trio.MemorySendChannel[tuple[float, bytes]], is_answer: bool
) -> None:
    async with send:
        while chunk := await source.receive_some(CHUNK):
            if not await line.pass_on(len(chunk), is_answer):
                return
            if line.is_lost(is_answer):
                continue
            await send.send((trio.current_time() + line.delay(is_answer), chunk))


async def _give(line: _Line, sink: trio.SocketStream, receive: trio.MemoryReceiveChannel[tuple[float, bytes]]) -> None:
    async with receive:
        async for moment, chunk in receive:
            await trio.sleep_until(moment)
            for piece in line.pieces(chunk):
                await sink.send_all(piece)
                if line.fate.kind == "dribble":
                    await trio.sleep(line.fate.seconds)
    line.end()


async def _end(stream: trio.SocketStream, *, is_reset: bool) -> None:
    if is_reset:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)


@asynccontextmanager
async def open_bad_network(target: Callable[[], int], seed: int) -> AsyncIterator[BadNetwork]:
    """Runs the proxy for the length of the block.

    Args:
        target: returns the port of the service on 127.0.0.1, for each connection.
        seed: decides the fates.
    """
    network = BadNetwork(target, seed)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    network.port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, network.connection, [listener])
        try:
            yield network
        finally:
            nursery.cancel_scope.cancel()
