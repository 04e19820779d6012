"""Drive psycopg's sans-I/O generators with Trio's readiness functions (the twin of psycopg/waiting.py)."""

from __future__ import annotations

import select
from typing import Final, TypeVar

import psycopg
import trio
from psycopg.abc import PQGen, PQGenConn
from psycopg.waiting import Ready, Wait

T = TypeVar("T")

# So that a long executemany does not starve other tasks; the single write of a usual query needs no checkpoint.
CHECKPOINT_EVERY: Final = 4

_POLL: Final = {Wait.R: select.POLLIN, Wait.W: select.POLLOUT, Wait.RW: select.POLLIN | select.POLLOUT}


def poll_now(fd: int, want: Wait) -> Ready:
    """Return what `fd` is ready for, without waiting. Errors and hang-ups count as ready for all of `want`."""
    poller = select.poll()
    poller.register(fd, _POLL[want])
    ready = 0
    for _, event in poller.poll(0):
        if event & ~(select.POLLIN | select.POLLOUT):
            return Ready(int(want))
        if event & select.POLLIN:
            ready |= Ready.R
        if event & select.POLLOUT:
            ready |= Ready.W
    return Ready(ready)


async def _wait_either(fd: int) -> None:
    async with trio.open_nursery() as nursery:

        async def one(readable: bool) -> None:
            if readable:
                await trio.lowlevel.wait_readable(fd)
            else:
                await trio.lowlevel.wait_writable(fd)
            nursery.cancel_scope.cancel()

        nursery.start_soon(one, True)
        nursery.start_soon(one, False)


async def _ready(fd: int, want: Wait) -> Ready:
    try:
        if want == Wait.R:
            await trio.lowlevel.wait_readable(fd)
            return Ready.R
        # In pipeline mode libpq always asks for RW, and the socket is nearly always writable: a poll without
        # waiting avoids the two tasks.
        if ready := poll_now(fd, want):
            return ready
        if want == Wait.W:
            await trio.lowlevel.wait_writable(fd)
            return Ready.W
        try:
            await _wait_either(fd)
        except BaseExceptionGroup as group:
            # Only a closed socket makes the waits fail.
            if group.split((trio.ClosedResourceError, OSError))[0] is not None:
                raise psycopg.OperationalError("connection socket closed") from group
            failed = group
        else:
            return poll_now(fd, want)
        await (
            trio.lowlevel.checkpoint_if_cancelled()
        )  # raises a plain Cancelled, not a group, so that callers recognize it
        raise failed
    except (OSError, trio.ClosedResourceError) as error:
        raise psycopg.OperationalError("connection socket closed") from error


async def drive(gen: PQGen[T], fd: int) -> T:
    """Run a generator of an established connection to its end.

    Cancelled: the generator stays suspended, and another call may resume it.

    Raises:
        psycopg.Error: from the generator; OperationalError if the socket was closed.
    """
    at_once = 0
    try:
        want = next(gen)
        while True:
            if want != Wait.R and (at_once := at_once + 1) % CHECKPOINT_EVERY == 0:
                await trio.lowlevel.checkpoint()
            want = gen.send(await _ready(fd, want))
    except StopIteration as stop:
        result: T = stop.value
        return result


async def drive_connecting(gen: PQGenConn[T]) -> T:
    """Run a generator that names its descriptor at each step (connecting, cancelling).

    Cancelled: the generator is closed, and with it the connection that it was making.
    """
    try:
        fd, want = next(gen)
        while True:
            fd, want = gen.send(await _ready(fd, want))
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        gen.close()
