"""The app's lifespan: a service that fails ends the process, and /healthz fails if the server goes on."""

import ast
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import structlog
import trio
from quart.testing.connections import WebsocketResponseError

from pulse_trio.app import PulseApp, create_app
from pulse_trio.errors import LaunchError
from pulse_trio.settings import Settings
from pulse_trio.store.memory import MemoryStore
from tests.support.server import SECRET

pytestmark = pytest.mark.process_end

PRODUCT = Path(__file__).resolve().parents[2] / "pulse_trio"
LISTED: Final = "https://app.example"  # an origin of PULSE_ALLOWED_ORIGINS
LOGIN: Final = {"username": "alice", "password": "correct horse battery staple"}
CONVERSATION: Final = "/api/chat/conversations/00000000-0000-0000-0000-000000000001"
REQUESTS: Final = [
    ("GET", "/api/auth/me"),
    ("GET", CONVERSATION),
    ("HEAD", CONVERSATION),
    ("POST", "/api/auth/login"),
    ("PUT", f"{CONVERSATION}/read"),
    ("PATCH", CONVERSATION),
    ("DELETE", f"{CONVERSATION}/members/me"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/asyncapi.json"),
]
PAGES: Final = ["/", "/favicon.svg", "/docs", "/healthz"]


class Lifespan:
    """The service of an app, opened as by an ASGI server; its tasks raise `errors` when `fails` is set."""

    def __init__(self, *errors: BaseException) -> None:
        self.fails = trio.Event()
        self.is_over = trio.Event()
        self.started = trio.Event()
        self.ended = trio.Event()  # the server may end
        self._errors = errors
        self._messages: Iterator[str] = iter(["lifespan.startup", "lifespan.shutdown"])

        @asynccontextmanager
        async def open_store() -> AsyncIterator[MemoryStore]:
            async with trio.open_nursery() as nursery:
                for error in errors:
                    nursery.start_soon(self._fail, error)
                yield MemoryStore()
                nursery.cancel_scope.cancel()

        self.open_store = open_store
        self.app: PulseApp = create_app(Settings.load(secret_key=SECRET), open_store)

    async def _fail(self, error: BaseException) -> None:
        await self.fails.wait()
        raise error

    async def _receive(self) -> Any:
        if self.started.is_set():
            await self.is_over.wait()
        return {"type": next(self._messages)}

    async def _send(self, message: Any) -> None:
        if message["type"] == "lifespan.startup.complete":
            self.started.set()
        else:
            self.ended.set()

    async def run(self) -> None:
        await self.app({"type": "lifespan", "asgi": {}, "state": {}}, self._receive, self._send)  # type: ignore[arg-type]

    async def get(self, path: str) -> tuple[int, Any]:
        answer = await self.app.test_client().get(path)
        return answer.status_code, await answer.get_json()


@pytest.mark.parametrize(
    ("errors", "events"),
    [
        ([RuntimeError("a fault")], ["service failed"]),
        ([LaunchError("the database is gone")], ["service stops"]),
        ([LaunchError("the database is gone"), RuntimeError("a fault")], ["service stops", "service failed"]),
        ([SystemExit(0)], ["service failed"]),
    ],
    ids=["a fault", "a reason", "both", "an exit of a part"],
)
async def test_a_failure_ends_the_process_and_fails_health(errors: list[BaseException], events: list[str]) -> None:
    lifespan = Lifespan(*errors)

    async def break_it() -> None:
        await lifespan.started.wait()
        assert await lifespan.get("/healthz") == (200, {"status": "ok"})
        assert (await lifespan.get("/readyz"))[0] == 200
        lifespan.fails.set()

    with structlog.testing.capture_logs() as logged, trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(break_it)
            # No group: even one that holds nothing but a SystemExit would be logged by Hypercorn and forgotten.
            with pytest.raises(SystemExit) as raised:
                await lifespan.run()
    assert raised.value.code == 1
    assert [line["event"] for line in logged if line["log_level"] == "critical"] == events
    for path in ("/healthz", "/readyz"):
        status, body = await lifespan.get(path)
        assert (status, body["failing"]) == (503, ["failed"])


async def test_an_ordinary_stop_is_no_failure() -> None:
    lifespan = Lifespan()
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lifespan.run)
            await lifespan.started.wait()
            lifespan.is_over.set()
    assert await lifespan.get("/healthz") == (200, {"status": "ok"})


