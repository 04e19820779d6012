"""The bus over an engine in memory: what every engine shares."""

import json
import random
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs
from trio.testing import MockClock

from pulse_trio.bus.base import GAP_TIMEOUT, HEARTBEAT_INTERVAL, MAX_UNHEARD_HEARTBEATS
from pulse_trio.bus.batches import MAX_QUEUED_BYTES
from pulse_trio.bus.numbered import (
    CONNECT_TIMEOUT,
    FLUSH_INTERVAL,
    MAX_DELAY,
    MIN_DELAY,
    VERSION_RESYNC_INTERVAL,
    NumberedBus,
)
from pulse_trio.bus.transport import Link
from tests.support.bus import MemoryEngine, MemoryTransport, Recorder

A, B, C = (UUID(int=number) for number in (1, 2, 3))
SETTLED = HEARTBEAT_INTERVAL + 2 * GAP_TIMEOUT  # seconds: everybody has heard everybody

Start = Callable[[UUID], Awaitable[tuple[NumberedBus, Recorder]]]


@pytest.fixture
def engine(nursery: trio.Nursery) -> MemoryEngine:
    return MemoryEngine(nursery)


@pytest.fixture
def start(engine: MemoryEngine, nursery: trio.Nursery) -> Start:
    async def start_one(publisher: UUID) -> tuple[NumberedBus, Recorder]:
        bus = NumberedBus(MemoryTransport(engine), publisher, random.Random(publisher.int))
        recorder = Recorder()
        await nursery.start(bus.run, recorder)
        return bus, recorder

    return start_one


def item(value: object) -> bytes:
    return json.dumps(value).encode()


async def test_items_arrive_at_all_others_in_order(start: Start, autojump_clock: MockClock) -> None:
    a, heard_a = await start(A)
    _, heard_b = await start(B)
    _, heard_c = await start(C)
    for number in range(1_000):
        a.publish(item(number))
    for heard in (heard_b, heard_c):
        await heard.wait(lambda heard=heard: len(heard.items) == 1_000)  # type: ignore[misc]
        assert heard.items == [(A, number) for number in range(1_000)]
    assert heard_a.items == []
    assert a.counters.items_out == 1_000
    assert a.counters.batches_out == len(heard_b.batches) < 100


async def test_connecting_asks_for_a_resync_after_the_state_is_told(start: Start, autojump_clock: MockClock) -> None:
    bus, heard = await start(A)
    assert (bus.is_connected, heard.states, heard.reasons) == (True, [True], ["connected"])


async def test_a_publisher_that_joins_makes_all_others_resync(start: Start, autojump_clock: MockClock) -> None:
    _, heard_a = await start(A)
    await trio.sleep(SETTLED)
    before = len(heard_a.resyncs)
    _, heard_b = await start(B)
    await trio.sleep(SETTLED)
    assert heard_a.reasons[before:] == ["new publisher"]
    assert heard_b.reasons == ["connected", "new publisher"]


async def test_nothing_is_resynced_while_nothing_is_lost(start: Start, autojump_clock: MockClock) -> None:
    a, heard_a = await start(A)
    b, heard_b = await start(B)
    await trio.sleep(SETTLED)
    before = len(heard_a.resyncs), len(heard_b.resyncs)
    for number in range(500):
        a.publish(item(number))
        b.publish(item(number))
        await trio.sleep(0.01)
    await trio.sleep(60)
    assert (len(heard_a.resyncs), len(heard_b.resyncs)) == before
    assert heard_a.values(B) == heard_b.values(A) == list(range(500))


@pytest.mark.parametrize("size", [0, 1])
async def test_an_item_that_is_empty_or_too_long_is_refused(start: Start, size: int, autojump_clock: MockClock) -> None:
    bus, _ = await start(A)
    with pytest.raises(ValueError, match="must have 1 to"):
        bus.publish(b"1" * (size and bus.max_item_bytes + 1))
    _, heard = await start(B)
    bus.publish(b"1" * bus.max_item_bytes)
    await heard.wait(lambda: len(heard.items) == 1)


