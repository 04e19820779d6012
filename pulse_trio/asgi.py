"""The app object for `hypercorn --config hypercorn.toml pulse_trio.asgi:app`.

Importing this module opens the database; the end of the process closes it. A server that does not run on Trio is
refused before that, if it can be recognized, and otherwise when it calls the app.
"""

import asyncio
import atexit
import multiprocessing
import os
import signal
import time
import traceback
from contextlib import ExitStack
from typing import Final

import trio

from pulse_trio import logs
from pulse_trio.app import NEEDS_TRIO, PulseApp
from pulse_trio.console import exit_with
from pulse_trio.edge import server
from pulse_trio.errors import LaunchError
from pulse_trio.launch import open_app
from pulse_trio.settings import Settings
from pulse_trio.signals import StopSignals, unwrap_exit

OTHERS_WAIT: Final = 5.0  # seconds that the other workers of Hypercorn leave to the first one to report an error


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


def _hypercorn_workers() -> int:
    """Returns the number of worker processes that Hypercorn's command runs, of which this is one; 0 for none."""
    for frame, _ in traceback.walk_stack(None):
        if frame.f_globals.get("__name__") == "hypercorn.trio.run" and frame.f_code.co_name == "trio_worker":
            return int(frame.f_locals["config"].workers)
    return 0


def _check_workers(settings: Settings, workers: int) -> None:
    """Rejects settings that several workers of Hypercorn cannot share.

    Raises:
        LaunchError: there is such a setting; says what to do.
    """
    problem = ""
    if settings.database_url is None:
        problem = "they need DATABASE_URL, because an embedded PostgreSQL belongs to one process"
    elif settings.metrics_bind is not None:
        problem = "they cannot share the address of PULSE_METRICS_BIND, which each of them would open"
    if not problem:
        return
    (number,) = multiprocessing.current_process()._identity  # 1 for the first
    if number > 1:
        time.sleep(OTHERS_WAIT)  # the first one says so, and Hypercorn ends the others
    raise LaunchError(f"hypercorn --workers {workers}: {problem}; run pulse-trio serve --workers {workers} instead")


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
        workers = _hypercorn_workers() if signals is None else 0
        settings = Settings.load(cluster=True if workers > 1 else None)
        logs.configure(settings)
        if workers > 1:
            _check_workers(settings, workers)
        pulse_app, _ = stack.enter_context(open_app(settings, workers=workers if workers > 1 else None))
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
