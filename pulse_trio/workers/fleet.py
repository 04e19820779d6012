"""The fleet: which worker to start, drain or kill, and when. A state machine without I/O.

A slot has one current worker. In a rolling restart its successor starts beside it, and the current one drains when the
successor accepts connections. So at every moment somebody accepts.
"""

import math
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

MAX_FAILED_STARTS: Final = (
    5  # of a slot, one after the other; then the whole service gives up, if the slot never served
)
GIVE_UP_SECONDS: Final = 300.0  # of failed starts of a slot that has served: an outage of the database may last as long
STABLE: Final = 10.0  # seconds after which the end of a worker is not counted as one more in a row
FIRST_BACKOFF: Final = 0.2  # seconds before a worker that has just ended is started again; doubles with each end
MAX_BACKOFF: Final = 5.0  # seconds
MAX_START: Final = 600.0  # seconds until a worker must accept connections; it may have to migrate the database

log = structlog.get_logger(__name__)


class Process(Protocol):
    """The part of `subprocess.Popen` that the fleet uses."""

    pid: int

    def send_signal(self, sig: int, /) -> None:
        """Sends a signal, if the process has not ended."""


@dataclass(eq=False, slots=True)
class Worker:
    """A worker that was started and has not ended.

    Attributes:
        slot: its slot.
        process: its process.
        started: when it was started, on the fleet's clock, in seconds.
        is_ready: it accepts connections, or has.
        beat: when it last showed a sign of life.
        kill_at: when it is killed, once it drains; infinite before, and after it was killed.
        is_draining: it was asked to end.
    """

    slot: int
    process: Process
    started: float
    is_ready: bool = False
    beat: float = 0.0
    kill_at: float = math.inf
    is_draining: bool = False


@dataclass(slots=True)
class _Slot:
    current: Worker | None = None
    successor: Worker | None = None  # in a rolling restart, until it is ready
    former: list[Worker] = field(default_factory=list)  # they drain
    restart_at: float = math.inf
    ends: int = 0  # in a row, of workers that did not live for long
    failed_starts: int = 0  # in a row
    failing_since: float = 0.0  # the first of them
    has_served: bool = False

    def workers(self) -> list[Worker]:
        return [worker for worker in (self.current, self.successor, *self.former) if worker is not None]


