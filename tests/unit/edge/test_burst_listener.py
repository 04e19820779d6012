"""The listener: several connections of a turn, and none is leaked."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from pulse_trio.edge.server.burst_listener import MAX_BURST, BurstListener


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
