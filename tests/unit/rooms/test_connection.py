"""A connection: a slow one harms no other, and a closing one gets no more frames."""

from uuid import UUID

import pytest
import trio
from structlog.contextvars import bound_contextvars, get_contextvars
from trio.testing import MockClock

from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.protocol import CloseCode, Encoded
from pulse_trio.rooms.connection import CLOSE_TIMEOUT, MAX_JOINED_BYTES, Connection, pieces
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.store.base import User

from .world import FakeTransport, a_world, settle

USER = User(UUID(int=1), "alice")


async def no_catch_up(subscription: Subscription) -> None:
    raise AssertionError("no client resumes here")


class Ends:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def make(outbox_bytes: int = 1_000) -> tuple[Connection, FakeTransport, Ends]:
    transport, ends = FakeTransport(), Ends()
    return Connection(USER, transport, outbox_bytes=outbox_bytes, pending_messages=2, on_ended=ends), transport, ends


async def run(connection: Connection) -> None:
    """Begins and waits until nothing waits to be sent."""
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)


def frame(number: int, size: int = 100) -> Encoded:
    return Encoded(f'{{"n": {number}}}'.ljust(size).encode())


def numbers(transport: FakeTransport) -> list[int]:
    return [received["n"] for received in transport.frames]


async def test_frames_arrive_in_order(autojump_clock: MockClock) -> None:
    connection, transport, ends = make()
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)
        for number in range(5):
            connection.deliver(frame(number))
        await settle()
        assert numbers(transport) == [0, 1, 2, 3, 4]
        assert connection.queued_bytes == 0
        assert ends.count == 0
        connection.leave()
    assert ends.count == 1
    assert transport.closed is None


async def test_ephemeral_frames_are_dropped_first_then_the_connection_is_closed(autojump_clock: MockClock) -> None:
    connection, transport, ends = make(outbox_bytes=1_000)
    transport.stall = trio.Event()
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)
        connection.deliver(frame(0))
        await settle()  # the transport does not finish frame 0
        for number in range(1, 6):
            connection.deliver(frame(number), ephemeral=True)
        assert connection.dropped_frames == 0
        connection.deliver(frame(6))  # above half now
        connection.deliver(frame(7), ephemeral=True)
        assert connection.dropped_frames == 1
        for number in range(8, 12):
            connection.deliver(frame(number))
        assert connection.queued_bytes == 1_000
        assert connection.close_code is None
        connection.deliver(frame(12))
        assert connection.close_code is CloseCode.TOO_SLOW
        await settle()
        assert transport.closed is not None
        assert transport.closed[0] == 4408
    assert transport.frames == []
    assert ends.count == 1


async def test_a_slow_connection_that_catches_up_stays_open(autojump_clock: MockClock) -> None:
    connection, transport, _ = make(outbox_bytes=1_000)
    transport.stall = trio.Event()
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)
        for number in range(10):
            connection.deliver(frame(number))
        transport.stall.set()
        await settle()
        for number in range(10, 20):
            connection.deliver(frame(number))
        await settle()
        assert numbers(transport) == list(range(20))
        connection.leave()


async def test_a_frame_larger_than_the_outbox_is_sent_if_nothing_waits(autojump_clock: MockClock) -> None:
    """Otherwise a long message, or the list of a large room, would close every connection."""
    connection, transport, _ = make(outbox_bytes=1_000)
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)
        connection.deliver(frame(0, size=5_000))
        assert connection.close_code is None
        await settle()
        assert numbers(transport) == [0]
        transport.stall = trio.Event()
        connection.deliver(frame(1))
        connection.deliver(frame(2, size=5_000))
        assert connection.close_code is CloseCode.TOO_SLOW


async def test_close_drops_what_waits_and_sends_one_close_frame(autojump_clock: MockClock) -> None:
    connection, transport, ends = make()
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)
        await settle()
        transport.room = 0
        connection.deliver(frame(0))
        connection.close(CloseCode.REMOVED, "removed")
        connection.close(CloseCode.RESTART, "too late")
        connection.deliver(frame(1))
        connection.leave()
    assert transport.frames == []
    assert transport.closed == (4403, "removed")
    assert ends.count == 1


async def test_close_before_the_task_has_started(autojump_clock: MockClock) -> None:
    connection, transport, ends = make()
    transport.room = 0
    connection.deliver(frame(0))
    connection.close(CloseCode.REMOVED, "removed")
    await run(connection)
    assert transport.frames == []
    assert transport.closed == (4403, "removed")
    assert ends.count == 1


async def test_leave_before_the_task_has_started(autojump_clock: MockClock) -> None:
    connection, transport, ends = make()
    connection.leave()
    await run(connection)
    assert transport.closed is None
    assert ends.count == 1


