"""One connection to a Redis server or sentinel (RESP3, https://redis.io/docs/latest/develop/reference/protocol-spec/).

A connection that has subscribed may still publish: RESP3 marks what was not asked for as a push.
"""

from __future__ import annotations

import ssl
from typing import Any, Final, Self

import hiredis
import trio

from pulse_trio.bus_url import Credentials

from .transport import TransportError

CHUNK: Final = 65_536  # bytes of one read
CLIENT_NAME: Final = "pulse-trio"


class RedisConnection:
    """A connection to one server. After an error it is only good for closing.

    Attributes:
        role: `master` or `replica`, as the server says when RESP3 begins; until then empty.
    """

    def __init__(self, stream: trio.abc.Stream, socket: trio.socket.SocketType) -> None:
        self._stream = stream
        self._socket = socket
        self._reader = hiredis.Reader()
        self.role = ""

    @classmethod
    async def open(cls, host: str, port: int, tls: ssl.SSLContext | None) -> Self:
        """Connects.

        Raises:
            TransportError: the server cannot be reached, or its certificate is not valid for `host`.

        Cancelled: nothing is left open.
        """
        try:
            plain = await trio.open_tcp_stream(host, port)
            if tls is None:
                return cls(plain, plain.socket)
            try:
                encrypted = trio.SSLStream(plain, tls, server_hostname=host)
                await encrypted.do_handshake()
            except BaseException:
                plain.socket.close()
                raise
            return cls(encrypted, plain.socket)
        except (OSError, trio.BrokenResourceError) as error:
            raise TransportError(f"{host}:{port}: {_reason(error)}") from error

    def close(self) -> None:
        """Closes at once, without a farewell. Closing twice is fine."""
        self._socket.close()

    async def begin(self, credentials: Credentials) -> None:
        """Authenticates and begins RESP3.

        Raises:
            TransportError: the server refuses, is older than Redis 6, or the connection is lost.
        """
        user, password = credentials.user or "default", credentials.password
        auth = [b"AUTH", user.encode(), password.encode()] if password else []
        reply = await self.ask(b"HELLO", b"3", *auth, b"SETNAME", CLIENT_NAME.encode())
        if not isinstance(reply, dict):
            raise TransportError("HELLO: unexpected reply")
        self.role = str(reply.get(b"role", b"").decode())

    async def authenticate(self, credentials: Credentials) -> None:
        """Authenticates without RESP3, which old sentinels do not have.

        Raises:
            TransportError: the server refuses, or the connection is lost.
        """
        if credentials.password:
            user = [credentials.user.encode()] if credentials.user else []
            await self.ask(b"AUTH", *user, credentials.password.encode())

    async def ask(self, *command: bytes) -> Any:
        """Sends a command, and returns its reply. Not while another task reads.

        Raises:
            TransportError: the server refuses, or the connection is lost. It names the command, not its arguments.
        """
        await self.send([command])
        while isinstance(reply := await self.read(), hiredis.PushNotification):
            pass
        return accept(reply, command[0])

    async def subscribe(self, command: bytes, channel: bytes) -> None:
        """Subscribes, and waits until the server says so. Not while another task reads.

        Args:
            command: SUBSCRIBE or SSUBSCRIBE.
            channel: the channel.

        Raises:
            TransportError: the server refuses, or the connection is lost.
        """
        await self.send([(command, channel)])
        while not isinstance(reply := await self.read(), hiredis.PushNotification):
            accept(reply, command)

    async def send(self, commands: list[tuple[bytes, ...]]) -> None:
        """Sends commands without waiting for their replies.

        Raises:
            TransportError: the connection is lost.
        """
        data = b"".join([_pack(command) for command in commands])
        try:
            await self._stream.send_all(data)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise TransportError(_reason(error)) from error

    async def read(self) -> Any:
        """Returns the next reply or push. An error of the server is returned, not raised.

        Not a checkpoint if it has arrived already.

        Raises:
            TransportError: the connection is lost, or the server does not speak this protocol.
        """
        try:
            while (reply := self._reader.gets()) is False:
                data = await self._stream.receive_some(CHUNK)
                if not data:
                    raise TransportError("the server has closed the connection")
                self._reader.feed(bytes(data))
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, hiredis.ProtocolError) as error:
            raise TransportError(_reason(error)) from error
        return reply


def _pack(command: tuple[bytes, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # it takes any number of arguments
    return packed


def accept(reply: Any, command: bytes) -> Any:
    """Returns a reply that is no error.

    Raises:
        TransportError: it is one. Only its first word is kept: the rest may repeat arguments, such as a password.
    """
    if isinstance(reply, hiredis.ReplyError):
        raise TransportError(f"{command.decode()} was refused: {str(reply).partition(' ')[0]}")
    return reply


def _reason(error: Exception) -> str:
    cause = error.__cause__ if isinstance(error, trio.BrokenResourceError) and error.__cause__ else error
    return f"{type(cause).__name__}: {cause}"