async def test_a_cancellation_is_raised_on() -> None:
    lifespan = Lifespan()
    with structlog.testing.capture_logs() as logged, trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lifespan.run)
            await lifespan.started.wait()
            nursery.cancel_scope.cancel()
    assert not [line for line in logged if line["log_level"] == "critical"]


@pytest.mark.parametrize("origin", [None, LISTED, "https://elsewhere.example", "not an origin"])
async def test_requests_get_503_while_the_service_opens_again(origin: str | None) -> None:
    """Browsers send `Origin` with every request that changes something, also to the page's own origin."""
    headers = {} if origin is None else {"Origin": origin}
    async with _service_that_reopens() as lifespan:
        client = lifespan.app.test_client()
        for method, path in REQUESTS:
            response = await client.open(path, method=method, headers=headers, json=LOGIN if method == "POST" else None)
            assert (response.status_code, response.headers.get("Retry-After")) == (503, "1"), (method, path)
            allowed = response.headers.get("Access-Control-Allow-Origin")
            assert allowed == (LISTED if origin == LISTED else None)
        async with client.websocket("/api/chat/ws", headers=headers) as socket:
            with pytest.raises(WebsocketResponseError) as refused:
                await socket.receive()
        assert (refused.value.response.status_code, refused.value.response.headers["Retry-After"]) == (503, "1")
        for path in PAGES:
            assert (await client.get(path, headers=headers)).status_code == 200, path
        assert (await client.options("/api/auth/login", headers=headers)).status_code == 200
        assert lifespan.app.metrics.errors["internal"] == 0


@asynccontextmanager
async def _service_that_reopens() -> AsyncIterator[Lifespan]:
    """A service whose store has been opened once, and whose second opening lasts as long as the block."""
    moved, is_opening, may_open = trio.Event(), trio.Event(), trio.Event()

    @asynccontextmanager
    async def open_store() -> AsyncIterator[MemoryStore]:
        if moved.is_set():
            is_opening.set()
            await may_open.wait()
        yield MemoryStore()

    async def wait_moved() -> None:
        await moved.wait()
        if is_opening.is_set():
            await trio.sleep_forever()

    lifespan = Lifespan()
    settings = Settings.load(secret_key=SECRET, allowed_origins=(LISTED,))
    lifespan.app = create_app(settings, open_store, wait_moved=wait_moved)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lifespan.run)
            await lifespan.started.wait()
            moved.set()
            await is_opening.wait()
            yield lifespan
            may_open.set()
            lifespan.is_over.set()


async def test_shutdown_while_the_service_opens_again() -> None:
    """The database that it waits for may never come back."""
    async with _service_that_reopens() as lifespan:
        lifespan.is_over.set()
        await lifespan.ended.wait()


async def test_shutdown_in_the_moment_in_which_the_service_must_open_again() -> None:
    """A shutdown comes once: when it is taken, nothing may make the service go on."""
    moved = trio.Event()
    lifespan = Lifespan()
    lifespan.app = create_app(Settings.load(secret_key=SECRET), lifespan.open_store, wait_moved=moved.wait)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lifespan.run)
            await lifespan.started.wait()
            lifespan.is_over.set()
            moved.set()
            await lifespan.ended.wait()


def test_no_new_exception_leaves_an_except_star() -> None:
    """Python 3.11.2 wraps it in a group, later versions do not: a SystemExit then ends the process, or does not."""
    found = []
    for path in PRODUCT.rglob("*.py"):
        for block in ast.walk(ast.parse(path.read_text())):
            if isinstance(block, ast.TryStar):
                handled = [node for handler in block.handlers for node in ast.walk(handler)]
                calls = [ast.unparse(node.func) for node in handled if isinstance(node, ast.Call)]
                if any(isinstance(node, ast.Raise) and node.exc is not None for node in handled) or {
                    "sys.exit",
                    "exit_with",
                } & set(calls):
                    found.append(f"{path.relative_to(PRODUCT)}:{block.lineno}")
    assert found == []
