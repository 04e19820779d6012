"""The composition root: opens settings → store → hub → routes in this order, and closes them in reverse.

The store's nursery contains the hub's, so that the hub ends first. Neither is Quart's `app.nursery`: there one crash
cancels everything, while the server keeps running without it.
"""

import gc
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import structlog
import trio
from quart_trio import QuartTrio

from pulse_trio.auth.authenticator import Authenticator
from pulse_trio.auth.hash_queue import HashQueue
from pulse_trio.auth.passwords import Passwords
from pulse_trio.auth.tickets import Tickets
from pulse_trio.auth.tokens import Tokens
from pulse_trio.clock import Clock, utc_now
from pulse_trio.console import exit_with
from pulse_trio.edge.asgi_connections import HttpConnection, WebsocketConnection
from pulse_trio.edge.audit import Audit
from pulse_trio.edge.client_address import Proxies
from pulse_trio.edge.common_headers import CommonHeaders
from pulse_trio.edge.limits import Limits
from pulse_trio.edge.loop_lag import watch_loop
from pulse_trio.edge.origins import Origins
from pulse_trio.edge.pages import web_client
from pulse_trio.edge.pages.api_documents import documents
from pulse_trio.edge.readiness import Readiness
from pulse_trio.edge.response_budget import ResponseBudget
from pulse_trio.edge.rest import api
from pulse_trio.edge.rest.tickets import tickets
from pulse_trio.edge.services import AppParts, Services, set_app_parts, set_failed, set_services
from pulse_trio.edge.siblings import Siblings
from pulse_trio.edge.turns import Turns
from pulse_trio.edge.websocket.routes import sockets
from pulse_trio.errors import LaunchError
from pulse_trio.exception_groups import flatten_group
from pulse_trio.ids import IdSource
from pulse_trio.metrics import Metrics
from pulse_trio.protocol import FrameReader
from pulse_trio.rooms.cluster import PeerBus
from pulse_trio.rooms.hub import Hub
from pulse_trio.rooms.lease import boot_time
from pulse_trio.settings import Settings

EXIT_FAILED: Final = 1
MOVED: Final = "database moved to another server, reopening the service"
LEASE_LOST: Final = "lease lost, reopening the service"
NEEDS_TRIO: Final = (
    "this service runs on Trio, and this server does not: run pulse-trio serve, or "
    "hypercorn --config hypercorn.toml pulse_trio.asgi:app (--worker-class trio --workers 0 without that file)"
)

log = structlog.get_logger(__name__)

StoreFactory = Callable[[], Any]
"""Returns an async context manager that opens a `Store`."""

BusFactory = Callable[[], PeerBus]
"""Returns a bus that was not run yet."""


