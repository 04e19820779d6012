"""The writer of one client: order, deadlines, and frames that must not arrive any more."""

from functools import partial

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pulse_trio.edge.server.gate import Gate
from pulse_trio.edge.server.stream_writer import LAST_WRITE, PendingWrites, StreamWriter
from pulse_trio.settings import Settings

TIMEOUT = 10.0  # seconds


class Writer:
    """A writer on a socket with a small buffer, and its peer."""

    def __init__(self) -> None:
        ours, theirs = trio.socket.socketpair()
        ours.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 4_096)
        self.socket = ours
        self.peer = trio.SocketStream(theirs)
        self.gate = Gate(Settings())
        self.writes = PendingWrites(TIMEOUT)
        self.lost = 0
        self.writer = StreamWriter(trio.SocketStream(ours), trio.Lock(), self.gate, self.writes, self._lose)

    async def _lose(self) -> None:
        await trio.lowlevel.checkpoint()
        self.lost += 1


@pytest.mark.parametrize("way", ["kept", "flushed", "sent"])
async def test_abandoned_frames_do_not_arrive(way: str) -> None:
    """Also while they are being written and the network takes no more of them."""
    setup = Writer()
    writer = setup.writer
    data = bytes(4 * 2**20) + b"secret"
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            if way == "sent":
                nursery.start_soon(partial(writer.write, data, is_frames=True))
            else:
                assert writer.write_nowait(data) > 0
            if way == "flushed":
                nursery.start_soon(writer.flush)
            await trio.testing.wait_all_tasks_blocked()
            writer.abandon()
            if way == "kept":  # nothing writes at this moment: the next write finds out
                nursery.start_soon(writer.write, b"a close frame")
            async with setup.peer as peer:
                found = b"".join([piece async for piece in peer])
    assert len(found) < len(data) / 2
    assert b"secret" not in found
    assert setup.gate.stalled == 0, "the client is not a slow reader"
    assert writer.is_shut


@pytest.mark.parametrize("end", ["read", "stopped", "ended"])
async def test_a_slow_reader_gets_everything_and_a_stalled_one_is_disconnected(end: str, mock_clock: MockClock) -> None:
    """A large answer may take longer than the timeout; a pause of its reader, or the server's end, may not."""
    setup = Writer()
    data = bytes(4 * 2**20)
    found = 0

    async def read(peer: trio.SocketStream, size: int) -> None:
        nonlocal found
        until = found + size
        while found < until and (piece := await peer.receive_some(until - found)):
            found += len(piece)
        await trio.testing.wait_all_tasks_blocked()

    async with setup.peer as peer, trio.open_nursery() as nursery:
        nursery.start_soon(setup.writer.write, data)
        for _ in range(8):  # 48 seconds
            await read(peer, 128 * 1_024)
            mock_clock.jump(TIMEOUT * 0.6)
            await trio.testing.wait_all_tasks_blocked()
        assert found == 2**20
        if end == "ended":
            setup.writes.shorten()
            await read(peer, 128 * 1_024)
            mock_clock.jump(LAST_WRITE + 0.1)
        elif end == "stopped":
            await read(peer, 128 * 1_024)
            mock_clock.jump(TIMEOUT + 0.1)
        await trio.testing.wait_all_tasks_blocked()
        await read(peer, len(data) - found)
    setup.socket.close()
    assert (found == len(data)) is (end == "read")
    assert setup.gate.stalled == (0 if end == "read" else 1)


async def test_a_client_that_stalls_is_lost_also_when_its_writer_is_cancelled(mock_clock: MockClock) -> None:
    """A write goes on past cancellation, until its client has taken it or has had its time."""
    setup = Writer()
    scope = trio.CancelScope()

    async def write() -> None:
        with scope:
            await setup.writer.write(bytes(4 * 2**20))

    async with setup.peer, trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert setup.lost == 0, "it has its time"
        mock_clock.jump(TIMEOUT + 0.1)
    assert setup.lost == 1
    assert setup.writer.is_shut
