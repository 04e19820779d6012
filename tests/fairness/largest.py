"""The largest allowed input of each REST operation and each client frame, as bytes.

Operations come from the OpenAPI document and frames from their structs. What bounds a field is read from there; `MEANT`
has the fields whose value must exist or fit. A new field with neither fails here until it is listed.
"""

import json
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode
from uuid import UUID

import msgspec

from pulse_trio.protocol.client_frames import ClientFrame
from tests.support.raw import frame

UNIQUE: Final = "0123456789abcdef"  # replaced by other digits each time that it is sent
CONTENT: Final = "界" * 4_000  # PULSE_MAX_CONTENT_CHARS of three bytes each
LEFT_OUT: Final = {
    "cursor": "of a page that a test would have to read first; the first page is as large",
    "offset": "the first page is the largest",
    "before_seq": "the newest page is as large",
    "after_seq": "the newest page is as large",
    "if_rev": "the edit would be refused as stale",
}


@dataclass(frozen=True)
class Place:
    """Things that one attacker may use.

    Attributes:
        token: of the attacker.
        conversation_id: a group of theirs, with members, long messages and a long name.
        message_id: a message of theirs in it.
        last_seq: of the newest message in it.
        member_id: a member of it.
        user_ids: users to add and to watch.
    """

    token: str
    conversation_id: str
    message_id: str
    last_seq: int
    member_id: str
    user_ids: list[str]

    def meant(self, name: str) -> Any:
        """Returns the value for a field that must exist or fit; KeyError for others."""
        return {
            "content": CONTENT,
            "client_id": UNIQUE * 4,
            "conversation_id": self.conversation_id,
            "message_id": self.message_id,
            "user_id": self.member_id,
            "seq": self.last_seq,
            "participant_ids": self.user_ids[:1_000],
            "user_ids": self.user_ids[:1_000],
            "query": "user",
            "is_group": True,
        }[name]


@dataclass(frozen=True)
class Operation:
    """A REST operation of the document."""

    name: str
    method: str
    path: str
    description: dict[str, Any]
    schemas: dict[str, Any]

    def request(self, place: Place) -> bytes:
        """Returns its largest request."""
        values = {
            parameter["name"]: self._value(parameter["name"], parameter["schema"], place)
            for parameter in self.description.get("parameters", ())
            if parameter["name"] not in LEFT_OUT
        }
        path = self.path
        for name in [name for name in values if f"{{{name}}}" in path]:
            path = path.replace(f"{{{name}}}", values.pop(name))
        target = f"{path}?{urlencode(values)}" if values else path
        body = b""
        if "requestBody" in self.description:
            schema = self.description["requestBody"]["content"]["application/json"]["schema"]
            body = json.dumps(self._largest(schema, place), ensure_ascii=False).encode()
        head = (
            f"{self.method} {target} HTTP/1.1\r\nHost: chat.example\r\nAuthorization: Bearer {place.token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def _value(self, name: str, schema: dict[str, Any], place: Place) -> Any:
        if self.name == "register" and name == "username":
            return f"{UNIQUE}{'x' * 16}"
        try:
            return place.meant(name)
        except KeyError:
            return self._largest(schema, place, name)

    def _largest(self, schema: dict[str, Any], place: Place, name: str = "") -> Any:
        if "$ref" in schema:
            return self._largest(self.schemas[schema["$ref"].rpartition("/")[2]], place, name)
        for choice in schema.get("anyOf", ()):
            if choice.get("type") != "null":
                return self._largest(choice, place, name)
        match schema.get("type"):
            case "object":
                fields = schema["properties"].items()
                return {field: self._value(field, each, place) for field, each in fields if field not in LEFT_OUT}
            case "string" if "maxLength" in schema:
                return "x" * schema["maxLength"]
            case "integer" if "maximum" in schema:
                return schema["maximum"]
        raise AssertionError(
            f"{self.name}: say in `Place.meant` what the largest `{name}` is, or in `LEFT_OUT` why none"
        )


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    """Yields the operations of an OpenAPI document."""
    schemas = document["components"]["schemas"]
    for path, item in document["paths"].items():
        for method, description in item.items():
            yield Operation(description["operationId"], method.upper(), path, description, schemas)


def in_order(document: dict[str, Any]) -> list[Operation]:
    """Returns the operations of an OpenAPI document; those that delete what others need come last."""
    return sorted(operations(document), key=lambda operation: operation.method == "DELETE")


def frames() -> dict[str, type[msgspec.Struct]]:
    """Returns the structs of all client frames, by type."""
    return {str(kind.__struct_config__.tag): kind for kind in typing.get_args(ClientFrame)}


def frame_bytes(kind: type[msgspec.Struct], place: Place) -> bytes:
    """Returns the largest frame of a kind, as a session sends it."""
    tag = kind.__struct_config__.tag
    return frame({"type": tag, **{name: _frame_value(str(tag), name, place) for name in kind.__struct_fields__}})


def _frame_value(tag: str, name: str, place: Place) -> Any:
    if (tag, name) == ("watch", "user_ids"):
        return place.user_ids[:500]  # PULSE_WATCHED_USERS
    if (tag, name) == ("resume", "revs"):
        strange = [str(UUID(int=2**125 + number)) for number in range(999)]
        return dict.fromkeys([place.conversation_id, *strange], 0)  # PULSE_RESUME_CONVERSATIONS
    of_sessions = {"token": place.token, "epoch": None, "features": ["conversation", "me", "members"], "me": 0}
    try:
        return of_sessions[name] if name in of_sessions else place.meant(name)
    except KeyError:
        raise AssertionError(f"{tag}: say here what the largest `{name}` is") from None
