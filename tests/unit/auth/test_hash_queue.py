"""The queue for password hashes: turns, bounds, and no lost place."""

import random
from collections import Counter
from collections.abc import Callable

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pulse_trio.auth.hash_queue import HashKind, HashQueue
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.settings import Settings

LOGIN, REGISTRATION = HashKind.LOGIN, HashKind.REGISTRATION


class Front:
    """A queue with attempts that keep their place until the test ends them, and the order in which they got it."""

    def __init__(self, nursery: trio.Nursery, **settings: object) -> None:
        values = {"password_hash_parallel": 1, "password_queue": 8, "password_attempts_per_address": 0, **settings}
        self.queue = HashQueue(Settings.load(**values))
        self.order: list[str] = []
        self.refused: dict[str, PulseError] = {}
        self.ends: dict[str, trio.Event] = {}
        self.scopes: dict[str, trio.CancelScope] = {}
        self.at_end: dict[str, Callable[[], object]] = {}  # called before an attempt gives its place up
        self.after_end: dict[str, Callable[[], object]] = {}  # and after, in the same turn of the loop
        self._nursery = nursery

    async def attempt(self, name: str, address: str | None = None, kind: HashKind = LOGIN) -> None:
        """Begins an attempt; returns when it has its place, waits or was rejected."""
        self.ends[name], self.scopes[name] = trio.Event(), trio.CancelScope()
        self._nursery.start_soon(self._run, name, name[0] if address is None else address, kind)
        await trio.testing.wait_all_tasks_blocked()

    async def _run(self, name: str, address: str, kind: HashKind) -> None:
        try:
            with self.scopes[name]:
                async with self.queue.place(kind, address):
                    self.order.append(name)
                    await self.ends[name].wait()
                    self.at_end.get(name, bool)()
                self.after_end.get(name, bool)()
        except PulseError as error:
            self.refused[name] = error

    async def finish(self) -> None:
        """Ends the attempts that have a place, one after another, until none waits."""
        for _ in range(len(self.ends)):
            for name in self.order:
                self.ends[name].set()
            await trio.testing.wait_all_tasks_blocked()
        assert (self.queue.waiting(LOGIN), self.queue.waiting(REGISTRATION)) == (0, 0)


async def test_addresses_take_turns(mock_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        front = Front(nursery)
        for name in ("a1", "a2", "a3", "a4", "b1", "b2", "c1"):
            await front.attempt(name)
        assert front.order == ["a1"]
        await front.finish()
        assert front.order == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]


