"""The poller: one task reads all WebSockets over plain TCP.

Trio's `wait_readable` wakes a task for each socket and arms the socket again each time. Here the sockets are in an
epoll of our own, which Trio waits for as for a single file. A connection's task runs only for what cannot be done in
the call that reads: while it runs, its socket is not read.

Nothing else knows epoll. Where there is none, and over TLS, each connection's task waits for its own socket.
"""

import math
import select
from collections import deque
from contextlib import suppress
from contextvars import ContextVar
from typing import Final, Protocol

import trio

from pulse_trio.edge.server.deadlines import Deadlines
from pulse_trio.edge.turns import TURN_BYTES

MAX_SOCKETS_A_TURN: Final = 256  # before other tasks have their turn; the others come first in the next one
LIGHT_BYTES: Final = 8_192  # of one read; a client that has sent more waits for those that have sent less
HEAVY_BYTES: Final = 32_768  # of one read of such a client; 200 small frames take 8 ms


class PolledConnection(Protocol):
    """A connection as the poller uses it, while the connection's task waits."""

    @property
    def deadline(self) -> float:
        """The time on Trio's clock at which something is due although the client sends nothing."""

    def on_data(self, data: bytes, now: float) -> bool:
        """Handles the bytes of one read, none if the client sends no more; False if the task must go on."""

    def on_deadline(self, now: float) -> bool:
        """Does what is due; False if the task must do it."""


class Poller:
    """Reads sockets whose connections wait. `close` must follow.

    The kernel reports ready sockets in turns, so 1,000 that are always ready are read equally often. A turn of the loop
    ends after `TURN_BYTES` as well, and clients that send more than `LIGHT_BYTES` at once come last in it: those that
    send as much as they can must not hold up the others.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._armed: dict[int, PolledSocket] = {}  # by file descriptor
        self._ready: deque[int] = deque()
        self._heavy: deque[int] = deque()
        self._queued: set[int] = set()  # in one of the two
        self.deadlines = Deadlines()

    async def run(self) -> None:
        """Reads, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.deadlines.run, name="deadlines of connections")
            while True:
                if self._queued:
                    await trio.lowlevel.checkpoint()
                else:
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                if not self._ready:  # in rounds: those that are read first come last in the next one
                    self._queue_ready()
                now = trio.current_time()
                size = 0
                for _ in range(min(len(self._ready), MAX_SOCKETS_A_TURN)):
                    size += self._read_next(self._ready, now)
                    if size >= TURN_BYTES:
                        break
                if self._heavy:  # one a turn, however many others there are: a request needs several turns
                    self._read_next(self._heavy, now)

    def _queue_ready(self) -> None:
        """Queues the sockets that are ready; those that wait already are reported again."""
        for number, _ in self._epoll.poll(0, MAX_SOCKETS_A_TURN):
            polled = self._armed.get(number)
            if polled is not None and number not in self._queued:
                self._queued.add(number)
                (self._heavy if polled.is_heavy else self._ready).append(number)

    def _read_next(self, queue: deque[int], now: float) -> int:
        """Reads the first socket of a queue; returns the number of bytes."""
        number = queue.popleft()
        self._queued.discard(number)
        polled = self._armed.get(number)
        return 0 if polled is None else polled.read(now)

    def close(self) -> None:
        """Closes the epoll, once `run` has ended."""
        self._epoll.close()

    def arm(self, number: int, polled: "PolledSocket") -> None:
        """Begins to read a socket."""
        # One with the same number that was closed meanwhile has left epoll by itself.
        self._epoll.register(number, select.EPOLLIN)
        self._armed[number] = polled

    def disarm(self, number: int, polled: "PolledSocket") -> None:
        """Stops reading a socket; nothing of it is reported any more, not even its end."""
        if self._armed.get(number) is not polled:
            return  # it was closed, and another one has its number
        del self._armed[number]
        with suppress(OSError):  # it was closed
            self._epoll.unregister(number)


class PolledSocket:
    """The socket of one connection, whose task waits here while the poller reads.

    It is disarmed only when the client sends something although the task is busy: most often the task waits again
    before that, and two system calls are saved.

    Args:
        poller: reads it.
        socket: the socket.
        connection: handles what is read.
    """

    __slots__ = ("_connection", "_is_armed", "_number", "_poller", "_problem", "_socket", "_task", "due_at", "is_heavy")

    def __init__(self, poller: Poller, socket: trio.socket.SocketType, connection: PolledConnection) -> None:
        self._poller = poller
        self._socket = socket
        self._number = socket.fileno()
        self._connection = connection
        self._task: trio.lowlevel.Task | None = None  # while it waits
        self._is_armed = False
        self._problem: Exception | None = None
        self.due_at = math.inf
        self.is_heavy = False  # more may wait than a light read takes

    async def wait(self) -> None:
        """Waits until the connection needs its task: for what it read, for a deadline, or after `wake`.

        Raises:
            trio.ClosedResourceError: the socket is closed.
        Cancelled: nothing is lost that was not read.
        """
        if self._socket.fileno() < 0:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError
        if not self._is_armed:
            self._poller.arm(self._number, self)
            self._is_armed = True
        self.watch()
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise problem

    def _stop_waiting(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> None:
        """Lets the task go on, if it waits."""
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    def watch(self) -> None:
        """Takes note of a deadline that may have become earlier."""
        self._poller.deadlines.enter(self, self._connection.deadline)

    def read(self, now: float) -> int:
        """Reads once, if the task waits; returns the number of bytes.

        A fault of ours ends this connection, not the poller.
        """
        if self._task is None:
            self._disarm()
            return 0
        size = HEAVY_BYTES if self.is_heavy else LIGHT_BYTES
        try:
            data: bytes = self._socket._sock.recv(size)  # type: ignore[attr-defined]  # the socket itself
        except BlockingIOError:
            return 0  # a spurious report
        except OSError:
            data = b""
        except Exception as error:  # no memory for it
            self._problem = error
            self.wake()
            return 0
        self.is_heavy = len(data) >= LIGHT_BYTES
        try:
            if not self._connection.on_data(data, now):
                self.wake()
        except Exception as error:
            self._problem = error
            self.wake()
        return len(data)

    def on_due(self, now: float) -> None:
        """Looks at the deadline, if the task waits; otherwise it will when it waits again."""
        if self._task is None:
            return
        try:
            if self._connection.deadline > now or self._connection.on_deadline(now):
                self.watch()
            else:
                self.wake()
        except Exception as error:
            self._problem = error
            self.wake()

    def close(self) -> None:
        """Stops reading for ever."""
        self._disarm()
        self._poller.deadlines.leave(self)
        del self._connection, self._socket  # an entry among the deadlines may keep this object for a while

    def _disarm(self) -> None:
        if self._is_armed:
            self._is_armed = False
            self._poller.disarm(self._number, self)


def open_poller() -> Poller | None:
    """Opens a poller, where the system has epoll."""
    return Poller() if hasattr(select, "epoll") else None


_current: Final[ContextVar[Poller | None]] = ContextVar("poller", default=None)


def current_poller() -> Poller | None:
    """Returns the poller of the server that this task belongs to, if it has one."""
    return _current.get()


def set_poller(poller: Poller | None) -> None:
    """Sets the poller for this task and those that it starts from now on."""
    _current.set(poller)
