"""Token buckets on the virtual clock."""

import math

from trio.testing import MockClock

from pulse_trio.buckets import AddressBuckets, Buckets, TokenBucket
from pulse_trio.networks import Networks


async def test_a_bucket_holds_a_burst_and_refills(mock_clock: MockClock) -> None:
    bucket = TokenBucket(rate=2, burst=3)
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]
    assert bucket.wait() == 0.5
    assert bucket.wait(4) == math.inf
    mock_clock.jump(0.49)
    assert not bucket.take()
    mock_clock.jump(0.01)
    assert bucket.take()
    mock_clock.jump(1_000)
    assert bucket.is_full
    assert [bucket.take() for _ in range(4)] == [True, True, True, False], "no more than a burst, after any pause"
    assert not bucket.take(2)
    mock_clock.jump(0.5)
    assert bucket.take(), "a rejected take takes nothing"


async def test_a_bucket_with_rate_0_is_no_limit() -> None:
    bucket = TokenBucket(rate=0, burst=1)
    assert all(bucket.take(10) for _ in range(100))
    assert bucket.is_full
    assert bucket.wait(10) == 0


async def test_draining_stops_at_empty(mock_clock: MockClock) -> None:
    bucket, unlimited = TokenBucket(rate=2, burst=3), TokenBucket(rate=0, burst=1)
    bucket.drain(2)
    assert bucket.take()
    bucket.drain(100)
    unlimited.drain(100)
    assert not bucket.take()
    mock_clock.jump(0.5)
    assert bucket.take()
    assert unlimited.take()


async def test_keys_have_their_own_buckets_and_full_ones_are_forgotten(mock_clock: MockClock) -> None:
    buckets = Buckets(rate=1, burst=2)
    assert [buckets.take("a"), buckets.take("a"), buckets.take("a")] == [True, True, False]
    assert buckets.take("b")
    assert buckets.wait("a") == 1
    assert buckets.wait("never seen") == 0
    buckets.give_back("b")
    assert len(buckets) == 1, "b's is full again"
    mock_clock.jump(1)
    assert buckets.take("a")
    assert not buckets.has("a")
    mock_clock.jump(2)
    assert buckets.take("c")
    assert len(buckets) == 1, "a's is full again"
    buckets.give_back("nobody's")
    assert len(buckets) == 1


async def test_many_keys_are_bounded_and_the_last_used_stay(mock_clock: MockClock) -> None:
    buckets = Buckets(rate=0.001, burst=1, max_entries=10)
    for number in range(1_000):
        assert buckets.take(str(number))
        assert len(buckets) <= 10
        if number > 995:
            assert not buckets.take("996"), "its use keeps it"
    assert not buckets.take("999")
    assert buckets.take("0"), "forgotten, because it was the least recently used"


async def test_networks_of_addresses_have_larger_buckets(mock_clock: MockClock) -> None:
    buckets = AddressBuckets(rate=1, burst=2, networks=Networks(per_56=3, per_48=4))
    of_56 = [f"2001:db8:1:{number:x}::/64" for number in range(10)]
    assert [buckets.take(of_56[0]) for _ in range(3)] == [True, True, False], "an address has 2"
    assert [buckets.take(address) for address in of_56[1:]] == [True] * 4 + [False] * 5, "a /56 has 6"
    of_48 = [f"2001:db8:1:{number:x}00::/64" for number in range(1, 10)]
    assert [buckets.take(address) for address in of_48] == [True] * 2 + [False] * 7, "a /48 has 8"
    assert buckets.take("2001:db8:2::/64")
    assert buckets.take("192.0.2.1")
    buckets.give_back(of_48[0])
    assert [buckets.take(of_48[3]), buckets.take(of_48[4])] == [True, False]
    assert buckets.wait(of_48[4]) == 0.25, "the /48 gains 4 a second"
    assert buckets.wait("2001:db8:2::/64") == 0


async def test_what_a_network_refuses_costs_its_address_nothing(mock_clock: MockClock) -> None:
    buckets = AddressBuckets(rate=0.001, burst=1, networks=Networks(per_56=1, per_48=1))
    assert buckets.take("2001:db8:1:1::/64")
    assert not buckets.take("2001:db8:1:2::/64")
    buckets.give_back("2001:db8:1:1::/64")
    assert buckets.take("2001:db8:1:2::/64")
