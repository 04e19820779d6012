"""The budget of pending response bytes: counted, bounded, and free again at every end."""

from contextlib import ExitStack, suppress

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pulse_trio.app import create_app
from pulse_trio.edge.response_budget import MAX_TURNS, MAX_WAIT, MAX_WAITING, SMALL_BYTES, Answer, ResponseBudget
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.settings import Settings
from pulse_trio.store.memory import MemoryStore
from tests.support.server import SECRET

KIB = 1_024


def make_budget(of_address: int = 100 * KIB, in_all: int = 10_000 * KIB) -> ResponseBudget:
    return ResponseBudget(Settings.load(secret_key=SECRET, answer_bytes_per_address=of_address, answer_bytes=in_all))


def is_rejected(answer: Answer, size: int, *, before: bool = False) -> bool:
    try:
        if before:
            answer.reserve(size)
        else:
            answer.settle(size, may_refuse=True)
    except PulseError as refusal:
        error = refusal
    else:
        return False
    assert error.code is ErrorCode.UNAVAILABLE
    assert error.retry_after is not None
    return True


@pytest.mark.parametrize("before", [False, True], ids=["settled", "reserved"])
def test_pending_bytes_of_an_address_are_bounded(before: bool) -> None:
    budget = make_budget()
    with budget.answer("a") as one, budget.answer("a") as two, budget.answer("b") as other:
        assert not is_rejected(one, 60 * KIB, before=before)
        assert is_rejected(two, 41 * KIB, before=before)
        assert budget.size == 60 * KIB, "rejected bytes do not count"
        assert not is_rejected(other, 100 * KIB, before=before)
        assert not is_rejected(two, 40 * KIB, before=before)
        assert budget.size == 200 * KIB
    assert budget.size == 0
    assert not budget._of_address


@pytest.mark.parametrize("before", [False, True], ids=["settled", "reserved"])
def test_pending_bytes_are_bounded_in_total(before: bool) -> None:
    budget = make_budget(in_all=200 * KIB)
    with budget.answer("a") as one, budget.answer("b") as two, budget.answer("c") as three:
        assert not is_rejected(one, 90 * KIB, before=before)
        assert not is_rejected(two, 90 * KIB, before=before)
        assert is_rejected(three, 30 * KIB, before=before)
        assert not is_rejected(three, 20 * KIB, before=before)


@pytest.mark.parametrize("before", [False, True], ids=["settled", "reserved"])
def test_a_few_addresses_do_not_take_everything(before: bool) -> None:
    budget = make_budget(in_all=400 * KIB)
    with ExitStack() as held:
        for _ in range(100):
            for address in ("a", "b", "c", "d", "e"):
                is_rejected(held.enter_context(budget.answer(address)), 20 * KIB, before=before)
        assert budget.size >= 200 * KIB, "much of it"
        with budget.answer("quiet") as one, budget.answer("quiet") as two:
            assert not is_rejected(one, 20 * KIB, before=before)
            assert not is_rejected(two, 20 * KIB, before=before)


def test_a_single_response_may_be_larger() -> None:
    budget = make_budget(in_all=200 * KIB)
    with budget.answer("a") as one, budget.answer("b") as other:
        assert not is_rejected(one, 1_000 * KIB)
        assert is_rejected(other, 20 * KIB)
        assert not is_rejected(one, 2_000 * KIB), "it does not count beside itself"


def test_actual_bytes_replace_reserved_ones() -> None:
    budget = make_budget()
    with budget.answer("a") as one, budget.answer("a") as two:
        one.reserve(80 * KIB)
        assert is_rejected(two, 30 * KIB, before=True)
        one.settle(200, may_refuse=True)
        assert budget.size == 200
        two.reserve(30 * KIB)
        assert is_rejected(two, 100 * KIB)
        assert budget.size == 200, "a rejected response keeps no reservation"