async def test_delivery_after_leave_does_nothing(autojump_clock: MockClock) -> None:
    connection, transport, _ = make()
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)
        await settle()
        connection.leave()
        connection.deliver(frame(0))
        await settle()
        connection.deliver(frame(1))
        connection.deliver(frame(2), ephemeral=True)
    assert transport.frames == []
    assert connection.queued_bytes == 0


async def test_a_client_that_reads_no_close_frame_is_cut(autojump_clock: MockClock) -> None:
    connection, transport, ends = make()
    transport.close_stall = trio.Event()
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)
        begin = trio.current_time()
        connection.close(CloseCode.REMOVED, "removed")
    assert trio.current_time() - begin == CLOSE_TIMEOUT
    assert ends.count == 1


async def test_a_cancelled_connection_closes_with_internal_error(autojump_clock: MockClock) -> None:
    connection, transport, ends = make()
    transport.stall = trio.Event()
    transport.room = 0
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)
        connection.deliver(frame(0))
        await settle()
        nursery.cancel_scope.cancel()
    assert transport.closed is not None
    assert transport.closed[0] == 1011
    assert ends.count == 1


@pytest.mark.parametrize("fault", [RuntimeError("a fault of the connection"), OSError("gone")])
async def test_a_fault_of_one_connection_ends_that_connection_only(autojump_clock: MockClock, fault: Exception) -> None:
    connection, transport, ends = make()
    transport.broken = fault
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)
        connection.deliver(frame(0))
    assert transport.closed is not None
    assert transport.closed[0] == 1011
    assert ends.count == 1


async def test_a_fault_while_closing_ends_that_connection_only(autojump_clock: MockClock) -> None:
    class Unclosable(FakeTransport):
        async def close(self, code: int, reason: str) -> None:
            await trio.lowlevel.checkpoint()
            raise OSError("gone")

    ends = Ends()
    connection = Connection(USER, Unclosable(), outbox_bytes=100, pending_messages=1, on_ended=ends)
    connection.close(CloseCode.REMOVED, "removed")
    await run(connection)
    assert ends.count == 1


# --- idle connections ---


async def test_an_idle_connection_has_no_task(autojump_clock: MockClock) -> None:
    connection, transport, ends = make()
    transport.has_short_way = True
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)
        connection.deliver(frame(0))
        await settle()
        assert not nursery.child_tasks
        assert connection.is_open
    assert numbers(transport) == [0]
    assert ends.count == 0


async def test_a_connection_has_a_task_while_it_is_slow(autojump_clock: MockClock) -> None:
    """It becomes slow, then fast, then idle again, twice; frames stay in order."""
    connection, transport, ends = make(outbox_bytes=1_000)
    transport.has_short_way = True
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)
        for start in (0, 4):
            transport.room, transport.stall = 10, trio.Event()
            for number in range(start, start + 3):
                connection.deliver(frame(number))
            await settle()
            assert len(nursery.child_tasks) == 1
            transport.room = None
            transport.stall.set()
            await settle()
            assert not nursery.child_tasks
            assert connection.queued_bytes == 0
            connection.deliver(frame(start + 3))
            assert not nursery.child_tasks
    assert numbers(transport) == list(range(8))
    assert ends.count == 0


async def test_a_client_that_leaves_an_idle_connection_is_counted_once(autojump_clock: MockClock) -> None:
    connection, transport, ends = make()
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)
        assert list(connection.metrics.connections) == [connection]
        connection.leave()
        assert ends.count == 1  # at once: no task must run for it
        connection.leave()
        connection.close(CloseCode.RESTART, "too late")
        connection.deliver(frame(0))
        assert not nursery.child_tasks
    assert ends.count == 1
    assert not connection.metrics.connections
    assert connection.metrics.closes == {0: 1}
    assert transport.closed is None


async def test_an_idle_connection_that_is_closed_is_counted_once(autojump_clock: MockClock) -> None:
    connection, transport, ends = make()
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)
        connection.close(CloseCode.RESTART, "restarting")
        connection.close(CloseCode.REMOVED, "too late")
        connection.leave()
        assert len(nursery.child_tasks) == 1
    assert transport.closed == (1012, "restarting")
    assert ends.count == 1
    assert not connection.metrics.connections
    assert connection.metrics.closes == {1012: 1}


async def test_lines_of_the_task_carry_the_ids_of_its_connection(autojump_clock: MockClock) -> None:
    """Not those of the task that delivers a frame to it."""
    connection, transport, _ = make()
    transport.room = 0
    found: list[dict[str, object]] = []

    async def job() -> None:
        await trio.lowlevel.checkpoint()
        found.append(get_contextvars())

    async with trio.open_nursery() as nursery:
        with bound_contextvars(connection_id="its own"):
            connection.begin(nursery)
        with bound_contextvars(connection_id="another"):
            connection.run_later(job)
    assert found == [{"connection_id": "its own"}]


# --- writing at once ---


