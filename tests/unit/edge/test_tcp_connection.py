"""The end of a TCP connection: while something is being written, and while it waits for a request."""

from types import SimpleNamespace

import pytest
import trio
import trio.testing

from pulse_trio.edge.server.gate import Gate
from pulse_trio.edge.server.idle_connections import IdleConnections
from pulse_trio.edge.server.stream_writer import PendingWrites, StreamWriter
from pulse_trio.edge.server.tcp_connection import FRESH_SECONDS, TcpConnection
from pulse_trio.settings import Settings


class Protocol:
    """Takes the end of the connection."""

    async def handle(self, event: object) -> None:
        await trio.lowlevel.checkpoint()


def make_connection(socket: trio.socket.SocketType) -> TcpConnection:
    """Makes a connection as it is while this task serves it."""
    stream = trio.SocketStream(socket)
    connection = TcpConnection(None, None, None, {}, stream)
    connection.protocol = Protocol()  # type: ignore[assignment]
    lock, writes = connection.send_lock, PendingWrites(10.0)
    connection.writer = StreamWriter(stream, lock, Gate(Settings()), writes, connection._lose)
    connection._reader = trio.lowlevel.current_task()
    connection._input_ended = trio.Event()
    return connection


@pytest.mark.parametrize("is_shut", [False, True], ids=["open", "after the close frame"])
@pytest.mark.parametrize("later", range(4))
async def test_a_write_while_the_connection_closes_is_no_error(is_shut: bool, later: int) -> None:
    ours, theirs = trio.socket.socketpair()
    connection = make_connection(ours)
    connection._input_ended.set()
    if is_shut:
        connection.writer.shut()

    async def write() -> None:
        for _ in range(later):
            await trio.lowlevel.checkpoint()
        await connection.writer.write(b"\x81\x02{}", is_frames=True)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            nursery.start_soon(connection._close)
            nursery.start_soon(trio.SocketStream(theirs).aclose)
        assert ours.fileno() == -1


async def test_a_connection_closes_after_a_pending_write() -> None:
    """The end of the connection does not cut short a close frame that the network takes slowly."""
    ours, theirs = trio.socket.socketpair()
    connection = make_connection(ours)
    data = bytes(4 * 2**20)
    found = 0
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.writer.write, data)
            while not connection.send_lock.locked():
                await trio.lowlevel.checkpoint()
            connection._input_ended.set()
            nursery.start_soon(connection._close)
            async with trio.SocketStream(theirs) as peer:
                async for piece in peer:
                    found += len(piece)
    assert found == len(data)


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> IdleConnections:
    connections = IdleConnections()
    monkeypatch.setattr(TcpConnection, "idle", connections, raising=False)
    return connections


def make_idle(socket: trio.socket.SocketType) -> TcpConnection:
    connection = make_connection(socket)
    connection.config = SimpleNamespace(read_timeout=None, keep_alive_timeout=5.0)  # type: ignore[assignment]
    return connection


async def test_a_connection_waits_for_a_request_for_a_time(
    autojump_clock: trio.testing.MockClock, idle: IdleConnections
) -> None:
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        connection = make_idle(ours)
        began = trio.current_time()
        connection._begin_idle()
        assert not await connection.read()
        assert trio.current_time() - began == 5.0


async def test_an_answer_lets_a_read_that_has_begun_end(
    autojump_clock: trio.testing.MockClock, idle: IdleConnections
) -> None:
    """The answer to a request comes while the connection's task waits for the next one."""
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        connection = make_idle(ours)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.read)
            await trio.sleep(7)
            connection._begin_idle()
        assert trio.current_time() - began == 12.0


@pytest.mark.parametrize("is_first", [False, True], ids=["idle before", "idle after"])
@pytest.mark.parametrize("is_fresh", [False, True], ids=["had requests", "fresh"])
async def test_idle_connections_end_with_the_server(
    autojump_clock: trio.testing.MockClock, idle: IdleConnections, is_fresh: bool, is_first: bool
) -> None:
    """The first request of a client that has just connected may be on its way."""
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        connection = make_idle(ours)
        connection._is_fresh = is_fresh
        began = trio.current_time()
        if is_first:
            idle.close()
            connection._begin_idle()
            assert not await connection.read()
        else:
            connection._begin_idle()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.read)
                await trio.testing.wait_all_tasks_blocked()
                idle.close()
                while await connection.read():
                    pass
        assert trio.current_time() - began == (FRESH_SECONDS if is_fresh else 0)


async def test_a_request_ends_the_idle_time(autojump_clock: trio.testing.MockClock, idle: IdleConnections) -> None:
    ours, theirs = trio.socket.socketpair()
    with ours, theirs:
        connection = make_idle(ours)
        connection._begin_idle()
        connection._end_idle()
        idle.close()
        with trio.move_on_after(100) as scope:
            await connection.read()
        assert scope.cancelled_caught
