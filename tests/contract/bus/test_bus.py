"""Contract of every engine of the bus, on real servers; tests/unit/bus has what needs a clock of its own."""

import json
import random
import sys
from uuid import uuid4

import pytest
import trio
from structlog.testing import capture_logs

from pulse_trio.bus.base import (
    GAP_TIMEOUT,
    HEARTBEAT_INTERVAL,
    MAX_UNHEARD_HEARTBEATS,
    Bus,
)
from tests.contract.bus.conftest import Start
from tests.support.bus import Recorder
from tests.support.bus_kinds import PASSWORD, BusKind

SLACK = 3.0  # seconds that a busy machine may add


def item(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


async def wait_acquainted(*pairs: tuple[Bus, Recorder]) -> None:
    """Returns once every bus has heard all others, and nothing is due that would make one resync."""
    for bus, recorder in pairs:
        await recorder.wait(lambda bus=bus: bus.is_connected)  # type: ignore[misc]
        for other, _ in pairs:
            while other is not bus and bus.last_heard(other.publisher) is None:  # noqa: ASYNC110  # no event says it
                await trio.sleep(0.01)
    await trio.sleep(2 * GAP_TIMEOUT)


async def wait_flowing(sender: Bus, recorder: Recorder) -> None:
    """Returns once what is published arrives."""
    marker = str(uuid4())
    while marker not in recorder.values(sender.publisher):
        sender.publish(item(marker))
        with trio.move_on_after(0.2):
            await recorder.wait(lambda: marker in recorder.values(sender.publisher))


async def test_items_arrive_at_all_others_once_and_in_order(start: Start) -> None:
    buses = [await start() for _ in range(3)]
    await wait_acquainted(*buses)
    before = [len(recorder.resyncs) for _, recorder in buses]
    rand = random.Random(1)
    texts = [rand.choice("aé€😀'\"\\") * rand.randrange(600) for _ in range(3_000)]
    for text in texts:
        for bus, _ in buses:
            bus.publish(item(text))
        await trio.sleep(rand.choice((0, 0, 0, 0.001)))
    for bus, recorder in buses:
        await recorder.wait(lambda recorder=recorder: len(recorder.items) >= 6_000)  # type: ignore[misc]
        for other, _ in buses:
            assert recorder.values(other.publisher) == ([] if other is bus else texts)
        while bus.counters.items_out < 3_000:  # noqa: ASYNC110  # the answer may come after what it answers
            await trio.sleep(0.01)
        assert bus.counters.items_out == 3_000
        assert bus.counters.items_in == 6_000
        assert bus.counters.dropped_items == bus.counters.malformed == bus.counters.gaps == 0
    assert [len(recorder.resyncs) for _, recorder in buses] == before


async def test_connecting_asks_for_a_resync(start: Start) -> None:
    bus, heard = await start()
    assert (bus.is_connected, heard.states, heard.reasons) == (True, [True], ["connected"])


async def test_the_longest_item_arrives_and_a_longer_one_is_refused(start: Start) -> None:
    a, b = await start(), await start()
    await wait_acquainted(a, b)
    longest = item("€" * ((a[0].max_item_bytes - 2) // 3))
    for _ in range(40):
        a[0].publish(longest)
    a[0].publish(item("7" * (a[0].max_item_bytes - 2)))
    with pytest.raises(ValueError, match="must have 1 to"):
        a[0].publish(item("7" * (a[0].max_item_bytes - 1)))
    with pytest.raises(ValueError, match="must have 1 to"):
        a[0].publish(b"")
    await b[1].wait(lambda: len(b[1].items) == 41)
    assert item(b[1].items[0][1]) == longest


async def test_a_process_at_work_is_heard(start: Start) -> None:
    a, b = await start(), await start()
    await wait_acquainted(a, b)
    first = a[0].last_heard(b[0].publisher)
    await trio.sleep(2 * HEARTBEAT_INTERVAL)
    second = a[0].last_heard(b[0].publisher)
    assert first is not None
    assert second is not None
    assert second > first
    assert a[0].last_heard(uuid4()) is None


async def test_another_publisher_id_begins_again(start: Start) -> None:
    a, b = await start(), await start()
    await wait_acquainted(a, b)
    a[0].publish(item(1))
    await b[1].wait(lambda: len(b[1].items) == 1)
    former, before = a[0].publisher, len(b[1].resyncs)
    a[0].change_publisher(uuid4())
    a[0].publish(item(2))
    await b[1].wait(lambda: len(b[1].items) == 2)
    assert b[1].items == [(former, 1), (a[0].publisher, 2)]
    assert b[1].reasons[before:] == ["new publisher"]
    assert a[1].items == []


async def test_a_hundred_lost_connections_are_noticed_and_replaced(start: Start, kind: BusKind) -> None:
    a, b = await start(), await start()
    for count in range(2, 102):
        kind.drop_connections()
        for _, recorder in (a, b):
            await recorder.wait(lambda r=recorder, n=count: r.states.count(True) >= n)  # type: ignore[misc]
        await trio.sleep(0.02)  # a connection that was of no use is followed by a longer wait
    await wait_flowing(a[0], b[1])
    for bus, recorder in (a, b):
        assert recorder.states == [True, False] * (len(recorder.states) // 2) + [True]
        assert recorder.reasons.count("connected") == recorder.states.count(True) == bus.counters.connects
        assert bus.counters.disconnects == bus.counters.connects - 1
    assert kind.count_connections() == 2


async def test_an_engine_that_is_killed_is_an_outage_and_no_error(start: Start, kind: BusKind) -> None:
    a, b = await start(), await start()
    await wait_acquainted(a, b)
    with capture_logs() as lines:
        kind.kill()
        for _, recorder in (a, b):
            await recorder.wait(lambda r=recorder: r.states[-1] is False)  # type: ignore[misc]
        for number in range(1_000):
            a[0].publish(item(number))
        await trio.sleep(1.0)
        assert a[0].counters.dropped_items == 1_000
        kind.start()
        for _, recorder in (a, b):
            await recorder.wait(lambda r=recorder: r.states[-1] is True)  # type: ignore[misc]
            assert recorder.reasons.count("connected") >= 2
        await wait_flowing(a[0], b[1])
        await wait_flowing(b[0], a[1])
    assert set(b[1].values(a[0].publisher)).isdisjoint(range(1_000))
    states = sum(len(recorder.states) - 1 for _, recorder in (a, b))
    assert len([line for line in lines if line["event"].startswith("bus ")]) == states


async def test_a_bus_starts_without_its_engine(kind: BusKind, nursery: trio.Nursery) -> None:
    kind.kill()
    bus, recorder = kind.new_bus(uuid4()), Recorder()
    with trio.fail_after(5 + SLACK):
        await nursery.start(bus.run, recorder)
    assert (bus.is_connected, recorder.states, recorder.reasons) == (False, [], [])
    bus.publish(item(1))
    kind.start()
    await recorder.wait(lambda: recorder.states == [True])
    assert recorder.reasons == ["connected"]


async def test_an_engine_that_refuses_is_tried_again(start: Start, kind: BusKind) -> None:
    with capture_logs() as lines:
        a, b = await start(), await start()
        await wait_acquainted(a, b)
        kind.refuse()
        try:
            kind.drop_connections()
            await trio.sleep(1.0)
            assert not a[0].is_connected
            assert not b[0].is_connected
        finally:
            kind.admit()
        await a[1].wait(lambda: a[1].states == [True, False, True])
        await b[1].wait(lambda: b[1].states == [True, False, True])
        await wait_flowing(a[0], b[1])
    assert [line["event"] for line in lines].count("bus disconnected") == 2
    assert PASSWORD not in str(lines)


async def test_an_engine_that_is_slow_loses_nothing(start: Start, kind: BusKind) -> None:
    a, b = await start(), await start()
    await wait_acquainted(a, b)
    for number in range(50):
        if number % 10 == 0:
            kind.stop()
            a[0].publish(item(number))
            await trio.sleep(0.3)
            kind.resume()
        a[0].publish(item(number) if number % 10 else item([number]))
        await trio.sleep(0.01)
    await b[1].wait(lambda: len(b[1].items) == 55)
    expected = [value for number in range(50) for value in ([number] if number % 10 else [number, [number]])]
    assert b[1].values(a[0].publisher) == expected
    assert (a[1].states, b[1].states) == ([True], [True])


async def test_an_engine_that_stands_still_is_given_up(start: Start, kind: BusKind) -> None:
    a, b = await start(), await start()
    await wait_acquainted(a, b)
    began = trio.current_time()
    kind.stop()
    try:
        for number in range(10):
            a[0].publish(item(number))
        for _, recorder in (a, b):
            await recorder.wait(lambda r=recorder: r.states[-1] is False)  # type: ignore[misc]
        assert trio.current_time() - began < (MAX_UNHEARD_HEARTBEATS + 1) * HEARTBEAT_INTERVAL + SLACK
    finally:
        kind.resume()
    await wait_flowing(a[0], b[1])
    assert b[1].reasons.count("connected") >= 2


async def test_a_full_queue_drops_without_waiting_and_is_noticed(start: Start, kind: BusKind) -> None:
    a, b = await start(), await start()
    await wait_acquainted(a, b)
    size = a[0].max_item_bytes
    before = len(b[1].resyncs)
    for _ in range(12 * 2**20 // size):  # no checkpoint: nothing is sent meanwhile
        a[0].publish(item("7" * (size - 2)))
    dropped = a[0].counters.dropped_items
    assert dropped > 100
    await b[1].wait(lambda: "missing batch" in b[1].reasons[before:])
    await b[1].wait(lambda: len(b[1].items) == 12 * 2**20 // size - dropped)
    assert (a[1].states, b[1].states) == ([True], [True])


async def test_cancelled_anywhere_it_leaves_no_connection(kind: BusKind) -> None:
    rand = random.Random(7)
    recorder = Recorder()
    bus = kind.new_bus(uuid4())
    for round_number in range(60):
        with trio.move_on_after(rand.uniform(0, 0.03) if round_number % 3 else rand.uniform(0, 0.3)):
            async with trio.open_nursery() as nursery:
                await nursery.start(bus.run, recorder)
                while True:
                    bus.publish(item("x" * 3_000))
                    await trio.lowlevel.checkpoint()
        assert not bus.is_connected
    assert recorder.states.count(True) > 5
    with trio.fail_after(10):
        while kind.count_connections():  # noqa: ASYNC110  # the engine notices the end of a connection by itself
            await trio.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="counts descriptors by /proc")
async def test_reconnecting_leaks_no_descriptor(start: Start, kind: BusKind) -> None:
    bus, recorder = await start()
    counts = []
    for count in range(2, 22):
        kind.drop_connections()
        await recorder.wait(lambda n=count: recorder.states.count(True) == n)  # type: ignore[misc]
        counts.append(len(list(await trio.Path("/proc/self/fd").iterdir())))
    assert max(counts[1:]) <= counts[0] + 2, bus.counters
