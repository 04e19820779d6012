"""The app object for `hypercorn --config hypercorn.toml pulse_trio.asgi:app`.

Importing this module opens the database; the end of the process closes it. A server that does not run on Trio is
refused before that, if it can be recognized, and otherwise when it calls the app.
"""

import asyncio
import atexit
import multiprocessing
import os
import signal
import traceback
from contextlib import ExitStack

import trio

from pulse_trio import logs
from pulse_trio.app import NEEDS_TRIO, PulseApp
from pulse_trio.console import exit_with
from pulse_trio.edge import server
from pulse_trio.errors import LaunchError
from pulse_trio.launch import open_app
from pulse_trio.settings import Settings
from pulse_trio.signals import StopSignals, unwrap_exit


def _is_without_trio() -> bool:
    """Returns True under uvicorn, which loads apps inside asyncio's loop, and under Hypercorn's asyncio workers."""
    if trio.lowlevel.in_trio_run():
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        frames = (frame for frame, _ in traceback.walk_stack(None))
        return any(frame.f_globals.get("__name__") == "hypercorn.asyncio.run" for frame in frames)
    return True


def _open() -> PulseApp:
    logs.configure_start()
    if _is_without_trio():
        refusal = exit_with(LaunchError(NEEDS_TRIO))
        parent = multiprocessing.parent_process()
        if parent is not None and parent.pid == os.getppid():
            # Hypercorn's own command, which would lose this process's exit code and end with 0.
            os.kill(os.getppid(), signal.SIGUSR1)
        raise refusal
    # Worker processes of Hypercorn are stopped by their parent.
    signals = StopSignals() if multiprocessing.parent_process() is None else None
    stack = ExitStack()
    try:
        settings = Settings.load()
        logs.configure(settings)
        pulse_app, _ = stack.enter_context(open_app(settings))
        server.install(settings, stop=None if signals is None else signals.wait, guard=unwrap_exit)
        if signals is not None:
            signals.keep()
    except LaunchError as error:
        stack.close()
        raise exit_with(error) from None
    except KeyboardInterrupt:
        stack.close()
        raise SystemExit(0) from None
    atexit.register(stack.close)
    return pulse_app


app = _open()
