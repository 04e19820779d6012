"""The gate: connections and requests of the process and of an address."""

from contextlib import ExitStack

import pytest
from trio.testing import MockClock

from pulse_trio.edge.server.gate import Gate, reserved_files
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.settings import Settings


def gate(files: int | None = None, **settings: int) -> Gate:
    return Gate(Settings(**settings), files=files)


def rejected(opened: Gate, peer: str | None) -> tuple[ErrorCode, float | None]:
    with pytest.raises(PulseError) as refused:
        opened.admit(peer)
    return refused.value.code, refused.value.retry_after


async def test_connections_of_an_address_are_bounded_and_slots_come_back(mock_clock: MockClock) -> None:
    opened = gate(connections_per_address=2)
    slots = [opened.admit("192.0.2.1"), opened.admit("192.0.2.1")]
    assert rejected(opened, "192.0.2.1") == (ErrorCode.TOO_MANY_CONNECTIONS, 1)
    other = opened.admit("192.0.2.2")
    assert (opened.open, opened.count("192.0.2.1"), opened.count("192.0.2.2")) == (3, 2, 1)
    slots[0].leave()
    slots[0] = opened.admit("192.0.2.1")
    for slot in (*slots, other):
        slot.leave()
    assert (opened.open, opened.count("192.0.2.1"), opened.count("192.0.2.2")) == (0, 0, 0)


async def test_connections_of_the_process_are_bounded_by_its_files(mock_clock: MockClock) -> None:
    opened = gate(max_connections=2)
    first = opened.admit("192.0.2.1")
    opened.admit("192.0.2.2")
    assert rejected(opened, "192.0.2.3") == (ErrorCode.UNAVAILABLE, 1)
    assert rejected(opened, None) == (ErrorCode.UNAVAILABLE, 1)
    first.leave()
    opened.admit(None)
    enough = reserved_files(Settings())
    for files, slots in ((4, 1), (64, 16), (256, 167), (5 * enough, 4 * enough)):
        short = gate(max_connections=0, connections_per_address=0, files=files)
        for _ in range(slots):
            short.admit("192.0.2.1")
        assert rejected(short, "192.0.2.1") == (ErrorCode.UNAVAILABLE, 1)


def test_a_large_pool_of_the_database_takes_its_files_from_the_clients() -> None:
    large = Settings(pool_max=1_000)
    assert (reserved_files(Settings(), 4_096), reserved_files(large, 4_096)) == (256, 1_147)
    assert (reserved_files(Settings()), reserved_files(large)) == (256, 1_246)


async def test_request_rate_per_address_counts_the_first_request_at_accept(mock_clock: MockClock) -> None:
    opened = gate(requests_per_second=1, requests_burst=3)
    slot = opened.admit("192.0.2.1")
    for _ in range(3):
        slot.count_request((), is_websocket=False)
    with pytest.raises(PulseError) as refused:
        slot.count_request(("198.51.100.7",), is_websocket=False)
    assert (refused.value.code, refused.value.retry_after) == (ErrorCode.RATE_LIMITED, 1)
    assert rejected(opened, "192.0.2.1") == (ErrorCode.RATE_LIMITED, 1)
    assert opened.open == 1, "a rejected connection has no slot"
    opened.admit("192.0.2.2")
    mock_clock.jump(1)
    slot.count_request((), is_websocket=True)


async def test_behind_a_proxy_its_clients_are_counted(mock_clock: MockClock) -> None:
    opened = gate(trusted_proxies=1, connections_per_address=2, requests_per_second=1, requests_burst=4)
    slots = [opened.admit("10.0.0.1") for _ in range(20)]  # all from the proxy
    for slot in slots[:2]:
        slot.count_request(("6.6.6.6, 198.51.100.7",), is_websocket=True)
    with pytest.raises(PulseError) as refused:
        slots[2].count_request(("198.51.100.7",), is_websocket=True)
    assert refused.value.code is ErrorCode.TOO_MANY_CONNECTIONS
    slots[2].count_request(("198.51.100.8",), is_websocket=True)
    for slot in slots[3:5]:
        slot.count_request(("198.51.100.7",), is_websocket=False)
    with pytest.raises(PulseError) as refused:
        slots[5].count_request(("198.51.100.7",), is_websocket=False)
    assert refused.value.code is ErrorCode.RATE_LIMITED
    slots[0].leave()
    mock_clock.jump(1)
    slots[5].count_request(("198.51.100.7",), is_websocket=True)


async def test_a_peer_that_is_no_proxy_is_counted_whatever_it_forwards(mock_clock: MockClock) -> None:
    opened = gate(trusted_proxies=1, connections_per_address=2, requests_per_second=1, requests_burst=4)
    slots = [opened.admit("192.0.2.1"), opened.admit("192.0.2.1")]
    assert rejected(opened, "192.0.2.1") == (ErrorCode.TOO_MANY_CONNECTIONS, 1)
    for number in range(4):  # the first one on each connection was counted when it was accepted
        slots[number % 2].count_request((f"198.51.100.{number}",), is_websocket=False)
    with pytest.raises(PulseError) as refused:
        slots[0].count_request(("198.51.100.9",), is_websocket=False)
    assert refused.value.code is ErrorCode.RATE_LIMITED


async def test_limits_of_0_reject_no_connection() -> None:
    opened = gate(max_connections=0, connections_per_address=0, requests_per_second=0, requests_burst=1)
    for _ in range(5_000):
        opened.admit("192.0.2.1").count_request((), is_websocket=True)
    assert opened.open == 5_000


async def test_answers_to_rejected_connections_are_bounded() -> None:
    opened = gate()
    answered = 0
    with ExitStack() as stack:
        for _ in range(1_000):
            answered += stack.enter_context(opened.answering())
    assert 0 < answered < 1_000
    with opened.answering() as is_answered:
        assert is_answered


async def test_connections_and_requests_of_an_ipv6_network_are_bounded(mock_clock: MockClock) -> None:
    opened = gate(connections_per_address=2, addresses_per_ipv6_56=2, addresses_per_ipv6_48=3)
    slots = [opened.admit(f"2001:db8:1:{number}::1") for number in range(4)]
    assert rejected(opened, "2001:db8:1:5::1") == (ErrorCode.TOO_MANY_CONNECTIONS, 1), "2 addresses of a /56"
    slots += [opened.admit(f"2001:db8:1:{number}00::1") for number in range(1, 3)]
    assert rejected(opened, "2001:db8:1:300::1") == (ErrorCode.TOO_MANY_CONNECTIONS, 1), "3 addresses of a /48"
    slots.append(opened.admit("2001:db8:2::1"))
    slots[0].leave()
    slots[0] = opened.admit("2001:db8:1:300::1")
    for slot in slots:
        slot.leave()
    assert (opened.open, opened.count("2001:db8:1::/48"), opened.count("2001:db8:1::/56")) == (0, 0, 0)
    asking = gate(requests_per_second=1, requests_burst=2, addresses_per_ipv6_56=2, addresses_per_ipv6_48=3)
    for number in range(4):
        asking.admit(f"2001:db8:1:{number}::1").leave()
    assert rejected(asking, "2001:db8:1:5::1")[0] is ErrorCode.RATE_LIMITED
