"""Standard input and output, without blocking the loop and without changing what other programs see of them.

Non-blocking mode would be seen by whoever shares the terminal. So nothing is read or written before the system says
that it can be.
"""

import os
import stat
from collections.abc import AsyncGenerator
from typing import Final

import trio

WRITE_BYTES: Final = 512  # at a time: a pipe that is writable takes as many (POSIX's PIPE_BUF)
READ_BYTES: Final = 4_096
MAX_LINE_BYTES: Final = 65_536  # bytes of a line of input: the service takes no larger message


class LineTooLong(Exception):
    """A line of input is over the limit."""


class Output:
    """A descriptor to write to. Tasks may share it: what one writes stays together."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = trio.Lock()

    async def write(self, text: str) -> None:
        """Writes all of it.

        Cancelled: a part may have been written.

        Raises:
            BrokenPipeError: nobody reads it any more.
        """
        data = memoryview(text.encode("utf-8", "replace"))
        async with self._lock:
            while data:
                await _ready(self._fd, trio.lowlevel.wait_writable)
                data = data[os.write(self._fd, data[:WRITE_BYTES]) :]

    async def wait_broken(self) -> None:
        """Returns when it is a pipe whose reader has gone; never otherwise."""
        if not stat.S_ISFIFO(os.fstat(self._fd).st_mode):
            await trio.sleep_forever()
        await trio.lowlevel.wait_readable(self._fd)  # the writing end of a pipe is never readable, but may be broken


async def read_some(fd: int) -> bytes:
    """What has come; empty at the end."""
    await _ready(fd, trio.lowlevel.wait_readable)
    try:
        return os.read(fd, READ_BYTES)
    except OSError:  # a terminal that was hung up
        return b""


async def read_lines(fd: int) -> AsyncGenerator[str, None]:
    """The lines that come, without their ends; the last one need not have one.

    Raises:
        LineTooLong: a line is over MAX_LINE_BYTES bytes.
    """
    held = b""
    while data := await read_some(fd):
        *lines, held = (held + data).split(b"\n")
        if len(held) > MAX_LINE_BYTES:
            raise LineTooLong(f"a line of input has more than {MAX_LINE_BYTES} bytes")
        for line in lines:
            yield line.decode("utf-8", "replace").rstrip("\r")
    if held:
        yield held.decode("utf-8", "replace")


async def _ready(fd: int, wait: object) -> None:
    assert callable(wait)
    try:
        await wait(fd)
    except PermissionError:
        # A file on a disk, for which Linux does not wait: it is always ready.
        await trio.lowlevel.checkpoint()
