"""Requests and handshakes without tasks that only wait: they end as before when their client goes."""

from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from quart import request, websocket
from trio.testing import MockClock, wait_all_tasks_blocked

from pulse_trio.app import PulseApp, create_app
from pulse_trio.edge.asgi_connections import has_body
from pulse_trio.edge.server.handler_scope import begin_handler, end_handler, handler_scope
from pulse_trio.settings import Settings
from pulse_trio.store.memory import MemoryStore

SECRET = "K7#pq-vB2!x_Lm9Zt4&wRs8*Yd3@Nf6%" * 2


def make_app() -> PulseApp:
    @asynccontextmanager
    async def open_store() -> Any:
        yield MemoryStore()

    return create_app(Settings.load(secret_key=SECRET), open_store)


class Exchange:
    """ASGI's side of one request, with what the application sends."""

    def __init__(self, kind: str, path: str, *headers: tuple[bytes, bytes], method: str = "GET") -> None:
        self.sent: list[dict[str, Any]] = []
        self.events, self.incoming = trio.open_memory_channel[dict[str, Any]](10)
        self.scope: dict[str, Any] = {
            "type": kind,
            "http_version": "1.1",
            "asgi": {"spec_version": "2.3"},
            "method": method,
            "scheme": "ws" if kind == "websocket" else "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"localhost"), *headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }

    async def send(self, message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        self.sent.append(message)

    async def run(self, app: PulseApp) -> None:
        await app(self.scope, self.incoming.receive, self.send)


@pytest.mark.parametrize(
    ("version", "headers", "expected"),
    [
        ("1.1", [], False),
        ("1.0", [], False),
        ("1.1", [(b"content-length", b"0")], True),
        ("1.1", [(b"transfer-encoding", b"chunked")], True),
        ("2", [], True),  # where the end of the headers does not say it
    ],
)
def test_a_request_has_a_body_if_a_header_says_so(
    version: str, headers: list[tuple[bytes, bytes]], expected: bool
) -> None:
    assert has_body({"http_version": version, "headers": headers}) is expected


async def test_a_request_without_a_body_is_handled_in_the_servers_task(autojump_clock: MockClock) -> None:
    app = make_app()
    tasks: list[trio.lowlevel.Task] = []

    async def view() -> str:
        tasks.append(trio.lowlevel.current_task())
        assert await request.get_data() == b""
        return "done"

    app.add_url_rule("/test", view_func=view)
    begin_handler()
    exchange = Exchange("http", "/test")
    await exchange.run(app)
    assert tasks == [trio.lowlevel.current_task()]
    start, body = exchange.sent
    assert (start["status"], body["body"], body["more_body"]) == (200, b"done", False)


async def test_a_body_is_taken_by_a_task_of_its_own(autojump_clock: MockClock) -> None:
    app = make_app()

    async def view() -> bytes:
        data = await request.get_data(as_text=False)
        assert isinstance(data, bytes)
        return data[::-1]

    app.add_url_rule("/test", view_func=view, methods=["POST"])
    begin_handler()
    exchange = Exchange("http", "/test", (b"content-length", b"4"), method="POST")
    for piece, more in ((b"ab", True), (b"cd", False)):
        await exchange.events.send({"type": "http.request", "body": piece, "more_body": more})
    await exchange.run(app)
    assert [message.get("body") for message in exchange.sent] == [None, b"dcba"]


async def test_a_handler_is_cancelled_when_its_client_goes(autojump_clock: MockClock) -> None:
    app = make_app()
    ends: list[str] = []

    async def wait() -> None:
        try:
            await trio.sleep_forever()
        finally:
            ends.append("cancelled")

    async def view() -> str:
        await wait()
        return "never"

    async def socket() -> None:
        await websocket.accept()
        await wait()

    app.add_url_rule("/test", view_func=view)
    app.add_websocket("/socket", view_func=socket)
    for kind, path in (("http", "/test"), ("websocket", "/socket")):
        scope = begin_handler()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Exchange(kind, path).run, app)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert ends == ["cancelled"] * 2


async def test_a_websocket_receives_in_its_own_task(autojump_clock: MockClock) -> None:
    """For a handler that does not take the connection past ASGI, as another app's might not."""
    app = make_app()

    async def echo() -> None:
        for _ in range(3):
            data = await websocket.receive()
            await websocket.send(data[::-1] if data else "nothing")

    app.add_websocket("/socket", view_func=echo)
    begin_handler()
    exchange = Exchange("websocket", "/socket")
    for text, data in (("abc", None), (None, b"def"), (None, b"")):
        await exchange.events.send({"type": "websocket.receive", "text": text, "bytes": data})
    await exchange.run(app)
    kinds = [message["type"] for message in exchange.sent]
    assert kinds == ["websocket.accept", *["websocket.send"] * 3, "websocket.close"]
    assert [m["text"] or m["bytes"] for m in exchange.sent[1:4]] == ["cba", b"fed", "nothing"]


async def test_the_scope_is_that_of_the_latest_request(autojump_clock: MockClock) -> None:
    assert begin_handler() is not begin_handler()
    scope = begin_handler()
    assert handler_scope() is scope
    end_handler()
    assert handler_scope() is None
