"""Addresses of clients, also behind proxies, as keys for limits."""

import ipaddress
from collections.abc import Sequence

from quart import Request


def client_address(peer: str | None, forwarded: Sequence[str], trusted_proxies: int) -> str:
    """Returns the client's address as a key for limits; of IPv6 the network, because one client has all of a /64.

    Args:
        peer: the address at the other end of the connection, if it has one.
        forwarded: the `X-Forwarded-For` headers, in their order.
        trusted_proxies: the number of the operator's own proxies before the service. Each appends the address that it
            was called from, so the client is that many entries from the end; clients can forge those before it.

    Example: with one trusted proxy and `X-Forwarded-For: 10.0.0.1, 192.0.2.7` the client is 192.0.2.7.
    """
    hops = [hop.strip() for line in forwarded for hop in line.split(",")]
    # With fewer entries than proxies, proxies wrote all of them: the first is nearest to the client.
    hop = hops[-min(trusted_proxies, len(hops))] if trusted_proxies and hops else ""
    for text in (hop, peer or ""):
        host = text[1:].partition("]")[0] if text.startswith("[") else text
        if host.count(":") == 1:
            host = host.partition(":")[0]
        try:
            found = ipaddress.ip_address(host)
        except ValueError:
            continue
        if isinstance(found, ipaddress.IPv4Address):
            return str(found)
        if found.ipv4_mapped is not None:
            return str(found.ipv4_mapped)
        return str(ipaddress.IPv6Address(int(found) >> 64 << 64)) + "/64"
    return "unknown"


def request_address(request: Request, trusted_proxies: int) -> str:
    """Returns the client of a request, as a key for limits; see `client_address`."""
    peer = request.scope.get("client")
    forwarded = request.headers.getlist("X-Forwarded-For")
    return client_address(None if peer is None else peer[0], forwarded, trusted_proxies)
