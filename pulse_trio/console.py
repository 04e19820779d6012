"""Lines for the person at the terminal, and the exit of a program that cannot start."""

import sys

from pulse_trio.errors import LaunchError


def report(line: str) -> None:
    """Prints a line to standard error, with the program's name in front."""
    print(f"pulse-trio: {line}", file=sys.stderr)  # noqa: T201  # for the person at the terminal


def exit_with(error: LaunchError) -> SystemExit:
    """Reports an error; returns the SystemExit to raise, with exit code 1."""
    report(str(error))
    return SystemExit(1)
