"""A program at a terminal, and what its screen shows."""

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from pulse_trio.terminal.text import clusters, width

ROWS, COLUMNS = 24, 60
_SEQUENCE = re.compile(r"\x1b\[([?]?)([0-9;]*)([A-Za-z])")


class Display:
    """As much of a terminal as the program uses; anything else fails the test."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lines: list[list[str]] = [[]]
        self.row = 0
        self.column = 0
        self.modes: dict[str, bool] = {}
        self.bells = 0
        self._held = ""

    def feed(self, text: str) -> None:
        text = self._held + text
        self._held = ""
        place = 0
        while place < len(text):
            if text[place] == "\x1b":
                found = _SEQUENCE.match(text, place)
                if found is None:
                    assert len(text) - place < 12, f"not a sequence of ours: {text[place : place + 12]!r}"
                    self._held = text[place:]
                    return
                self._obey(found[1], found[2], found[3])
                place = found.end()
                continue
            end = next((i for i in range(place, len(text)) if text[i] < " "), len(text))
            if end == place:
                self._control(text[place])
                place += 1
            else:
                for piece in clusters(text[place:end]):
                    self._print(piece)
                place = end

    def _control(self, character: str) -> None:
        match character:
            case "\r":
                self.column = 0
            case "\n":  # the line discipline sends \r before it
                self.row += 1
                if self.row == len(self.lines):
                    self.lines.append([])
            case "\a":
                self.bells += 1
            case _:
                raise AssertionError(f"a control character reached the terminal: {character!r}")

    def _obey(self, private: str, argument: str, final: str) -> None:
        if private:
            self.modes[argument] = final == "h"
            return
        match final:
            case "A":
                self.row = max(self.row - int(argument or 1), 0)
            case "C":
                self.column += int(argument or 1)
            case "J":
                assert argument in {"", "0"}
                del self.lines[self.row][self.column :]
                del self.lines[self.row + 1 :]
            case "m":
                pass
            case _:
                raise AssertionError(f"a sequence that is not ours: {argument}{final}")

    def _print(self, piece: str) -> None:
        size = width(piece)
        if self.column + size > self.columns:
            self._control("\r")
            self._control("\n")
        line = self.lines[self.row]
        line += [" "] * (self.column + size - len(line))
        line[self.column : self.column + size] = [piece, *[""] * (size - 1)] if size else []
        self.column += size

    @property
    def text(self) -> list[str]:
        return ["".join(line).rstrip() for line in self.lines]

    @property
    def input(self) -> str:
        """The line that is written in, with `|` at the cursor."""
        line = self.lines[self.row]
        return "".join([*line[: self.column], "|", *line[self.column :]]).rstrip()

    @property
    def status(self) -> str:
        return self.text[self.row - 1]


class Program:
    """A program with a terminal of its own."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self.master, slave = pty.openpty()
        self.resize(COLUMNS)
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        self.display = Display(COLUMNS)
        self.output = ""
        self._pending = b""

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))

    async def type(self, text: str | bytes) -> None:
        os.write(self.master, text.encode() if isinstance(text, str) else text)
        await trio.lowlevel.checkpoint()

    async def read(self) -> bool:
        """Takes in what it wrote; False when it has ended."""
        await trio.lowlevel.wait_readable(self.master)
        try:
            data = os.read(self.master, 65_536)
        except OSError:
            return False
        text, self._pending = _whole(self._pending + data)
        self.output += text
        self.display.feed(text)
        return True

    async def wait(self, shown: str, seconds: float = 60) -> None:
        """Returns when the screen shows this."""
        with trio.fail_after(seconds):
            while shown not in "\n".join([*self.display.text, self.display.input]):
                assert await self.read(), f"it ended:\n{self.output}"

    async def wait_end(self, seconds: float = 60) -> int:
        """Its exit code; the terminal must be as it was."""
        with trio.fail_after(seconds):
            while self.process.poll() is None:
                with trio.move_on_after(0.05):
                    await self.read()
            while (await self._read_soon()) is True:
                pass
        assert termios.tcgetattr(self._slave) == self.before, "the terminal is not as it was"
        assert not self.display.modes.get("2004"), "pastes are still marked"
        assert self.display.modes.get("25", True), "the cursor is hidden"
        return self.process.returncode

    async def _read_soon(self) -> bool:
        with trio.move_on_after(0.05):
            return await self.read()
        return False

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self._slave)[3] & termios.ICANON

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self.master)
        os.close(self._slave)


def _whole(data: bytes) -> tuple[str, bytes]:
    """The text of whole characters, and the rest."""
    for cut in range(4):
        try:
            return data[: len(data) - cut].decode(), data[len(data) - cut :]
        except UnicodeDecodeError:
            continue
    raise AssertionError(f"not UTF-8: {data!r}")


@asynccontextmanager
async def at_terminal(command: list[str], environment: dict[str, str]) -> AsyncIterator[Program]:
    """A program at a terminal, ended with the block."""
    program = Program(command, environment)
    try:
        yield program
    finally:
        program.close()
