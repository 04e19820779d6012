"""Lines for the person at the terminal, and the exit of a program that cannot start."""

import sys
from collections.abc import Callable

from pulse_trio.errors import LaunchError


def _print(line: str) -> None:
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