async def test_a_partial_write_is_flushed_before_anything_else(autojump_clock: MockClock) -> None:
    connection, transport, _ = make(outbox_bytes=1_000)
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)
        await settle()
        transport.room = 150
        connection.deliver(frame(0, size=400))
        for number in range(1, 4):
            connection.deliver(frame(number))
        assert connection.queued_bytes == 700
        await settle()
        assert numbers(transport) == [0, 1, 2, 3]
        assert connection.queued_bytes == 0
        connection.leave()


async def test_unflushed_bytes_count_as_queued(autojump_clock: MockClock) -> None:
    connection, transport, _ = make(outbox_bytes=1_000)
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)
        await settle()
        transport.has_short_way, transport.room = True, 10
        connection.deliver(frame(0, size=900))
        transport.stall = trio.Event()
        await settle()
        connection.deliver(frame(1, size=50))
        assert connection.close_code is None
        connection.deliver(frame(2, size=90))
        assert connection.close_code is CloseCode.TOO_SLOW


async def test_joined_frames_arrive_one_by_one(autojump_clock: MockClock) -> None:
    connection, transport, _ = make(outbox_bytes=1_000)
    subscription = Subscription(connection, UUID(int=7), 0, no_catch_up)
    subscription.is_live = True
    frames = [frame(number) for number in range(1, 6)]
    wire = b"".join(each.wire for each in frames)
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)
        await settle()
        subscription.deliver_changes([1, 2, 3], frames[:3], b"".join(each.wire for each in frames[:3]))
        await settle()
        subscription.deliver_changes([1, 2, 3, 4, 5], frames, wire)  # some of them were sent before
        await settle()
        assert numbers(transport) == [1, 2, 3, 4, 5]
        assert subscription.cursor == 5
        connection.leave()


@pytest.mark.parametrize("how", ["removed", "cut off"])
async def test_unflushed_bytes_do_not_reach_a_removed_member(how: str, autojump_clock: MockClock) -> None:
    connection, transport, _ = make(outbox_bytes=1_000)
    subscription = Subscription(connection, UUID(int=7), 0, no_catch_up)
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)
        await settle()
        transport.room = 10
        connection.deliver(frame(0), subscription)
        if not transport.has_short_way:
            transport.stall = trio.Event()
            await settle()
        if how == "removed":
            connection.close(CloseCode.REMOVED, "removed")
        else:
            subscription.remove()
        await settle()
        assert transport.frames == []
        assert transport.is_abandoned is transport.has_short_way
        assert connection.close_code is (CloseCode.REMOVED if how == "removed" else CloseCode.TOO_SLOW)


@pytest.mark.parametrize("is_session", [False, True], ids=["own connection", "session"])
async def test_a_refusal_is_counted_and_names_its_conversation_on_a_session_only(
    is_session: bool, autojump_clock: MockClock
) -> None:
    transport, greeting = FakeTransport(), frame(0) if is_session else None
    connection = Connection(
        USER, transport, outbox_bytes=1_000, pending_messages=2, on_ended=lambda: None, is_session=is_session
    )
    connection.greeting = greeting
    async with trio.open_nursery() as nursery:
        connection.begin(nursery)
        connection.release()
        connection.refuse(PulseError(ErrorCode.NOT_STORED), "c-1", UUID(int=7))
        await settle()
        refused = transport.frames[-1]
        assert (refused["code"], refused["client_id"]) == ("not_stored", "c-1")
        assert refused.get("conversation_id") == (str(UUID(int=7)) if is_session else None)
        assert connection.metrics.errors == {"not_stored": 1}
        connection.leave()


def test_pieces_keep_the_order_and_their_bound() -> None:
    sizes = (10, 30_000, 30_000, 30_000, 200_000, 10)
    frames = [frame(number, size) for number, size in enumerate(sizes)]
    found = pieces(frames)
    assert [frame for piece in found for frame in piece] == frames
    assert [len(piece) for piece in found] == [3, 1, 1, 1]
    assert pieces([]) == []


async def test_a_full_batch_is_written_in_pieces(autojump_clock: MockClock) -> None:
    """Fault C13: a batch of more than `MAX_JOINED_BYTES` was once written frame by frame, under the highest load."""
    async with a_world(batch_messages=256, inbox_messages=512, pending_messages=512) as world:
        alice, bob = await world.join(world.alice), await world.join(world.bob)
        gate = world.store.hold()
        for number in range(257):
            await alice.send(f"{number:010}")
        await settle()
        writes = []
        write_nowait = bob.transport.write_nowait

        def counted(data: bytes) -> int:
            writes.append(len(data))
            return write_nowait(data)

        bob.subscription.connection._write_nowait = counted  # type: ignore[method-assign]
        gate.set()
        await settle()
        assert bob.contents == [f"{number:010}" for number in range(257)]
        assert len(writes) <= 4, writes
        assert max(writes) <= MAX_JOINED_BYTES