def test_small_responses_and_those_to_changes_are_never_rejected() -> None:
    budget = make_budget()
    with budget.answer("a") as one, budget.answer("a") as small, budget.answer("a") as change:
        one.settle(100 * KIB, may_refuse=True)
        small.settle(SMALL_BYTES, may_refuse=True)
        change.settle(50 * KIB, may_refuse=False)
        assert budget.size == 150 * KIB + SMALL_BYTES


async def test_bytes_are_freed_however_the_request_ends(autojump_clock: object) -> None:
    budget = make_budget()
    with trio.move_on_after(1), budget.answer("a") as answer:
        answer.reserve(20 * KIB)
        await trio.sleep_forever()
    with suppress(ValueError), budget.answer("a") as answer:
        answer.settle(20 * KIB, may_refuse=True)
        raise ValueError("a fault")
    assert budget.size == 0


async def test_turns_of_an_address_are_bounded(mock_clock: MockClock) -> None:
    budget = make_budget()
    busy = 0
    ended: list[int] = []
    may_end = trio.Event()

    async def ask(number: int) -> None:
        nonlocal busy
        async with budget.turn("a"):
            busy += 1
            await may_end.wait()
            busy -= 1
            ended.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(MAX_TURNS + MAX_WAITING):
            nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
        assert busy == MAX_TURNS
        with pytest.raises(PulseError) as refused:
            await ask(-1)
        assert refused.value.code is ErrorCode.UNAVAILABLE
        async with budget.turn("b"):
            pass
        may_end.set()
    assert set(ended) == set(range(MAX_TURNS + MAX_WAITING))
    assert not budget._lines


async def test_waiting_for_a_turn_ends_and_leaves_no_gap(mock_clock: MockClock) -> None:
    budget = make_budget()

    async def hold() -> None:
        async with budget.turn("a"):
            await trio.sleep_forever()

    async def wait_in_vain() -> None:
        with pytest.raises(PulseError):
            async with budget.turn("a"):
                pass

    async with trio.open_nursery() as nursery:
        for _ in range(MAX_TURNS):
            nursery.start_soon(hold)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as waiting:
            waiting.start_soon(wait_in_vain)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(MAX_WAIT + 0.1)
        nursery.start_soon(hold)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    for _ in range(MAX_TURNS + 1):
        async with budget.turn("a"):
            pass
    assert not budget._lines


def test_0_is_no_limit() -> None:
    budget = make_budget(0, 0)
    with budget.answer("a") as one, budget.answer("a") as two:
        assert not is_rejected(one, 2**40)
        assert not is_rejected(two, 2**40)


def test_operations_with_large_responses_reserve_bytes() -> None:
    """A new operation is listed here when its response is small."""
    small = {
        "register", "login", "renewToken", "me", "getPresence", "drawTicket", "markRead", "removeMember",
        "deleteMessage",
    }  # fmt: skip
    app = create_app(Settings.load(secret_key=SECRET), MemoryStore)
    views = [view for view in app.view_functions.values() if hasattr(view, "pulse_large")]
    named = {view._quart_schema_operation_id: view.pulse_large for view in views}  # type: ignore[attr-defined]
    assert {name for name, is_large in named.items() if not is_large} == small
    assert {"listMessages", "listConversations", "getConversation"} <= set(named) - small


def test_pending_bytes_of_an_ipv6_network_are_bounded() -> None:
    budget = make_budget(of_address=100 * KIB)
    with ExitStack() as stack:
        for number in range(4):
            answer = stack.enter_context(budget.answer(f"2001:db8:1:{number}::/64"))
            assert not is_rejected(answer, 99 * KIB)
        assert is_rejected(stack.enter_context(budget.answer("2001:db8:1:5::/64")), 99 * KIB), "4 addresses of a /56"
        for number in range(1, 13):
            answer = stack.enter_context(budget.answer(f"2001:db8:1:{number:x}00::/64"))
            assert not is_rejected(answer, 99 * KIB)
        refused = stack.enter_context(budget.answer("2001:db8:1:f00::/64"))
        assert is_rejected(refused, 99 * KIB), "16 addresses of a /48"
        assert not is_rejected(stack.enter_context(budget.answer("2001:db8:2::/64")), 99 * KIB)
    assert budget.size == 0
