"""Ends of waits and connections of `trio_psycopg`, tested without a database."""

import contextlib
import socket
from functools import partial
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
import trio
from psycopg.pq import PipelineStatus, TransactionStatus
from psycopg.waiting import Wait
from trio.testing import MockClock, wait_all_tasks_blocked

from pulse_trio.trio_psycopg import Pool, pool
from pulse_trio.trio_psycopg._waiting import _ready


async def test_a_wait_for_both_directions_raises_a_plain_cancelled() -> None:
    """The caller must recognize the cancellation, so that it cancels the query on the server."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(bytes(65_536))
        caught: list[BaseException] = []
        with trio.move_on_after(0.05):
            try:
                await _ready(ours.fileno(), Wait.RW)
            except BaseException as error:
                caught.append(error)
                raise
        assert [type(error) for error in caught] == [trio.Cancelled]


class Connection:
    """A fake connection without a server."""

    def __init__(self) -> None:
        self.closed = False
        self.pgconn = SimpleNamespace(
            transaction_status=TransactionStatus.IDLE, pipeline_status=PipelineStatus.OFF, socket=0
        )
        self.lock = trio.Lock()
        self._num_transactions = 0

    def abort(self) -> None:
        self.closed = True


async def test_a_connection_made_during_close_is_closed(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Connection] = []
    comes = trio.Event()

    async def connect(*_: Any, **__: Any) -> Connection:
        await comes.wait()
        made.append(Connection())
        return made[-1]

    monkeypatch.setattr(pool.TrioConnection, "connect", connect)
    async with Pool("host=/nowhere", min_size=1):
        await wait_all_tasks_blocked()
        comes.set()  # and the block ends before the refill task runs
    assert [connection.closed for connection in made] == [True]


async def test_the_pool_never_exceeds_max_size(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task makes a connection while a lent one returns and a broken one is replaced."""
    made: list[Connection] = []
    seconds = 0.0
    refusals = 0

    async def connect(*_: Any, **__: Any) -> Connection:
        nonlocal refusals
        if refusals:
            refusals -= 1
            await trio.lowlevel.checkpoint()
            raise psycopg.OperationalError("not now")
        await trio.sleep(seconds)
        made.append(Connection())
        return made[-1]

    async def use(hold: float, *, breaks: bool = False) -> None:
        async with connections.connection() as connection:
            if breaks:
                connection.abort()
            await trio.sleep(hold)

    monkeypatch.setattr(pool.TrioConnection, "connect", connect)
    monkeypatch.setattr(pool, "poll_now", lambda *_: 0)
    async with Pool("host=/nowhere", min_size=3, max_size=3) as connections:
        await trio.sleep(1)
        seconds, refusals = 0.5, 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, 0.02)
            nursery.start_soon(use, 5)
            nursery.start_soon(partial(use, 0, breaks=True))
            await trio.sleep(0.01)  # one is broken, and its replacement has failed once
            nursery.start_soon(use, 5)
            for _ in range(50):
                await trio.sleep(0.1)
                assert sum(not connection.closed for connection in made) <= 3
        await trio.sleep(10)
        assert sum(not connection.closed for connection in made) == 3
