"""Frames held to the AsyncAPI document."""

import functools
from typing import Any

from jsonschema_rs import Draft202012Validator

from pulse_trio.edge.pages import asyncapi
from pulse_trio.settings import Settings


def validators(document: dict[str, Any], operation: str) -> dict[str, Draft202012Validator]:
    """Returns the schemas of an operation's frames, by `type`."""
    found = {}
    for reference in document["operations"][operation]["messages"]:
        message = follow(document, follow(document, reference))
        schema = {**message["payload"], "components": document["components"]}
        assert message["name"] not in found, "two messages of one operation have the same type"
        found[message["name"]] = Draft202012Validator(schema, validate_formats=True)
    return found


def follow(document: Any, reference: dict[str, str]) -> Any:
    """Resolves a reference."""
    at = document
    for part in reference["$ref"].removeprefix("#/").split("/"):
        at = at[part]
    return at


@functools.cache
def _sent(channel: str) -> dict[str, Draft202012Validator]:
    return validators(asyncapi.document(Settings(), "localhost", is_tls=False), f"send{channel.capitalize()}")


def check(frame: dict[str, Any], channel: str) -> None:
    """Fails if the document does not say that the service sends such a frame on this channel."""
    known = _sent(channel)
    assert frame["type"] in known, f"the AsyncAPI document has no such frame on the channel {channel}: {frame}"
    known[frame["type"]].validate(frame)
