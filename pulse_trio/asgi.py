"""The app object for `hypercorn --config hypercorn.toml pulse_trio.asgi:app`.

Importing this opens the database; the end of the process closes it.
"""

import atexit
import multiprocessing
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any

import hypercorn.trio.run

from pulse_trio import logs
from pulse_trio.app import PulseApp
from pulse_trio.edge import hypercorn as remedies
from pulse_trio.errors import LaunchError
from pulse_trio.launch import StopSignals, exit_with, open_app, plain_exit
from pulse_trio.settings import Settings


def _open() -> PulseApp:
    # Hypercorn's workers in processes of their own are told to stop by their parent.
    signals = StopSignals() if multiprocessing.parent_process() is None else None
    stack = ExitStack()
    try:
        settings = Settings.load()
        logs.configure(settings)
        opened, _ = stack.enter_context(open_app(settings))
        if signals is not None:
            signals.keep()
    except LaunchError as error:
        raise exit_with(error) from None
    except KeyboardInterrupt:
        stack.close()
        raise SystemExit(0) from None
    atexit.register(stack.close)
    remedies.install(settings)
    _install_stop(signals)
    return opened


def _install_stop(signals: StopSignals | None) -> None:
    """Makes SIGTERM stop the service as SIGINT does, and a failure end the process without a traceback."""
    worker_serve = hypercorn.trio.run.worker_serve

    async def serve(*args: Any, shutdown_trigger: Callable[..., Awaitable[None]] | None = None, **kwargs: Any) -> None:
        if shutdown_trigger is None and signals is not None:
            shutdown_trigger = signals.wait
        with plain_exit():
            await worker_serve(*args, shutdown_trigger=shutdown_trigger, **kwargs)

    hypercorn.trio.run.worker_serve = serve


app = _open()
