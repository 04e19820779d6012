"""Finds the Redis server that the bus uses: the one of the URL, the primary of sentinels, or the owner of a slot."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, TypeVar

import trio

from pulse_trio.bus_url import Credentials, RedisUrl

from .redis_connection import RedisConnection
from .transport import TransportError

ATTEMPT_TIMEOUT: Final = 2.0  # seconds for one server of several
SENTINEL_INTERVAL: Final = 5.0  # seconds between two questions whether the primary is still the primary

T = TypeVar("T")
Address: TypeAlias = tuple[str, int]


class RedisServers:
    """The servers of a URL.

    Args:
        url: the URL.
        tls: for `rediss`.
    """

    def __init__(self, url: RedisUrl, tls: ssl.SSLContext | None) -> None:
        self._url = url
        self._tls = tls
        self._seeds = list(url.servers)  # that answered last comes first

    async def connect(self, channel: bytes) -> tuple[RedisConnection, Address]:
        """Connects to the server on which `channel` is, in RESP3; returns its address, too.

        Raises:
            TransportError: none can be reached, or it is no primary.

        Cancelled: nothing is left open.
        """
        if self._url.kind == "sentinel":
            address = await self.find_primary()
        elif self._url.kind == "cluster":
            address = await self._ask_any(self._url.credentials, lambda seed, to: _find_owner(seed, to, channel))
        else:
            address = self._url.servers[0]
        connection = await RedisConnection.open(*address, self._tls)
        try:
            await connection.begin(self._url.credentials)
            if connection.role in ("replica", "slave", "sentinel"):
                raise TransportError(f"{address[0]}:{address[1]} is a {connection.role}, not a primary")
        except BaseException:
            connection.close()
            raise
        return connection, address

    async def find_primary(self) -> Address:
        """Asks the sentinels for the primary.

        Raises:
            TransportError: none answers, or none knows it.
        """
        return await self._ask_any(self._url.sentinel_credentials, self._ask_sentinel)

    async def watch_primary(self, address: Address) -> None:
        """Asks the sentinels from time to time, until the primary is another.

        Sentinels end the connections of a former primary, but only once they reach it.

        Raises:
            TransportError: the primary is another.
        """
        while True:
            await trio.sleep(SENTINEL_INTERVAL)
            try:
                found = await self.find_primary()
            except TransportError:
                continue  # while they do not answer, the primary may be as well as it was
            if found != address:
                raise TransportError("the sentinels have another primary")

    async def _ask_sentinel(self, connection: RedisConnection, _: Address) -> Address:
        found = await connection.ask(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._url.primary.encode())
        if found is None:
            raise TransportError("the sentinel does not know this primary")
        return found[0].decode(), int(found[1])

    async def _ask_any(
        self, credentials: Credentials, question: Callable[[RedisConnection, Address], Awaitable[T]]
    ) -> T:
        """Asks the servers of the URL one after the other; returns the first answer."""
        failure = TransportError("no server is named")
        for address in list(self._seeds):
            connection = None
            try:
                with trio.fail_after(ATTEMPT_TIMEOUT):
                    connection = await RedisConnection.open(*address, self._tls)
                    await connection.authenticate(credentials)
                    answer = await question(connection, address)
            except trio.TooSlowError:
                failure = TransportError(f"{address[0]}:{address[1]} does not answer")
            except TransportError as error:
                failure = error
            else:
                self._seeds.remove(address)
                self._seeds.insert(0, address)
                return answer
            finally:
                if connection is not None:
                    connection.close()
            self._seeds.remove(address)
            self._seeds.append(address)
        raise failure


async def _find_owner(connection: RedisConnection, address: Address, channel: bytes) -> Address:
    """Asks a node of a cluster for the primary that owns a channel's slot."""
    slot = await connection.ask(b"CLUSTER", b"KEYSLOT", channel)
    ranges: list[list[Any]] = await connection.ask(b"CLUSTER", b"SLOTS")
    for first, last, primary, *_ in ranges:
        if first <= slot <= last:
            # No host: the one that was asked (CLUSTER SLOTS, "NULL and empty endpoints").
            return (primary[0] or b"").decode() or address[0], int(primary[1])
    raise TransportError("the cluster has no server for the channel")
