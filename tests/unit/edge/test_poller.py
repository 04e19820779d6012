"""The poller: which socket is read when, and what wakes a connection's task."""

import os
import socket
from collections import Counter
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from pulse_trio.edge.server import poller as module
from pulse_trio.edge.server.poller import PolledSocket, Poller


class Connection:
    """A connection whose client sends again what was read, so that its socket stays ready.

    `number`: the socket's file descriptor.
    """

    def __init__(self, poller: Poller, number: int | None = None) -> None:
        self.ours, self.theirs = trio.socket.socketpair()
        if number is not None and number != self.ours.fileno():
            with self.ours as other:
                os.dup2(other.fileno(), number)
            self.ours = trio.socket.from_stdlib_socket(socket.socket(fileno=number))
        self.deadline = trio.current_time() + 3_600
        self.reads = 0
        self.is_simple = True  # no read needs the task
        self.polled = PolledSocket(poller, self.ours, self)

    def on_data(self, data: bytes, now: float) -> bool:
        self.reads += 1
        if data:
            assert self.theirs._sock.send(data)  # type: ignore[attr-defined]  # the socket itself, at once
        if self.is_simple is None:
            raise RuntimeError("planted")
        return self.is_simple

    def on_deadline(self, now: float) -> bool:
        return False

    def close(self) -> None:
        self.polled.close()
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def poller() -> Poller:
    return Poller()


@pytest.mark.parametrize(
    ("bound", "value"), [("MAX_SOCKETS_A_TURN", 4), ("TURN_BYTES", 4 * len(b"never read"))], ids=["sockets", "bytes"]
)
async def test_sockets_that_are_always_ready_are_read_equally_often(
    poller: Poller, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    """A turn has room for 4 of 10; other tasks run between two turns."""
    monkeypatch.setattr(module, bound, value)
    connections = [Connection(poller) for _ in range(10)]
    for connection in connections:
        await connection.theirs.send(b"never read")
        nursery.start_soon(connection.polled.wait)
    await wait_all_tasks_blocked()
    nursery.start_soon(poller.run)
    turns = 0
    while sum(connection.reads for connection in connections) < 400:
        await trio.lowlevel.checkpoint()
        turns += 1
    counts = Counter(connection.reads for connection in connections)
    assert set(counts) <= {39, 40, 41}, counts
    assert turns >= 100
    nursery.cancel_scope.cancel()
    for connection in connections:
        connection.close()


async def test_who_sends_little_does_not_wait_for_those_who_send_as_much_as_they_can(
    poller: Poller, nursery: trio.Nursery
) -> None:
    """50 clients always have more to read than a turn takes of all; another one sends a few bytes now and then."""
    connections = [Connection(poller) for _ in range(50)]
    modest = Connection(poller)
    for connection in connections:
        await connection.theirs.send(b"x" * 40_000)
        nursery.start_soon(connection.polled.wait)
    nursery.start_soon(modest.polled.wait)
    await wait_all_tasks_blocked()
    await modest.theirs.send(b"a few")
    nursery.start_soon(poller.run)
    turns = 0
    while modest.reads < 1:
        await trio.lowlevel.checkpoint()
        turns += 1
    assert turns <= 10, "nobody is known to send much yet: a little is read of each"
    reads = [connection.reads for connection in connections]
    while modest.reads < 20:  # it sends again what was read
        await trio.lowlevel.checkpoint()
        turns += 1
    assert turns <= 60
    while min(connection.reads for connection in connections) < max(reads) + 2:
        await trio.lowlevel.checkpoint()  # the others are read, too
    nursery.cancel_scope.cancel()
    for connection in [*connections, modest]:
        connection.close()


async def test_a_socket_is_not_read_before_its_task_waits_nor_while_it_runs(
    poller: Poller, nursery: trio.Nursery
) -> None:
    connection = Connection(poller)
    connection.is_simple = False
    nursery.start_soon(poller.run)
    await connection.theirs.send(b"x")
    await wait_all_tasks_blocked()
    assert connection.reads == 0
    for count in (1, 2):
        await connection.polled.wait()
        assert connection.reads == count
        await wait_all_tasks_blocked()  # would not return if the poller looked at it again and again
        assert connection.reads == count
    nursery.cancel_scope.cancel()
    connection.close()


async def test_a_wait_that_is_cancelled_or_woken_ends_the_reading(poller: Poller, nursery: trio.Nursery) -> None:
    connection = Connection(poller)
    nursery.start_soon(poller.run)
    with trio.CancelScope() as scope:
        nursery.start_soon(cancel_soon, scope)
        await connection.polled.wait()
    assert scope.cancelled_caught
    nursery.start_soon(wake_soon, connection.polled)
    await connection.polled.wait()
    await connection.theirs.send(b"x")
    await wait_all_tasks_blocked()
    assert connection.reads == 0
    nursery.cancel_scope.cancel()
    connection.close()


async def cancel_soon(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()


async def wake_soon(polled: PolledSocket) -> None:
    await wait_all_tasks_blocked()
    polled.wake()


async def test_a_fault_is_raised_in_the_connections_task(poller: Poller, nursery: trio.Nursery) -> None:
    faulty, other = Connection(poller), Connection(poller)
    faulty.is_simple = None  # type: ignore[assignment]
    other.is_simple = False
    nursery.start_soon(poller.run)
    await faulty.theirs.send(b"x")
    with pytest.raises(RuntimeError, match="planted"):
        await faulty.polled.wait()
    await other.theirs.send(b"x")
    await other.polled.wait()
    nursery.cancel_scope.cancel()
    faulty.close()
    other.close()


async def test_a_read_that_fails_ends_only_its_own_connection(poller: Poller, nursery: trio.Nursery) -> None:
    """There may be no memory for what was received."""
    faulty, other = Connection(poller), Connection(poller)
    other.is_simple = False
    nursery.start_soon(poller.run)
    await faulty.theirs.send(b"x")
    faulty.polled._socket = SimpleNamespace(  # type: ignore[assignment]
        fileno=faulty.ours.fileno, _sock=SimpleNamespace(recv=Mock(side_effect=MemoryError))
    )
    with pytest.raises(MemoryError):
        await faulty.polled.wait()
    await other.theirs.send(b"x")
    await other.polled.wait()
    nursery.cancel_scope.cancel()
    faulty.close()
    other.close()


async def test_a_new_socket_with_the_number_of_a_closed_one_is_read(poller: Poller, nursery: trio.Nursery) -> None:
    """The old one was closed by somebody else while it was armed, and its owner finds out later."""
    old = Connection(poller)
    nursery.start_soon(poller.run)
    nursery.start_soon(wake_soon, old.polled)
    await old.polled.wait()
    number = old.ours.fileno()
    old.ours.close()
    new = Connection(poller, number)
    new.is_simple = False
    assert new.ours.fileno() == number
    await new.theirs.send(b"x")
    async with trio.open_nursery() as waiting:
        waiting.start_soon(new.polled.wait)
        await trio.lowlevel.checkpoint()
        old.polled._disarm()
    assert new.reads == 1
    with pytest.raises(trio.ClosedResourceError):
        await old.polled.wait()
    nursery.cancel_scope.cancel()
    old.close()
    new.close()