async def test_logins_and_registrations_take_turns(mock_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        front = Front(nursery)
        for number in range(4):
            await front.attempt(f"login {number}", kind=LOGIN)
        await front.attempt("registration 0", kind=REGISTRATION)
        await front.attempt("registration 1", kind=REGISTRATION)
        await front.finish()
        kinds = [name.split()[0] for name in front.order]
        assert kinds == ["login", "login", "registration", "login", "registration", "login"]


async def test_places_are_bounded(mock_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        front = Front(nursery, password_hash_parallel=3)
        for name in "abcde":
            await front.attempt(name)
        assert front.order == ["a", "b", "c"]
        assert front.queue.waiting(LOGIN) == 2
        front.ends["b"].set()
        await trio.testing.wait_all_tasks_blocked()
        assert front.order == ["a", "b", "c", "d"]
        await front.finish()


def is_busy(error: PulseError) -> bool:
    return error.code is ErrorCode.UNAVAILABLE and error.retry_after is not None


async def test_a_full_queue_rejects_the_last_of_the_longest_line(mock_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        front = Front(nursery, password_queue=4)
        for name in ("a0", "a1", "a2", "a3", "b1"):
            await front.attempt(name)
        assert not front.refused
        await front.attempt("a4")
        assert list(front.refused) == ["a4"], "its own line is the longest"
        await front.attempt("c1")
        assert list(front.refused) == ["a4", "a3"]
        await front.attempt("c2")
        assert list(front.refused) == ["a4", "a3", "c2"], "its line would be as long as the longest"
        await front.attempt("d1")
        await front.attempt("e1")
        assert list(front.refused) == ["a4", "a3", "c2", "a2", "e1"], "no line has two any more"
        assert all(map(is_busy, front.refused.values()))
        # The other kind has room of its own.
        await front.attempt("r1", kind=REGISTRATION)
        await front.finish()
        assert front.order == ["a0", "a1", "r1", "b1", "c1", "d1"]


async def test_pending_attempts_of_an_address_are_bounded(mock_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        front = Front(nursery, password_attempts_per_address=2)
        for name in ("a1", "a2", "a3", "b1"):
            await front.attempt(name)
        assert list(front.refused) == ["a3"]
        error = front.refused["a3"]
        assert error.code is ErrorCode.RATE_LIMITED
        assert error.retry_after is not None
        await front.attempt("registration", "a", REGISTRATION)
        assert list(front.refused) == ["a3"]
        front.ends["a1"].set()
        await trio.testing.wait_all_tasks_blocked()
        await front.attempt("a4")
        assert list(front.refused) == ["a3"], "one of its attempts has ended"
        await front.finish()


async def test_an_attempt_that_waits_too_long_is_rejected(autojump_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        front = Front(nursery, password_wait=5)
        await front.attempt("a")
        await front.attempt("b")
        await trio.sleep(3)
        await front.attempt("c")
        await trio.sleep(1.9)
        assert not front.refused
        await trio.sleep(0.2)
        assert list(front.refused) == ["b"]
        assert is_busy(front.refused["b"])
        await front.finish()
        assert front.order == ["a", "c"]


@pytest.mark.parametrize("when", ["while_it_waits", "just_before_its_turn", "just_after_its_turn"])
async def test_a_cancelled_attempt_passes_its_place_on(mock_clock: MockClock, when: str) -> None:
    async with trio.open_nursery() as nursery:
        front = Front(nursery)
        for name in "abc":
            await front.attempt(name)
        hang_up = front.scopes["b"].cancel
        if when == "while_it_waits":
            hang_up()
        elif when == "just_before_its_turn":
            front.at_end["a"] = hang_up
        else:
            front.after_end["a"] = hang_up
        await front.finish()
        assert front.order == ["a", "c"]
        await front.attempt("d")
        assert front.order == ["a", "c", "d"]
        await front.finish()


@pytest.mark.parametrize("seed", range(30))
async def test_no_place_is_lost_or_given_twice(autojump_clock: MockClock, seed: int) -> None:
    rand = random.Random(seed)
    settings = Settings.load(
        password_hash_parallel=2, password_queue=6, password_attempts_per_address=5, password_wait=2
    )
    queue = HashQueue(settings)
    outcomes: Counter[str] = Counter()
    now = most = 0

    async def attempt() -> None:
        nonlocal now, most
        await trio.sleep(rand.uniform(0, 10))
        with trio.move_on_after(rand.choice((0, 1, 100))) as scope:
            try:
                async with queue.place(rand.choice((LOGIN, REGISTRATION)), rand.choice("abbccccc")):
                    now += 1
                    most = max(most, now)
                    try:
                        await trio.sleep(rand.uniform(0, 1))
                    finally:
                        now -= 1
                    outcomes["done"] += 1
            except PulseError as error:
                outcomes[error.code.code] += 1
        outcomes["cancelled"] += scope.cancelled_caught

    async with trio.open_nursery() as nursery:
        for _ in range(120):
            nursery.start_soon(attempt)
    assert sum(outcomes.values()) == 120
    assert most == 2
    assert outcomes["done"]
    assert (queue._free, queue.waiting(LOGIN), queue.waiting(REGISTRATION)) == (2, 0, 0)
    assert all(not line._lines and not line._pending for line in queue._queues.values())


def in_network(number: int) -> str:
    """The address with this number in a /48 of 65,536, as a key for limits; no two share a /56."""
    return f"2001:db8:1:{number:x}00::/64"


async def test_a_network_of_many_addresses_gets_the_turns_of_one(mock_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        front = Front(nursery, password_queue=100)
        for number in range(20):
            await front.attempt(f"n{number}", in_network(number))
        await front.attempt("a1", "192.0.2.1")
        await front.attempt("b1", "2001:db8:2::/64")
        await front.attempt("a2", "192.0.2.1")
        await front.finish()
        assert front.order[:6] == ["n0", "n1", "a1", "b1", "n2", "a2"]
        assert front.order[6:] == [f"n{number}" for number in range(3, 20)], "its addresses take turns"


async def test_a_network_that_fills_the_queue_makes_room_for_others(mock_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        front = Front(nursery, password_queue=8)
        for number in range(12):
            await front.attempt(f"n{number}", in_network(number))
        assert front.refused.keys() == {"n9", "n10", "n11"}, "no line of its network is longer"
        await front.attempt("a1", "192.0.2.1")
        await front.attempt("a2", "192.0.2.1")
        assert front.refused.keys() == {"n7", "n8", "n9", "n10", "n11"}, "those whose turn would be last"
        await front.finish()
        assert front.order == ["n0", "n1", "a1", "n2", "a2", "n3", "n4", "n5", "n6"]


async def test_pending_attempts_of_a_network_are_bounded(mock_clock: MockClock) -> None:
    async with trio.open_nursery() as nursery:
        front = Front(
            nursery,
            password_queue=100,
            password_attempts_per_address=2,
            addresses_per_ipv6_56=2,
            addresses_per_ipv6_48=3,
        )
        for number in range(8):
            await front.attempt(f"n{number}", in_network(number))
        assert front.refused.keys() == {"n6", "n7"}, "3 addresses may have 2 each"
        for number in range(6):
            await front.attempt(f"m{number}", f"2001:db8:2:{number}::/64")
        assert front.refused.keys() == {"n6", "n7", "m4", "m5"}, "2 addresses of a /56"
        await front.attempt("a1", "192.0.2.1")
        assert "a1" not in front.refused
        await front.finish()
