"""The supervisor: a plain loop over signals and the pipes of the workers."""

import math
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Self

import structlog
from hypercorn.config import Config, Sockets

from pulse_trio.database.embedded import die_with
from pulse_trio.database.lease_ids import new_owner
from pulse_trio.database.opening import Database
from pulse_trio.database.pool_share import PoolShare
from pulse_trio.edge.server.shared_load import LoadTable, open_table
from pulse_trio.edge.siblings import Siblings
from pulse_trio.errors import LaunchError
from pulse_trio.signals import StopSignals
from pulse_trio.workers.assignment import READY, Assignment, Http, hold
from pulse_trio.workers.fleet import Fleet, Worker

MAX_STANDSTILL: Final = 2.0  # seconds that this loop may be late before it stops judging the workers
DRAIN_MARGIN: Final = 15.0  # seconds beside Hypercorn's own deadlines: for rooms to store what is pending
FAILURE_WAIT: Final = 10.0  # seconds for a worker to end when the supervisor has failed
PROGRAM: Final = (sys.executable, "-P", "-m", "pulse_trio.workers.worker")
_READ_BYTES: Final = 4_096

log = structlog.get_logger(__name__)


class Supervisor:
    """Starts, watches and replaces the workers of a machine.

    Args:
        database: the opened database, with the settings of the service.
        http: Hypercorn's settings.
        read_http: reads them again, for a rolling restart.
        sockets: what is listened on.
        metrics: the socket of `PULSE_METRICS_BIND`, if there is one.
        share: the connections to the database that a worker may open.
    """

    def __init__(
        self,
        database: Database,
        http: Http,
        read_http: Callable[[], Http],
        sockets: Sockets,
        metrics: socket.socket | None,
        share: PoolShare,
    ) -> None:
        self._settings = settings = database.settings
        self._database = database
        self._http = http
        self._read_http = read_http
        self._sockets = sockets
        self._metrics = metrics
        self._share = share
        self._selector = selectors.DefaultSelector()
        self._cells = 2 * settings.workers + 2  # current, successor or former of each slot; a margin
        self._table_file = open_table(self._cells)
        self._table = LoadTable(self._table_file, self._cells)
        self._cell_of: dict[int, int] = {}  # pid → cell
        self._owner_of: dict[int, str] = {}  # pid → the beginning of the ids of its leases
        # Those of workers that have ended; a successor ends their leases. Older ones end by themselves in seconds.
        self._ended: deque[str] = deque(maxlen=64)
        self._pipes: dict[int, int] = {}  # pid → the end of its pipe that is read
        self._children: dict[int, subprocess.Popen[bytes]] = {}  # those that have not ended, by pid
        config = Config.from_mapping(http.values)
        self._fleet = Fleet(
            settings.workers,
            self._launch,
            time.monotonic,
            worker_timeout=settings.worker_timeout,
            drain_seconds=settings.stop_delay + config.graceful_timeout + config.shutdown_timeout + DRAIN_MARGIN,
        )
        self._had_terminal = _has_terminal()

    def run(self, signals: StopSignals, on_ready: Callable[[], None]) -> str | None:
        """Runs the workers until a signal ends them; returns its name.

        Args:
            signals: the signals of the start, which may have arrived already.
            on_ready: called once, when all workers accept connections.

        Raises:
            LaunchError: the workers cannot be started, or the embedded PostgreSQL has ended.
        """
        with _Wakeups() as wakeups, self._sibling_sockets():
            self._selector.register(wakeups.descriptor, selectors.EVENT_READ)
            self._fleet.start()
            if signals.name is not None:
                self._fleet.stop(signals.name)
            is_told = False
            try:
                while not self._fleet.is_over:
                    self._wait(wakeups)
                    if not is_told and self._fleet.is_ready and not self._fleet.is_stopping:
                        is_told = True
                        on_ready()
            finally:
                self._end_children()
        if self._fleet.failure is not None:
            raise LaunchError(self._fleet.failure)
        return self._fleet.stopped_by

    def _wait(self, wakeups: "_Wakeups") -> None:
        """Handles what happens next."""
        due = self._fleet.deadline()
        timeout = None if due == math.inf else max(0.0, due - time.monotonic())
        found = self._selector.select(timeout)
        has_stood_still = timeout is not None and time.monotonic() - due > MAX_STANDSTILL
        for key, _ in found:
            if key.fd == wakeups.descriptor:
                for number in wakeups.read():
                    self._on_signal(number)
            else:
                self._on_pipe(key.fd, key.data)
        if has_stood_still:
            self._fleet.forgive()
        self._fleet.tick()

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number == signal.SIGHUP and not (self._had_terminal and not _has_terminal()):
            self._renew_http()
            self._fleet.roll()
        else:  # the terminal was closed, too
            self._fleet.stop(signal.Signals(number).name)
            self._close_sockets()

    def _on_pipe(self, descriptor: int, pid: int) -> None:
        data = os.read(descriptor, _READ_BYTES)
        worker = self._worker(pid)
        if not data:
            self._selector.unregister(descriptor)
            os.close(descriptor)
            del self._pipes[pid]
        elif worker is not None:
            self._fleet.on_sign(worker, is_ready=READY in data)

    def _worker(self, pid: int) -> Worker | None:
        return next((worker for worker in self._fleet.workers if worker.process.pid == pid), None)

    def _reap(self) -> None:
        for pid, child in list(self._children.items()):
            status = child.poll()
            if status is None:
                continue
            del self._children[pid]
            self._table.close_cell(self._cell_of.pop(pid))
            self._ended.append(self._owner_of.pop(pid))
            worker = self._worker(pid)
            assert worker is not None
            self._fleet.on_end(worker, status)
        embedded = self._database.embedded
        if embedded is not None and (status := embedded.poll()) is not None and self._fleet.failure is None:
            how = f"by signal {-status}" if status < 0 else f"with exit code {status}"
            self._fleet.fail(f"the embedded PostgreSQL ended {how}: {embedded.end_reason()}; start pulse-trio again")
        if self._fleet.is_stopping:
            self._close_sockets()

    def _close_sockets(self) -> None:
        """Closes this process's copies, so that clients are refused as soon as the last worker accepts no more."""
        metrics = [] if self._metrics is None else [self._metrics]
        for sock in (*self._sockets.secure_sockets, *self._sockets.insecure_sockets, *metrics):
            sock.close()

    def _end_children(self) -> None:
        """Ends what is left, after a failure of this process: PostgreSQL stops next."""
        for child in self._children.values():
            child.terminate()
        for child in self._children.values():
            try:
                child.wait(FAILURE_WAIT)
            except subprocess.TimeoutExpired:
                child.kill()

    def _renew_http(self) -> None:
        """Reads the configuration and the certificate again; keeps what was read if that fails."""
        try:
            self._http = self._read_http()
        except LaunchError as error:
            log.warning("configuration not read again", problem=str(error))

    @contextmanager
    def _sibling_sockets(self) -> Iterator[None]:
        """Listens on the private sockets of all slots, in a folder that exists for the block."""
        self._folder = Path(tempfile.mkdtemp(prefix="pulse-trio-"))  # which only this account can enter
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self._asked = []
            for slot in range(self._settings.workers):
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.bind(str(Siblings.path(self._folder, slot)))
                sock.listen()
                self._asked.append(sock)
            yield

    def _launch(self, slot: int) -> "subprocess.Popen[bytes]":
        """Starts a worker. Raises OSError if the system cannot."""
        with ExitStack() as stack:
            reading, writing = os.pipe()
            stack.callback(os.close, writing)
            try:
                cell = min(set(range(self._cells)) - set(self._cell_of.values()))
                owner = new_owner()
                assignment = self._assignment(slot, writing, cell, owner)
                given = hold(assignment.encode())
                stack.callback(os.close, given)
                child = subprocess.Popen(  # noqa: S603  # our own program and arguments
                    PROGRAM,
                    stdin=given,
                    pass_fds=assignment.descriptors,
                    start_new_session=True,  # keeps the terminal's Ctrl-C from it; we stop it ourselves
                    preexec_fn=die_with(os.getpid(), signal.SIGTERM),  # safe: this process has no other threads
                )
            except BaseException:
                os.close(reading)
                raise
        self._children[child.pid] = child
        self._cell_of[child.pid] = cell
        self._owner_of[child.pid] = owner
        self._pipes[child.pid] = reading
        os.set_blocking(reading, False)
        self._selector.register(reading, selectors.EVENT_READ, child.pid)
        return child

    def _assignment(self, slot: int, ready: int, cell: int, owner: str) -> Assignment:
        settings = self._settings
        data_dir = self._database.data_dir
        overrides: dict[str, Any] = {"data_dir": None if data_dir is None else str(data_dir), "user": None}
        return Assignment(
            slot=slot,
            workers=settings.workers,
            settings=overrides,
            share=asdict(self._share),
            http=self._http,
            secure=[sock.fileno() for sock in self._sockets.secure_sockets],
            insecure=[sock.fileno() for sock in self._sockets.insecure_sockets],
            metrics=None if self._metrics is None else self._metrics.fileno(),
            table=self._table_file,
            cells=self._cells,
            cell=cell,
            ready=ready,
            siblings=str(self._folder),
            asked=self._asked[slot].fileno(),
            owner=owner,
            ended=list(self._ended),
        )


class _Wakeups:
    """The signals of this process as bytes of a pipe, for a `with` block."""

    def __enter__(self) -> Self:
        self.descriptor, self._writing = os.pipe()
        os.set_blocking(self.descriptor, False)
        os.set_blocking(self._writing, False)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
            if signal.getsignal(number) is not signal.SIG_IGN or number is signal.SIGCHLD:
                signal.signal(number, _ignore)  # SIG_IGN would write no byte
        return self

    def read(self) -> list[int]:
        """Returns the numbers of the signals that have arrived; each at least once, SIGCHLD always.

        The pipe holds 65,536 signals; that more arrive before this process looks is no case to plan for.
        """
        with suppress(BlockingIOError):
            return sorted({*os.read(self.descriptor, _READ_BYTES), signal.SIGCHLD})
        return []

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        os.close(self.descriptor)
        os.close(self._writing)


def _ignore(_number: int, _frame: object) -> None:
    pass


def _has_terminal() -> bool:
    """Returns whether this process has a terminal; SIGHUP after it was closed asks the service to stop."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
