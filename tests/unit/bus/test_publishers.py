"""Numbers of other publishers: gaps, overtaking, forgetting."""

import random
from uuid import UUID

import pytest

from pulse_trio.bus.base import GAP_TIMEOUT, BusCounters
from pulse_trio.bus.publishers import FORGET_AFTER, MAX_MISSING, MAX_PUBLISHERS, Publishers

A = str(UUID(int=1))
B = str(UUID(int=2))
INFINITE = float("inf")


class Heard:
    """Publishers, of which one says `hear(number)` or `hear(number, beat=True)`."""

    def __init__(self) -> None:
        self.counters = BusCounters()
        self.publishers = Publishers(self.counters)

    def hear(self, number: int, now: float = 0.0, *, text: str = A, beat: bool = False) -> str | None:
        publisher, reason = self.publishers.hear(text, number, now, is_heartbeat=beat)
        assert publisher == UUID(text)
        return reason

    def expire(self, now: float) -> str | None:
        return self.publishers.expire(now)


def test_a_publisher_heard_for_the_first_time_asks_for_a_resync() -> None:
    heard = Heard()
    assert heard.hear(5) == "new publisher"
    assert heard.hear(6) is None
    assert heard.hear(1, text=B, beat=True) == "new publisher"
    assert heard.publishers.next_deadline == INFINITE


def test_a_missing_batch_asks_for_a_resync_once_its_time_is_over() -> None:
    heard = Heard()
    heard.hear(1)
    assert heard.hear(3, 10.0) is None
    assert heard.publishers.next_deadline == 10.0 + GAP_TIMEOUT
    assert heard.expire(10.0 + GAP_TIMEOUT / 2) is None
    assert heard.expire(10.0 + GAP_TIMEOUT) == "missing batch"
    assert heard.expire(99.0) is None
    assert heard.publishers.next_deadline == INFINITE
    assert heard.counters.gaps == 1


def test_a_batch_that_was_overtaken_closes_the_gap() -> None:
    heard = Heard()
    heard.hear(1)
    heard.hear(4, 10.0)
    heard.hear(3, 10.1)
    heard.hear(2, 10.1)
    assert heard.expire(11.0) is None
    assert heard.counters.gaps == 0


def test_a_heartbeat_reveals_the_loss_of_the_latest_batch() -> None:
    heard = Heard()
    heard.hear(1)
    assert heard.hear(1, beat=True) is None
    assert heard.publishers.next_deadline == INFINITE
    heard.hear(2, 5.0, beat=True)
    assert heard.expire(5.0 + GAP_TIMEOUT) == "missing batch"


def test_a_heartbeat_that_overtakes_its_batch_is_no_gap() -> None:
    heard = Heard()
    heard.hear(1)
    heard.hear(2, 5.0, beat=True)
    heard.hear(2, 5.1, beat=True)
    heard.hear(2, 5.1)
    assert heard.expire(6.0) is None


def test_duplicates_and_late_batches_are_no_gap() -> None:
    heard = Heard()
    heard.hear(1)
    heard.hear(3, 1.0)
    heard.expire(2.0)
    for number in (2, 3, 3, 1):
        assert heard.hear(number, 3.0) is None
    assert heard.expire(9.0) is None
    assert heard.counters.gaps == 1


def test_a_wide_gap_is_not_waited_for() -> None:
    heard = Heard()
    heard.hear(1)
    assert heard.hear(2 + MAX_MISSING) is None
    assert heard.hear(3 + MAX_MISSING + 1) == "missing batch"  # one more than may be missing
    assert heard.counters.gaps == MAX_MISSING + 1
    assert heard.expire(9.0) is None
    assert heard.hear(10**18) == "missing batch"


def test_gaps_of_several_publishers_have_their_own_deadlines() -> None:
    heard = Heard()
    for text in (A, B):
        heard.hear(1, text=text)
    heard.hear(3, 10.0, text=B)
    heard.hear(3, 10.1, text=A)
    assert heard.expire(10.0 + GAP_TIMEOUT) == "missing batch"
    assert heard.publishers.next_deadline == 10.1 + GAP_TIMEOUT
    assert heard.expire(10.1 + GAP_TIMEOUT) == "missing batch"


def test_silent_publishers_are_forgotten() -> None:
    heard = Heard()
    heard.hear(1)
    assert heard.publishers.last_heard(UUID(A)) == 0.0
    heard.hear(1, FORGET_AFTER, text=B)
    assert len(heard.publishers) == 2
    heard.hear(1, FORGET_AFTER + 1, text=str(UUID(int=3)))
    assert heard.publishers.last_heard(UUID(A)) is None
    assert heard.publishers.last_heard(UUID(B)) == FORGET_AFTER
    assert heard.hear(2, FORGET_AFTER + 2) == "new publisher"


def test_the_publisher_that_is_silent_the_longest_makes_room() -> None:
    heard = Heard()
    for number in range(MAX_PUBLISHERS):
        heard.hear(1, float(number) / 100, text=str(UUID(int=10 + number)))
    heard.hear(2, 50.0, text=str(UUID(int=10)), beat=True)
    heard.hear(1, 50.0, text=A)
    assert len(heard.publishers) == MAX_PUBLISHERS
    assert heard.publishers.last_heard(UUID(int=10)) == 50.0
    assert heard.publishers.last_heard(UUID(int=11)) is None


@pytest.mark.parametrize("text", ["", "x", A.replace("-", ""), "{" + A[1:], str(UUID(int=0xABC)).upper()])
def test_an_id_in_another_form_is_refused(text: str) -> None:
    heard = Heard()
    with pytest.raises(ValueError):  # noqa: PT011  # of UUID() or our own
        heard.publishers.hear(text, 1, 0.0, is_heartbeat=False)
    assert len(heard.publishers) == 0


@pytest.mark.parametrize("seed", range(200))
def test_every_lost_batch_and_nothing_else_asks_for_a_resync(seed: int) -> None:
    """Any order within the time that is waited: exactly what never comes is a gap."""
    rand = random.Random(seed)
    heard = Heard()
    heard.hear(0, beat=True)
    lost = {number for number in range(1, 100) if rand.random() < 0.1}
    arrivals = [
        (number * 0.01 + rand.uniform(0, 0.15), number)
        for number in range(1, 100)
        if number not in lost
        for _ in range(rand.choice((1, 1, 2)))
    ]
    arrivals.append((1.5, 99))  # the last one's heartbeat
    for when, number in sorted(arrivals):
        while heard.publishers.next_deadline <= when:
            heard.expire(heard.publishers.next_deadline)
        heard.hear(number, when, beat=when == 1.5)
    heard.expire(9.0)
    assert heard.counters.gaps == len(lost)
