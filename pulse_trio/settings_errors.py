"""Error texts for settings: the variable and what it must be. They never show a value."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from pydantic.fields import FieldInfo

_CLIENT_VARIABLES: Final = {"PULSE_URL", "PULSE_TOKEN"}  # read by the terminal client only
_NUMBER_ERRORS: Final = ("int_", "float_", "greater_than", "less_than", "finite_number")


def describe(item: Mapping[str, Any], variables: Mapping[str, FieldInfo]) -> str:
    """Turns one of pydantic's errors into one sentence.

    Args:
        item: an entry of `ValidationError.errors()`.
        variables: fields by environment variable; see `Settings.variables`.
    """
    name = _variable(".".join(str(part) for part in item["loc"]), variables)
    field = variables.get(name)
    if field is not None and item["type"].startswith(_NUMBER_ERRORS):
        return f"{name} must be {_number(field)}"
    if item["type"].startswith("bool_"):
        return f"{name} must be true or false"
    message = str(item["msg"]).removeprefix("Value error, ").replace("Input should be", "it must be")
    return f"{name}: {message}" if name and not message.startswith(name) else message


def _variable(location: str, variables: Iterable[str]) -> str:
    """Returns the variable of a field: pydantic names a field by its alias, or else by its own name."""
    ending = location.upper()
    return next((name for name in variables if name.removeprefix("PULSE_") == ending), location)


def _number(field: FieldInfo) -> str:
    found = {
        attribute: bound
        for limit in field.metadata
        for attribute in ("ge", "gt", "le")
        if (bound := getattr(limit, attribute, None)) is not None
    }
    kind = "a whole number" if field.annotation is int else "a number"
    minimum = f"above {found['gt']}" if "gt" in found else f"at least {found['ge']}" if "ge" in found else ""
    maximum = f"at most {found['le']:,}" if "le" in found else ""
    return ", ".join(part for part in (kind, " and ".join(part for part in (minimum, maximum) if part)) if part)


def closest_names(names: Iterable[str], known: Collection[str]) -> dict[str, str | None]:
    """Finds names that are not known, each with the closest known name, if one is close.

    An unknown variable is no error: a newer version's settings may stay after a downgrade.
    """
    unknown = (name for name in sorted(names) if name not in known and name not in _CLIENT_VARIABLES)
    return {name: next(iter(difflib.get_close_matches(name, known, 1)), None) for name in unknown}
