"""Flood limits on the virtual clock: buckets, a connection's flow, connections, logins, whose address it is."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.edge.buckets import Buckets, TokenBucket
from pulse_trio.edge.limits import (
    Changes,
    Connections,
    Flow,
    Logins,
    Registrations,
    Verdict,
    client_address,
)
from pulse_trio.edge.server.frame_guard import FrameGuard, MessageBuffer, TooBig
from pulse_trio.edge.server.gate import RESERVED_FILES, Gate
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.settings import Settings

ALICE, BOB = UUID(int=1), UUID(int=2)


def flow(**settings: int) -> Flow:
    return Flow(Settings(**settings))


async def test_a_bucket_holds_a_burst_and_fills_up_with_time(mock_clock: MockClock) -> None:
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
    assert [bucket.take() for _ in range(4)] == [True, True, True, False], "no more than a burst, however long it was"
    assert not bucket.take(2)
    mock_clock.jump(0.5)
    assert bucket.take(), "what was refused took nothing"


async def test_a_bucket_with_rate_0_is_no_limit() -> None:
    bucket = TokenBucket(rate=0, burst=1)
    assert all(bucket.take(10) for _ in range(100))
    assert bucket.is_full
    assert bucket.wait(10) == 0


async def test_a_bucket_drains_no_further_than_empty(mock_clock: MockClock) -> None:
    bucket, unlimited = TokenBucket(rate=2, burst=3), TokenBucket(rate=0, burst=1)
    bucket.drain(2)
    assert bucket.take()
    bucket.drain(100)
    unlimited.drain(100)
    assert not bucket.take()
    mock_clock.jump(0.5)
    assert bucket.take()
    assert unlimited.take()


async def test_keys_do_not_share_a_bucket_and_full_ones_are_forgotten(mock_clock: MockClock) -> None:
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


async def test_many_keys_do_not_cost_memory_and_the_last_used_stay(mock_clock: MockClock) -> None:
    buckets = Buckets(rate=0.001, burst=1, entries=10)
    for number in range(1_000):
        assert buckets.take(str(number))
        assert len(buckets) <= 10
        if number > 995:
            assert not buckets.take("996"), "its use keeps it"
    assert not buckets.take("999")
    assert buckets.take("0"), "forgotten, as it was not used for longest"


async def test_an_ordinary_connection_is_never_refused(mock_clock: MockClock) -> None:
    sent = flow(frames_per_second=10, frames_burst=20)
    for _ in range(1_000):
        assert sent.judge(100) is Verdict.TAKE
        mock_clock.jump(0.1)


async def test_a_flood_is_told_of_once_a_second_and_closed_after_a_further_burst(mock_clock: MockClock) -> None:
    sent = flow(frames_per_second=1, frames_burst=5)
    assert [sent.judge(1) for _ in range(5)] == [Verdict.TAKE] * 5
    assert [sent.judge(1) for _ in range(3)] == [Verdict.REFUSE_ALOUD, Verdict.REFUSE, Verdict.REFUSE]
    mock_clock.jump(1)
    assert [sent.judge(1) for _ in range(3)] == [Verdict.TAKE, Verdict.REFUSE_ALOUD, Verdict.REFUSE]
    assert sent.judge(1) is Verdict.CLOSE


async def test_a_pause_makes_good_what_was_refused(mock_clock: MockClock) -> None:
    sent = flow(frames_per_second=1, frames_burst=5)
    for _ in range(10):
        verdicts = [sent.judge(1) for _ in range(10)]
        assert verdicts == [Verdict.TAKE] * 5 + [Verdict.REFUSE_ALOUD] + [Verdict.REFUSE] * 4
        mock_clock.jump(5)


async def test_who_is_always_a_little_too_fast_is_closed_in_the_end(mock_clock: MockClock) -> None:
    sent = flow(frames_per_second=10, frames_burst=20)
    verdicts = []
    for _ in range(10_000):
        verdicts.append(sent.judge(1))
        if verdicts[-1] is Verdict.CLOSE:
            break
        mock_clock.jump(1 / 15)
    assert verdicts[-1] is Verdict.CLOSE
    assert Verdict.REFUSE_ALOUD in verdicts


async def test_bytes_are_limited_like_frames_and_the_largest_frame_always_passes(mock_clock: MockClock) -> None:
    sent = flow(bytes_per_second=1_000, bytes_burst=4_000, max_frame_bytes=2_000)
    assert sent.judge(3_000) is Verdict.TAKE
    assert sent.judge(1_001) is Verdict.REFUSE_ALOUD
    assert sent.judge(1_000) is Verdict.TAKE, "a refused frame takes nothing"
    assert [sent.judge(1_500) for _ in range(2)] == [Verdict.REFUSE, Verdict.CLOSE]
    large = flow(bytes_per_second=1_000, bytes_burst=4_000, max_frame_bytes=50_000)
    assert large.judge(50_000) is Verdict.TAKE


async def test_limits_of_0_are_off() -> None:
    sent = flow(frames_per_second=0, frames_burst=1, bytes_per_second=0, bytes_burst=1_024)
    assert all(sent.judge(60_000) is Verdict.TAKE for _ in range(1_000))
    connections = Connections(0)
    with connections.hold(ALICE), connections.hold(ALICE), connections.hold(ALICE):
        assert connections.count(ALICE) == 3
    logins = Logins(0, 0)
    registrations = Registrations(0)
    for _ in range(1_000):
        logins.start("a", "alice")
        registrations.start("a")


async def test_connections_are_counted_for_each_user_and_given_up_however_they_end() -> None:
    connections = Connections(2)
    with connections.hold(ALICE):
        with connections.hold(ALICE), connections.hold(BOB):
            with pytest.raises(PulseError) as refused:
                connections.hold(ALICE)
            assert refused.value.code is ErrorCode.TOO_MANY_CONNECTIONS
        assert (connections.count(ALICE), connections.count(BOB)) == (1, 0)
        with trio.CancelScope() as scope, connections.hold(ALICE):
            scope.cancel()
            await trio.sleep_forever()
        assert scope.cancelled_caught
        assert connections.count(ALICE) == 1
    assert connections.count(ALICE) == 0


def refusal(logins: Logins, address: str, username: str) -> float:
    """Seconds that a refused attempt is told to wait."""
    with pytest.raises(PulseError) as refused:
        logins.start(address, username)
    assert refused.value.code is ErrorCode.RATE_LIMITED
    assert refused.value.retry_after is not None
    return refused.value.retry_after


async def test_failed_logins_close_an_account_for_those_who_failed_only(mock_clock: MockClock) -> None:
    logins = Logins(per_address=100, per_account=4)
    for _ in range(4):
        logins.start("bad", "Alice").fail()
    assert refusal(logins, "bad", "alice") == 900, "a quarter of an hour, and case makes no difference"
    logins.start("bad", "bob").fail()  # other accounts are open
    good = logins.start("good", "alice")  # who has not failed is let try
    good.forgive()
    for _ in range(20):
        logins.start("good", "alice").forgive()
    logins.start("good", "alice").fail()  # this one is wrong
    assert refusal(logins, "good", "alice") > 0
    mock_clock.jump(901)
    logins.start("bad", "alice").fail()
    assert refusal(logins, "bad", "alice") > 0


async def test_attempts_at_once_do_not_get_past_and_what_is_forgiven_counts_for_nothing(mock_clock: MockClock) -> None:
    logins = Logins(per_address=100, per_account=4)
    attempts = [logins.start("a", "alice") for _ in range(4)]
    refusal(logins, "a", "alice")
    for attempt in attempts:
        attempt.forgive()
        attempt.forgive()  # once is once
    again = [logins.start("a", "alice") for _ in range(4)]
    assert len(again) == 4
    refusal(logins, "a", "alice")


async def test_an_address_that_fails_at_many_accounts_is_refused_and_closes_none(mock_clock: MockClock) -> None:
    logins = Logins(per_address=10, per_account=3)
    for number in range(10):
        logins.start("bad", f"user{number}").fail()
    for _ in range(50):
        assert refusal(logins, "bad", "alice") == 360
    for _ in range(3):
        logins.start("other", "alice").fail()  # what was refused did not count against her
    mock_clock.jump(361)
    logins.start("bad", "carol").fail()


async def test_the_refusal_of_an_account_does_not_count_against_the_address() -> None:
    logins = Logins(per_address=10, per_account=3)
    for _ in range(3):
        logins.start("a", "alice").fail()
    for _ in range(50):
        refusal(logins, "a", "alice")
    for number in range(7):
        logins.start("a", f"user{number}").fail()
    refusal(logins, "a", "user8")


async def test_what_waits_for_attempts_under_way_may_come_back_at_once(mock_clock: MockClock) -> None:
    logins = Logins(per_address=6, per_account=4)
    attempts = [logins.start("a", "alice") for _ in range(4)]
    assert refusal(logins, "a", "alice") == 1, "nobody has failed"
    for attempt in attempts:
        attempt.fail()
        attempt.fail()  # once is once
        attempt.forgive()
    assert refusal(logins, "a", "alice") == 900
    others = [logins.start("a", f"user{number}") for number in range(2)]
    assert refusal(logins, "a", "user2") == 1
    for attempt in others:
        attempt.forgive()
    logins.start("a", "user2").fail()
    logins.start("a", "user3").fail()
    assert refusal(logins, "a", "user4") == 600
    assert not logins._under_way


async def test_registrations_of_an_address(mock_clock: MockClock) -> None:
    registrations = Registrations(per_address=2)
    registrations.start("a")
    registrations.start("a")
    with pytest.raises(PulseError) as refused:
        registrations.start("a")
    assert (refused.value.code, refused.value.retry_after) == (ErrorCode.RATE_LIMITED, 1_800)
    registrations.start("b")
    mock_clock.jump(1_801)
    registrations.start("a")


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
def test_whose_address_it_is(peer: str | None, forwarded: Sequence[str], proxies: int, address: str) -> None:
    assert client_address(peer, forwarded, proxies) == address


# --- Changes over REST ---


async def test_changes_of_a_user_are_limited_and_those_of_others_are_theirs(mock_clock: MockClock) -> None:
    changes = Changes("edits", rate=0.5, burst=2)
    changes.start(ALICE)
    changes.start(ALICE)
    with pytest.raises(PulseError) as refused:
        changes.start(ALICE)
    assert (refused.value.code, refused.value.retry_after) == (ErrorCode.RATE_LIMITED, 2)
    changes.start(BOB)
    mock_clock.jump(2)
    changes.start(ALICE)


# --- The frames of a WebSocket ---


def guard(**settings: int) -> FrameGuard:
    return FrameGuard(Settings(**settings))


async def test_frames_that_are_no_message_are_limited_and_reads_that_bring_none(mock_clock: MockClock) -> None:
    frames = guard(pieces_per_second=1, pieces_burst=3)
    assert [frames.take() for _ in range(4)] == [True, True, True, False]
    mock_clock.jump(2)
    assert frames.end_read(frames=0, is_inside=False)
    assert frames.end_read(frames=5, is_inside=True), "these were counted one by one"
    assert frames.end_read(frames=0, is_inside=True)
    assert not frames.end_read(frames=0, is_inside=True)


async def test_a_message_has_so_long_from_its_first_byte_whatever_comes_in_between(mock_clock: MockClock) -> None:
    frames = guard(message_timeout=10)
    assert frames.deadline == math.inf
    start = trio.current_time()
    frames.end_read(frames=0, is_inside=False)  # the beginning of a header
    assert frames.deadline == start + 10
    mock_clock.jump(4)
    frames.end_read(frames=1, is_inside=True)  # its first piece
    frames.end_read(frames=1, is_inside=True)  # and a ping
    assert frames.deadline == start + 10
    frames.end_read(frames=1, is_inside=False)
    assert frames.deadline == math.inf
    frames.end_read(frames=1, is_inside=True)
    assert frames.deadline == start + 14
    mock_clock.jump(5)
    frames.end_message()
    frames.end_read(frames=2, is_inside=True)  # the end of one, and the beginning of the next
    assert frames.deadline == start + 19


def test_a_message_is_counted_in_bytes_before_it_is_kept() -> None:
    buffer = MessageBuffer(8)
    assert not buffer.is_begun
    buffer.extend("€€")
    buffer.extend("")
    assert buffer.is_begun
    assert buffer.take() == "€€"
    assert not buffer.is_begun
    buffer.extend(b"12345678")
    assert buffer.take() == b"12345678"
    buffer.extend("€€")
    with pytest.raises(TooBig):
        buffer.extend("€")
    assert not buffer.is_begun
    buffer.extend("€€aa")
    assert buffer.take() == "€€aa"


# --- The gate ---


def gate(files: int | None = None, **settings: int) -> Gate:
    return Gate(Settings(**settings), files=files)


def turned_away(opened: Gate, peer: str | None) -> tuple[ErrorCode, float | None]:
    with pytest.raises(PulseError) as refused:
        opened.admit(peer)
    return refused.value.code, refused.value.retry_after


async def test_an_address_has_so_many_connections_and_gets_places_back(mock_clock: MockClock) -> None:
    opened = gate(connections_per_address=2)
    places = [opened.admit("192.0.2.1"), opened.admit("192.0.2.1")]
    assert turned_away(opened, "192.0.2.1") == (ErrorCode.TOO_MANY_CONNECTIONS, 1)
    other = opened.admit("192.0.2.2")
    assert (opened.open, opened.count("192.0.2.1"), opened.count("192.0.2.2")) == (3, 2, 1)
    places[0].leave()
    places[0] = opened.admit("192.0.2.1")
    for place in (*places, other):
        place.leave()
    assert (opened.open, opened.count("192.0.2.1"), opened.count("192.0.2.2")) == (0, 0, 0)


async def test_the_process_has_so_many_connections_and_never_more_than_files(mock_clock: MockClock) -> None:
    opened = gate(max_connections=2)
    first = opened.admit("192.0.2.1")
    opened.admit("192.0.2.2")
    assert turned_away(opened, "192.0.2.3") == (ErrorCode.UNAVAILABLE, 1)
    assert turned_away(opened, None) == (ErrorCode.UNAVAILABLE, 1)
    first.leave()
    opened.admit(None)
    for files, places in ((4, 3), (RESERVED_FILES * 5, RESERVED_FILES * 4)):
        short = gate(max_connections=0, connections_per_address=0, files=files)
        for _ in range(places):
            short.admit("192.0.2.1")
        assert turned_away(short, "192.0.2.1") == (ErrorCode.UNAVAILABLE, 1)


async def test_an_address_asks_so_often_and_a_connection_is_paid_with_its_first_request(mock_clock: MockClock) -> None:
    opened = gate(requests_per_second=1, requests_burst=3)
    place = opened.admit("192.0.2.1")
    for _ in range(3):
        place.ask((), is_websocket=False)
    with pytest.raises(PulseError) as refused:
        place.ask(("198.51.100.7",), is_websocket=False)
    assert (refused.value.code, refused.value.retry_after) == (ErrorCode.RATE_LIMITED, 1)
    assert turned_away(opened, "192.0.2.1") == (ErrorCode.RATE_LIMITED, 1)
    assert opened.open == 1, "who was turned away has no place"
    opened.admit("192.0.2.2")
    mock_clock.jump(1)
    place.ask((), is_websocket=True)


async def test_behind_a_proxy_it_is_the_clients_behind_it_that_count(mock_clock: MockClock) -> None:
    opened = gate(trusted_proxies=1, connections_per_address=2, requests_per_second=1, requests_burst=4)
    places = [opened.admit("192.0.2.1") for _ in range(20)]  # all are the proxy's
    for place in places[:2]:
        place.ask(("6.6.6.6, 198.51.100.7",), is_websocket=True)
    with pytest.raises(PulseError) as refused:
        places[2].ask(("198.51.100.7",), is_websocket=True)
    assert refused.value.code is ErrorCode.TOO_MANY_CONNECTIONS
    places[2].ask(("198.51.100.8",), is_websocket=True)
    for place in places[3:5]:
        place.ask(("198.51.100.7",), is_websocket=False)
    with pytest.raises(PulseError) as refused:
        places[5].ask(("198.51.100.7",), is_websocket=False)
    assert refused.value.code is ErrorCode.RATE_LIMITED
    places[0].leave()
    mock_clock.jump(1)
    places[5].ask(("198.51.100.7",), is_websocket=True)


async def test_a_gate_with_limits_of_0_lets_everybody_in() -> None:
    opened = gate(max_connections=0, connections_per_address=0, requests_per_second=0, requests_burst=1)
    for _ in range(5_000):
        opened.admit("192.0.2.1").ask((), is_websocket=True)
    assert opened.open == 5_000


async def test_only_so_many_who_are_turned_away_are_told_why() -> None:
    opened = gate()
    told = 0
    with ExitStack() as stack:
        for _ in range(1_000):
            told += stack.enter_context(opened.answering())
    assert 0 < told < 1_000
    with opened.answering() as is_told:
        assert is_told
