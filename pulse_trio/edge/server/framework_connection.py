"""Hypercorn's connection, which can leave the framework before it ends."""

from contextlib import suppress

import trio
from hypercorn.events import Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr


class FrameworkConnection(TCPServer):
    """A connection with the original's first part: it speaks HTTP until it has ended, or is to become something else.

    The original's `run` then closes the stream, and keeps its nursery and the state of HTTP until it does.
    """

    async def run_framework(self) -> bool:
        """Serves HTTP: until the client has gone, or `_read_data` returns because something else serves the connection.

        Closes nothing. Returns False if HTTP has not begun: the client has gone, or has failed to begin TLS.
        """
        stream: trio.abc.Stream = self.stream
        ssl, alpn, socket = False, "http/1.1", getattr(stream, "socket", None)
        if isinstance(stream, trio.SSLStream):
            try:
                with trio.fail_after(self.config.ssl_handshake_timeout):
                    await stream.do_handshake()
            except (trio.BrokenResourceError, trio.TooSlowError):
                return False
            ssl, alpn, socket = True, stream.selected_alpn_protocol(), stream.transport_stream.socket
        assert socket is not None
        with suppress(OSError):
            client = parse_socket_addr(socket.family, socket.getpeername())
            server = parse_socket_addr(socket.family, socket.getsockname())
            async with TaskGroup() as self._task_group:
                self.protocol = ProtocolWrapper(
                    self.app,
                    self.config,
                    self.context,
                    self._task_group,
                    ConnectionState(self.state),
                    ssl,
                    client,
                    server,
                    self.protocol_send,
                    alpn,
                )
                await self.protocol.initiate()
                await self.protocol_send(Updated(idle=True))
                await self._read_data()
            return True
        return False
