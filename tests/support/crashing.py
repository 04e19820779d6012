"""An app for Hypercorn that fails on demand: `hypercorn --config … tests.support.crashing:app`.

The product's own app, on a store in memory that breaks on certain messages, and two WebSocket routes
that behave as no handler should.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio
from quart import websocket

from pulse_trio import logs
from pulse_trio.app import create_app
from pulse_trio.edge import hypercorn
from pulse_trio.settings import Settings
from pulse_trio.store.base import Message, NewMessage
from pulse_trio.store.memory import MemoryStore

BREAK_ROOM = "break this room"
BREAK_SERVICE = "break the service"
FLOOD_PATH = "/test/flood"
DEAF_PATH = "/test/deaf"


class CrashingStore(MemoryStore):
    """A store with faults that no contract allows."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = trio.Event()

    async def append(self, batch: Sequence[NewMessage]) -> list[Message | None]:
        for message in batch:
            if message.content == BREAK_ROOM:
                raise RuntimeError("a fault that was planted")
            if message.content == BREAK_SERVICE:
                self.broken.set()
                await trio.sleep_forever()
        return await super().append(batch)


@asynccontextmanager
async def _open_store() -> AsyncIterator[CrashingStore]:
    store = CrashingStore()

    async def fail() -> None:
        await store.broken.wait()
        raise RuntimeError("a fault that was planted in a part of the service")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        yield store
        nursery.cancel_scope.cancel()


_settings = Settings.load()
logs.configure(_settings)
hypercorn.install(_settings)
app = create_app(_settings, _open_store)


@app.websocket(FLOOD_PATH)
async def _flood() -> None:
    """Sends for ever, and never looks whether anybody is there."""
    await websocket.accept()
    while True:
        await websocket.send("x" * 1_000)


@app.websocket(DEAF_PATH)
async def _deaf() -> None:
    """Ends with the first message, and reads no other."""
    await websocket.accept()
    await websocket.receive()
