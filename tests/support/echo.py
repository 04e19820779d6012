"""An echo for the conformance tests, on the production server: `hypercorn … tests.support.echo:make_app()`.

It is the product's app, with the same remedies in Hypercorn, and one route more that exists only here.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from quart import websocket

from pulse_trio import logs
from pulse_trio.app import PulseApp, create_app
from pulse_trio.edge.server import install
from pulse_trio.settings import Settings
from pulse_trio.store.memory import MemoryStore
from tests.support.signals import signalled


@asynccontextmanager
async def _open_store() -> AsyncIterator[MemoryStore]:
    yield MemoryStore()


async def _echo() -> None:
    await websocket.accept()
    while True:
        data = await websocket.receive()
        # Quart-Trio hands an empty binary message over as None.
        await websocket.send(b"" if data is None else data)


def make_app() -> PulseApp:
    """The app. Hypercorn is changed for the rest of this process."""
    settings = Settings.load()
    logs.configure(settings)
    install(settings, stop=signalled)
    app = create_app(settings, _open_store)
    app.add_websocket("/", view_func=_echo)
    return app
