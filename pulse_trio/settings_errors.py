"""What is said of settings that are wrong: which variable, and what was expected. No value is ever shown."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pydantic.fields import FieldInfo

# Of the programs that are clients (`pulse_trio/terminal`), and read by those alone.
_OF_CLIENTS: Final = {"PULSE_URL", "PULSE_TOKEN"}
_PREFIX: Final = "PULSE_"
_OF_NUMBERS: Final = ("int_", "float_", "greater_than", "less_than", "finite_number")


def describe(item: Mapping[str, Any], fields: Iterable[FieldInfo]) -> str:
    """What one of pydantic's errors is about, in words of ours where its own do not say what is expected."""
    name = ".".join(str(part) for part in item["loc"])
    field = next((field for field in fields if field.validation_alias == name), None)
    if field is not None and item["type"].startswith(_OF_NUMBERS):
        return f"{name} must be {_number(field)}"
    if item["type"].startswith("bool_"):
        return f"{name} must be true or false"
    message = str(item["msg"]).removeprefix("Value error, ").replace("Input should be", "it must be")
    return f"{name}: {message}" if name and not message.startswith(name) else message


def _number(field: FieldInfo) -> str:
    found = {
        attribute: bound
        for limit in field.metadata
        for attribute in ("ge", "gt", "le")
        if (bound := getattr(limit, attribute, None)) is not None
    }
    kind = "a whole number" if field.annotation is int else "a number"
    least = f"above {found['gt']}" if "gt" in found else f"at least {found['ge']}" if "ge" in found else ""
    most = f"at most {found['le']:,}" if "le" in found else ""
    return ", ".join(part for part in (kind, " and ".join(part for part in (least, most) if part)) if part)


def unknown(environment: Iterable[str], known: Iterable[str]) -> dict[str, str | None]:
    """Variables that look like settings and are none, each with the setting that may be meant.

    They are no error: a newer version's settings stay when one goes back to an older version.
    """
    names = set(known)
    found: dict[str, str | None] = {}
    for name in sorted(environment):
        if name.startswith(_PREFIX) and name not in names | _OF_CLIENTS:
            found[name] = next(iter(difflib.get_close_matches(name, names, 1)), None)
    return found