async def test_an_idle_bus_sends_at_once_and_a_busy_one_gathers(
    start: Start, engine: MemoryEngine, autojump_clock: MockClock
) -> None:
    bus, _ = await start(A)
    await trio.sleep(0.5)
    engine.sent.clear()
    began = trio.current_time()
    bus.publish(item(0))
    await trio.testing.wait_all_tasks_blocked()
    assert [when for when, _ in engine.sent] == [began]
    for number in range(1, 4):
        bus.publish(item(number))
        await trio.sleep(FLUSH_INTERVAL / 10)
    await trio.sleep(FLUSH_INTERVAL)
    times = [when for when, _ in engine.sent]
    assert times == [began, pytest.approx(began + FLUSH_INTERVAL)]
    assert json.loads(engine.sent[1][1])["k"] == [1, 2, 3]


async def test_the_heartbeat_of_a_silent_process_is_heard(start: Start, autojump_clock: MockClock) -> None:
    a, _ = await start(A)
    assert a.last_heard(B) is None
    await start(B)
    for _ in range(5):
        await trio.sleep(HEARTBEAT_INTERVAL)
        heard_at = a.last_heard(B)
        assert heard_at is not None
        assert trio.current_time() - heard_at <= HEARTBEAT_INTERVAL
    assert a.last_heard(A) is None


async def test_a_lost_last_batch_is_noticed_by_the_heartbeat(
    start: Start, engine: MemoryEngine, autojump_clock: MockClock
) -> None:
    a, _ = await start(A)
    _, heard = await start(B)
    await trio.sleep(SETTLED)
    engine.loss = 1.0
    published = trio.current_time()
    a.publish(item(1))
    with trio.fail_after(HEARTBEAT_INTERVAL + GAP_TIMEOUT + 0.01):
        await heard.wait(lambda: heard.resyncs[-1][0] > published)
    assert heard.reasons[-1] == "missing batch"
    assert heard.items == []


