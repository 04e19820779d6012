"""How waits and connections of `trio_psycopg` end, where no database is needed to see it."""

import contextlib
import socket
from typing import Any

import pytest
import trio
from psycopg.waiting import Wait
from trio.testing import MockClock, wait_all_tasks_blocked

from pulse_trio.trio_psycopg import Pool, pool
from pulse_trio.trio_psycopg._waiting import _ready


async def test_a_wait_for_both_ways_is_cancelled_plainly() -> None:
    """Who waits must know it as a cancellation: what it began at the server is to be ended there, too."""
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


async def test_a_connection_that_comes_as_the_pool_is_closed_is_closed_too(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Connection:
        closed = False

        def abort(self) -> None:
            self.closed = True

    made: list[Connection] = []
    comes = trio.Event()

    async def connect(*_: Any, **__: Any) -> Connection:
        await comes.wait()
        made.append(Connection())
        return made[-1]

    monkeypatch.setattr(pool.TrioConnection, "connect", connect)
    async with Pool("host=/nowhere", min_size=1):
        await wait_all_tasks_blocked()
        comes.set()  # and the block ends in the same turn
    assert [connection.closed for connection in made] == [True]
