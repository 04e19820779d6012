"""Fair accept: a worker leaves connections to those that have fewer, and nobody waits for one that stands still."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.lowlevel

from pulse_trio.edge.server.burst_listener import BurstListener
from pulse_trio.edge.server.shared_load import MAX_PATIENCE, LoadTable, SharedLoad, open_table

CELLS = 6


@pytest.fixture
def table() -> Iterator[LoadTable]:
    """A table that two processes could map."""
    made = LoadTable(open_table(CELLS), CELLS)
    yield made
    made.close()


def test_a_table_begins_closed_and_its_cells_are_shared(table: LoadTable) -> None:
    assert table.values() == [-1] * CELLS
    descriptor = open_table(2)
    one, other = LoadTable(descriptor, 2), LoadTable(descriptor, 2)
    one.set(1, 7)
    assert other.values() == [-1, 7]


def test_a_worker_waits_only_while_a_live_one_has_fewer(table: LoadTable) -> None:
    first, second = SharedLoad(table, 0), SharedLoad(table, 3)
    assert first.patience() == second.patience() == 0
    first.enter()
    assert (first.excess(), second.excess()) == (1, 0)
    assert 0 < first.patience() < MAX_PATIENCE
    for _ in range(9):
        first.enter()
    assert first.patience() == MAX_PATIENCE
    table.close_cell(3)  # as the supervisor does when the second one has died
    assert first.patience() == 0
    for _ in range(10):
        first.leave()
    assert table.values()[0] == 0


def test_a_worker_that_drains_does_not_count(table: LoadTable) -> None:
    first, second = SharedLoad(table, 0), SharedLoad(table, 1)
    first.enter()
    second.close()
    assert first.excess() == 0
    second.enter()
    second.leave()
    assert table.values()[:2] == [1, -1], "what ends later does not open its cell again"


Kept = list[list[trio.SocketStream]]  # the connections that each worker has accepted


class Listener(BurstListener):
    """A worker's listener; in a process there is one load for all, here each has its own."""

    def __init__(self, socket: trio.socket.SocketType, load: SharedLoad) -> None:
        super().__init__(socket)
        self.load = load  # type: ignore[misc]  # see above


@asynccontextmanager
async def workers(table: LoadTable, count: int) -> AsyncIterator[tuple[list[SharedLoad], Kept, int]]:
    """Workers that accept from one socket and keep what they have; each of them can be stopped by cancelling it."""
    socket = trio.socket.socket()
    await socket.bind(("127.0.0.1", 0))
    socket.listen(1_000)
    loads = [SharedLoad(table, cell) for cell in range(count)]
    kept: Kept = [[] for _ in range(count)]

    async def run(number: int) -> None:
        own = trio.socket.fromfd(socket.fileno(), socket.family, socket.type)
        async with Listener(own, loads[number]) as listener:
            while True:
                kept[number].append(await listener.accept())

    with trio.fail_after(30), socket:
        async with trio.open_nursery() as nursery:
            for number in range(count):
                nursery.start_soon(run, number)
            yield loads, kept, socket.getsockname()[1]
            nursery.cancel_scope.cancel()
        for stream in (stream for streams in kept for stream in streams):
            await stream.aclose()


async def accepted(kept: Kept, count: int) -> list[int]:
    while sum(map(len, kept)) < count:  # no event of another task's list
        await trio.lowlevel.checkpoint()
    return [len(streams) for streams in kept]


async def test_connections_one_after_the_other_are_spread_evenly(table: LoadTable) -> None:
    async with workers(table, 3) as (loads, kept, port):
        clients = []
        for number in range(60):
            clients.append(await trio.open_tcp_stream("127.0.0.1", port))
            await accepted(kept, number + 1)
        counts = await accepted(kept, 60)
        assert max(counts) - min(counts) <= 2, counts
        assert [load.excess() for load in loads] == [count - min(counts) for count in counts]
        for client in clients:
            await client.aclose()


async def test_a_burst_is_accepted_by_all(table: LoadTable) -> None:
    async with workers(table, 2) as (_, kept, port):
        clients: list[trio.SocketStream] = []

        async def connect() -> None:
            clients.append(await trio.open_tcp_stream("127.0.0.1", port))

        async with trio.open_nursery() as nursery:
            for _ in range(200):
                nursery.start_soon(connect)
        counts = await accepted(kept, 200)
        assert min(counts) >= 60, counts
        for client in clients:
            await client.aclose()


async def test_one_that_stands_still_holds_nobody_up(table: LoadTable) -> None:
    """It has the fewest connections, and accepts none."""
    SharedLoad(table, 5)
    async with workers(table, 2) as (_, kept, port):
        began = trio.current_time()
        clients = []
        for number in range(100):
            clients.append(await trio.open_tcp_stream("127.0.0.1", port))
            await accepted(kept, number + 1)
        assert trio.current_time() - began < 100 * MAX_PATIENCE + 5
        for client in clients:
            await client.aclose()


async def test_one_that_drains_leaves_all_to_the_others(table: LoadTable) -> None:
    async with workers(table, 2) as (loads, kept, port):
        loads[0].close()
        clients = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(20)]
        assert await accepted(kept, 20) == [0, 20]
        for client in clients:
            await client.aclose()


async def test_connections_that_have_not_begun_are_counted_until_the_listener_closes(table: LoadTable) -> None:
    socket = trio.socket.socket()
    await socket.bind(("127.0.0.1", 0))
    socket.listen(10)
    load = SharedLoad(table, 0)
    with trio.fail_after(30):
        async with Listener(socket, load) as listener:
            clients = [await trio.open_tcp_stream("127.0.0.1", socket.getsockname()[1]) for _ in range(3)]
            begun = await listener.accept()
            assert table.values()[0] == 3
        assert table.values()[0] == 1, "the one that has begun is its server's to count"
        for stream in (begun, *clients):
            await stream.aclose()
