"""Addresses of clients, with and without proxies."""

from collections.abc import Sequence

import pytest

from pulse_trio.edge.client_address import Client, Proxies
from pulse_trio.settings import Settings


@pytest.mark.parametrize(
    ("peer", "forwarded", "proxies", "address"),
    [
        ("192.0.2.1", [], 0, "192.0.2.1"),
        ("192.0.2.1", ["198.51.100.7"], 0, "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.7"], 1, "198.51.100.7"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.7"], 1, "198.51.100.7"),
        ("10.0.0.1", ["6.6.6.6", "198.51.100.7"], 1, "198.51.100.7"),
        ("10.0.0.1", ["6.6.6.6, 198.51.100.7,203.0.113.9"], 2, "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7"], 2, "198.51.100.7"),
        ("192.0.2.1", [], 1, "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.7:4711"], 1, "198.51.100.7"),
        ("10.0.0.1", ["[2001:db8:1:2:3:4:5:6]:4711"], 1, "2001:db8:1:2::/64"),
        ("10.0.0.1", ["2001:db8:1:2::1"], 1, "2001:db8:1:2::/64"),
        ("10.0.0.1", ["nonsense"], 1, "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.7, "], 1, "10.0.0.1"),
        ("2001:db8:1:2:ffff::9", [], 0, "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", [], 0, "192.0.2.1"),
        ("::ffff:10.0.0.1", ["198.51.100.7"], 1, "198.51.100.7"),
        ("fd00::1", ["198.51.100.7"], 1, "198.51.100.7"),
        ("fe80::1%eth0", ["198.51.100.7"], 1, "198.51.100.7"),
        ("::1", ["198.51.100.7"], 1, "198.51.100.7"),
        ("192.0.2.1", ["198.51.100.7"], 1, "192.0.2.1"),  # no proxy of ours
        ("172.32.0.1", ["198.51.100.7"], 1, "172.32.0.1"),
        ("::ffff:192.0.2.1", ["198.51.100.7"], 1, "192.0.2.1"),
        (None, ["198.51.100.7"], 1, "198.51.100.7"),  # a Unix socket
        (None, ["198.51.100.7"], 0, "unknown"),
        (None, [], 0, "unknown"),
    ],
)
def test_clients_have_one_address_behind_proxies(
    peer: str | None, forwarded: Sequence[str], proxies: int, address: str
) -> None:
    assert Proxies(Settings(trusted_proxies=proxies)).client(peer, forwarded).key == address


def test_the_networks_of_proxies_are_a_setting() -> None:
    proxies = Proxies(Settings(trusted_proxies=1, proxy_networks="192.0.2.0/24,2001:db8::1"))  # type: ignore[arg-type]
    assert proxies.client("192.0.2.1", ["198.51.100.7"]).key == "198.51.100.7"
    assert proxies.client("2001:db8::1", ["198.51.100.7"]).key == "198.51.100.7"
    assert proxies.client("10.0.0.1", ["198.51.100.7"]).key == "10.0.0.1"
    assert not Proxies(Settings(trusted_proxies=1, proxy_networks="")).is_proxy("127.0.0.1")  # type: ignore[arg-type]


def test_the_log_has_the_whole_address_of_a_client() -> None:
    assert Proxies(Settings()).client("2001:db8:1:2:ffff::9", []) == Client("2001:db8:1:2:ffff::9", "2001:db8:1:2::/64")
