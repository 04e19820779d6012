"""Redis or Valkey as the engine: one channel, on one server; in a cluster with sharded pub/sub.

Plain pub/sub would send each payload to every node of a cluster. Redis 6 or newer; for a cluster 7.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import Final

import hiredis
import trio

from pulse_trio.bus_url import RedisUrl
from pulse_trio.errors import LaunchError

from .redis_connection import RedisConnection, accept
from .redis_servers import Address, RedisServers
from .transport import CHECKPOINT_EVERY, Link, Transport, TransportError

MAX_PAYLOAD_BYTES: Final = 32_768
MAX_PAYLOADS: Final = 16  # in one write: half a megabyte


class RedisTransport(Transport):
    """Links to Redis.

    Args:
        url: where it is.
        channel: the channel, the same for all processes of the service.

    Raises:
        LaunchError: a file for TLS cannot be used.
    """

    name = "redis"
    max_payload_bytes = MAX_PAYLOAD_BYTES
    max_payloads = MAX_PAYLOADS

    def __init__(self, url: RedisUrl, channel: str) -> None:
        self._is_sentinel = url.kind == "sentinel"
        is_sharded = url.kind == "cluster"
        self._publish: Final = b"SPUBLISH" if is_sharded else b"PUBLISH"
        self._subscribe: Final = b"SSUBSCRIBE" if is_sharded else b"SUBSCRIBE"
        self._channel: Final = channel.encode()
        self._servers: Final = RedisServers(url, _tls_context(url) if url.is_tls else None)

    async def connect(self) -> Link:
        connection, address = await self._servers.connect(self._channel)
        try:
            await connection.subscribe(self._subscribe, self._channel)
        except BaseException:
            connection.close()
            raise
        watched = (self._servers, address) if self._is_sentinel else None
        return _RedisLink(connection, (self._publish, self._channel), watched)


class _RedisLink(Link):
    def __init__(
        self,
        connection: RedisConnection,
        command: tuple[bytes, bytes],
        watched: tuple[RedisServers, Address] | None,
    ) -> None:
        self._connection = connection
        self._command = command
        self._watched = watched
        self._unanswered = 0
        self._is_answered = trio.Event()

    async def send(self, payloads: Sequence[bytes]) -> None:
        self._unanswered = len(payloads)
        self._is_answered = trio.Event()
        await self._connection.send([(*self._command, payload) for payload in payloads])
        await self._is_answered.wait()

    async def receive(self, on_payload: Callable[[bytes], None]) -> None:
        if self._watched is None:
            await self._read(on_payload)
            return
        servers, address = self._watched
        async with trio.open_nursery() as nursery:
            nursery.start_soon(servers.watch_primary, address)
            await self._read(on_payload)

    async def _read(self, on_payload: Callable[[bytes], None]) -> None:
        received = 0
        while True:
            reply = await self._connection.read()
            received += 1
            if received % CHECKPOINT_EVERY == 0:
                await trio.lowlevel.checkpoint()
            if isinstance(reply, hiredis.PushNotification):
                kind = reply[0]
                if kind in (b"message", b"smessage"):
                    on_payload(reply[2])
                elif kind in (b"unsubscribe", b"sunsubscribe"):
                    raise TransportError("the server has ended the subscription: the slot has moved")
                continue
            accept(reply, self._command[0])
            self._unanswered -= 1
            if self._unanswered == 0:
                self._is_answered.set()

    def close(self) -> None:
        self._connection.close()


def _tls_context(url: RedisUrl) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=url.ca_file or None)
        if url.certificate_file:
            context.load_cert_chain(url.certificate_file, url.key_file or None)
    except (OSError, ssl.SSLError) as error:
        raise LaunchError(f"PULSE_BUS_URL: a file for TLS cannot be used: {type(error).__name__}") from None
    return context
