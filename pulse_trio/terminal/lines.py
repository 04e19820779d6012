"""A conversation as lines of text, plain or in colour. What others wrote is made safe here."""

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
NARROWEST: Final = 20  # columns for text, however long the name is
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


@dataclass(frozen=True, slots=True)
class Style:
    """Colours, or none."""

    has_colors: bool

    def dim(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if self.has_colors else text

    def bold(self, text: str) -> str:
        return f"\x1b[1m{text}\x1b[0m" if self.has_colors else text

    def name(self, username: str) -> str:
        """A username in its colour, always the same."""
        shown = safe(username)
        if not self.has_colors:
            return shown
        color = NAME_COLORS[zlib.crc32(username.encode("utf-8", "replace")) % len(NAME_COLORS)]
        return f"\x1b[1;{color}m{shown}\x1b[0m"


class Lines:
    """Turns events into lines, with a separator where another day begins.

    Args:
        columns: how wide a line may be; 0: as long as it is.
        local: what makes a moment one of this place; by default the system's time zone.
    """

    def __init__(
        self, style: Style, columns: Callable[[], int], local: Callable[[datetime], datetime] = datetime.astimezone
    ) -> None:
        self._style = style
        self._columns = columns
        self._local = local
        self._day: date | None = None

    def of(self, event: Event) -> list[str]:
        """The lines for an event; none for one that is shown elsewhere."""
        match event:
            case Message():
                return self.message(event)
            case MessageEdited(message):
                about = f"changed the message of {self._time(message)}: "
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
                return [self._note(f"no connection ({safe(event.reason)}); trying again")]
            case Online():
                return [self._note("connected again")]
            case Reset():
                return [self._note("the history was restored from a backup; what stands above may differ from it")]
        return []

    def message(self, message: Message) -> list[str]:
        """A message, new or from history."""
        if message.is_deleted:
            return []
        about = "(edited) " if message.is_edited else ""
        return [*self._separator(message.created_at), *self._block(message, about, message.created_at)]

    def note(self, text: str) -> list[str]:
        """Something that the program says; `text` is safe."""
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
        pieces = wrap(text, max(columns - indent, NARROWEST)) if columns else text.split("\n")
        if columns and columns - indent < NARROWEST:
            indent = 6
        return [head + pieces[0], *(" " * indent + piece for piece in pieces[1:])]

    def _note(self, text: str, moment: datetime | None = None) -> str:
        time = "     " if moment is None else f"{self._local(moment):%H:%M}"
        return self._style.dim(f"{time} · {text}")
