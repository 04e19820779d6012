"""Reaches a server: one address for REST and the WebSocket, one TLS context."""

import ssl
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

import httpx2
import trio


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a service.

    Attributes:
        base_url: without a slash at the end.
        prefix: the path of the service behind a proxy; often empty.
    """

    base_url: str
    host: str
    port: int
    is_secure: bool
    prefix: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Parses an `http` or `https` URL.

        Raises:
            ValueError: it is not such a URL, or has a query, a fragment or a password. The message does not quote it.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
            (parts.hostname or "").encode("idna")
        except ValueError:
            raise ValueError("the server's URL must name a host, and may name a port, as a number") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("the server's URL must begin with http:// or https:// and name a host")
        if parts.query or parts.fragment or parts.username or parts.password:
            raise ValueError("the server's URL must have no user, no query and no fragment")
        is_secure = parts.scheme == "https"
        return cls(
            url.rstrip("/"), parts.hostname, port or (443 if is_secure else 80), is_secure, parts.path.rstrip("/")
        )

    @property
    def authority(self) -> str:
        """Host and port, as in the header `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.is_secure else 80) else f"{host}:{self.port}"


class Network:
    """Connects by TCP and TLS. A subclass may connect in another way: through a tunnel, or in memory.

    Args:
        ssl_context: trusted certificates for `https`; by default those of the system.
    """

    def __init__(self, ssl_context: ssl.SSLContext | None = None) -> None:
        self._ssl_context = ssl_context

    def http_transport(self, _address: Address) -> httpx2.AsyncBaseTransport:
        """Returns the transport of REST requests."""
        return httpx2.AsyncHTTPTransport(verify=self._context())

    async def open_stream(self, address: Address) -> trio.abc.Stream:
        """Opens a stream for a WebSocket.

        Raises:
            OSError: the server cannot be reached.
        """
        if not address.is_secure:
            return await trio.open_tcp_stream(address.host, address.port)
        return await trio.open_ssl_over_tcp_stream(
            address.host, address.port, ssl_context=self._context(), https_compatible=True
        )

    def _context(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()
        return self._ssl_context
