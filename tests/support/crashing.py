"""An app for Hypercorn that fails on demand: `hypercorn --config … tests.support.crashing:make_app()`.

The product's own app, on a store in memory that breaks on certain messages, with two WebSocket routes
that behave as no handler should, in a Hypercorn with one more fault.
"""

import multiprocessing
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import hypercorn.protocol.h11
import trio
from hypercorn.protocol.events import Event, Request
from quart import websocket

from pulse_trio import logs
from pulse_trio.app import PulseApp, create_app
from pulse_trio.edge.server import install
from pulse_trio.edge.server.http_stream import HttpStream
from pulse_trio.model import Command, Post
from pulse_trio.settings import Settings
from pulse_trio.store.base import Outcome
from pulse_trio.store.memory import MemoryStore
from tests.support.signals import signalled

BREAK_ROOM = "break this room"
BREAK_SERVICE = "break the service"
FLOOD_PATH = "/test/flood"
DEAF_PATH = "/test/deaf"
FAULT_PATH = "/test/fault"


class CrashingStore(MemoryStore):
    """A store with faults that no contract allows."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = trio.Event()

    async def apply(self, commands: Sequence[Command]) -> list[Outcome]:
        for command in commands:
            if isinstance(command, Post) and command.content == BREAK_ROOM:
                raise RuntimeError("a fault that was planted")
            if isinstance(command, Post) and command.content == BREAK_SERVICE:
                self.broken.set()
                await trio.sleep_forever()
        return await super().apply(commands)


class FaultyStream(HttpStream):
    """A request that is too much for Hypercorn, in the task that reads the connection."""

    async def handle(self, event: Event) -> None:
        if isinstance(event, Request) and event.raw_path == FAULT_PATH.encode():
            raise RuntimeError("a fault that was planted in Hypercorn")
        await super().handle(event)


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


def make_app() -> PulseApp:
    """The app. Hypercorn is changed for the rest of this process."""
    settings = Settings.load()
    logs.configure(settings)
    install(settings, stop=None if multiprocessing.parent_process() else signalled)
    hypercorn.protocol.h11.HTTPStream = FaultyStream  # type: ignore[misc]
    app = create_app(settings, _open_store)
    app.add_websocket(FLOOD_PATH, view_func=_flood)
    app.add_websocket(DEAF_PATH, view_func=_deaf)
    return app


async def _flood() -> None:
    """Sends for ever, and never looks whether anybody is there."""
    await websocket.accept()
    while True:
        await websocket.send("x" * 1_000)


async def _deaf() -> None:
    """Ends with the first message, and reads no other."""
    await websocket.accept()
    await websocket.receive()
