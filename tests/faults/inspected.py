"""The service, with a clock that the test moves and a look inside: `hypercorn … tests.faults.inspected:make_app()`.

The product's own app on its own database. `TEST_CLOCK` names a file with the seconds that the clock is ahead.
"""

import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

import trio
from trio.lowlevel import Task

import pulse_trio.launch
from pulse_trio import logs
from pulse_trio.app import PulseApp, create_app
from pulse_trio.clock import utc_now
from pulse_trio.edge.server import install
from pulse_trio.edge.services import services
from pulse_trio.rooms.connection import Connection
from pulse_trio.rooms.room import Room
from pulse_trio.settings import Settings
from tests.support.signals import signalled

INSIDE_PATH = "/test/inside"
# Heaps of deadlines, Trio's and the poller's, let go of those that are over only when a thousand have gathered.
LINGERING = {"CancelScope", "CancelReason", "PolledSocket", "tuple"}


def _clock() -> datetime:
    path = os.environ.get("TEST_CLOCK")
    return utc_now() + timedelta(seconds=float(Path(path).read_text()) if path else 0)


def _tasks(task: Task | None) -> Iterator[str]:
    """The names of a task and of all below it."""
    if task is not None:
        yield task.name
        for nursery in task.child_nurseries:
            for child in nursery.child_tasks:
                yield from _tasks(child)


async def _inside() -> dict[str, int]:
    """Counts the objects at this moment."""
    await trio.lowlevel.checkpoint()
    garbage = gc.collect()
    found = gc.get_objects()
    return {
        "garbage": garbage,
        "rooms": len(services().hub.rooms),
        "sessions": len(services().hub._sessions.all()),
        "objects": sum(type(thing).__name__ not in LINGERING for thing in found),
        "tasks": len(list(_tasks(trio.lowlevel.current_root_task()))),
        "room objects": sum(type(thing) is Room for thing in found),
        "connection objects": sum(type(thing) is Connection for thing in found),
    }


def make_app() -> PulseApp:
    """The app. Hypercorn is changed for the rest of this process."""
    settings = Settings.load()
    logs.configure(settings)
    pulse_trio.launch.create_app = partial(create_app, clock=_clock)  # type: ignore[assignment]
    stack = ExitStack()
    app, _ = stack.enter_context(pulse_trio.launch.open_app(settings))
    atexit.register(stack.close)
    install(settings, stop=signalled)
    app.add_url_rule(INSIDE_PATH, view_func=_inside)
    return app
