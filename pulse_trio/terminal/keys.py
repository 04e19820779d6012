"""Decodes the bytes of a terminal into key presses. No I/O."""

import codecs
import re
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, TypeAlias

PASTE_BEGIN: Final = b"\x1b[200~"
PASTE_END: Final = b"\x1b[201~"
MAX_SEQUENCE_BYTES: Final = 64  # longer sequences are dropped
MAX_PASTE_BYTES: Final = 256 * 1024  # the rest of a paste is dropped; a message has far less


class Key(Enum):
    """A key with a function."""

    ENTER = auto()
    NEW_LINE = auto()  # Alt-Enter: a line feed in the message
    BACKSPACE = auto()
    DELETE = auto()
    LEFT = auto()
    RIGHT = auto()
    WORD_LEFT = auto()
    WORD_RIGHT = auto()
    HOME = auto()
    END = auto()
    UP = auto()
    DOWN = auto()
    KILL_TO_START = auto()
    KILL_TO_END = auto()
    KILL_WORD = auto()
    REDRAW = auto()
    INTERRUPT = auto()
    END_OF_INPUT = auto()
    SUSPEND = auto()


@dataclass(frozen=True, slots=True)
class Typed:
    """Characters that were typed."""

    text: str


@dataclass(frozen=True, slots=True)
class Pasted:
    """A paste: always text, so a line feed in it does not send the line."""

    text: str


Press: TypeAlias = Key | Typed | Pasted

_CONTROLS: Final = {
    0x01: Key.HOME,
    0x02: Key.LEFT,
    0x03: Key.INTERRUPT,
    0x04: Key.END_OF_INPUT,
    0x05: Key.END,
    0x06: Key.RIGHT,
    0x08: Key.BACKSPACE,
    0x0A: Key.ENTER,
    0x0B: Key.KILL_TO_END,
    0x0C: Key.REDRAW,
    0x0D: Key.ENTER,
    0x0E: Key.DOWN,
    0x10: Key.UP,
    0x15: Key.KILL_TO_START,
    0x17: Key.KILL_WORD,
    0x1A: Key.SUSPEND,
    0x7F: Key.BACKSPACE,
}
_SEQUENCES: Final = {
    "[A": Key.UP,
    "[B": Key.DOWN,
    "[C": Key.RIGHT,
    "[D": Key.LEFT,
    "[H": Key.HOME,
    "[F": Key.END,
    "[1~": Key.HOME,
    "[3~": Key.DELETE,
    "[4~": Key.END,
    "[7~": Key.HOME,
    "[8~": Key.END,
    "[1;5C": Key.WORD_RIGHT,
    "[1;5D": Key.WORD_LEFT,
    "[1;3C": Key.WORD_RIGHT,
    "[1;3D": Key.WORD_LEFT,
    "OA": Key.UP,
    "OB": Key.DOWN,
    "OC": Key.RIGHT,
    "OD": Key.LEFT,
    "OH": Key.HOME,
    "OF": Key.END,
    "b": Key.WORD_LEFT,
    "f": Key.WORD_RIGHT,
    "\r": Key.NEW_LINE,
    "\n": Key.NEW_LINE,
    "\x7f": Key.KILL_WORD,
}
_CSI: Final = re.compile(rb"\[[0-?]*[ -/]*[@-~]")


class KeyReader:
    """Decodes bytes into presses; sequences may be split between calls."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = b""  # an incomplete sequence, with its ESC
        self._paste: bytearray | None = None

    @property
    def is_waiting(self) -> bool:
        """True while a sequence is incomplete: more bytes complete it, or `flush` takes its ESC for the key alone."""
        return bool(self._rest) and self._paste is None

    def flush(self) -> None:
        """Drops an incomplete sequence: the ESC key alone has no function."""
        self._rest = b""

    def feed(self, data: bytes) -> list[Press]:
        """Returns the presses that these bytes complete."""
        presses: list[Press] = []
        data = self._rest + data
        self._rest = b""
        while data:
            if self._paste is not None:
                data = self._take_paste(data, presses)
            elif data[0] == 0x1B:
                data = self._take_sequence(data, presses)
            else:
                data = self._take_characters(data, presses)
        return presses

    def _take_characters(self, data: bytes, presses: list[Press]) -> bytes:
        if data[0] < 0x20 or data[0] == 0x7F:
            key = _CONTROLS.get(data[0])
            if data[0] == 0x09:
                presses.append(Typed("    "))
            elif key is not None:
                presses.append(key)
            return data[1:]
        end = next((i for i, byte in enumerate(data) if byte < 0x20 or byte == 0x7F), len(data))
        text = self._decoder.decode(data[:end], final=end < len(data))
        # C1 control characters: terminals do not send them as text.
        text = "".join(character for character in text if not "\x80" <= character <= "\x9f")
        if text:
            presses.append(Typed(text))
        return data[end:]

    def _take_sequence(self, data: bytes, presses: list[Press]) -> bytes:
        if len(data) == 1 or data in {b"\x1b[", b"\x1bO"}:
            self._rest = data
            return b""
        if data[1:2] == b"[":
            found = _CSI.match(data, 1)
            if found is None:
                if len(data) < MAX_SEQUENCE_BYTES and all(0x20 <= byte <= 0x3F for byte in data[2:]):
                    self._rest = data  # incomplete
                    return b""
                return data[2:]
            if found[0] == PASTE_BEGIN[1:]:
                self._paste = bytearray()
                return data[found.end() :]
            sequence, rest = found[0], data[found.end() :]
        elif data[1:2] == b"O":
            sequence, rest = data[1:3], data[3:]
        else:
            sequence, rest = data[1:2], data[2:]
        key = _SEQUENCES.get(sequence.decode("latin-1"))
        if key is not None:
            presses.append(key)
        return rest

    def _take_paste(self, data: bytes, presses: list[Press]) -> bytes:
        assert self._paste is not None
        end = data.find(PASTE_END)
        if end < 0:
            # The end mark may be split: keep the bytes that may begin it.
            kept = next((n for n in range(len(PASTE_END) - 1, 0, -1) if data.endswith(PASTE_END[:n])), 0)
            self._paste += data[: len(data) - kept][: max(MAX_PASTE_BYTES - len(self._paste), 0)]
            self._rest = data[len(data) - kept :]
            return b""
        self._paste += data[:end][: max(MAX_PASTE_BYTES - len(self._paste), 0)]
        text = self._paste.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").replace("\t", "    ")
        kept_text = "".join(c for c in text if c == "\n" or not (c < " " or "\x7f" <= c <= "\x9f"))
        self._paste = None
        if kept_text:
            presses.append(Pasted(kept_text))
        return data[end + len(PASTE_END) :]
