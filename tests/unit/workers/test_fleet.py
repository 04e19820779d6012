"""The fleet: which workers it starts, drains and kills, with processes that the test plays."""

import math
import signal

import pytest

from pulse_trio.workers.fleet import (
    FIRST_BACKOFF,
    GIVE_UP_SECONDS,
    MAX_BACKOFF,
    MAX_FAILED_STARTS,
    MAX_START,
    STABLE,
    Fleet,
    Worker,
)

TIMEOUT = 10.0
DRAIN = 20.0


class Child:
    """A process that records the signals that it gets."""

    def __init__(self, slot: int, pid: int) -> None:
        self.slot = slot
        self.pid = pid
        self.signals: list[int] = []

    def send_signal(self, sig: int, /) -> None:
        self.signals.append(sig)


class Machine:
    """A fleet on a clock that the test moves, and the processes that it starts."""

    def __init__(self, count: int = 2, *, worker_timeout: float = TIMEOUT) -> None:
        self.now = 1_000.0
        self.children: list[Child] = []
        self.refuses = False
        self.fleet = Fleet(count, self._launch, lambda: self.now, worker_timeout=worker_timeout, drain_seconds=DRAIN)
        self.fleet.start()

    def _launch(self, slot: int) -> Child:
        if self.refuses:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        self.children.append(Child(slot, 100 + len(self.children)))
        return self.children[-1]

    def worker(self, child: Child) -> Worker:
        return next(worker for worker in self.fleet.workers if worker.process is child)

    def ready(self, *children: Child) -> None:
        for child in children:
            self.fleet.on_sign(self.worker(child), is_ready=True)

    def beat(self, *children: Child) -> None:
        for child in children:
            self.fleet.on_sign(self.worker(child), is_ready=False)

    def end(self, child: Child, status: int = 0) -> None:
        self.fleet.on_end(self.worker(child), status)

    def go(self, seconds: float) -> None:
        """Lets time pass, with the ticks that the fleet asks for."""
        until = self.now + seconds
        while (due := self.fleet.deadline()) <= until:
            self.now = max(self.now, due)
            self.fleet.tick()
        self.now = until


@pytest.fixture
def machine() -> Machine:
    """Two workers that are ready."""
    made = Machine()
    made.ready(*made.children)
    return made


def test_it_is_ready_when_all_workers_are() -> None:
    machine = Machine()
    first, second = machine.children
    assert (first.slot, second.slot) == (0, 1)
    machine.ready(first)
    assert not machine.fleet.is_ready
    machine.ready(second)
    assert machine.fleet.is_ready


def test_a_worker_that_dies_is_started_again_after_a_pause(machine: Machine) -> None:
    machine.end(machine.children[0], -9)
    machine.go(FIRST_BACKOFF * 0.9)
    assert len(machine.children) == 2
    machine.go(FIRST_BACKOFF * 0.2)
    assert [child.slot for child in machine.children] == [0, 1, 0]
    assert machine.children[1].signals == []


def test_the_pause_grows_with_each_end_and_is_short_again_after_a_long_life(machine: Machine) -> None:
    child = machine.children[0]
    pauses = []
    for _ in range(8):
        machine.end(child, -9)
        began, before = machine.now, len(machine.children)
        while len(machine.children) == before:
            machine.beat(machine.children[1])
            machine.go(0.1)
        pauses.append(machine.now - began)
        child = machine.children[-1]
        machine.ready(child)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(MAX_BACKOFF, abs=0.11)
    assert machine.fleet.failure is None, "a worker that becomes ready is no failed start"
    for _ in range(int(STABLE) + 1):
        machine.beat(machine.children[1], child)
        machine.go(1)
    machine.end(child, -9)
    assert machine.fleet.deadline() - machine.now == pytest.approx(FIRST_BACKOFF)


