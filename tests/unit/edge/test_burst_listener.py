"""The listener: several connections of a turn, and none is leaked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from pulse_trio.edge.server import burst_listener
from pulse_trio.edge.server.burst_listener import MAX_BURST, MAX_WAITING, BurstListener, max_waiting


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[BurstListener, int]]:
    socket = trio.socket.socket()
    await socket.bind(("127.0.0.1", 0))
    socket.listen(MAX_BURST * 4)
    async with BurstListener(socket) as listener:
        yield listener, socket.getsockname()[1]


class Turns(trio.abc.Instrument):
    """Counts the turns of the loop."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_waiting_connections_are_accepted_in_bursts() -> None:
    with trio.fail_after(30):
        async with listening() as (listener, port):
            clients = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(MAX_BURST * 3)]
            turns = Turns()
            trio.lowlevel.add_instrument(turns)
            streams = [await listener.accept() for _ in clients]
            trio.lowlevel.remove_instrument(turns)
            assert turns.count <= 2 * 3, "a few for each burst, not one for each connection"
            ports = [stream.socket.getsockname() for stream in clients]
            assert [stream.socket.getpeername() for stream in streams] == ports, "first come, first served"
            for stream in (*clients, *streams):
                await stream.aclose()


async def test_a_connection_does_not_wait_for_those_of_another_address() -> None:
    """Behind 500 connections of one address a probe waited until all of them had begun."""
    with trio.fail_after(30):
        async with listening() as (listener, port):
            many = [
                await trio.open_tcp_stream("127.0.0.1", port, local_address="127.0.0.2") for _ in range(MAX_BURST * 3)
            ]
            probe = await trio.open_tcp_stream("127.0.0.1", port, local_address="127.0.0.3")
            streams = [await listener.accept() for _ in range(MAX_BURST)]
            hosts = [stream.socket.getpeername()[0] for stream in streams]
            assert hosts.index("127.0.0.3") <= 1
            streams += [await listener.accept() for _ in range(MAX_BURST * 2 + 1)]
            ports = [stream.socket.getsockname() for stream in many]
            found = [stream.socket.getpeername() for stream in streams]
            assert [peer for peer in found if peer[0] == "127.0.0.2"] == ports
            for stream in (*many, probe, *streams):
                await stream.aclose()


async def test_no_more_connections_wait_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BurstListener, "max_waiting", MAX_BURST)
    with trio.fail_after(30):
        async with listening() as (listener, port):
            clients = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(MAX_BURST * 3)]
            streams = []
            for _ in clients:
                streams.append(await listener.accept())
                assert len(listener._waiting) < MAX_BURST
            for stream in (*clients, *streams):
                await stream.aclose()


@pytest.mark.parametrize(("files", "waiting"), [(256, MAX_BURST), (10_256, 80), (1_000_000, MAX_WAITING)])
def test_few_open_files_let_few_wait(files: int, waiting: int) -> None:
    assert max_waiting(files) == waiting


@pytest.mark.parametrize(
    ("address", "host"),
    [
        (("192.0.2.7", 1), "192.0.2.7"),
        (("::ffff:192.0.2.7", 1, 0, 0), "::ffff:192.0.2.7"),
        (("2001:db8:0:1::5", 1, 0, 0), "20010db800000001"),
        (("2001:db8:0:1:2::9%eth0", 1, 0, 0), "20010db800000001"),
        ("", ""),
    ],
)
def test_addresses_of_one_network_have_turns_together(address: object, host: str) -> None:
    assert burst_listener._host(address) == host


async def test_a_single_connection_is_waited_for_and_carries_data() -> None:
    with trio.fail_after(30):
        async with listening() as (listener, port), trio.open_nursery() as nursery:
            accepted: list[trio.SocketStream] = []

            async def accept() -> None:
                accepted.append(await listener.accept())

            nursery.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked()
            assert not accepted
            async with await trio.open_tcp_stream("127.0.0.1", port) as client:
                await client.send_all(b"hello")
                while not accepted:
                    await trio.lowlevel.checkpoint()
                assert await accepted[0].receive_some(10) == b"hello"
                await accepted[0].aclose()


async def test_connections_that_nobody_took_are_closed_with_the_listener() -> None:
    with trio.fail_after(30):
        async with listening() as (listener, port):
            first = await trio.open_tcp_stream("127.0.0.1", port)
            second = await trio.open_tcp_stream("127.0.0.1", port)
            async with await listener.accept():
                await listener.aclose()
                assert await second.receive_some(1) == b""
                with pytest.raises(trio.ClosedResourceError):
                    await listener.accept()
            await first.aclose()
            await second.aclose()
