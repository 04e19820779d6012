"""The app object for `hypercorn --config hypercorn.toml pulse_trio.asgi:app`.

Importing this opens the database; the end of the process closes it.
"""

import atexit
import multiprocessing
from contextlib import ExitStack

from pulse_trio import logs
from pulse_trio.app import PulseApp
from pulse_trio.edge import server
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
    server.install(settings, stop=None if signals is None else signals.wait, guard=plain_exit)
    return opened


app = _open()
