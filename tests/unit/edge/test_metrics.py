"""Metrics: histogram buckets, the counts of connections and frames, and one record a service."""

from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from pulse_trio.app import create_app, open_service
from pulse_trio.auth.hash_queue import HashQueue
from pulse_trio.edge.loop_lag import INTERVAL, watch_loop
from pulse_trio.edge.operators.prometheus import exposition
from pulse_trio.edge.response_budget import ResponseBudget
from pulse_trio.metrics import COUNTS, SECONDS, Histogram, Metrics
from pulse_trio.protocol import TypingFrame, encode
from pulse_trio.rooms.connection import Connection
from pulse_trio.settings import Settings
from pulse_trio.store.memory import MemoryStore
from tests.support.server import SECRET
from tests.unit.rooms.world import FakeTransport, a_world, settle


@pytest.mark.parametrize("bounds", [SECONDS, COUNTS, (0, 1.5)])
def test_a_value_counts_in_the_first_bucket_that_holds_it(bounds: tuple[float, ...]) -> None:
    for place, bound in enumerate(bounds):
        histogram = Histogram(bounds)
        histogram.observe(bound)
        assert histogram.counts.index(1) == place
        histogram.observe(bound + 1e-9)
        assert histogram.counts[place + 1] == 1
        assert sum(histogram.counts) == 2
        assert histogram.total == pytest.approx(2 * bound, abs=1e-6)


async def test_prometheus_reads_histograms(autojump_clock: object) -> None:
    metrics, settings = Metrics(), Settings.load(secret_key=SECRET)
    for seconds in (0.0001, 0.003, 0.003, 99.0):
        metrics.commit_seconds.observe(seconds)
    async with a_world() as world:
        text, _ = exposition(
            metrics,
            world.hub,
            HashQueue(settings),
            ResponseBudget(settings),
            None,
            "",
            database_answers=True,
            free_bytes=None,
        )
    families = {family.name: family for family in text_string_to_metric_families(text.decode())}
    samples = families["pulse_commit_seconds"].samples
    buckets = {s.labels["le"]: s.value for s in samples if s.name.endswith("_bucket")}
    assert buckets["0.0005"] == 1
    assert buckets["0.0025"] == 1
    assert buckets["0.005"] == buckets["10.0"] == 3
    assert buckets["+Inf"] == 4
    assert list(buckets.values()) == sorted(buckets.values())
    found = {s.name: s.value for s in samples if not s.labels}
    assert found["pulse_commit_seconds_count"] == 4
    assert found["pulse_commit_seconds_sum"] == pytest.approx(99.0061)
    assert "pulse_tcp_connections" not in families, "no server, no connections of it"


async def test_delivery_and_commit_times_begin_where_documented(autojump_clock: object) -> None:
    async with a_world() as world:
        metrics = world.hub._metrics
        alice = await world.join(world.alice)
        await world.join(world.bob)
        held = world.store.hold()
        world.start(alice.send, "one")
        await settle()
        world.start(alice.send, "two")  # waits for the first
        await trio.sleep(3)
        held.set()
        await settle()
        assert metrics.batch_messages.total == 2
        assert sum(metrics.batch_messages.counts) == 2
        assert metrics.commit_seconds.total == pytest.approx(3)
        assert metrics.delivery_seconds.total == pytest.approx(6)
        assert metrics.frames_out["message"] == 4
        world.store.answers = [world.store.fail]
        await alice.send("three")
        await trio.sleep(5)
        assert metrics.failed_batches == 1
        assert sum(metrics.delivery_seconds.counts) == 3


async def test_dropped_ephemeral_frames_are_counted(autojump_clock: object) -> None:
    async with a_world(outbox_bytes=1_000) as world:
        metrics = world.hub._metrics
        await world.join(world.alice)
        bob = await world.join(world.bob)
        await settle()
        bob.transport.stall = trio.Event()
        frame = encode(
            TypingFrame(sender_id=world.alice.id, sender_username="alice", conversation_id=world.conversation_id)
        )
        room = world.hub.rooms.get(world.conversation_id)
        assert room is not None
        for _ in range(20):
            room.broadcast(frame, exclude_user_id=world.alice.id, ephemeral=True)
        assert metrics.frames_out["typing"] == 20
        assert 0 < metrics.dropped_frames < 20
        (most,) = [c.queued_bytes for c in metrics.connections if isinstance(c, Connection) and c.user == world.bob]
        assert most > 0
        bob.transport.stall.set()


async def test_open_connections_and_their_ends_are_counted(autojump_clock: object) -> None:
    async with a_world() as world:
        metrics = world.hub._metrics
        alice = await world.join(world.alice)
        bob = await world.join(world.bob)
        session = await world.hub.lobby.open(world.carol, FakeTransport(), on_ended=lambda: None)
        await settle()
        assert sorted(connection.is_session for connection in metrics.connections) == [False, False, True]
        alice.leave()
        await world.remove(world.bob)
        world.hub.lobby.close(session)
        await settle()
        assert not metrics.connections
        assert metrics.closes == {0: 2, 4403: 1}
        assert bob.ended.is_set()


async def test_services_in_one_process_have_their_own_metrics() -> None:
    @asynccontextmanager
    async def open_store() -> Any:
        yield MemoryStore()

    apps = [create_app(Settings.load(secret_key=SECRET), open_store) for _ in range(2)]
    async with open_service(apps[0]) as one, open_service(apps[1]) as two:
        body = {"username": "nobody", "password": "a guess"}
        for _ in range(3):
            assert (await apps[0].test_client().post("/api/auth/login", json=body)).status_code == 401
        assert (one.metrics.login_failures, two.metrics.login_failures) == (3, 0)
        assert one.metrics.requests["login", 401] == 3
        assert not two.metrics.requests


async def test_a_late_loop_is_measured(autojump_clock: trio.testing.MockClock) -> None:
    metrics = Metrics()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_loop, metrics)
        await trio.sleep(INTERVAL * 4.5)
        assert sum(metrics.loop_lag_seconds.counts) == metrics.loop_lag_seconds.counts[0] == 4
        autojump_clock.jump(INTERVAL / 2 + 0.3)  # as if something had run for so long
        await settle()
        assert sum(metrics.loop_lag_seconds.counts) == 5
        assert metrics.loop_lag_seconds.total == pytest.approx(0.3)
        nursery.cancel_scope.cancel()
