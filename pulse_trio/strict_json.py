"""JSON from clients, read strictly.

What RFC 8259 leaves open and what other parsers read in different ways is refused: repeated names in
an object, NaN and Infinity, a byte order mark, numbers of thousands of digits, endless nesting.
"""

import json
import math
from typing import Any

_WHITE_SPACE = " \t\n\r"  # RFC 8259, section 2
_MAX_NUMBER_CHARS = 32  # no field of ours has more digits; a number of 4,300 is slow to convert


class InvalidJSON(ValueError):
    """The text is not JSON as this service takes it; the message says why, without quoting the text."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise InvalidJSON("an object repeats a name")
    return result


def _integer(text: str) -> int:
    if len(text) > _MAX_NUMBER_CHARS:
        raise InvalidJSON("a number has too many digits")
    return int(text)


def _float(text: str) -> float:
    if len(text) > _MAX_NUMBER_CHARS:
        raise InvalidJSON("a number has too many digits")
    value = float(text)
    if math.isinf(value):
        raise InvalidJSON("a number is too large")
    return value


def _constant(text: str) -> float:
    raise InvalidJSON(f"{text} is not a JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant)


def loads(text: str | bytes) -> Any:
    """The value that `text` holds.

    Raises:
        InvalidJSON: it is not valid, or holds what this module refuses.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidJSON("the text is not UTF-8") from None
    try:
        # As `JSONDecoder.decode` does, but without its two regular expressions for the white space around.
        value, end = _DECODER.raw_decode(text, len(text) - len(text.lstrip(_WHITE_SPACE)))
    except json.JSONDecodeError as error:
        raise InvalidJSON(f"{error.msg} at character {error.pos}") from None
    except RecursionError:
        raise InvalidJSON("the text is nested too deeply") from None
    if end != len(text):
        rest = text[end:].lstrip(_WHITE_SPACE)
        if rest:
            raise InvalidJSON(f"Extra data at character {len(text) - len(rest)}")
    return value
