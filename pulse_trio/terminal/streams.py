"""Standard input and output without blocking the loop.

Non-blocking mode would affect other programs that share the terminal. The descriptors stay blocking, and each read or
write waits until the system reports them ready.
"""

import os
import stat
from collections.abc import AsyncGenerator
from typing import Final

import trio

WRITE_BYTES: Final = 512  # in one call: a writable pipe accepts this many without blocking (POSIX's PIPE_BUF)
READ_BYTES: Final = 4_096
MAX_LINE_BYTES: Final = 65_536  # of a line of input: the service accepts no larger message


class LineTooLong(Exception):
    """A line of input exceeds the limit."""


class OutputFailed(OSError):
    """Output cannot be written, for example because the disk is full."""


class Output:
    """A descriptor to write to. Tasks may share it: each `write` stays together."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = trio.Lock()

    async def write(self, text: str) -> None:
        """Writes the whole text.

        Cancelled: a part may have been written.

        Raises:
            BrokenPipeError: the reader has closed the pipe.
            OutputFailed: it cannot be written.
        """
        data = memoryview(text.encode("utf-8", "replace"))
        async with self._lock:
            while data:
                await _ready(self._fd, trio.lowlevel.wait_writable)
                try:
                    data = data[os.write(self._fd, data[:WRITE_BYTES]) :]
                except BrokenPipeError:
                    raise
                except OSError as error:
                    raise OutputFailed(f"the output cannot be written: {error.strerror}") from error

    async def wait_broken(self) -> None:
        """Waits until the reader closes the pipe; for ever if this is not a pipe."""
        if not stat.S_ISFIFO(os.fstat(self._fd).st_mode):
            await trio.sleep_forever()
        await trio.lowlevel.wait_readable(self._fd)  # the writing end is never readable, but reports a closed pipe


async def read_some(fd: int) -> bytes:
    """Waits for input and returns it; empty at the end of the input."""
    await _ready(fd, trio.lowlevel.wait_readable)
    try:
        return os.read(fd, READ_BYTES)
    except OSError:  # the terminal was hung up
        return b""


async def read_lines(fd: int) -> AsyncGenerator[str, None]:
    """Yields lines of input without their line ends; the last one may have none.

    Raises:
        LineTooLong: a line has more than MAX_LINE_BYTES bytes.
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
        # epoll rejects regular files, which are always ready.
        await trio.lowlevel.checkpoint()