class PulseApp(QuartTrio):
    """The Quart-Trio app. Its lifespan opens the service before the first request and closes it after the last."""

    def __init__(
        self,
        settings: Settings,
        open_store: StoreFactory,
        tokens: Tokens,
        clock: Clock,
        ids: IdSource,
        wait_moved: Callable[[], Awaitable[None]] | None,
        metrics: Metrics,
        make_bus: BusFactory | None = None,
        boot_clock: Callable[[], float] = boot_time,
        siblings: Siblings | None = None,
    ) -> None:
        super().__init__("pulse_trio", static_folder=None)
        self.settings = settings
        self.tokens = tokens
        self.open_store = open_store
        self.clock = clock
        self.ids = ids
        self.wait_moved = wait_moved
        self.metrics = metrics
        self.make_bus = make_bus
        self.boot_clock = boot_clock
        self.response_budget = ResponseBudget(settings)
        self.proxies = Proxies(settings)
        parts = AppParts(
            response_budget=self.response_budget,
            metrics=metrics,
            origins=Origins(settings),
            headers=CommonHeaders(settings),
            proxies=self.proxies,
            audit=Audit(),
            turns=Turns(),
            siblings=siblings,
        )
        set_app_parts(self.extensions, parts)
        self.asgi_http_class = HttpConnection
        self.asgi_websocket_class = WebsocketConnection
        self.asgi_lifespan_class = _Lifespan  # type: ignore[assignment]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Runs ASGI's protocols; ends the process if the server does not run on Trio.

        It ends at once: servers catch exceptions of an app, SystemExit included, and would answer all requests with
        500. The embedded PostgreSQL notices, and stops.
        """
        if not trio.lowlevel.in_trio_run():
            exit_with(LaunchError(NEEDS_TRIO))
            os._exit(EXIT_FAILED)
        await super().__call__(scope, receive, send)


def create_app(
    settings: Settings,
    open_store: StoreFactory,
    *,
    clock: Clock = utc_now,
    ids: IdSource | None = None,
    wait_moved: Callable[[], Awaitable[None]] | None = None,
    metrics: Metrics | None = None,
    make_bus: BusFactory | None = None,
    boot_clock: Callable[[], float] = boot_time,
    siblings: Siblings | None = None,
) -> PulseApp:
    """Builds the app; its lifespan opens it.

    Args:
        settings: all settings, with a signing key.
        open_store: opens the store when the app starts, and closes it when the app stops.
        clock: source of timestamps.
        ids: source of ids.
        wait_moved: returns when the database may hold another history; the service then closes and reopens.
        metrics: counters to use; default: new ones.
        make_bus: returns a bus to the other processes that share the store, each time the service opens; None: there
            are none.
        boot_clock: gives seconds, also while the process stands still; for leases.
        siblings: the other workers of this machine, for a worker.

    Raises:
        LaunchError: the signing key cannot be used.
    """
    tokens = Tokens(settings, clock)  # now, so that a bad key is reported before anything is served
    app = PulseApp(
        settings,
        open_store,
        tokens,
        clock,
        IdSource(clock) if ids is None else ids,
        wait_moved,
        Metrics() if metrics is None else metrics,
        make_bus,
        boot_clock,
        siblings,
    )
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    app.config["BODY_TIMEOUT"] = settings.body_timeout
    app.config["RESPONSE_TIMEOUT"] = None  # each write has its own deadline, PULSE_WRITE_TIMEOUT
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = True
    app.url_map.merge_slashes = False  # a redirect would echo the request's `Host`, without https
    api.install(app)
    web_client.install(app, settings)
    app.register_blueprint(documents)
    app.register_blueprint(tickets)
    app.register_blueprint(sockets)
    return app


@asynccontextmanager
async def open_service(app: PulseApp) -> AsyncIterator[Services]:
    """Opens everything that the routes need, for a block.

    Raises:
        BaseExceptionGroup: a part failed; the block is cancelled.
    """
    settings = app.settings
    passwords = Passwords(settings.password_hash_parallel)
    async with app.open_store() as store, trio.open_nursery() as nursery:
        bus = None if app.make_bus is None else app.make_bus()
        hub = Hub(store, settings, clock=app.clock, metrics=app.metrics, bus=bus, boot_clock=app.boot_clock)
        await nursery.start(hub.run, name="hub")
        if bus is not None and hub.cluster is not None:
            await nursery.start(bus.run, hub.cluster, name="bus")
        nursery.start_soon(watch_loop, app.metrics, name="loop lag")
        authenticator = Authenticator(
            app.tokens, store, provision_users=settings.provision_users, clock=app.clock, ids=app.ids
        )
        parts = Services(
            settings=settings,
            clock=app.clock,
            ids=app.ids,
            store=store,
            hub=hub,
            tokens=app.tokens,
            passwords=passwords,
            hash_queue=HashQueue(settings),
            authenticator=authenticator,
            frames=FrameReader(settings.max_content_chars),
            limits=Limits(settings, store),
            tickets=Tickets(store, settings.ticket_seconds, app.clock),
            metrics=app.metrics,
            readiness=Readiness(store, hub),
        )
        set_services(app.extensions, parts)
        try:
            yield parts
        finally:
            set_services(app.extensions, None)
            nursery.cancel_scope.cancel()


def tune_garbage_collector() -> None:
    """Excludes objects of the start from garbage collection, and keeps its runs short.

    Objects of the start live as long as the process. What connections leave in reference cycles, some 50 objects each,
    must not gather: to free 75,000 at once took 0.2 s. The runs for older objects are rare: before, they took a fifth
    of the CPU during a storm of connections, and caused the slowest responses.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 500, 100)


