"""Ends the program: exit codes, signals, messages about errors."""

import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import Final, NoReturn

import trio

from pulse_trio.client import (
    AuthenticationFailed,
    ClientError,
    ConnectionLost,
    NotAMember,
    NotStored,
    ProtocolError,
    Refused,
)
from pulse_trio.exception_groups import flatten_group
from pulse_trio.terminal.streams import LineTooLong, OutputFailed
from pulse_trio.terminal.text import safe


class Exit(IntEnum):
    """Exit codes, as in docs/terminal.md. After a signal the exit code is 128 plus its number."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_SIGNED_IN = 4
    REFUSED = 5
    NOT_STORED = 6


class Stop(Exception):
    """Ends the program with an exit code and a message on standard error."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code


_KNOWN: Final = (ClientError, Stop, LineTooLong, OutputFailed, BrokenPipeError)


def code_of(error: BaseException) -> Exit:
    """Returns the exit code for an error."""
    match error:
        case Stop(code=code):
            return code
        case AuthenticationFailed():
            return Exit.NOT_SIGNED_IN
        case NotStored():
            return Exit.NOT_STORED
        case NotAMember():
            return Exit.REFUSED
        case Refused(status=status) if status is not None and (status >= 500 or status == 429):
            return Exit.UNREACHABLE
        case Refused():
            return Exit.REFUSED
        case ConnectionLost() | ProtocolError():
            return Exit.UNREACHABLE
    return Exit.FAILED


def run(main: Callable[[], Awaitable[int]]) -> NoReturn:
    """Runs `main` and exits with its exit code.

    SIGINT, SIGTERM and SIGHUP cancel it, so that it restores the terminal. If the reader of its output goes away, the
    exit code is 0.
    """
    code = 0
    try:
        code = trio.run(_until_signal, main)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except (BaseExceptionGroup, *_KNOWN) as error:
        found = flatten_group(error) if isinstance(error, BaseExceptionGroup) else [error]
        known = [leaf for leaf in found if isinstance(leaf, _KNOWN)]
        if len(known) < len(found):
            raise
        if not all(isinstance(leaf, BrokenPipeError) for leaf in known):
            first = next(leaf for leaf in known if not isinstance(leaf, BrokenPipeError))
            code = code_of(first)
            warn(str(first))
    sys.exit(code)


async def _until_signal(main: Callable[[], Awaitable[int]]) -> int:
    code = 0
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                nonlocal code
                async for number in signals:
                    code = 128 + number
                    nursery.cancel_scope.cancel()

            nursery.start_soon(wait)
            code = await main()
            nursery.cancel_scope.cancel()
    return code


def warn(text: str) -> None:
    """Prints a line on standard error, which may be closed."""
    if sys.stderr is None:  # `print` would write to standard output
        return
    with contextlib.suppress(OSError):
        print(f"pulse-trio: {safe(text)}", file=sys.stderr)  # noqa: T201
