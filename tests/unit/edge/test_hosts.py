"""Host names under which the service answers, and what is no host."""

import pytest

from pulse_trio.edge.hosts import Hosts
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.settings import Settings


def hosts(names: str = "") -> Hosts:
    return Hosts(Settings(allowed_hosts=names))  # type: ignore[arg-type]


def refusal(checked: Hosts, host: str | None, path: bytes = b"/") -> ErrorCode:
    with pytest.raises(PulseError) as caught:
        checked.check(host, path)
    return caught.value.code


@pytest.mark.parametrize(
    "host",
    [
        *("a b", "a@b", "${jndi:ldap://x}", "a/b", "a,b", "[::1", "[::g]", "a:b", "a:99999", "a:80:80", "é", "\x00"),
        *(".", "..", "a..", "chat..example", ".a", "a" * 64, f"{'a' * 64}.example"),
    ],
)
@pytest.mark.parametrize("path", [b"/", b"/healthz"])
def test_what_is_no_host_is_refused_with_and_without_a_list(host: str, path: bytes) -> None:
    assert refusal(hosts(), host, path) is ErrorCode.BAD_REQUEST
    assert refusal(hosts("chat.example"), host, path) is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize(
    "host", [None, "", "anything.example", "192.0.2.7:8000", "[::1]:8000", "under_score", "x:", "a.", "a" * 63]
)
def test_without_a_list_every_host_is_answered(host: str | None) -> None:
    hosts().check(host, b"/")


@pytest.mark.parametrize("host", ["chat.example", "CHAT.example:8000", "chat.example.", "[2001:db8:0::1]:443"])
def test_listed_hosts_are_answered(host: str) -> None:
    hosts("chat.example, [2001:db8::1], a:8000").check(host, b"/")


@pytest.mark.parametrize("host", [None, "", "evil.example", "chat.example.evil", "xchat.example", "a", "a:80", "[::1]"])
def test_other_hosts_are_misdirected_but_for_probes(host: str | None) -> None:
    listed = hosts("chat.example, [2001:db8::1], a:8000")
    assert refusal(listed, host) is ErrorCode.MISDIRECTED
    assert refusal(listed, host, b"/healthz/") is ErrorCode.MISDIRECTED
    for path in (b"/healthz", b"/readyz", b"/metrics"):
        listed.check(host, path)