@pytest.mark.parametrize("seed", range(40))
async def test_every_loss_is_noticed_in_time(seed: int, nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Batches are lost, doubled, late and out of order; heartbeats come at once."""
    rand = random.Random(seed)
    engine = MemoryEngine(nursery, seed)
    engine.loss, engine.doubling, engine.max_delay = 0.3, 0.2, 0.15
    published: dict[UUID, list[float]] = {A: [], B: [], C: []}
    buses = {each: NumberedBus(MemoryTransport(engine), each, rand) for each in published}
    heard = {each: Recorder() for each in published}
    for each, bus in buses.items():
        await nursery.start(bus.run, heard[each])
    for _ in range(300):
        sender = rand.choice((A, B, C))
        buses[sender].publish(item(len(published[sender])))
        published[sender].append(trio.current_time())
        await trio.sleep(rand.choice((0, 0, 0.001, 0.01, 0.5)))
    await trio.sleep(SETTLED)
    limit = HEARTBEAT_INTERVAL + GAP_TIMEOUT + FLUSH_INTERVAL + 0.01
    lost = 0
    for receiver, recorder in heard.items():
        for sender in {A, B, C} - {receiver}:
            arrived = set(recorder.values(sender))
            assert arrived <= set(range(len(published[sender])))
            for number, when in enumerate(published[sender]):
                if number not in arrived:
                    lost += 1
                    assert any(when <= resync <= when + limit for resync, _ in recorder.resyncs), (sender, number)
    assert lost > 10
    assert all(recorder.states == [True] for recorder in heard.values())


@pytest.mark.parametrize("seed", range(20))
async def test_losses_are_noticed_even_if_heartbeats_are_lost(
    seed: int, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """With everything at risk, connections dropped and outages: once it is calm, all that was lost was noticed."""
    rand = random.Random(seed)
    engine = MemoryEngine(nursery, seed)
    engine.loss, engine.doubling, engine.max_delay, engine.is_heartbeat_safe = 0.3, 0.2, 2.0, False
    published: dict[UUID, list[float]] = {A: [], B: []}
    buses = {each: NumberedBus(MemoryTransport(engine), each, rand) for each in published}
    heard = {each: Recorder() for each in published}
    for each, bus in buses.items():
        await nursery.start(bus.run, heard[each])
    for step in range(200):
        sender = rand.choice((A, B))
        buses[sender].publish(item(len(published[sender])))
        published[sender].append(trio.current_time())
        if rand.random() < 0.05:
            rand.choice(sorted(engine.links, key=id)).close() if engine.links else None
        engine.refusal = "down" if 100 < step < 110 else ""
        if step == 105:
            engine.drop_connections()
        await trio.sleep(rand.choice((0, 0.001, 0.01, 0.5)))
    engine.loss = 0.0
    await trio.sleep(10)
    for receiver, sender in ((A, B), (B, A)):
        arrived = set(heard[receiver].values(sender))
        missed = [when for number, when in enumerate(published[sender]) if number not in arrived]
        assert len(missed) > 10
        assert heard[receiver].resyncs[-1][0] >= missed[-1]


async def test_dropped_items_are_noticed_by_the_others(
    start: Start, engine: MemoryEngine, autojump_clock: MockClock
) -> None:
    """Items that are published without a connection, and their process alone lost it."""
    a, _ = await start(A)
    link_a = next(iter(engine.links))
    _, heard = await start(B)
    await trio.sleep(SETTLED)
    link_a.close()
    while a.is_connected:
        await trio.lowlevel.checkpoint()
    before = len(heard.resyncs)
    a.publish(item(1))
    await trio.sleep(MIN_DELAY + SETTLED)
    assert a.is_connected
    assert heard.reasons[before:] == ["missing batch"]
    assert heard.items == []
    assert a.counters.dropped_items == 1


async def test_a_full_queue_drops_and_the_others_resync(start: Start, autojump_clock: MockClock) -> None:
    a, _ = await start(A)
    _, heard = await start(B)
    await trio.sleep(SETTLED)
    before = len(heard.resyncs)
    size = a.max_item_bytes
    count = MAX_QUEUED_BYTES // size + 10
    for _ in range(count):
        a.publish(b"7" * size)
    dropped = a.counters.dropped_items
    assert dropped >= 10
    await heard.wait(lambda: len(heard.items) == count - dropped)
    await trio.sleep(SETTLED)
    assert heard.reasons[before:] == ["missing batch"]
    assert a.counters.items_out == count - dropped


async def test_publishing_never_waits_while_the_engine_is_stuck(
    start: Start, engine: MemoryEngine, autojump_clock: MockClock
) -> None:
    a, heard_a = await start(A)
    await trio.sleep(SETTLED)
    engine.stop()
    began = trio.current_time()
    for number in range(100):
        a.publish(item(number))
    await heard_a.wait(lambda: heard_a.states[-1] is False)
    assert trio.current_time() - began <= (MAX_UNHEARD_HEARTBEATS + 1) * HEARTBEAT_INTERVAL
    assert a.counters.failed_batches + a.counters.dropped_items > 0
    engine.resume()
    await heard_a.wait(lambda: heard_a.states[-1] is True)


async def test_a_link_whose_heartbeats_do_not_come_back_is_replaced(
    start: Start, engine: MemoryEngine, autojump_clock: MockClock
) -> None:
    a, heard = await start(A)
    await trio.sleep(SETTLED)
    (link,) = engine.links
    engine.links.clear()  # it takes everything, and hears nothing
    began = trio.current_time()
    await heard.wait(lambda: heard.states == [True, False, True])
    assert trio.current_time() - began <= (MAX_UNHEARD_HEARTBEATS + 1) * HEARTBEAT_INTERVAL + MIN_DELAY
    assert not link.is_open
    assert heard.reasons == ["connected", "connected"]
    assert (a.counters.connects, a.counters.disconnects) == (2, 1)


async def test_starting_without_an_engine_is_no_failure(
    start: Start, engine: MemoryEngine, autojump_clock: MockClock
) -> None:
    engine.refusal = "refused"
    bus, heard = await start(A)
    assert (bus.is_connected, heard.states, heard.reasons) == (False, [], [])
    await trio.sleep(30)
    engine.refusal = ""
    began = trio.current_time()
    await heard.wait(lambda: heard.states == [True])
    assert trio.current_time() - began <= MAX_DELAY
    assert heard.reasons == ["connected"]


async def test_attempts_to_connect_become_rarer_and_then_frequent_again(
    start: Start, engine: MemoryEngine, autojump_clock: MockClock
) -> None:
    _, heard = await start(A)
    await trio.sleep(SETTLED)
    engine.refusal = "refused"
    engine.attempts.clear()
    engine.drop_connections()
    await trio.sleep(60)
    waits = [later - earlier for earlier, later in zip(engine.attempts, engine.attempts[1:], strict=False)]
    assert waits[0] <= 2 * MIN_DELAY
    assert all(MAX_DELAY / 2 <= wait <= MAX_DELAY for wait in waits[5:])
    assert len(set(waits)) == len(waits)
    engine.refusal = ""
    await heard.wait(lambda: heard.states[-1])
    await trio.sleep(SETTLED)
    engine.drop_connections()
    began = trio.current_time()
    await heard.wait(lambda: heard.states.count(True) == 3)
    assert trio.current_time() - began <= MIN_DELAY


async def test_an_engine_that_never_answers_does_not_hold_up_the_start(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    class Silent(MemoryTransport):
        async def connect(self) -> Link:
            await trio.sleep_forever()
            raise AssertionError

    bus = NumberedBus(Silent(MemoryEngine(nursery)), A)
    began = trio.current_time()
    await nursery.start(bus.run, Recorder())
    assert trio.current_time() - began == CONNECT_TIMEOUT


async def test_each_change_of_state_is_one_log_line(
    start: Start, engine: MemoryEngine, autojump_clock: MockClock
) -> None:
    with capture_logs() as lines:
        _, heard = await start(A)
        await trio.sleep(10)
        engine.refusal = "WRONGPASS"
        engine.drop_connections()
        await trio.sleep(60)
        engine.refusal = ""
        await heard.wait(lambda: heard.states[-1])
    assert [(line["event"], line["log_level"], line.get("reason")) for line in lines] == [
        ("bus connected", "info", None),
        ("bus disconnected", "warning", "dropped"),
        ("bus connected", "info", None),
    ]


async def test_a_hundred_dropped_connections_are_a_hundred_resyncs(
    start: Start, engine: MemoryEngine, autojump_clock: MockClock
) -> None:
    bus, heard = await start(A)
    for count in range(2, 102):
        await trio.sleep(0.01)
        engine.drop_connections()
        await heard.wait(lambda: heard.states.count(True) == count)  # noqa: B023  # waited for at once
    assert heard.reasons == ["connected"] * 101
    assert len(engine.links) == 1
    assert bus.counters.connects == 101


async def test_another_publisher_id_begins_again(start: Start, autojump_clock: MockClock) -> None:
    a, heard_a = await start(A)
    _, heard_b = await start(B)
    await trio.sleep(SETTLED)
    before = len(heard_b.resyncs)
    a.publish(item(1))
    await trio.sleep(0.1)
    a.change_publisher(C)
    a.publish(item(2))
    await trio.sleep(SETTLED)
    assert heard_b.items == [(A, 1), (C, 2)]
    assert heard_b.reasons[before:] == ["new publisher"]
    assert (a.publisher, heard_a.items) == (C, [])


async def test_a_new_publisher_id_is_announced_at_once(start: Start, autojump_clock: MockClock) -> None:
    """Others hear a new id within a moment, not with the next heartbeat: their leases wait for it."""
    a, _ = await start(A)
    b, _ = await start(B)
    await trio.sleep(SETTLED)
    a.change_publisher(C)
    await trio.sleep(0.01)
    assert b.last_heard(C) is not None


async def test_own_batches_under_a_former_id_are_not_heard(
    start: Start, engine: MemoryEngine, autojump_clock: MockClock
) -> None:
    a, heard = await start(A)
    await trio.sleep(SETTLED)
    a.change_publisher(B)
    engine.inject(b'{"v":1,"p":"%b","n":9,"k":[1]}' % str(A).encode())
    await trio.sleep(1)
    assert heard.items == []
    assert heard.reasons == ["connected"]


async def test_an_unknown_version_is_ignored_and_resynced_at_times(
    start: Start, engine: MemoryEngine, autojump_clock: MockClock
) -> None:
    bus, heard = await start(A)
    for _ in range(int(3 * VERSION_RESYNC_INTERVAL)):
        await trio.sleep(1)
        engine.inject(b'{"v":2,"p":{"new":"form"},"k":[1]}')
    await trio.sleep(0.1)
    assert bus.counters.unknown_versions == 3 * VERSION_RESYNC_INTERVAL
    assert heard.reasons == ["connected"] + ["unknown version"] * 3
    assert heard.items == []


async def test_malformed_payloads_are_counted_and_ignored(
    start: Start, engine: MemoryEngine, autojump_clock: MockClock
) -> None:
    bus, heard = await start(A)
    payloads = [b"", b"\xff\x00", b"{", b'{"v":1,"p":"nobody","n":1,"k":[1]}', b'{"v":1,"k":' + b"[" * 100_000]
    for payload in payloads:
        engine.inject(payload)
    other = await start(B)
    other[0].publish(item("good"))
    await heard.wait(lambda: heard.items == [(B, "good")])
    assert bus.counters.malformed == len(payloads)
    assert heard.states == [True]


async def test_an_error_of_the_listener_ends_the_bus(engine: MemoryEngine, autojump_clock: MockClock) -> None:
    class Broken(Recorder):
        def on_items(self, publisher: UUID, items: Any) -> None:
            raise RuntimeError("our bug")

    bus = NumberedBus(MemoryTransport(engine), A)
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="our bug"), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(bus.run, Broken())
            await trio.sleep(0.1)
            engine.inject(b'{"v":1,"p":"%b","n":9,"k":[1]}' % str(B).encode())
            await trio.sleep(10)
    assert not bus.is_connected
    assert not engine.links


@pytest.mark.parametrize("turns", range(30))
async def test_cancelled_anywhere_it_leaves_nothing_open(
    turns: int, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Cancelled after so many turns of the loop, while it connects, sends, loses the connection or waits."""
    engine = MemoryEngine(nursery)
    bus, heard = NumberedBus(MemoryTransport(engine), A), Recorder()
    async with trio.open_nursery() as inner:
        inner.start_soon(bus.run, heard)
        for turn in range(turns):
            await trio.lowlevel.cancel_shielded_checkpoint()
            if turn == 8:
                bus.publish(item(1))
            if turn in (12, 20):
                engine.drop_connections()
        inner.cancel_scope.cancel()
    assert not engine.links
    assert not bus.is_connected
    await nursery.start(bus.run, heard)  # and it may run again
    assert bus.is_connected


async def test_counters_agree_with_what_was_sent(start: Start, engine: MemoryEngine, autojump_clock: MockClock) -> None:
    """Counts what was sent and heard, to the byte."""
    a, _ = await start(A)
    b, _ = await start(B)
    await trio.sleep(SETTLED)
    engine.sent.clear()
    for number in range(200):
        a.publish(item(number))
    await trio.sleep(SETTLED)
    batches = [payload for _, payload in engine.sent if b'"k":' in payload]
    assert a.counters.batches_out == b.counters.batches_in == len(batches)
    assert a.counters.items_out == b.counters.items_in == 200
    assert a.counters.bytes_out == b.counters.bytes_in == sum(map(len, batches))
