"""Rules for text from clients: PostgreSQL can store it, and every client can read it back."""

import unicodedata
from itertools import pairwise
from typing import Final

MAX_USERNAME_CHARS: Final = 32

# Scripts that a username may mix (like "highly restrictive" in Unicode TS 39, section 5.2): "аdmin" with a Cyrillic а
# is rejected, Japanese names are not.
_MIXABLE_SCRIPTS: Final = ({"HIRAGANA", "KATAKANA", "CJK"}, {"HANGUL", "CJK"}, {"BOPOMOFO", "CJK"})
_PUNCTUATION: Final = frozenset("._-")

# Folded, it ends with a mark, which would change places with the next one: the beginning of the name would not be the
# beginning of its key, by which users are searched for.
_FOLDS_TO_MARK: Final = "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}"

# Letters and marks that a screen does not show, with which two usernames would look the same: those of Unicode's
# Default_Ignorable_Code_Point whose category is not rejected anyway.
_INVISIBLE: Final = frozenset(
    map(
        chr,
        (
            *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0),
            *range(0x180B, 0x1810),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
        ),
    )
)
_DOTTED: Final = ("i\N{COMBINING DOT ABOVE}", "j\N{COMBINING DOT ABOVE}")  # the second dot hides the first


def text_problem(text: str) -> str | None:
    """Returns the reason why `text` cannot be stored and read back unchanged, or None."""
    if "\x00" in text:
        return "must not contain the NUL character"
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            return "must not contain a lone surrogate"
    return None


def utf8_size(text: str) -> int:
    """Returns the number of bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def username_key(username: str) -> str:
    """Returns the key by which usernames are unique: those that differ only in case or Unicode form have the same."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", username).casefold())


def username_problem(username: str) -> str | None:
    """Returns the reason why `username` is rejected, or None.

    A username has 1 to 32 letters and digits of one script, with `.`, `_` and `-` between them, in the form NFKC
    (Unicode TR 15), so that no two usernames look alike by tricks of encoding.
    """
    problem = text_problem(username)
    if problem is not None:
        return problem
    if not 1 <= len(username) <= MAX_USERNAME_CHARS:
        return f"must have 1 to {MAX_USERNAME_CHARS} characters"
    if unicodedata.normalize("NFKC", username) != username:
        return "must be in Unicode's normal form NFKC"
    if username[0] in _PUNCTUATION or username[-1] in _PUNCTUATION:
        return "must begin and end with a letter or a digit"
    if not _INVISIBLE.isdisjoint(username) or any(pair in username for pair in _DOTTED):
        return "must not hold characters that cannot be seen"
    scripts: set[str] = set()
    for character in username:
        category = unicodedata.category(character)
        if character in _PUNCTUATION:
            continue
        if category[0] not in {"L", "M"} and category != "Nd":
            return "may hold letters, digits, '.', '_' and '-' only"
        if category[0] == "L":
            scripts.add(_script(character))
        elif category == "Nd" and not character.isascii():
            return "may hold the digits 0 to 9 only"
    for letter, mark in pairwise(username):
        if letter == _FOLDS_TO_MARK and unicodedata.combining(mark):
            return "must not have a mark on this letter: \N{LATIN CAPITAL LETTER I WITH DOT ABOVE}"
    if unicodedata.category(username[0])[0] == "M":
        return "must begin and end with a letter or a digit"
    if len(scripts) > 1 and not any(scripts <= together for together in _MIXABLE_SCRIPTS):
        return "must not mix letters of different scripts"
    return None


def _script(letter: str) -> str:
    """Returns the script of a letter: Unicode names begin with it."""
    script = unicodedata.name(letter, "UNKNOWN").split(" ")[0].split("-")[0]
    return "CJK" if script == "IDEOGRAPHIC" else script  # the repetition mark in 佐々木


def username_from(claim: str) -> str:
    """Returns the valid username closest to a name from an identity provider; empty if there is none."""
    name = "".join(c for c in unicodedata.normalize("NFKC", claim) if c not in _INVISIBLE)
    kept = (c if unicodedata.category(c)[0] in {"L", "M"} or c in "0123456789._-" else "_" for c in name)
    name = unicodedata.normalize("NFKC", "".join(kept).strip("._-")[:MAX_USERNAME_CHARS].rstrip("._-"))
    return name if username_problem(name) is None else ""
