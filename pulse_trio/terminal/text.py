"""Text on a terminal: made safe, measured, broken into lines.

What others write is data. Sent to a terminal as it is, a control character in it can move the cursor, change the
window's title, paste into the shell or hide what comes after it.
"""

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

ZERO_WIDTH_JOINER: Final = "\u200d"
EMOJI_STYLE: Final = "\ufe0f"
FIRST_STRONG_ISOLATE: Final = "\u2068"
POP_ISOLATE: Final = "\u2069"

# Control characters; what changes the direction of the text around it; what ends a line for some programs; halves of
# surrogate pairs, which no terminal can be sent.
_SPECIAL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff]")
_RIGHT_TO_LEFT: Final = frozenset({"R", "AL", "AN"})


def visible(text: str, *, lines: bool = False) -> str:
    """The text with control characters as symbols, and what else a terminal may obey by its number.

    Args:
        lines: keep line feeds.
    """
    return _SPECIAL.sub(lambda found: _symbol(found[0], lines=lines), text)


def safe(text: str, *, lines: bool = False) -> str:
    """What others wrote, with nothing in it that a terminal obeys, beside other text.

    Text that is written from right to left is isolated, so that it does not reorder what stands beside it.
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
    """The pieces of a text that a person takes for characters: a letter with its accents, a composed emoji.

    A part of Unicode TR 29, as far as a line of chat needs it.
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
    if "\U0001f3fb" <= character <= "\U0001f3ff":  # a colour of skin
        return True
    is_flag = "\U0001f1e6" <= character <= "\U0001f1ff"
    return is_flag and len(piece) == 1 and "\U0001f1e6" <= piece <= "\U0001f1ff"


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in {"Mn", "Me", "Cf"}


def width(text: str) -> int:
    """How many columns of a terminal the text takes."""
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
    """As much of the text as fits, with `…` if that is not all of it."""
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
    """The text in lines of at most so many columns, broken at spaces where there are some."""
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
