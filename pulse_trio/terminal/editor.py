"""The input line and its history. No I/O."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from pulse_trio.terminal.keys import Key, Pasted, Press, Typed
from pulse_trio.terminal.text import clusters, visible, width

MAX_LINE_CHARS: Final = 16_000  # four times the default limit of the service
MAX_HISTORY_LINES: Final = 500


class Outcome(Enum):
    """The request of a key to the program."""

    NONE = auto()
    SUBMIT = auto()  # `take` returns the line
    LEAVE = auto()
    REDRAW = auto()
    SUSPEND = auto()
    FULL = auto()  # the text does not fit


@dataclass(frozen=True, slots=True)
class View:
    """The visible part of the line, and the column of the cursor in it."""

    text: str
    cursor: int


class LineEditor:
    """A line of text with a cursor, and earlier lines. A character is one that people see (`text.clusters`)."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._cursor = 0
        self._history: list[str] = []
        self._index = 0  # index in the history; its length stands for the new line
        self._draft = ""

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def take(self) -> str:
        """Returns the line, clears it and adds it to the history."""
        line = self.text
        if line and (not self._history or self._history[-1] != line):
            self._history.append(line)
            del self._history[:-MAX_HISTORY_LINES]
        self._set("")
        self._index = len(self._history)
        return line

    def put_back(self, line: str) -> None:
        """Restores a line that could not be sent, unless a new one has been started."""
        if not self._pieces:
            self._set(line)

    def press(self, press: Press) -> Outcome:
        """Applies a key press."""
        match press:
            case Typed(text) | Pasted(text):
                return self._insert(text)
            case Key.NEW_LINE:
                return self._insert("\n")
            case Key.ENTER:
                return Outcome.SUBMIT if self.text.strip() else Outcome.NONE
            case Key.INTERRUPT:
                if not self._pieces:
                    return Outcome.LEAVE
                self._set("")
            case Key.END_OF_INPUT:
                if not self._pieces:
                    return Outcome.LEAVE
                self._remove(self._cursor, self._cursor + 1)
            case Key.REDRAW:
                return Outcome.REDRAW
            case Key.SUSPEND:
                return Outcome.SUSPEND
            case Key.UP:
                self._go(self._index - 1)
            case Key.DOWN:
                self._go(self._index + 1)
            case _:
                self._edit(press)
        return Outcome.NONE

    def _edit(self, key: Key) -> None:
        here = self._cursor
        match key:
            case Key.BACKSPACE:
                self._remove(here - 1, here)
            case Key.DELETE:
                self._remove(here, here + 1)
            case Key.LEFT:
                self._cursor = max(here - 1, 0)
            case Key.RIGHT:
                self._cursor = min(here + 1, len(self._pieces))
            case Key.HOME:
                self._cursor = 0
            case Key.END:
                self._cursor = len(self._pieces)
            case Key.WORD_LEFT:
                self._cursor = self._word_before(here)
            case Key.WORD_RIGHT:
                self._cursor = self._word_after(here)
            case Key.KILL_TO_START:
                self._remove(0, here)
            case Key.KILL_TO_END:
                self._remove(here, len(self._pieces))
            case Key.KILL_WORD:
                self._remove(self._word_before(here), here)

    def view(self, columns: int) -> View:
        """Returns the part of the line around the cursor that fits into `columns`, including the cursor's own."""
        shown = [visible(piece) for piece in self._pieces]
        sizes = [width(piece) for piece in shown]
        start, used = self._cursor, 0
        # The cursor takes one column; in a long line two thirds of the rest are before it.
        room = max(columns - 1, 0)
        while start > 0 and used + sizes[start - 1] <= room:
            start -= 1
            used += sizes[start]
        if start > 0:  # the start is cut: leave space after the cursor
            while start < self._cursor and used > room * 2 // 3:
                used -= sizes[start]
                start += 1
        end, total = self._cursor, used
        while end < len(shown) and total + sizes[end] <= room:
            total += sizes[end]
            end += 1
        return View("".join(shown[start:end]), used)

    # --- edits ---

    def _set(self, text: str) -> None:
        self._pieces = list(clusters(text))
        self._cursor = len(self._pieces)

    def _insert(self, text: str) -> Outcome:
        before, after = "".join(self._pieces[: self._cursor]), "".join(self._pieces[self._cursor :])
        if len(before) + len(text) + len(after) > MAX_LINE_CHARS:
            return Outcome.FULL
        # The new text may extend the character before it: an accent, a part of an emoji.
        self._pieces = list(clusters(before + text))
        self._cursor = len(self._pieces)
        self._pieces += clusters(after)
        return Outcome.NONE

    def _remove(self, start: int, end: int) -> None:
        start = max(start, 0)
        del self._pieces[start:end]
        self._cursor = start

    def _word_before(self, index: int) -> int:
        while index > 0 and self._pieces[index - 1].isspace():
            index -= 1
        while index > 0 and not self._pieces[index - 1].isspace():
            index -= 1
        return index

    def _word_after(self, index: int) -> int:
        while index < len(self._pieces) and self._pieces[index].isspace():
            index += 1
        while index < len(self._pieces) and not self._pieces[index].isspace():
            index += 1
        return index

    def _go(self, index: int) -> None:
        if not 0 <= index <= len(self._history):
            return
        if self._index == len(self._history):
            self._draft = self.text
        self._index = index
        self._set(self._draft if index == len(self._history) else self._history[index])
