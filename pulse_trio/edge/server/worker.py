"""Hypercorn's Trio worker: its sockets, its start, and an end that closes WebSockets in order."""

import errno
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial
from socket import SO_REUSEADDR, SOCK_STREAM, SOL_SOCKET, gaierror, getaddrinfo, socket
from typing import Any, Final

import hypercorn.trio.run
import structlog
import trio
from hypercorn.config import Config, Sockets
from hypercorn.trio.run import worker_serve
from hypercorn.typing import AppWrapper
from hypercorn.utils import wrap_app
from quart import Quart

from pulse_trio.edge.server.poller import open_poller, set_poller
from pulse_trio.edge.services import Services, services
from pulse_trio.errors import LaunchError, PulseError

HTTP_1: Final = "http/1.1"

log = structlog.get_logger(__name__)


def bind(config: Config) -> Sockets:
    """Opens the sockets of a configuration and listens on them.

    Raises:
        LaunchError: an address is in use, not allowed, or not this machine's; says what to do.
    """
    try:
        sockets = config.create_sockets()
        for sock in (*sockets.secure_sockets, *sockets.insecure_sockets):
            sock.listen(config.backlog)
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise LaunchError(f"cannot listen on {', '.join(config.bind)}: {reason}; {advise_on_address(error)}") from None
    return sockets


def load_certificate(config: Config) -> None:
    """Reads the certificate and its key now, because later the process may have no right to.

    Raises:
        LaunchError: they cannot be read.
    """
    _force_http_1(config)  # the protocols are part of what is made here
    try:
        context = Config.create_ssl_context(config)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise LaunchError(f"the certificate {config.certfile} or its key cannot be used: {error}") from None
    config.create_ssl_context = lambda: context  # type: ignore[method-assign]


def renew_certificate(config: Config) -> None:
    """Reads the certificate again, which may have been renewed meanwhile; without a right to, keeps what was read."""
    try:
        load_certificate(config)
    except LaunchError as error:
        log.warning("certificate not read again", problem=str(error))


def listen(host: str, port: int | None) -> socket:
    """Listens on an address.

    Raises:
        LaunchError: it is in use, or is not this machine's.
    """
    try:
        kind, _, _, _, address = getaddrinfo(host, port, type=SOCK_STREAM)[0]
        sock = socket(kind, SOCK_STREAM)
        try:
            sock.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind(address)
            sock.listen()
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise LaunchError(f"cannot listen on {host} port {port} (PULSE_METRICS_BIND): {reason}") from None
    return sock


def address(sockets: Sockets) -> str:
    """Returns the first address that is listened on, such as `127.0.0.1:8000`, `[::1]:8000` or `unix:/run/pulse`."""
    name = (sockets.secure_sockets or sockets.insecure_sockets)[0].getsockname()
    if isinstance(name, str):
        return f"unix:{name}"
    host, port, *_ = name
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def advise_on_address(error: Exception) -> str:
    """Returns what to do when an address cannot be listened on, by the reason."""
    if isinstance(error, gaierror):
        return "--host takes an address or a name of this machine, such as 127.0.0.1, or 0.0.0.0 for all"
    number = getattr(error, "errno", None)
    if number in {errno.EACCES, errno.EPERM}:
        return (
            "ports below 1024 are for root: choose a higher one with --port behind a proxy, or give the account the "
            "right (systemd: AmbientCapabilities=CAP_NET_BIND_SERVICE)"
        )
    if number == errno.EADDRNOTAVAIL:
        return "this machine has no such address: choose one that it has with --host, or 0.0.0.0 for all"
    if number == errno.EAFNOSUPPORT:
        return "this machine has no addresses of that kind: choose another with --host"
    if number == errno.EADDRINUSE:
        return "stop the program that uses it, or choose another address with --port or --host"
    return "choose another address with --port or --host"


def wrap(app: object) -> AppWrapper:
    """Wraps an ASGI app for Hypercorn's worker."""
    return wrap_app(app, 0, "asgi")  # type: ignore[arg-type]


