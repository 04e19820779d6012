"""A conversation that goes on while others attack: no message is lost or refused, and `/healthz` answers."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import trio

from tests.support.client import Person
from tests.support.raw import RawClient, frame, open_chat, open_raw

PAUSE: Final = 0.02  # seconds between messages, and between probes
PATIENCE: Final = 60.0  # seconds for one message or probe: one that takes longer counts as lost
PROBE: Final = b"GET /healthz HTTP/1.1\r\nHost: chat.example\r\n\r\n"


@dataclass
class Figures:
    """Durations that the canary measured, in seconds."""

    messages: list[float] = field(default_factory=list)  # until both have the message
    probes: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return f"messages {_summary(self.messages)}; /healthz {_summary(self.probes)}"


def quantile(values: Sequence[float], part: float) -> float:
    """Returns the value below which this part of the values is; 0 if there are none."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))] if values else 0.0


def _summary(values: Sequence[float]) -> str:
    p50, p99, most = (1_000 * quantile(values, part) for part in (0.5, 0.99, 1))
    return f"{len(values):5}: p50 {p50:6.1f} p99 {p99:6.1f} max {most:6.1f} ms"


class Canary:
    """Two people who talk, and a probe."""

    def __init__(self, port: int, talkers: Sequence[RawClient]) -> None:
        self._port = port
        self._talkers = talkers
        self._sent = 0
        self.figures = Figures()

    async def talk(self) -> None:
        """Sends messages in turn until it is cancelled; each must come to both as it was sent, in order."""
        while True:
            await self.exchange()
            await trio.sleep(PAUSE)

    async def exchange(self) -> None:
        """Sends one message; returns when both have it."""
        content = f"message {self._sent}"
        began = time.perf_counter()
        with trio.fail_after(PATIENCE), trio.CancelScope(shield=True):
            await self._talkers[self._sent % 2].send(frame({"type": "message", "content": content}))
            for talker in self._talkers:
                found = await talker.read_json_type("message", "error")
                assert found.get("content") == content, found
        self.figures.messages.append(time.perf_counter() - began)
        self._sent += 1

    async def probe(self) -> None:
        """Asks for `/healthz` until it is cancelled, on a new connection each time."""
        while True:
            began = time.perf_counter()
            with trio.fail_after(PATIENCE):
                async with open_raw(self._port) as client:
                    assert (await client.request(PROBE)).status == 200
            self.figures.probes.append(time.perf_counter() - began)
            await trio.sleep(PAUSE)

    @asynccontextmanager
    async def singing(self) -> AsyncIterator[Figures]:
        """Talks and probes during the block; yields the figures, which begin anew."""
        self.figures = figures = Figures()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.talk)
            nursery.start_soon(self.probe)
            yield figures
            nursery.cancel_scope.cancel()
        await self.exchange()  # nothing was lost at the end


@asynccontextmanager
async def open_canary(one: Person, other: Person) -> AsyncIterator[Canary]:
    """Opens the conversation of a canary."""
    group = await one.create_group(other, name="Canary")
    port = int(one.base_url.rpartition(":")[2])
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_chat(one, group))
        second = await stack.enter_async_context(open_chat(other, group))
        yield Canary(port, (first, second))
