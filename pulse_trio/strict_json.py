"""Parses JSON from clients strictly.

Rejects what RFC 8259 leaves open and parsers read differently: repeated names in an object, NaN and Infinity, a byte
order mark, numbers of thousands of digits, very deep nesting.
"""

import json
import math
import re
from typing import Any

_WHITE_SPACE = " \t\n\r"  # RFC 8259, section 2
_MAX_EXACT = 2**53  # up to here each whole number has a float of its own
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?", re.ASCII)
_MAX_NUMBER_CHARS = 32  # no field needs more digits, and thousands of them are slow to convert


class InvalidJSON(ValueError):
    """The text is not JSON that this service accepts; the message says why, without quoting the text."""


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
    """Returns the value that `text` encodes.

    Raises:
        InvalidJSON: the text is not valid JSON, or has something that this module rejects.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidJSON("the text is not UTF-8") from None
    try:
        # `JSONDecoder.decode` would do, but it runs two regular expressions to skip surrounding white space.
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


def parse_integer(text: str) -> int | None:
    """Returns the integer that a text outside of JSON writes as JSON does; None for any other text."""
    try:
        value = as_integer(loads(text)) if _NUMBER.fullmatch(text) else None
    except InvalidJSON:
        return None
    return value if isinstance(value, int) else None


def as_integer(value: Any) -> Any:
    """Returns 30 for 30.0, which JSON Schema and JavaScript do not tell from it, and other values as they are."""
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) <= _MAX_EXACT
    return int(value) if is_whole else value