class Fleet:
    """The workers of a machine.

    Args:
        count: the number of slots.
        launch: starts a process for a slot.
        clock: seconds that only grow.
        worker_timeout: seconds without a sign of life after which a worker is killed; 0 for never.
        drain_seconds: the longest that a worker may take to end once it was asked to.

    Attributes:
        failure: why the fleet gave up; None if it did not.
        stopped_by: the name of the signal that ended it; None before.
    """

    def __init__(
        self,
        count: int,
        launch: Callable[[int], Process],
        clock: Callable[[], float],
        *,
        worker_timeout: float,
        drain_seconds: float,
    ) -> None:
        self._launch_process = launch
        self._clock = clock
        self._worker_timeout = worker_timeout or math.inf
        self._drain_seconds = drain_seconds
        self._slots = [_Slot() for _ in range(count)]
        self._rolling: deque[int] = deque()  # slots of a rolling restart; the first one is being replaced
        self._is_roll_wanted = False  # again, after the one that runs
        self._is_stopping = False
        self.failure: str | None = None
        self.stopped_by: str | None = None

    @property
    def workers(self) -> list[Worker]:
        """All workers that have not ended."""
        return [worker for slot in self._slots for worker in slot.workers()]

    @property
    def is_ready(self) -> bool:
        """True if each slot has a worker that accepts connections."""
        return all(slot.current is not None and slot.current.is_ready for slot in self._slots)

    @property
    def is_stopping(self) -> bool:
        """True since the fleet was stopped, or gave up."""
        return self._is_stopping

    @property
    def is_over(self) -> bool:
        """True if the fleet was stopped, or gave up, and all workers have ended."""
        return self._is_stopping and not self.workers

    def start(self) -> None:
        """Starts a worker in each slot."""
        for number, slot in enumerate(self._slots):
            slot.current = self._launch(number)

    def roll(self) -> None:
        """Replaces all workers, one slot after the other."""
        if self._is_stopping:
            return
        if self._rolling:
            self._is_roll_wanted = True
            return
        log.info("rolling restart begins")
        self._rolling.extend(range(len(self._slots)))
        self._replace_next()

    def stop(self, name: str) -> None:
        """Drains all workers, because of a signal. A second signal changes nothing."""
        if not self._is_stopping:
            self.stopped_by = name
            self._drain_all()

    def fail(self, reason: str) -> None:
        """Gives up: drains all workers."""
        if self.failure is None and self.stopped_by is None:
            self.failure = reason
        if not self._is_stopping:
            self._drain_all()

    def _drain_all(self) -> None:
        self._is_stopping = True
        self._rolling.clear()
        for slot in self._slots:
            slot.restart_at = math.inf
            for worker in slot.workers():
                if not worker.is_draining:
                    self._drain(worker, signal.SIGTERM)

    def on_sign(self, worker: Worker, *, is_ready: bool) -> None:
        """Records a sign of life; `is_ready` says that the worker accepts connections."""
        worker.beat = self._clock()
        if not is_ready or worker.is_ready:
            return
        worker.is_ready = True
        slot = self._slots[worker.slot]
        slot.failed_starts = 0
        slot.has_served = True
        log.info("worker ready", worker=worker.slot, pid=worker.process.pid)
        if worker is not slot.successor:
            return
        former, slot.current, slot.successor = slot.current, worker, None
        if former is not None:
            slot.former.append(former)
            self._drain(former, signal.SIGHUP)
        else:
            self._go_on(worker.slot)

    def on_end(self, worker: Worker, status: int) -> None:
        """Records the end of a worker, with the exit code, or the negative number of a signal."""
        how = f"exit code {status}" if status >= 0 else f"signal {-status} ({signal.strsignal(-status)})"
        is_expected = worker.is_draining and status in {0, -signal.SIGTERM}  # one that has just begun knows no signals
        (log.info if is_expected else log.warning)(
            "worker ended", worker=worker.slot, pid=worker.process.pid, status=how
        )
        slot = self._slots[worker.slot]
        if worker in slot.former:
            slot.former.remove(worker)
            self._go_on(worker.slot)
            return
        if worker is slot.successor:
            slot.successor = None
            self._abandon_roll()
        else:
            slot.current = None
        if self._is_stopping or slot.current is not None or slot.successor is not None:
            return
        self._count_end(worker)

    def _count_end(self, worker: Worker) -> None:
        """Plans the restart of a slot whose only worker has ended, or gives up."""
        slot = self._slots[worker.slot]
        now = self._clock()
        slot.ends = 1 if worker.is_ready and now - worker.started >= STABLE else slot.ends + 1
        if not worker.is_ready:
            slot.failing_since = slot.failing_since if slot.failed_starts else now
            slot.failed_starts += 1
            patience = GIVE_UP_SECONDS if slot.has_served else 0.0
            if slot.failed_starts >= MAX_FAILED_STARTS and now - slot.failing_since >= patience:
                times = slot.failed_starts
                self.fail(f"worker {worker.slot} ended {times} times before it was ready; the log has why")
                return
        slot.restart_at = now + min(MAX_BACKOFF, FIRST_BACKOFF * 2 ** min(slot.ends - 1, 10))

    def forgive(self) -> None:
        """Takes all workers for alive: this process itself has stood still, and cannot tell."""
        for worker in self.workers:
            worker.beat = self._clock()

    def tick(self) -> None:
        """Does what is due."""
        now = self._clock()
        for number, slot in enumerate(self._slots):
            for worker in slot.workers():
                if self._deadline(worker) <= now:
                    self._kill(worker)
            if slot.restart_at <= now:
                slot.restart_at = math.inf
                slot.current = self._launch(number)
        if self._rolling and self._slots[self._rolling[0]].current is None:
            self._replace_next()

    def deadline(self) -> float:
        """Returns when `tick` must be called next, on the fleet's clock; infinite for never."""
        times = [self._deadline(worker) for worker in self.workers]
        return min([*times, *(slot.restart_at for slot in self._slots)], default=math.inf)

    def _deadline(self, worker: Worker) -> float:
        if worker.is_draining:
            return worker.kill_at
        if not worker.is_ready:
            return min(worker.kill_at, worker.started + MAX_START)
        return worker.beat + self._worker_timeout

    def _kill(self, worker: Worker) -> None:
        why = (
            "it did not end in time"
            if worker.is_draining
            else "no sign of life"
            if worker.is_ready
            else "it did not become ready"
        )
        log.error("worker killed", worker=worker.slot, pid=worker.process.pid, reason=why)
        worker.process.send_signal(signal.SIGKILL)
        worker.is_draining, worker.kill_at = True, math.inf

    def _drain(self, worker: Worker, number: signal.Signals) -> None:
        worker.is_draining = True
        worker.kill_at = self._clock() + self._drain_seconds
        worker.process.send_signal(number)

    def _launch(self, number: int) -> Worker | None:
        """Starts a worker; plans another attempt if the system cannot start a process now."""
        slot = self._slots[number]
        try:
            process = self._launch_process(number)
        except OSError as error:
            log.error("worker not started", worker=number, reason=error.strerror or str(error))
            if slot.current is None and not self._is_stopping:
                slot.ends += 1
                slot.restart_at = self._clock() + min(MAX_BACKOFF, FIRST_BACKOFF * 2 ** min(slot.ends - 1, 10))
            return None
        log.info("worker started", worker=number, pid=process.pid)
        now = self._clock()
        return Worker(number, process, started=now, beat=now)

    # --- the rolling restart ---

    def _replace_next(self) -> None:
        """Starts the successor for the first slot that has a worker to replace."""
        while self._rolling:
            slot = self._slots[self._rolling[0]]
            if slot.successor is not None or slot.former:
                return  # its worker is being replaced
            if slot.current is not None:
                slot.successor = self._launch(self._rolling[0])
                if slot.successor is None:
                    self._abandon_roll()
                return
            self._rolling.popleft()  # it is started again anyway
        log.info("rolling restart done")
        if self._is_roll_wanted:
            self._is_roll_wanted = False
            self.roll()

    def _go_on(self, number: int) -> None:
        """Goes on with the next slot when the former worker of this one has ended."""
        if self._rolling and self._rolling[0] == number and not self._slots[number].former:
            self._rolling.popleft()
            self._replace_next()

    def _abandon_roll(self) -> None:
        self._rolling.clear()
        self._is_roll_wanted = False
        if not self._is_stopping:
            log.error("rolling restart stopped: the new worker did not start, the former ones stay")