class _Lifespan:
    """ASGI's lifespan protocol: the service runs in the task that the server provides for it."""

    def __init__(self, app: PulseApp, scope: object) -> None:
        self._app = app
        self._is_ending = trio.Event()  # lifespan.shutdown was received: nothing may make the service go on

    async def _wait_end(self, parts: Services) -> str | None:
        """Waits until the service ends.

        Returns None when the server shuts down; else why the service must open again: the history may be another one,
        or another process has ended the lease of this one.
        """
        reason: str | None = None
        async with trio.open_nursery() as nursery:

            async def reopen_after(wait: Callable[[], Awaitable[None]], text: str) -> None:
                nonlocal reason
                await wait()
                reason = text
                nursery.cancel_scope.cancel()

            nursery.start_soon(reopen_after, parts.hub.wait_lost, LEASE_LOST, name="lease lost")
            if self._app.wait_moved is not None:
                nursery.start_soon(reopen_after, self._app.wait_moved, MOVED, name="database moved")
            await self._is_ending.wait()
            nursery.cancel_scope.cancel()
        return None if self._is_ending.is_set() else reason

    async def __call__(self, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        try:
            await self._run(receive, send)
        except trio.Cancelled:
            raise
        except BaseException as error:
            failures = error.split(trio.Cancelled)[1] if isinstance(error, BaseExceptionGroup) else error
            if failures is None:
                raise
            # If the server keeps running anyway, /healthz must report the failure.
            set_failed(self._app.extensions)
            _log_failures(failures)
            # Hypercorn treats lifespans as optional: it logs an Exception or a group, and keeps running.
            raise SystemExit(EXIT_FAILED) from None

    async def _run(self, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
        await receive()  # lifespan.startup
        async with trio.open_nursery() as nursery:
            async with open_service(self._app) as parts:
                await self._app.startup()
                tune_garbage_collector()
                await send({"type": "lifespan.startup.complete"})
                nursery.start_soon(self._wait_shutdown, receive, name="shutdown")
                reason = await self._wait_end(parts)
                await parts.hub.drain()
            while reason is not None and not self._is_ending.is_set():
                # Rooms and clients' positions belong to the previous history or lease, so all are closed.
                log.warning(reason)
                reason = await self._reopen()
        await send({"type": "lifespan.shutdown.complete"})

    async def _wait_shutdown(self, receive: Callable[[], Awaitable[Any]]) -> None:
        await receive()  # lifespan.shutdown
        self._is_ending.set()

    async def _reopen(self) -> str | None:
        """Runs the service again until it ends; returns as `_wait_end`. A shutdown does not wait for it to open."""
        reason: str | None = None
        is_open = False
        async with trio.open_nursery() as nursery:

            async def give_up() -> None:
                await self._is_ending.wait()
                if not is_open:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(give_up, name="end before it is open")
            async with open_service(self._app) as parts:
                is_open = True
                reason = await self._wait_end(parts)
                await parts.hub.drain()
            nursery.cancel_scope.cancel()
        return reason


def _log_failures(failures: BaseException) -> None:
    """Logs one line for each LaunchError, and a traceback for all other errors."""
    group = failures if isinstance(failures, BaseExceptionGroup) else BaseExceptionGroup("", [failures])
    known, others = group.split(LaunchError)
    for error in [] if known is None else flatten_group(known):
        log.critical("service stops", reason=str(error))
    if others is not None:
        log.critical("service failed", exc_info=others)
