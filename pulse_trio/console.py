"""Lines for the person at the terminal, and the exit of a program that cannot start."""

import os
import sys
from collections.abc import Callable

from pulse_trio.errors import LaunchError


def _print(line: str) -> None:
    if sys.stderr is None:  # closed; `print` would write to standard output
        return
    print(f"pulse-trio: {line}", file=sys.stderr)  # noqa: T201  # for the person at the terminal


_write: Callable[[str], None] = _print


def send_reports_to(write: Callable[[str], None] | None) -> None:
    """Passes later lines to `write`, for a log that no person reads; None prints them again."""
    global _write
    _write = _print if write is None else write


def report(line: str) -> None:
    """Prints a line to standard error, with the program's name in front, or writes it to the log."""
    _write(line)


def exit_with(error: LaunchError) -> SystemExit:
    """Reports an error; returns the SystemExit to raise, with exit code 1."""
    report(str(error))
    return SystemExit(1)


def hold_closed_streams() -> None:
    """Opens /dev/null in the place of standard streams that are closed, for this process and its children.

    Otherwise the next socket or file gets the descriptor 0, 1 or 2, and a C library or a child that writes to a
    standard stream writes into it. Call it first. `sys.stdout` and its like stay None.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            assert opened == descriptor
            os.set_inheritable(opened, True)