def test_a_slot_whose_workers_do_not_become_ready_ends_the_fleet() -> None:
    machine = Machine()
    machine.ready(machine.children[1])
    for number in range(MAX_FAILED_STARTS):
        assert machine.fleet.failure is None, number
        (failing,) = [worker for worker in machine.fleet.workers if worker.slot == 0]
        machine.fleet.on_end(failing, 1)
        machine.beat(machine.children[1])
        machine.go(MAX_BACKOFF)
    assert machine.fleet.failure is not None
    assert "worker 0" in machine.fleet.failure
    assert machine.children[1].signals == [signal.SIGTERM]
    assert not machine.fleet.is_over
    machine.end(machine.children[1])
    assert machine.fleet.is_over


def test_a_slot_that_has_served_is_tried_for_minutes(machine: Machine) -> None:
    """While the database is away no worker can start, and those that run must not be ended for it."""
    machine.end(machine.children[0], -9)
    began = machine.now
    while machine.fleet.failure is None:
        for worker in machine.fleet.workers:
            if worker.slot == 0:
                machine.fleet.on_end(worker, 1)
        machine.beat(machine.children[1])
        machine.go(0.1)
        assert machine.now - began < GIVE_UP_SECONDS + 2 * MAX_BACKOFF
    assert machine.now - began >= GIVE_UP_SECONDS
    assert machine.children[1].signals == [signal.SIGTERM]


def test_a_signal_drains_all_and_a_second_one_changes_nothing(machine: Machine) -> None:
    machine.fleet.stop("SIGINT")
    machine.fleet.stop("SIGTERM")
    assert [child.signals for child in machine.children] == [[signal.SIGTERM]] * 2
    machine.end(machine.children[0])
    assert not machine.fleet.is_over
    machine.end(machine.children[1])
    assert machine.fleet.is_over
    assert (machine.fleet.stopped_by, machine.fleet.failure) == ("SIGINT", None)
    assert machine.fleet.deadline() == math.inf
    assert len(machine.children) == 2, "none is started again"


def test_a_signal_while_a_restart_is_planned_starts_nothing(machine: Machine) -> None:
    machine.end(machine.children[0], -9)
    machine.fleet.stop("SIGTERM")
    machine.end(machine.children[1])
    machine.go(60)
    assert machine.fleet.is_over
    assert len(machine.children) == 2


def test_a_worker_that_does_not_end_is_killed(machine: Machine) -> None:
    machine.fleet.stop("SIGTERM")
    machine.go(DRAIN - 1)
    assert machine.children[0].signals == [signal.SIGTERM]
    machine.go(1)
    assert machine.children[0].signals == [signal.SIGTERM, signal.SIGKILL]


def test_a_rolling_restart_replaces_one_after_the_other_and_the_new_one_comes_first(machine: Machine) -> None:
    first, second = machine.children
    machine.fleet.roll()
    successor = machine.children[2]
    assert (successor.slot, first.signals, len(machine.children)) == (0, [], 3)
    machine.ready(successor)
    assert first.signals == [signal.SIGHUP]
    assert machine.fleet.is_ready
    assert len(machine.children) == 3, "the next one waits for the end of this one"
    machine.end(first)
    assert (machine.children[3].slot, second.signals) == (1, [])
    machine.ready(machine.children[3])
    machine.end(second)
    assert len(machine.children) == 4
    assert machine.fleet.is_ready
    assert {worker.process for worker in machine.fleet.workers} == set(machine.children[2:])


def test_a_successor_that_does_not_start_leaves_the_former_one_and_ends_the_restart(machine: Machine) -> None:
    machine.fleet.roll()
    machine.end(machine.children[2], 1)
    assert machine.fleet.is_ready
    machine.beat(*machine.children[:2])
    machine.go(TIMEOUT / 2)
    assert len(machine.children) == 3
    assert [child.signals for child in machine.children[:2]] == [[], []]
    machine.fleet.roll()
    assert len(machine.children) == 4, "a later one begins anew"


def test_a_successor_that_the_system_cannot_start_leaves_the_former_one(machine: Machine) -> None:
    machine.refuses = True
    machine.fleet.roll()
    machine.refuses = False
    machine.beat(*machine.children)
    machine.go(TIMEOUT / 2)
    assert len(machine.children) == 2
    assert machine.fleet.is_ready


