"""ASGI's protocols between the server and the framework, without tasks that would only wait.

Quart-Trio handles a request in a nursery with two tasks: one takes the body, and waits for the client's end. A request
without a body has nothing to take, a WebSocket can take its messages itself, and the server cancels the handlers of
both when their client has gone (`edge/server/handler_scope.py`).
"""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from quart import Request
from quart.asgi import ASGIWebsocketConnection
from quart.utils import encode_headers
from quart.wrappers.response import DataBody, Response
from quart_trio.asgi import TrioASGIHTTPConnection, TrioASGIWebsocketConnection

from pulse_trio.edge.server.handler_scope import handler_scope
from pulse_trio.edge.services import app_parts_of

_BODY_HEADERS: Final = {b"content-length", b"transfer-encoding"}

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


def has_body(scope: Any) -> bool:
    """Returns whether a request may have a body; over HTTP/1 one of two headers says so (RFC 9112, section 6.3)."""
    return not scope["http_version"].startswith("1") or any(name in _BODY_HEADERS for name, _ in scope["headers"])


class HttpConnection(TrioASGIHTTPConnection):
    """One request. Its response counts until the server has written or abandoned it."""

    async def __call__(self, receive: Receive, send: Send) -> None:
        scope = handler_scope()
        if scope is None or has_body(self.scope):
            await super().__call__(receive, send)
            return
        request = self._create_request_from_scope(send)
        request.body.set_complete()
        with scope:
            await self._answer(request, send)

    async def handle_request(  # type: ignore[override]  # Quart-Trio's signature, which differs from Quart's
        self, nursery: trio.Nursery, request: Request, send: Send
    ) -> None:
        await self._answer(request, send)
        nursery.cancel_scope.cancel()

    async def _answer(self, request: Request, send: Send) -> None:
        parts = app_parts_of(self.app)
        with parts.response_budget.answer(parts.proxies.client_of(request).key):
            await self._send_response(send, await self.app.handle_request(request))

    async def _send_response(self, send: Send, response: Any) -> None:
        """Like the original, but a body that is known is sent as a whole; the original sends an empty piece, too."""
        body = response.response if isinstance(response, Response) else None
        if not isinstance(body, DataBody):
            await super()._send_response(send, response)
            return
        headers = encode_headers(response.headers)
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": body.data[body.begin : body.end], "more_body": False})


class WebsocketConnection(TrioASGIWebsocketConnection):
    """One handshake, and the WebSocket that follows if its messages come through ASGI."""

    async def __call__(self, receive: Receive, send: Send) -> None:
        scope = handler_scope()
        if scope is None:
            await super().__call__(receive, send)
            return
        self.receive_channel = _Messages(receive)  # type: ignore[assignment]  # only its `receive` is used
        websocket = self._create_websocket_from_scope(send)
        with scope:
            # Meanwhile the server handles what came together with the handshake, and rejects it: too early for frames.
            await trio.lowlevel.checkpoint()
            await ASGIWebsocketConnection.handle_websocket(self, websocket, send)


class _Messages:
    """The messages of a WebSocket through ASGI, received in the handler's own task."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive

    async def receive(self) -> str | bytes | None:
        """Returns the next message; None is an empty binary one. Cancelled: the client has gone."""
        while True:
            event = await self._receive()
            if event["type"] == "websocket.receive":
                message: str | bytes | None = event.get("bytes") or event["text"]
                return message
            if event["type"] == "websocket.disconnect":
                await trio.sleep_forever()  # until the server cancels the handler, which it does then
