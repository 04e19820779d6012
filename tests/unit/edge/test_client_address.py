"""Addresses of clients, with and without proxies."""

from collections.abc import Sequence

import pytest

from pulse_trio.edge.client_address import client_address


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxies", "address"),
    [
        ("192.0.2.1", [], 0, "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], 0, "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], 1, "198.51.100.7"),
        ("192.0.2.1", ["6.6.6.6, 198.51.100.7"], 1, "198.51.100.7"),
        ("192.0.2.1", ["6.6.6.6", "198.51.100.7"], 1, "198.51.100.7"),
        ("192.0.2.1", ["6.6.6.6, 198.51.100.7,203.0.113.9"], 2, "198.51.100.7"),
        ("192.0.2.1", ["198.51.100.7"], 2, "198.51.100.7"),
        ("192.0.2.1", [], 1, "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7:4711"], 1, "198.51.100.7"),
        ("192.0.2.1", ["[2001:db8:1:2:3:4:5:6]:4711"], 1, "2001:db8:1:2::/64"),
        ("192.0.2.1", ["2001:db8:1:2::1"], 1, "2001:db8:1:2::/64"),
        ("192.0.2.1", ["nonsense"], 1, "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7, "], 1, "192.0.2.1"),
        ("2001:db8:1:2:ffff::9", [], 0, "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", [], 0, "192.0.2.1"),
        (None, [], 0, "unknown"),
    ],
)
def test_clients_have_one_address_behind_proxies(
    peer: str | None, forwarded: Sequence[str], proxies: int, address: str
) -> None:
    assert client_address(peer, forwarded, proxies) == address
