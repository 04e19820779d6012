"""Addresses of clients, also behind proxies: for the log, and as keys for limits."""

import ipaddress
from collections.abc import Sequence
from typing import Final, NamedTuple

from quart import Request, Websocket

from pulse_trio.settings import Settings

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

UNKNOWN: Final = "unknown"


class Client(NamedTuple):
    """A client: its address, and the key under which limits count it.

    Of IPv6 the key is the network, because one client has all of a /64. Both are `unknown` for a client without an
    address, as on a Unix socket.
    """

    address: str
    key: str


class Proxies:
    """The operator's own proxies in front of the service."""

    def __init__(self, settings: Settings) -> None:
        self._count = settings.trusted_proxies
        self._networks = [ipaddress.ip_network(network) for network in settings.proxy_networks]

    def is_proxy(self, peer: str | None) -> bool:
        """Returns whether a peer is one of the proxies.

        It is one on a Unix socket, which only programs of this machine reach, or in `PULSE_PROXY_NETWORKS`; never with
        `PULSE_TRUSTED_PROXIES` 0.
        """
        if not self._count or peer is None:
            return self._count > 0
        address = parse_address(peer)
        return address is not None and any(address in network for network in self._networks)

    def client(self, peer: str | None, forwarded: Sequence[str]) -> Client:
        """Returns the client of a request.

        Args:
            peer: the address at the other end of the connection, if it has one.
            forwarded: the `X-Forwarded-For` headers, in their order; they count only from a proxy. Each of the
                `PULSE_TRUSTED_PROXIES` appends the address that it was called from, so the client is that many entries
                from the end; clients can forge those before it.

        Example: with one proxy and `X-Forwarded-For: 10.0.0.1, 192.0.2.7` the client is 192.0.2.7.
        """
        hop = ""
        if forwarded and self.is_proxy(peer):
            hops = [hop.strip() for line in forwarded for hop in line.split(",")]
            # With fewer entries than proxies, proxies wrote all of them: the first is nearest to the client.
            hop = hops[-min(self._count, len(hops))]
        for text in (hop, peer or ""):
            address = parse_address(text)
            if address is not None:
                return Client(str(address), _key(address))
        return Client(UNKNOWN, UNKNOWN)

    def client_of(self, request: Request | Websocket) -> Client:
        """Returns the client of a request or a handshake."""
        peer = request.scope.get("client")
        return self.client(None if peer is None else peer[0], request.headers.getlist("X-Forwarded-For"))


def parse_address(text: str) -> _Address | None:
    """Parses an address, with or without a port; one of IPv4 in the form of IPv6 is the one of IPv4."""
    host = text[1:].partition("]")[0] if text.startswith("[") else text
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address):
        return found.ipv4_mapped or ipaddress.IPv6Address(int(found))  # without its zone
    return found


def _key(address: _Address) -> str:
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.IPv6Address(int(address) >> 64 << 64)) + "/64"
