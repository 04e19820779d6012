"""The app object for `hypercorn --config hypercorn.toml pulse_trio.asgi:app`.

Importing this module opens the database; the end of the process closes it.
"""

import atexit
import multiprocessing
from contextlib import ExitStack

from pulse_trio import logs
from pulse_trio.app import PulseApp
from pulse_trio.console import exit_with
from pulse_trio.edge import server
from pulse_trio.errors import LaunchError
from pulse_trio.launch import open_app
from pulse_trio.settings import Settings
from pulse_trio.signals import StopSignals, unwrap_exit


def _open() -> PulseApp:
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