async def draining_worker(
    app: AppWrapper,
    config: Config,
    *,
    stop: Callable[[], Awaitable[None]] | None,
    guard: Callable[[], AbstractContextManager[None]],
    on_end: Callable[[], None],
    on_drained: Callable[[], None],
    delay: Callable[[], float] = lambda: 0.0,
    open_metrics: Callable[[], socket] | None = None,
    sockets: Sockets | None = None,
    shutdown_trigger: Callable[[], Awaitable[None]] | None = None,
    **options: Any,
) -> None:
    """Runs Hypercorn's Trio worker, but closes WebSockets in order before their connections are dropped.

    The original notifies the application only when `graceful_timeout` is over and all connections are gone: clients see
    1006, five seconds late.

    Args:
        app: the app.
        config: Hypercorn's configuration.
        stop: see `workarounds.install`.
        guard: see `workarounds.install`.
        on_end: called when the server begins to end; it shortens the deadlines of writes.
        on_drained: called when all WebSockets are closed; it ends idle connections.
        delay: returns the seconds to serve on after being asked to end, while `/readyz` fails.
        open_metrics: opens a further socket, over plain HTTP, for programs of operators.
        sockets: the sockets that are listened on; without them, those of the configuration.
        shutdown_trigger: returns when the server must end; `stop` is used without it.
        options: further arguments of the original.
    """

    asked = stop if shutdown_trigger is None else shutdown_trigger

    async def drained() -> None:
        assert asked is not None
        await asked()
        if seconds := delay():
            await _fail_readiness(app)
            await trio.sleep(seconds)
        on_end()
        await _drain(app)
        on_drained()

    with guard():
        _force_http_1(config)
        sockets = bind(config) if sockets is None else sockets
        for sock in sockets.quic_sockets:
            sock.close()
        sockets.quic_sockets.clear()
        if open_metrics is not None:
            sockets.insecure_sockets.append(open_metrics())
        trigger = None if asked is None else drained
        await _serve_polled(partial(worker_serve, app, config, sockets=sockets, shutdown_trigger=trigger, **options))


async def _serve_polled(serve: Callable[[], Awaitable[None]]) -> None:
    """Runs the server, with a task that reads the WebSockets of all its connections where the system allows that."""
    poller = open_poller()
    if poller is None:
        await serve()
        return
    try:
        async with trio.open_nursery() as nursery:
            set_poller(poller)
            nursery.start_soon(poller.run, name="poller")
            await serve()
            nursery.cancel_scope.cancel()
    finally:
        set_poller(None)
        poller.close()


def _force_http_1(config: Config) -> None:
    """Turns off HTTP/2 and HTTP/3, whose streams would be counted by no limit of connections or requests."""
    wanted = [name for name in config.alpn_protocols if name != HTTP_1]
    if (wanted and config.ssl_enabled) or config.quic_bind:
        log.warning("HTTP/2 and HTTP/3 are off: only HTTP/1.1 is supported", alpn=wanted, quic=config.quic_bind)
    config.alpn_protocols = [HTTP_1]
    config.quic_bind = []
    config.h11_pass_raw_headers = False  # of a request whose headers `http_protocol` has made a list


async def _drain(app: AppWrapper) -> None:
    """Closes the WebSockets of our app with 1012 and waits until the messages taken from them are stored."""
    parts = await _services_of(app)
    if parts is not None:
        await parts.hub.drain()


async def _fail_readiness(app: AppWrapper) -> None:
    parts = await _services_of(app)
    if parts is not None:
        parts.readiness.stopping = True


async def _services_of(app: AppWrapper) -> Services | None:
    """Returns the service of our app; None if the app is not ours, or its service has not started or has failed."""
    inner = getattr(app, "app", None)
    if not isinstance(inner, Quart):
        return None
    async with inner.app_context():
        try:
            return services()
        except PulseError:
            return None


class _Started:
    """The status of a task that nobody waits for: it calls a function when the task has started."""

    def __init__(self, on_started: Callable[[], None]) -> None:
        self._on_started = on_started

    def started(self, value: object = None) -> None:
        """Calls the function. `value` is ignored."""
        self._on_started()


async def serve(
    app: AppWrapper,
    config: Config,
    sockets: Sockets,
    shutdown_trigger: object,
    on_started: Callable[[], None] = lambda: None,
) -> None:
    """Runs Hypercorn's Trio worker in this task, until `shutdown_trigger` returns.

    `on_started` is called when it begins to accept connections.

    Cancelled: connections are dropped.
    """
    await hypercorn.trio.run.worker_serve(
        app,
        config,
        sockets=sockets,
        shutdown_trigger=shutdown_trigger,  # type: ignore[arg-type]
        task_status=_Started(on_started),
    )
