"""One WebSocket connection, from the handshake to its end, and the reason for the end."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import trio
import wsproto.utilities
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from pulse_trio.client.errors import ClientError
from pulse_trio.client.network import Address, Network
from pulse_trio.client.rest import error_of

CONNECT_TIMEOUT: Final = 15.0  # seconds to reach the server, and again for the handshake
CLOSE_TIMEOUT: Final = 2.0  # seconds for the closing handshake
PING_EVERY: Final = 20.0  # seconds, like the server's
PING_TIMEOUT: Final = 20.0  # seconds without a pong after which the server counts as gone
MAX_FRAME_BYTES: Final = 4 * 1024 * 1024  # the list of 100,000 active users


@dataclass(frozen=True, slots=True)
class Ending:
    """The reason why a connection ended, or could not be opened.

    Attributes:
        reason: a sentence for people.
        code: the WebSocket close code; None if there was no close frame (1006).
        status: the HTTP status of a rejected handshake.
        refusal: the error in that answer.
        is_wanted: the client ended it, to reconnect at once.
        is_gap: the client ended it because a change was missing.
    """

    reason: str
    code: int | None = None
    status: int | None = None
    refusal: ClientError | None = None
    is_wanted: bool = False
    is_gap: bool = False


class Wire:
    """An open connection, for the body of `converse`."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self._socket = socket
        self._is_held = self._was_held = False

    async def send(self, text: str) -> None:
        """Sends a message.

        Cancelled: the connection may be unusable, so only tasks of the body may call this.

        Raises:
            ConnectionClosed: it has ended.
        """
        await self._socket.send_message(text)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Marks a time in which the client does not read: a missing pong then says nothing about the server."""
        self._is_held = self._was_held = True
        try:
            yield
        finally:
            self._is_held = False

    async def receive(self) -> str | bytes:
        """Waits for the next message.

        Raises:
            ConnectionClosed: it has ended.
        """
        return await self._socket.get_message()

    async def _watch(self, scope: trio.CancelScope) -> None:
        """Ends the connection when the server is silent."""
        while True:
            await trio.sleep(PING_EVERY)
            self._was_held = self._is_held
            try:
                with trio.move_on_after(PING_TIMEOUT) as waiting:
                    await self._socket.ping()
            except ConnectionClosed:
                return
            if waiting.cancelled_caught and not self._was_held:
                scope.cancel()
                return


class _Stream(trio.abc.Stream):
    """Calls `on_end` when the stream ends: trio-websocket would wait for the handshake's answer for ever."""

    def __init__(self, stream: trio.abc.Stream, on_end: Callable[[], None]) -> None:
        self._stream = stream
        self._on_end = on_end

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        try:
            data = await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError:
            self._on_end()
            raise
        if not data:
            self._on_end()
        return data

    async def aclose(self) -> None:
        self._on_end()
        await self._stream.aclose()


async def converse(
    network: Network,
    address: Address,
    path: str,
    token: str,
    body: Callable[[Wire], Awaitable[Ending | None]],
) -> Ending:
    """Connects, runs `body` with the connection and closes it; returns the reason for the end.

    `body` ends by returning a reason, or with ConnectionClosed. A ClientError that it raises comes out as it is.
    """
    try:
        with trio.fail_after(CONNECT_TIMEOUT):
            stream = await network.open_stream(address)
    except (OSError, trio.TooSlowError, trio.BrokenResourceError) as error:
        return Ending(f"cannot connect to {address.authority}: {str(error) or 'no answer'}")
    ending = Ending("the connection was lost")
    failure: ClientError | None = None
    try:
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(CONNECT_TIMEOUT) as handshake:
                socket: WebSocketConnection | None = None
                socket = await wrap_client_stream(
                    nursery,
                    _Stream(stream, handshake.cancel),  # type: ignore[arg-type]  # typed for SocketStream and SSLStream, works with any
                    address.authority,
                    address.prefix + path,
                    extra_headers=[(b"Authorization", b"Bearer " + token.encode())],
                    max_message_size=MAX_FRAME_BYTES,
                )
            if socket is None:
                ending = Ending("the connection ended before the handshake was answered")
            else:
                try:
                    ending = await _with_socket(nursery, socket, body) or ending
                except ClientError as error:
                    failure = error
            nursery.cancel_scope.cancel()
    except* ConnectionRejected as group:
        rejected = group.exceptions[0]
        assert isinstance(rejected, ConnectionRejected)
        ending = _rejection(rejected, path, token)
    except* wsproto.utilities.ProtocolError as group:
        ending = Ending(f"not a WebSocket server: {group.exceptions[0]}")
    finally:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)  # does not wait for the peer
    if failure is not None:
        raise failure
    return ending


async def _with_socket(
    nursery: trio.Nursery, socket: WebSocketConnection, body: Callable[[Wire], Awaitable[Ending | None]]
) -> Ending | None:
    wire = Wire(socket)
    scope = trio.CancelScope()
    nursery.start_soon(wire._watch, scope)
    try:
        with scope:
            return await body(wire)
    except ConnectionClosed as closed:
        if closed.reason is None or closed.reason.code == 1006:
            return Ending("the connection was lost")
        return Ending(closed.reason.reason or f"closed with {closed.reason.code}", code=closed.reason.code)
    finally:
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await socket.aclose()
    return Ending("the server does not respond")


def _rejection(rejected: ConnectionRejected, path: str, token: str) -> Ending:
    headers = {name.lower(): value for name, value in rejected.headers}
    retry_after = headers.get(b"retry-after")
    seconds = None if retry_after is None else retry_after.decode("latin-1")
    refusal = error_of(rejected.status_code, rejected.body or b"", seconds, path, token=token)
    return Ending(str(refusal), status=rejected.status_code, refusal=refusal)
