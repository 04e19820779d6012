"""Limits that protect accounts, on the virtual clock: logins, registrations, renewals."""

from uuid import UUID

import pytest
import trio
from trio.testing import MockClock

from pulse_trio.edge import attempts as attempts_module
from pulse_trio.edge.attempts import Attempts, Logins, Registrations, Renewals
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.networks import Networks
from pulse_trio.store.base import StoreUnavailable
from pulse_trio.store.memory import MemoryStore

ALICE, BOB = UUID(int=1), UUID(int=2)

NETWORKS = Networks(per_56=4, per_48=16)


def make_logins(per_address: int, per_account: int, store: MemoryStore | None = None) -> Logins:
    """Returns the limits of one process."""
    return Logins(Attempts(store or MemoryStore()), per_address, per_account, NETWORKS)


async def retry_after(logins: Logins, address: str, username: str) -> float:
    """Returns the `retry_after` of a rejected attempt."""
    with pytest.raises(PulseError) as refused:
        await logins.start(address, username)
    assert refused.value.code is ErrorCode.RATE_LIMITED
    assert refused.value.retry_after is not None
    return refused.value.retry_after


async def test_failed_logins_close_an_account_only_for_the_addresses_that_failed(mock_clock: MockClock) -> None:
    logins = make_logins(per_address=100, per_account=4)
    for _ in range(4):
        (await logins.start("bad", "Alice")).fail()
    assert await retry_after(logins, "bad", "alice") == 900, "a quarter of an hour, and case makes no difference"
    (await logins.start("bad", "bob")).fail()  # other accounts are open
    good = await logins.start("good", "alice")  # an address that has not failed may try
    await good.forgive()
    for _ in range(20):
        await (await logins.start("good", "alice")).forgive()
    (await logins.start("good", "alice")).fail()  # this one is wrong
    assert await retry_after(logins, "good", "alice") > 0
    mock_clock.jump(901)
    (await logins.start("bad", "alice")).fail()
    assert await retry_after(logins, "bad", "alice") > 0


async def test_parallel_logins_cannot_exceed_the_limit(mock_clock: MockClock) -> None:
    logins = make_logins(per_address=100, per_account=4)
    attempts = [await logins.start("a", "alice") for _ in range(4)]
    await retry_after(logins, "a", "alice")
    for attempt in attempts:
        await attempt.forgive()
        await attempt.forgive()  # once is once
    again = [await logins.start("a", "alice") for _ in range(4)]
    assert len(again) == 4
    await retry_after(logins, "a", "alice")


async def test_an_address_that_fails_at_many_accounts_closes_none(mock_clock: MockClock) -> None:
    logins = make_logins(per_address=10, per_account=3)
    for number in range(10):
        (await logins.start("bad", f"user{number}")).fail()
    for _ in range(50):
        assert await retry_after(logins, "bad", "alice") == 360
    for _ in range(3):
        (await logins.start("other", "alice")).fail()  # rejected attempts did not count against her
    mock_clock.jump(361)
    (await logins.start("bad", "carol")).fail()


async def test_a_rejection_by_account_does_not_count_against_the_address() -> None:
    logins = make_logins(per_address=10, per_account=3)
    for _ in range(3):
        (await logins.start("a", "alice")).fail()
    for _ in range(50):
        await retry_after(logins, "a", "alice")
    for number in range(7):
        (await logins.start("a", f"user{number}")).fail()
    await retry_after(logins, "a", "user8")


async def test_attempts_that_pending_ones_reject_may_be_retried_at_once(mock_clock: MockClock) -> None:
    logins = make_logins(per_address=6, per_account=4)
    attempts = [await logins.start("a", "alice") for _ in range(4)]
    assert await retry_after(logins, "a", "alice") == 1, "no attempt has failed"
    for attempt in attempts:
        attempt.fail()
        attempt.fail()  # once is once
        await attempt.forgive()
    assert await retry_after(logins, "a", "alice") == 900
    others = [await logins.start("a", f"user{number}") for number in range(2)]
    assert await retry_after(logins, "a", "user2") == 1
    for attempt in others:
        await attempt.forgive()
    (await logins.start("a", "user2")).fail()
    (await logins.start("a", "user3")).fail()
    assert await retry_after(logins, "a", "user4") == 600
    assert not logins._attempts._pending


async def test_registrations_of_an_address(mock_clock: MockClock) -> None:
    registrations = Registrations(Attempts(MemoryStore()), per_address=2, networks=NETWORKS)
    await registrations.start("a")
    await registrations.start("a")
    with pytest.raises(PulseError) as refused:
        await registrations.start("a")
    assert (refused.value.code, refused.value.retry_after) == (ErrorCode.RATE_LIMITED, 1_800)
    await registrations.start("b")
    mock_clock.jump(1_801)
    await registrations.start("a")


