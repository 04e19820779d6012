"""The bytes of answers that are under way: counted, bounded, and free again at every end."""

from contextlib import ExitStack, suppress

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pulse_trio.app import create_app
from pulse_trio.edge.response_budget import AT_ONCE, LONGEST_WAIT, SMALL_BYTES, WAITING, Answer, Answers
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.settings import Settings
from pulse_trio.store.memory import MemoryStore
from tests.support.server import SECRET

KIB = 1_024


def make_answers(of_address: int = 100 * KIB, in_all: int = 10_000 * KIB) -> Answers:
    return Answers(Settings.load(secret_key=SECRET, answer_bytes_per_address=of_address, answer_bytes=in_all))


def is_refused(answer: Answer, size: int, *, before: bool = False) -> bool:
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
def test_an_address_has_so_many_bytes_under_way(before: bool) -> None:
    answers = make_answers()
    with answers.answer("a") as one, answers.answer("a") as two, answers.answer("b") as other:
        assert not is_refused(one, 60 * KIB, before=before)
        assert is_refused(two, 41 * KIB, before=before)
        assert answers.size == 60 * KIB, "what is refused does not count"
        assert not is_refused(other, 100 * KIB, before=before)
        assert not is_refused(two, 40 * KIB, before=before)
        assert answers.size == 200 * KIB
    assert answers.size == 0
    assert not answers._of_address


@pytest.mark.parametrize("before", [False, True], ids=["settled", "reserved"])
def test_so_many_bytes_are_under_way_in_all(before: bool) -> None:
    answers = make_answers(in_all=200 * KIB)
    with answers.answer("a") as one, answers.answer("b") as two, answers.answer("c") as three:
        assert not is_refused(one, 90 * KIB, before=before)
        assert not is_refused(two, 90 * KIB, before=before)
        assert is_refused(three, 30 * KIB, before=before)
        assert not is_refused(three, 20 * KIB, before=before)


@pytest.mark.parametrize("before", [False, True], ids=["settled", "reserved"])
def test_a_few_addresses_do_not_take_everything(before: bool) -> None:
    answers = make_answers(in_all=400 * KIB)
    with ExitStack() as held:
        for _ in range(100):
            for address in ("a", "b", "c", "d", "e"):
                is_refused(held.enter_context(answers.answer(address)), 20 * KIB, before=before)
        assert answers.size >= 200 * KIB, "much of it"
        with answers.answer("quiet") as one, answers.answer("quiet") as two:
            assert not is_refused(one, 20 * KIB, before=before)
            assert not is_refused(two, 20 * KIB, before=before)


def test_one_answer_alone_may_be_larger() -> None:
    answers = make_answers(in_all=200 * KIB)
    with answers.answer("a") as one, answers.answer("b") as other:
        assert not is_refused(one, 1_000 * KIB)
        assert is_refused(other, 20 * KIB)
        assert not is_refused(one, 2_000 * KIB), "it is not under way beside itself"


def test_what_was_reserved_is_replaced_by_what_there_is() -> None:
    answers = make_answers()
    with answers.answer("a") as one, answers.answer("a") as two:
        one.reserve(80 * KIB)
        assert is_refused(two, 30 * KIB, before=True)
        one.settle(200, may_refuse=True)
        assert answers.size == 200
        two.reserve(30 * KIB)
        assert is_refused(two, 100 * KIB)
        assert answers.size == 200, "nor does what was reserved for what is refused"


def test_small_answers_and_those_to_changes_are_given_in_any_case() -> None:
    answers = make_answers()
    with answers.answer("a") as one, answers.answer("a") as small, answers.answer("a") as change:
        one.settle(100 * KIB, may_refuse=True)
        small.settle(SMALL_BYTES, may_refuse=True)
        change.settle(50 * KIB, may_refuse=False)
        assert answers.size == 150 * KIB + SMALL_BYTES


async def test_the_bytes_are_free_again_whatever_ends_the_request(autojump_clock: object) -> None:
    answers = make_answers()
    with trio.move_on_after(1), answers.answer("a") as answer:
        answer.reserve(20 * KIB)
        await trio.sleep_forever()
    with suppress(ValueError), answers.answer("a") as answer:
        answer.settle(20 * KIB, may_refuse=True)
        raise ValueError("a fault")
    assert answers.size == 0


async def test_an_address_has_few_turns_at_a_time_and_others_have_theirs(mock_clock: MockClock) -> None:
    answers = make_answers()
    busy = 0
    ended: list[int] = []
    may_end = trio.Event()

    async def ask(number: int) -> None:
        nonlocal busy
        async with answers.turn("a"):
            busy += 1
            await may_end.wait()
            busy -= 1
            ended.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(AT_ONCE + WAITING):
            nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
        assert busy == AT_ONCE
        with pytest.raises(PulseError) as refused:
            await ask(-1)
        assert refused.value.code is ErrorCode.UNAVAILABLE
        async with answers.turn("b"):
            pass
        may_end.set()
    assert set(ended) == set(range(AT_ONCE + WAITING))
    assert not answers._lines


async def test_a_turn_is_not_waited_for_without_end_and_whoever_goes_leaves_no_gap(mock_clock: MockClock) -> None:
    answers = make_answers()

    async def hold() -> None:
        async with answers.turn("a"):
            await trio.sleep_forever()

    async def wait_in_vain() -> None:
        with pytest.raises(PulseError):
            async with answers.turn("a"):
                pass

    async with trio.open_nursery() as nursery:
        for _ in range(AT_ONCE):
            nursery.start_soon(hold)
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as waiting:
            waiting.start_soon(wait_in_vain)
            await trio.testing.wait_all_tasks_blocked()
            mock_clock.jump(LONGEST_WAIT + 0.1)
        nursery.start_soon(hold)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    for _ in range(AT_ONCE + 1):
        async with answers.turn("a"):
            pass
    assert not answers._lines


def test_0_is_no_limit() -> None:
    answers = make_answers(0, 0)
    with answers.answer("a") as one, answers.answer("a") as two:
        assert not is_refused(one, 2**40)
        assert not is_refused(two, 2**40)


def test_every_operation_that_may_have_a_large_answer_reserves_bytes_for_it() -> None:
    """A new operation is listed here when its answer is small."""
    small = {
        "register", "login", "renewToken", "me", "getPresence", "drawTicket", "markRead", "removeMember",
        "deleteMessage",
    }  # fmt: skip
    app = create_app(Settings.load(secret_key=SECRET), MemoryStore)
    views = [view for view in app.view_functions.values() if hasattr(view, "pulse_large")]
    named = {view._quart_schema_operation_id: view.pulse_large for view in views}  # type: ignore[attr-defined]
    assert {name for name, is_large in named.items() if not is_large} == small
    assert {"listMessages", "listConversations", "getConversation"} <= set(named) - small