def test_a_worker_that_the_system_cannot_start_is_tried_again(machine: Machine) -> None:
    machine.end(machine.children[0], -9)
    machine.refuses = True
    machine.go(FIRST_BACKOFF)
    machine.refuses = False
    machine.go(FIRST_BACKOFF * 2)
    assert [child.slot for child in machine.children] == [0, 1, 0]


def test_a_worker_that_dies_while_its_successor_starts_is_replaced_by_it(machine: Machine) -> None:
    first, second = machine.children
    machine.fleet.roll()
    machine.end(first, -9)
    machine.beat(second)
    machine.go(TIMEOUT / 2)
    assert len(machine.children) == 3, "the successor is the restart"
    machine.ready(machine.children[2])
    assert machine.children[3].slot == 1, "and the restart goes on"


def test_both_of_a_slot_die_and_it_is_started_again(machine: Machine) -> None:
    machine.fleet.roll()
    machine.end(machine.children[0], -9)
    machine.end(machine.children[2], 1)
    machine.beat(machine.children[1])
    machine.go(1)
    assert machine.children[3].slot == 0


def test_a_slot_that_is_being_started_is_left_out_of_a_rolling_restart(machine: Machine) -> None:
    machine.end(machine.children[0], -9)
    machine.fleet.roll()
    assert machine.children[2].slot == 1
    machine.ready(machine.children[2])
    machine.end(machine.children[1])
    machine.beat(machine.children[2])
    machine.go(1)
    assert [child.slot for child in machine.children] == [0, 1, 1, 0]


def test_a_rolling_restart_that_is_asked_for_meanwhile_follows(machine: Machine) -> None:
    machine.fleet.roll()
    machine.fleet.roll()
    machine.fleet.roll()
    for _ in range(4):
        former = next(w for w in machine.fleet.workers if w.slot == machine.children[-1].slot and w.is_ready)
        machine.ready(machine.children[-1])
        machine.fleet.on_end(former, 0)
    assert [child.slot for child in machine.children] == [0, 1, 0, 1, 0, 1]


def test_a_signal_ends_a_rolling_restart(machine: Machine) -> None:
    machine.fleet.roll()
    machine.fleet.stop("SIGTERM")
    assert [child.signals for child in machine.children] == [[signal.SIGTERM]] * 3
    for child in machine.children:
        machine.end(child)
    assert machine.fleet.is_over
    assert machine.fleet.failure is None


def test_a_silent_worker_is_killed_and_started_again(machine: Machine) -> None:
    quiet, live = machine.children
    for _ in range(int(TIMEOUT)):
        machine.beat(live)
        assert quiet.signals == []
        machine.go(1)
    assert (quiet.signals, live.signals) == ([signal.SIGKILL], [])
    machine.end(quiet, -9)
    machine.go(1)
    assert machine.children[2].slot == 0


def test_without_a_timeout_no_worker_is_killed() -> None:
    machine = Machine(worker_timeout=0)
    machine.ready(*machine.children)
    machine.go(10_000)
    assert [child.signals for child in machine.children] == [[], []]


def test_after_a_standstill_of_the_supervisor_the_workers_are_not_judged(machine: Machine) -> None:
    machine.now += 100
    machine.fleet.forgive()
    machine.fleet.tick()
    assert [child.signals for child in machine.children] == [[], []]


def test_a_worker_that_never_becomes_ready_is_killed() -> None:
    machine = Machine()
    machine.ready(machine.children[1])
    for _ in range(int(MAX_START)):
        machine.beat(*machine.children)
        machine.go(1)
    assert machine.children[0].signals == [signal.SIGKILL]


def test_a_failure_keeps_its_first_reason(machine: Machine) -> None:
    machine.fleet.fail("PostgreSQL ended")
    machine.fleet.fail("something else")
    for child in machine.children:
        machine.end(child, 1)
    assert machine.fleet.is_over
    assert machine.fleet.failure == "PostgreSQL ended"