async def test_renewals_of_a_user(mock_clock: MockClock) -> None:
    renewals = Renewals(Attempts(MemoryStore()), per_user=2)
    await renewals.start(ALICE)
    await renewals.start(ALICE)
    with pytest.raises(PulseError) as refused:
        await renewals.start(ALICE)
    assert (refused.value.code, refused.value.retry_after) == (ErrorCode.RATE_LIMITED, 1_800)
    await renewals.start(BOB)
    mock_clock.jump(1_801)
    await renewals.start(ALICE)


async def test_limits_of_0_are_off() -> None:
    logins = make_logins(0, 0)
    attempts = Attempts(MemoryStore())
    for _ in range(1_000):
        await logins.start("a", "alice")
        await Registrations(attempts, 0, NETWORKS).start("a")
        await Renewals(attempts, 0).start(ALICE)


async def test_an_attacker_gains_nothing_by_reaching_several_processes(mock_clock: MockClock) -> None:
    store = MemoryStore()
    processes = [make_logins(per_address=100, per_account=4, store=store) for _ in range(4)]
    for logins in processes:
        (await logins.start("bad", "alice")).fail()
    assert {await retry_after(logins, "bad", "alice") for logins in processes} == {900}
    registrations = [Registrations(Attempts(store), 2, NETWORKS) for _ in range(3)]
    for process in registrations[:2]:
        await process.start("bad")
    with pytest.raises(PulseError):
        await registrations[2].start("bad")


async def test_an_ipv6_network_has_larger_buckets_of_its_own(mock_clock: MockClock) -> None:
    logins = make_logins(per_address=2, per_account=0)
    for network in range(4):
        for _ in range(2):
            (await logins.start(f"2001:db8:0:{network:x}::/64", "alice")).fail()
    assert await retry_after(logins, "2001:db8:0:9::/64", "alice") > 0, "the /56 has four times as many"
    (await logins.start("2001:db8:0:100::/64", "alice")).fail()


class CountingStore(MemoryStore):
    """Counts the attempts that it is asked about; `is_away` makes it fail, `is_slow` makes it not answer."""

    asked = 0
    is_away = False
    is_slow = False

    async def take_tokens(self, *arguments: object) -> object:  # type: ignore[override]
        self.asked += 1
        if self.is_away:
            raise StoreUnavailable("away")
        return await super().take_tokens(*arguments)  # type: ignore[arg-type]

    async def give_back_tokens(self, *arguments: object) -> None:
        if self.is_slow:
            await trio.sleep_forever()
        if self.is_away:
            raise StoreUnavailable("away")
        await super().give_back_tokens(*arguments)  # type: ignore[arg-type]


async def test_a_flood_of_rejected_attempts_asks_the_store_once_a_second(
    mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts_module, "MAX_REJECTIONS", 3)
    logins = make_logins(per_address=100, per_account=1, store=(store := CountingStore()))
    (await logins.start("bad", "alice")).fail()
    store.asked = 0
    for _ in range(50):
        assert await retry_after(logins, "bad", "alice") == 3_600
    assert store.asked == 1
    mock_clock.jump(1)
    assert await retry_after(logins, "bad", "alice") == 3_599
    assert store.asked == 2
    for number in range(10):
        await (await logins.start("bad", f"user{number}")).forgive()
    assert len(logins._attempts._rejections) <= 3


async def test_a_rejected_address_asks_the_store_once_a_second_whatever_the_names(mock_clock: MockClock) -> None:
    logins = make_logins(per_address=1, per_account=5, store=(store := CountingStore()))
    (await logins.start("bad", "alice")).fail()
    store.asked = 0
    for number in range(50):
        assert await retry_after(logins, "bad", f"user{number}") == 3_600
    assert store.asked == 1
    (await logins.start("good", "user1")).fail()


async def test_an_attempt_fails_while_the_store_is_away() -> None:
    logins = make_logins(per_address=100, per_account=1, store=(store := CountingStore()))
    pending = await logins.start("a", "alice")
    store.is_away = True
    with pytest.raises(StoreUnavailable):
        await logins.start("a", "bob")
    await pending.forgive()  # nothing is raised: the password was right
    assert not logins._attempts._pending
    store.is_away = False
    assert await retry_after(logins, "a", "alice") == 3_600, "the token comes back with time"


async def test_forgiving_waits_a_second_at_most_and_ends_when_cancelled(autojump_clock: MockClock) -> None:
    logins = make_logins(per_address=2, per_account=0, store=(store := CountingStore()))
    store.is_slow = True
    attempt, began = await logins.start("a", "alice"), trio.current_time()
    await attempt.forgive()
    assert trio.current_time() - began == 1
    store.is_slow = False
    attempt = await logins.start("a", "alice")
    with trio.CancelScope() as scope:
        scope.cancel()
        await attempt.forgive()
    assert not logins._attempts._pending
    (await logins.start("a", "alice")).fail()
