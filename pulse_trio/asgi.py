"""The app object for `hypercorn --config hypercorn.toml pulse_trio.asgi:app`.

Importing this opens the database; the end of the process closes it.
"""

import atexit
from contextlib import ExitStack

from pulse_trio import logs
from pulse_trio.app import PulseApp
from pulse_trio.edge import hypercorn
from pulse_trio.errors import LaunchError
from pulse_trio.launch import exit_with, open_app
from pulse_trio.settings import Settings


def _open() -> PulseApp:
    try:
        settings = Settings.load()
        logs.configure(settings)
        stack = ExitStack()
        opened, _ = stack.enter_context(open_app(settings))
    except LaunchError as error:
        raise exit_with(error) from None
    atexit.register(stack.close)
    hypercorn.install(settings)
    return opened


app = _open()
