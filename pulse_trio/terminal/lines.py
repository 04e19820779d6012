"""Formats events as lines of text, plain or in colour, and makes text of others safe."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from typing import Final

from pulse_trio.client import (
    Event,
    Joined,
    Left,
    MembersChanged,
    Message,
    MessageDeleted,
    MessageEdited,
    Offline,
    Online,
    Reset,
)
from pulse_trio.terminal.text import safe, width, wrap

NAME_COLORS: Final = (31, 32, 33, 34, 35, 36, 91, 92, 93, 94, 95, 96)
MIN_TEXT_COLUMNS: Final = 20  # for the text, however long the name is
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


@dataclass(frozen=True, slots=True)
class Style:
    """Formats text with colours, or without."""

    has_colors: bool

    def dim(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if self.has_colors else text

    def bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self.has_colors else text

    def name(self, username: str) -> str:
        """Formats a username in its own colour, which stays the same."""
        shown = safe(username)
        if not self.has_colors:
            return shown
        color = NAME_COLORS[zlib.crc32(username.encode("utf-8", "replace")) % len(NAME_COLORS)]
        return f"\x1b[1;{color}m{shown}\x1b[0m"


class Lines:
    """Formats events as lines, with a separator before each new day.

    Args:
        columns: returns the maximal width of a line; 0: unlimited.
        local: converts a time to local time; by default by the system's time zone.
    """

    def __init__(
        self, style: Style, columns: Callable[[], int], local: Callable[[datetime], datetime] = datetime.astimezone
    ) -> None:
        self._style = style
        self._columns = columns
        self._local = local
        self._day: date | None = None

    def of(self, event: Event) -> list[str]:
        """Returns the lines for an event; none for typing and the like, which the status line shows."""
        match event:
            case Message():
                return self.message(event)
            case MessageEdited(message):
                about = f"edited the message of {self._time(message)}: "
                return [*self._separator(message.updated_at), *self._block(message, about, message.updated_at)]
            case MessageDeleted(message):
                about = f"the message of {safe(message.sender_username)} of {self._time(message)} was deleted"
                return [*self._separator(message.updated_at), self._note(about, message.updated_at)]
            case Joined():
                return [self._note(f"{safe(event.username)} is here")]
            case Left():
                return [self._note(f"{safe(event.username)} has left")]
            case MembersChanged():
                return [self._note(safe(event.text))]
            case Offline():
                return [self._note(f"no connection ({safe(event.reason)}); reconnecting")]
            case Online():
                return [self._note("connected again")]
            case Reset():
                return [self._note("the history was restored from a backup; the lines above may differ from it")]
        return []

    def message(self, message: Message) -> list[str]:
        """Returns the lines for a message, new or from the history."""
        if message.is_deleted:
            return []
        about = "(edited) " if message.is_edited else ""
        return [*self._separator(message.created_at), *self._block(message, about, message.created_at)]

    def note(self, text: str) -> list[str]:
        """Returns the lines for a message of the program; `text` must be safe."""
        return [self._note(line) for line in text.split("\n")]

    def _separator(self, moment: datetime) -> list[str]:
        day = self._local(moment).date()
        if day == self._day:
            return []
        self._day = day
        return [self._style.dim(f"── {DAYS[day.weekday()]}, {day.day} {MONTHS[day.month - 1]} {day.year} ──")]

    def _time(self, message: Message) -> str:
        local = self._local(message.created_at)
        return f"{local:%H:%M}" if local.date() == self._day else f"{local:%Y-%m-%d %H:%M}"

    def _block(self, message: Message, about: str, moment: datetime) -> list[str]:
        style = self._style
        head = f"{style.dim(f'{self._local(moment):%H:%M}')} {style.name(message.sender_username)} "
        indent = 6 + width(safe(message.sender_username)) + 1
        columns = self._columns()
        text = about + safe(message.content, lines=True)
        pieces = wrap(text, max(columns - indent, MIN_TEXT_COLUMNS)) if columns else text.split("\n")
        if columns and columns - indent < MIN_TEXT_COLUMNS:
            indent = 6
        return [head + pieces[0], *(" " * indent + piece for piece in pieces[1:])]

    def _note(self, text: str, moment: datetime | None = None) -> str:
        time = "     " if moment is None else f"{self._local(moment):%H:%M}"
        return self._style.dim(f"{time} · {text}")
