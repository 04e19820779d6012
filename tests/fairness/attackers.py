"""Connections that send requests or frames as fast as they are answered, in a process of their own.

In the canary's process their work would be taken for the service's.
"""

import multiprocessing
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Final

import trio

from tests.fairness.largest import UNIQUE
from tests.support.raw import CLOSE, PONG, RawClient, frame, open_raw
from tests.support.raw import PING as PROBE

ADDRESSES: Final = 5  # of the attackers: 127.0.0.2 and on
RETRY: Final = 1.5  # seconds: for one second after `rate_limited` further frames are dropped without an error
LIMIT: Final = 300.0  # seconds for an attack, however slow the machine
PING: Final = frame({"type": "ping"})


@dataclass(frozen=True)
class Attack:
    """Data that connections send, each its own.

    Attributes:
        port: of the server.
        data: of each connection: a request, or a frame.
        handshakes: of each connection, if it is a WebSocket.
        count: how often each connection sends it; without `seconds`.
        seconds: how long each connection sends it, over and over.
        addresses: number of addresses that they come from.
        is_unread: answers are requested and not read, for `seconds`.
        pause: seconds between reads of 4 KiB, of those that read slowly: every second one.
    """

    port: int
    data: list[bytes]
    handshakes: list[bytes] = field(default_factory=list)
    count: int = 1
    seconds: float = 0.0
    addresses: int = ADDRESSES
    is_unread: bool = False
    pause: float = 0.0


class Attackers:
    """A process that attacks on request."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    async def attack(self, attack: Attack) -> Counter[str]:
        """Carries out an attack; returns how many answers there were of each status, close code or kind of end."""
        self._pipe.send(attack)
        answer: Counter[str] = await trio.to_thread.run_sync(self._pipe.recv, abandon_on_cancel=True)
        return answer

    def stop(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.join()


@asynccontextmanager
async def open_attackers() -> AsyncIterator[Attackers]:
    """Starts a process of attackers, and ends it after the block."""
    attackers = Attackers()
    try:
        yield attackers
    finally:
        attackers.stop()


def _serve(pipe: Connection) -> None:
    while True:
        try:
            attack = pipe.recv()
        except EOFError:
            return
        pipe.send(trio.run(_attack, attack))


async def _attack(attack: Attack) -> Counter[str]:
    seen: Counter[str] = Counter()
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            for number, data in enumerate(attack.data):
                if attack.is_unread:
                    nursery.start_soon(_leave_unread, attack, number, data, seen)
                elif attack.handshakes:
                    nursery.start_soon(_send_frames, attack, number, data, seen)
                else:
                    nursery.start_soon(_send_requests, attack, number, data, seen)
    return seen


def _address(attack: Attack, number: int) -> str:
    return f"127.0.0.{2 + number % attack.addresses}"


def _turns(attack: Attack) -> Iterator[bytes]:
    """Yields other digits for `UNIQUE` for each time that the data is to be sent."""
    end = time.monotonic() + attack.seconds
    sent = 0
    while time.monotonic() < end or (not attack.seconds and sent < attack.count):
        sent += 1
        yield secrets.token_hex(len(UNIQUE) // 2).encode()


async def _send_requests(attack: Attack, number: int, data: bytes, seen: Counter[str]) -> None:
    turns = _turns(attack)
    digits = next(turns, None)
    while digits is not None:
        try:
            async with open_raw(attack.port, address=_address(attack, number)) as client:
                is_open = True
                while is_open and digits is not None:
                    await client.send(data.replace(UNIQUE.encode(), digits))
                    answer = await client.read_answer()
                    seen[str(answer.status)] += 1
                    if answer.status in {429, 503}:
                        assert "retry-after" in answer.headers, answer
                    is_open = answer.headers.get("connection") != "close"
                    digits = next(turns, None)
        except (EOFError, trio.BrokenResourceError, OSError):
            seen["no answer"] += 1
            digits = next(turns, None)


async def _send_frames(attack: Attack, number: int, data: bytes, seen: Counter[str]) -> None:
    """Sends frames on a WebSocket, and a ping behind them; the pong, or a close frame, ends it.

    The ping may be refused with `rate_limited`, or dropped without an answer in the same second: it is repeated.
    """
    try:
        async with open_raw(attack.port, address=_address(attack, number)) as client:
            answer = await client.request(attack.handshakes[number])
            if answer.status != 101:
                seen[str(answer.status)] += 1
                return
            async with trio.open_nursery() as nursery:

                async def send() -> None:
                    for digits in _turns(attack):
                        if not await client.send_some(data.replace(UNIQUE.encode(), digits)):
                            return
                        seen["sent"] += 1
                        await trio.lowlevel.checkpoint()
                    # No event says that the limit is over.
                    while await client.send_some(PING):  # noqa: ASYNC110
                        await trio.sleep(RETRY)

                nursery.start_soon(send)
                seen[await _read_end(client)] += 1
                nursery.cancel_scope.cancel()
    except* (EOFError, trio.BrokenResourceError, OSError):
        seen["no answer"] += 1


async def _read_end(client: RawClient) -> str:
    while True:
        opcode, payload = await client.read_frame()
        if opcode == PROBE:  # who answers none is cut off after a while
            await client.send_some(frame(payload, PONG))
        if opcode == CLOSE:
            return f"close {int.from_bytes(payload[:2], 'big')}"
        if payload == b'{"type":"pong"}':
            return "pong"


async def _leave_unread(attack: Attack, number: int, data: bytes, seen: Counter[str]) -> None:
    """Sends a request and reads the status; then nothing, or slowly."""
    end = trio.current_time() + attack.seconds
    while trio.current_time() < end:
        try:
            async with open_raw(attack.port, receive_buffer=4_096, address=_address(attack, number)) as client:
                await client.send(data)
                line = await client.read_exactly(len("HTTP/1.1 200"))
                status = line[-3:].decode()
                seen[status] += 1
                if status != "200":
                    await trio.sleep(1)  # as Retry-After says
                    continue
                with trio.move_on_at(end):
                    while attack.pause and number % 2:
                        await trio.sleep(attack.pause)
                        await client.read_exactly(4_096)
                    await trio.sleep_forever()
        except (EOFError, trio.BrokenResourceError, OSError):
            seen["ended"] += 1
            await trio.sleep(1)
