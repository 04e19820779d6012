"""Text for a terminal: makes it safe, measures it, wraps it.

A control character in text of others could move the cursor, change the window's title, paste into the shell or hide
the text after it.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

ZERO_WIDTH_JOINER: Final = "\u200d"
EMOJI_STYLE: Final = "\ufe0f"
FIRST_STRONG_ISOLATE: Final = "\u2068"
POP_ISOLATE: Final = "\u2069"

# Control characters, characters that change the direction of the text around them or end a line for some programs, and
# lone surrogates, which cannot be encoded.
_SPECIAL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff]")
_RIGHT_TO_LEFT: Final = frozenset({"R", "AL", "AN"})


def visible(text: str, *, lines: bool = False) -> str:
    """Replaces control characters by symbols, and other characters that a terminal acts on by their numbers.

    Args:
        lines: keep line feeds.
    """
    return _SPECIAL.sub(lambda found: _symbol(found[0], lines=lines), text)


def safe(text: str, *, lines: bool = False) -> str:
    """Makes text of others safe to print beside other text.

    Right-to-left text is isolated, so that it does not reorder the text beside it.
    """
    shown = visible(text, lines=lines)
    if not shown.isascii() and any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in shown):
        # A line feed ends an isolate.
        return "\n".join(f"{FIRST_STRONG_ISOLATE}{line}{POP_ISOLATE}" for line in shown.split("\n"))
    return shown


def _symbol(character: str, *, lines: bool) -> str:
    code = ord(character)
    if character == "\n":
        return "\n" if lines else "↵"
    if character == "\t":
        return "    "
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    return f"<U+{code:04X}>"


def clusters(text: str) -> Iterator[str]:
    """Splits a text into the characters that people see: a letter with its accents, a composed emoji.

    Implements the part of Unicode TR 29 that a line of chat needs.
    """
    piece = ""
    for character in text:
        if piece and _goes_with(piece, character):
            piece += character
        else:
            if piece:
                yield piece
            piece = character
    if piece:
        yield piece


def _goes_with(piece: str, character: str) -> bool:
    if _is_invisible(character) or piece[-1] == ZERO_WIDTH_JOINER:
        return True
    if "\U0001f3fb" <= character <= "\U0001f3ff":  # a skin tone
        return True
    is_flag = "\U0001f1e6" <= character <= "\U0001f1ff"
    return is_flag and len(piece) == 1 and "\U0001f1e6" <= piece <= "\U0001f1ff"


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in {"Mn", "Me", "Cf"}


def width(text: str) -> int:
    """Returns the width of a text in columns."""
    if text.isascii():
        return len(text)
    return sum(_cluster_width(piece) for piece in clusters(text))


def _cluster_width(piece: str) -> int:
    if EMOJI_STYLE in piece or (len(piece) > 1 and "\U0001f1e6" <= piece[0] <= "\U0001f1ff"):
        return 2
    if _is_invisible(piece[0]):
        return 0
    return 2 if unicodedata.east_asian_width(piece[0]) in {"W", "F"} else 1


def cut(text: str, columns: int) -> str:
    """Cuts a text to `columns`, with `…` at the end if it is longer."""
    if width(text) <= columns:
        return text
    kept, used = "", 0
    for piece in clusters(text):
        used += _cluster_width(piece)
        if used > columns - 1:
            break
        kept += piece
    return f"{kept}…"


def wrap(text: str, columns: int) -> list[str]:
    """Wraps a text into lines of at most `columns`, at spaces where possible."""
    lines = []
    for paragraph in text.split("\n"):
        line, used, space = "", 0, -1
        for piece in clusters(paragraph):
            taken = _cluster_width(piece)
            if used + taken > columns and line:
                if piece == " ":
                    lines.append(line)
                    line, used, space = "", 0, -1
                    continue
                if space > 0:
                    lines.append(line[:space])
                    line = line[space + 1 :]
                else:
                    lines.append(line)
                    line = ""
                used, space = width(line), -1
            if piece == " ":
                space = len(line)
            line += piece
            used += taken
        lines.append(line)
    return lines
