"""Hypercorn's Trio worker: its sockets, its start, and an end in which WebSockets are closed in order."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import hypercorn.trio.run
import trio
from hypercorn.config import Config, Sockets
from hypercorn.trio.run import worker_serve
from hypercorn.typing import AppWrapper
from hypercorn.utils import wrap_app
from quart import Quart

from pulse_trio.edge.services import Services, services
from pulse_trio.errors import LaunchError, PulseError


def bind(config: Config) -> Sockets:
    """Opens the sockets of a configuration, ready to listen.

    Raises:
        LaunchError: an address is in use, or not this machine's.
    """
    try:
        sockets = config.create_sockets()
        for sock in (*sockets.secure_sockets, *sockets.insecure_sockets):
            sock.listen(config.backlog)
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LaunchError(
            f"cannot listen on {', '.join(config.bind)}: {reason}; "
            "stop what uses it, or choose another with --port or --host"
        ) from None
    return sockets


def wrap(app: object) -> AppWrapper:
    """An ASGI app as Hypercorn's worker takes it."""
    return wrap_app(app, 0, "asgi")  # type: ignore[arg-type]


async def draining_worker(
    app: AppWrapper,
    config: Config,
    *,
    stop: Callable[[], Awaitable[None]] | None,
    guard: Callable[[], AbstractContextManager[None]],
    hurry: Callable[[], None],
    delay: float = 0.0,
    shutdown_trigger: Callable[[], Awaitable[None]] | None = None,
    **options: Any,
) -> None:
    """Hypercorn's Trio worker, but WebSockets are closed in order before their connections are dropped.

    The original tells the application of the end only when `graceful_timeout` is over and all
    connections are gone: clients see 1006, five seconds late.

    Args:
        app: what is served.
        config: how.
        stop: see `hypercorn.install`.
        guard: see `hypercorn.install`.
        delay: seconds to go on after being asked to end, with `/readyz` saying so.
        hurry: called when the server ends: from then on nobody is to be waited for long.
        shutdown_trigger: returns when the server is to end; if there is none, `stop` does.
        options: whatever else the original takes.
    """

    asked = stop if shutdown_trigger is None else shutdown_trigger

    async def drained() -> None:
        assert asked is not None
        await asked()
        if delay:
            await _tell_not_ready(app)
            await trio.sleep(delay)
        hurry()
        await _drain(app)

    with guard():
        await worker_serve(app, config, shutdown_trigger=None if asked is None else drained, **options)


async def _drain(app: AppWrapper) -> None:
    """Closes the WebSockets of our app with 1012, and stores what was taken from them."""
    parts = await _services_of(app)
    if parts is not None:
        await parts.hub.drain()


async def _tell_not_ready(app: AppWrapper) -> None:
    parts = await _services_of(app)
    if parts is not None:
        parts.readiness.stopping = True


async def _services_of(app: AppWrapper) -> Services | None:
    """The service of our app; None if it is another's, has not started, or has failed."""
    inner = getattr(app, "app", None)
    if not isinstance(inner, Quart):
        return None
    async with inner.app_context():
        try:
            return services()
        except PulseError:
            return None


async def serve(app: AppWrapper, config: Config, sockets: Sockets, shutdown_trigger: object) -> None:
    """Runs Hypercorn's Trio worker in this task, until `shutdown_trigger` returns.

    Cancelled: connections are dropped.
    """
    await hypercorn.trio.run.worker_serve(
        app,
        config,
        sockets=sockets,
        shutdown_trigger=shutdown_trigger,  # type: ignore[arg-type]
    )
