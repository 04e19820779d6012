"""The screen of `pulse-trio chat`: scrolling lines, a status line below them, and an input line."""

import contextlib
import os
import signal
import sys
import termios
from collections.abc import Sequence
from typing import Final, Self

from pulse_trio.terminal.editor import View
from pulse_trio.terminal.streams import Output
from pulse_trio.terminal.text import cut, width

PROMPT: Final = "> "
PASTE_ON: Final = "\x1b[?2004h"  # bracketed paste
PASTE_OFF: Final = "\x1b[?2004l"
HIDE: Final = "\x1b[?25l"
SHOW: Final = "\x1b[?25h"
CLEAR_DOWN: Final = "\x1b[J"


class RawMode:
    """Raw mode for the block: keys come one by one, without echo, also Ctrl-C. Restores the terminal at the end."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before = termios.tcgetattr(fd)

    def __enter__(self) -> Self:
        self._on()
        return self

    def __exit__(self, *_: object) -> None:
        self._off()

    def suspend(self) -> None:
        """Stops the process like Ctrl-Z; returns when it is continued."""
        self._off()
        os.kill(os.getpid(), signal.SIGTSTP)
        self._on()

    def _on(self) -> None:
        raw = termios.tcgetattr(self._fd)
        raw[0] &= ~(termios.IXON | termios.ICRNL | termios.INLCR | termios.IGNCR | termios.ISTRIP | termios.BRKINT)
        raw[2] = (raw[2] & ~termios.CSIZE) | termios.CS8
        raw[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
        raw[6][termios.VMIN], raw[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._fd, termios.TCSADRAIN, raw)
        _now(PASTE_ON)

    def _off(self) -> None:
        try:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        except termios.error:
            return  # the terminal is gone
        _now(f"{PASTE_OFF}{SHOW}\x1b[0m")


def _now(text: str) -> None:
    """Writes a few bytes without awaiting, so that it also works during cancellation."""
    with contextlib.suppress(OSError):  # the terminal is gone
        os.write(1, text.encode())


class Screen:
    """Draws lines, and redraws the two bottom lines below them.

    Calls must not overlap.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._status_width = 0
        self._cursor = 0
        self._is_drawn = False

    @property
    def columns(self) -> int:
        """Width of the terminal; 80 if unknown."""
        try:
            return max(os.get_terminal_size(1).columns, 10)
        except OSError:
            return 80

    async def draw(self, status: str, view: View, lines: Sequence[str] = ()) -> None:
        """Appends lines, and redraws the status and the input line. `status` must be safe, without colours."""
        columns = self.columns
        shown = cut(status, columns - 1)
        text = [HIDE, self._erase(columns), *(f"{line}\n" for line in lines)]
        text.append(f"\x1b[2m{shown}\x1b[0m\n{PROMPT}{view.text}\r")
        cursor = len(PROMPT) + view.cursor
        text.append(f"\x1b[{cursor}C{SHOW}")
        self._status_width, self._cursor, self._is_drawn = width(shown), cursor, True
        await self._output.write("".join(text))

    async def erase(self) -> None:
        """Erases the two bottom lines; the cursor stays in their place."""
        await self._output.write(self._erase(self.columns))
        self._is_drawn = False

    async def ring(self) -> None:
        """Rings the bell: the input is full."""
        await self._output.write("\a")

    def _erase(self, columns: int) -> str:
        if not self._is_drawn:
            return ""
        # A terminal that became narrower has rewrapped the lines.
        up = max((self._status_width + columns - 1) // columns, 1) + self._cursor // columns
        return f"\r\x1b[{up}A{CLEAR_DOWN}"


def is_interactive() -> bool:
    """Returns True if standard input and output are a capable terminal."""
    return (
        sys.stdin is not None
        and sys.stdout is not None
        and os.isatty(0)
        and os.isatty(1)
        and os.environ.get("TERM", "dumb") not in {"", "dumb"}
    )
