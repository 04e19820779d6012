"""Large work of many clients, spread over turns of the loop."""

from collections import Counter
from collections.abc import AsyncIterator
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from pulse_trio.edge.server.gate import Gate
from pulse_trio.edge.server.websocket_stream import MAX_MESSAGES_A_TURN, WebSocketStream
from pulse_trio.edge.turns import LARGE_BYTES, MESSAGE_BYTES, TURN_BYTES, Turns
from pulse_trio.settings import Settings

ADDRESS = "192.0.2.1"


def waiting(turns: Turns) -> int:
    """Returns the number of pieces that wait."""
    return len(turns._lines)


class Ticks(trio.abc.Instrument):
    """Numbers the turns of the loop."""

    def __init__(self) -> None:
        self.now = 0

    def before_io_wait(self, timeout: float) -> None:
        self.now += 1


@pytest.fixture
async def ticks() -> AsyncIterator[Ticks]:
    found = Ticks()
    trio.lowlevel.add_instrument(found)
    yield found
    trio.lowlevel.remove_instrument(found)


async def test_a_turn_has_no_more_work_than_its_bytes(ticks: Ticks) -> None:
    turns, done = Turns(1_000), Counter[int]()

    async def work() -> None:
        for _ in range(5):
            await turns.take(300, ADDRESS)
            done[ticks.now] += 300

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(work)
    assert sum(done.values()) == 20 * 5 * 300
    assert max(done.values()) == 900
    assert len(done) <= 2 * 20 * 5 // 3 + 2  # and all of it is used: a turn to wait for each turn of work


async def test_work_that_fits_does_not_wait(ticks: Ticks) -> None:
    turns = Turns(1_000)
    before = ticks.now
    await turns.take(400, ADDRESS)
    await turns.take(600, ADDRESS)
    assert ticks.now == before


async def test_work_that_is_larger_than_a_turn_has_one_of_its_own(ticks: Ticks) -> None:
    turns, done = Turns(1_000), []

    async def work(size: int) -> None:
        await turns.take(size, ADDRESS)
        done.append((ticks.now, size))

    async with trio.open_nursery() as nursery:
        for size in (1_000, 5_000, 5_000, 10):
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(work, size)
    moments = [moment for moment, _ in done]
    assert [size for _, size in done] == [1_000, 5_000, 5_000, 10]
    assert len(set(moments)) == 4


async def test_first_come_first_served() -> None:
    turns, done = Turns(100), []
    await turns.take(100, ADDRESS)

    async def work(name: int) -> None:
        await turns.take(60, ADDRESS)
        done.append(name)

    async with trio.open_nursery() as nursery:
        for name in range(10):
            nursery.start_soon(work, name, name=str(name))
            while waiting(turns) + len(done) <= name:
                await trio.lowlevel.checkpoint()
    assert done == list(range(10))


@pytest.mark.parametrize("cancelled", range(3))
async def test_who_is_cancelled_holds_up_nobody(cancelled: int) -> None:
    turns, done = Turns(100), []
    scopes = [trio.CancelScope() for _ in range(3)]
    await turns.take(100, ADDRESS)

    async def work(name: int) -> None:
        with scopes[name]:
            await turns.take(100, ADDRESS)
            done.append(name)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            for name in range(3):
                nursery.start_soon(work, name)
            while waiting(turns) < 3:
                await trio.lowlevel.checkpoint()
                if done:
                    break
            scopes[cancelled].cancel()
    assert sorted(done) in ([name for name in range(3) if name != cancelled], [0, 1, 2])
    with trio.fail_after(5):
        for _ in range(3):
            await turns.take(100, ADDRESS)


async def test_an_address_waits_for_one_piece_of_another(ticks: Ticks) -> None:
    """A piece of a second address waited for all of the first: 1,000 took 2,000 turns of the loop."""
    turns, done = Turns(100), []
    await turns.take(100, ADDRESS)

    async def work(address: str) -> None:
        await turns.take(100, address)
        done.append((address, ticks.now))

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(work, ADDRESS)
        while waiting(turns) < 90:
            await trio.lowlevel.checkpoint()
        nursery.start_soon(work, "192.0.2.2")
    place = [address for address, _ in done].index("192.0.2.2")
    assert place <= 100 - 90 + 3
    assert done[-1][1] - done[0][1] <= 100, "a turn of the loop for each piece"


def stream(gate: Gate, messages: list[str]) -> WebSocketStream:
    """Returns a WebSocket that has read messages, and nothing else."""
    found = object.__new__(WebSocketStream)
    found._connection = SimpleNamespace(gate=gate, slot=SimpleNamespace(client=ADDRESS))  # type: ignore[assignment]
    found._messages, found._taken, found._since_turn, found._is_gone = list(messages), 0, 0, False
    return found


@pytest.mark.parametrize(
    ("message", "most"),
    [
        ("x" * 60, (20 + TURN_BYTES // MESSAGE_BYTES // MAX_MESSAGES_A_TURN) * MAX_MESSAGES_A_TURN),
        ("x" * LARGE_BYTES, 2 * TURN_BYTES // LARGE_BYTES),
    ],
    ids=["small", "large"],
)
async def test_a_flood_of_many_connections_is_read_in_bounded_turns(ticks: Ticks, message: str, most: int) -> None:
    """Twenty connections had sixteen messages in each turn of the loop, of any size."""
    gate, read = Gate(Settings()), Counter[int]()

    async def read_all(websocket: WebSocketStream) -> None:
        for _ in range(100):
            assert await websocket._receive() == message
            read[ticks.now] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(read_all, stream(gate, [message] * 100))
    assert read.total() == 2_000
    assert max(read.values()) <= most
