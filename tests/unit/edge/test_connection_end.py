"""The end of a connection and what is written meanwhile: nobody is told of the other."""

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from pulse_trio.edge.server.connection import LAST_WRITE, GuardedServer
from pulse_trio.edge.server.outlet import StreamOutlet


class Protocol:
    """Hears that the connection has ended."""

    async def handle(self, event: object) -> None:
        await trio.lowlevel.checkpoint()


class Gate:
    """Counts who was cut off."""

    stalled = 0


@pytest.mark.parametrize("way", ["kept", "flushed", "sent"])
async def test_what_is_on_its_way_to_a_removed_member_does_not_arrive(
    way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it is being written, and the network takes no more of it at that moment."""
    ours, theirs = trio.socket.socketpair()
    ours.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 4_096)
    server = GuardedServer(None, None, None, {}, trio.SocketStream(ours))  # type: ignore[arg-type]
    monkeypatch.setattr(GuardedServer, "gate", Gate(), raising=False)
    server.protocol = Protocol()  # type: ignore[assignment]
    server.outlet = StreamOutlet(server)
    data = bytes(4 * 2**20) + b"secret"
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            if way == "sent":
                nursery.start_soon(server.outlet.send, data)
            else:
                assert server.outlet.write_now(data) > 0
            if way == "flushed":
                nursery.start_soon(server.outlet.flush)
            await trio.testing.wait_all_tasks_blocked()
            server.outlet.abandon()
            if way == "kept":  # nobody is at it yet: what is written next finds out
                nursery.start_soon(server.write, b"a close frame")
            async with trio.SocketStream(theirs) as peer:
                found = b"".join([piece async for piece in peer])
    assert len(found) < len(data) / 2
    assert b"secret" not in found
    assert server.gate.stalled == 0, "it was not the client's fault"
    assert server.outlet.is_shut


@pytest.mark.parametrize("is_shut", [False, True], ids=["open", "after the close frame"])
@pytest.mark.parametrize("later", range(4))
async def test_what_is_written_while_the_connection_is_closed_is_no_error(is_shut: bool, later: int) -> None:
    ours, theirs = trio.socket.socketpair()
    server = GuardedServer(None, None, None, {}, trio.SocketStream(ours))  # type: ignore[arg-type]
    server.protocol = Protocol()  # type: ignore[assignment]
    server.outlet = StreamOutlet(server)
    server._reader = trio.lowlevel.current_task()
    server._read_out = trio.Event()
    server._read_out.set()
    if is_shut:
        server.outlet.shut()

    async def write() -> None:
        for _ in range(later):
            await trio.lowlevel.checkpoint()
        await server.write(b"\x81\x02{}", is_frames=True)

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            nursery.start_soon(server._close)
            nursery.start_soon(trio.SocketStream(theirs).aclose)
        assert ours.fileno() == -1


async def test_a_connection_is_closed_after_what_is_being_written() -> None:
    """A close frame that the network takes slowly is not cut short by the end of the connection."""
    ours, theirs = trio.socket.socketpair()
    server = GuardedServer(None, None, None, {}, trio.SocketStream(ours))  # type: ignore[arg-type]
    server.protocol = Protocol()  # type: ignore[assignment]
    server.outlet = StreamOutlet(server)
    server._reader = trio.lowlevel.current_task()
    server._read_out = trio.Event()
    data = bytes(4 * 2**20)
    found = 0
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.write, data)
            while not server.send_lock.locked():
                await trio.lowlevel.checkpoint()
            server._read_out.set()
            nursery.start_soon(server._close)
            async with trio.SocketStream(theirs) as peer:
                async for piece in peer:
                    found += len(piece)
    assert found == len(data)


@pytest.mark.parametrize("end", ["read", "stopped", "hurried"])
async def test_who_goes_on_reading_gets_all_and_who_stops_is_cut(
    end: str, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large answer may take longer than `write_timeout`; a pause of its reader, or the server's end, may not."""
    ours, theirs = trio.socket.socketpair()
    ours.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, 4_096)
    server = GuardedServer(None, None, None, {}, trio.SocketStream(ours))  # type: ignore[arg-type]
    monkeypatch.setattr(GuardedServer, "gate", Gate(), raising=False)
    monkeypatch.setattr(GuardedServer, "hurried", False)
    server.protocol = Protocol()  # type: ignore[assignment]
    server.outlet = StreamOutlet(server)
    data = bytes(4 * 2**20)
    found = 0

    async def read(peer: trio.SocketStream, size: int) -> None:
        nonlocal found
        until = found + size
        while found < until and (piece := await peer.receive_some(until - found)):
            found += len(piece)
        await trio.testing.wait_all_tasks_blocked()

    async with trio.SocketStream(theirs) as peer, trio.open_nursery() as nursery:
        nursery.start_soon(server.write, data)
        for _ in range(8):  # 48 seconds
            await read(peer, 128 * 1_024)
            mock_clock.jump(server.write_timeout * 0.6)
            await trio.testing.wait_all_tasks_blocked()
        assert found == 2**20
        if end == "hurried":
            GuardedServer.hurry()
            await read(peer, 128 * 1_024)
            mock_clock.jump(LAST_WRITE + 0.1)
        elif end == "stopped":
            await read(peer, 128 * 1_024)
            mock_clock.jump(server.write_timeout + 0.1)
        await trio.testing.wait_all_tasks_blocked()
        await read(peer, len(data) - found)
    ours.close()
    assert (found == len(data)) is (end == "read")
    assert server.gate.stalled == (0 if end == "read" else 1)
