"""The AsyncAPI document of the WebSocket protocol, built from `pulse_trio.protocol` and the service's settings."""

import inspect
from typing import Any, Final, get_args

import msgspec

from pulse_trio import __version__
from pulse_trio.edge.rest.operation import EXAMPLE_ID
from pulse_trio.edge.websocket.handshake import MAX_REV_DIGITS
from pulse_trio.protocol import (
    BEARER_PREFIX,
    SESSION_ONLY,
    SUBPROTOCOL,
    AboutConversation,
    ClientFrame,
    CloseCode,
    Frame,
    ServerFrame,
)
from pulse_trio.settings import Settings

Schema = dict[str, Any]

CLIENT_FRAMES: Final[tuple[type[Frame], ...]] = get_args(ClientFrame)
SERVER_FRAMES: Final[tuple[type[Frame], ...]] = get_args(ServerFrame)
_FRAMES: Final = (*CLIENT_FRAMES, *SERVER_FRAMES)
_ABOUT_ONE: Final = frozenset(get_args(AboutConversation))

_DESCRIPTION: Final = """\
Live messages of conversations. Accounts, conversations and history go over REST: `/openapi.json`.

Frames are JSON objects in text messages; `type` tells them apart. Ignore unknown fields; the server does, too.
"""
_CONVERSATION: Final = """\
One conversation. The first frame is `system` with the event `joined`. To resume, pass the highest `rev` you have seen \
as `after`, and its `epoch`: the server first sends what has changed since, then live frames, with no gap and no repeat.
"""
_SESSION: Final = """\
All conversations of a user on one connection. The first frame is `session`; to resume, answer it with `resume`.
"""
_REFUSALS: Final = """\
A rejected handshake gets an HTTP status (400, 401, 403, 422, 429 or 503) and the JSON error of the REST API.
"""


def document(settings: Settings, host: str, *, is_tls: bool) -> dict[str, Any]:
    """Builds the document.

    Args:
        settings: the settings of the service; the document states their limits.
        host: the host of the service, as in a `Host` header.
        is_tls: True if clients connect with TLS.
    """
    security = _security(settings)
    channels = _channels(settings)
    schemas = _schemas(settings)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Pulse on Trio", "version": __version__, "description": _DESCRIPTION},
        "defaultContentType": "application/json",
        "servers": {
            "service": {
                "host": host,
                "protocol": "wss" if is_tls else "ws",
                "security": [{"$ref": f"#/components/securitySchemes/{name}"} for name in security],
            }
        },
        "channels": channels,
        "operations": {
            f"{action}{key.capitalize()}": _operation(action, frames, key, channel)
            for key, channel in channels.items()
            for action, frames in (("receive", CLIENT_FRAMES), ("send", SERVER_FRAMES))
        },
        "components": {
            "messages": _messages(schemas),
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": security,
        },
    }


def _schemas(settings: Settings) -> dict[str, Schema]:
    """Returns the schemas of all frames by name, with the limits of the settings."""
    _, schemas = msgspec.json.schema_components(_FRAMES, ref_template="#/components/schemas/{name}")
    for frame in _FRAMES:
        schemas[frame.__name__]["description"] = inspect.cleandoc(frame.__doc__ or "")
    for name in ("SendMessage", "EditMessage"):
        schemas[name]["properties"]["content"]["maxLength"] = settings.max_content_chars
    schemas["SendResume"]["properties"]["revs"]["maxProperties"] = settings.resume_conversations
    schemas["SendWatch"]["properties"]["user_ids"]["maxItems"] = settings.watched_users
    return schemas


def _channels(settings: Settings) -> dict[str, Any]:
    return {
        "conversation": _channel(
            address="/api/chat/ws/{conversation_id}",
            title="One conversation",
            description=_CONVERSATION,
            messages={frame.__name__: frame.__name__ for frame in _FRAMES if frame not in SESSION_ONLY},
            query=_query(settings, resumes=True),
            parameters={"conversation_id": {"description": "The id of the conversation.", "examples": [EXAMPLE_ID]}},
        ),
        "session": _channel(
            address="/api/chat/ws",
            title="All conversations of a user",
            description=_SESSION,
            messages={frame.__name__: _of_session(frame) for frame in _FRAMES},
            query=_query(settings, resumes=False),
        ),
    }


def _operation(action: str, frames: tuple[type[Frame], ...], key: str, channel: dict[str, Any]) -> dict[str, Any]:
    messages = [frame.__name__ for frame in frames if frame.__name__ in channel["messages"]]
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{key}"},
        "summary": f"Frames that the server {action}s: {channel['title'].lower()}.",
        "messages": [{"$ref": f"#/channels/{key}/messages/{name}"} for name in messages],
    }


def _messages(schemas: dict[str, Schema]) -> dict[str, Any]:
    """Returns a message for each frame, and another for those that name their conversation on a session."""
    messages = {frame.__name__: _message(frame, schemas) for frame in _FRAMES}
    in_session = {
        _of_session(frame): {**_message(frame, schemas), "payload": _with_conversation(_reference(frame))}
        for frame in _FRAMES
        if frame in _ABOUT_ONE
    }
    return {**messages, **in_session}


def _channel(
    *,
    address: str,
    title: str,
    description: str,
    messages: dict[str, str],
    query: Schema,
    parameters: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "address": address,
        "title": title,
        "description": f"{description}\n{_REFUSALS}\n{_close_codes()}",
        **({} if parameters is None else {"parameters": parameters}),
        "messages": {name: {"$ref": f"#/components/messages/{message}"} for name, message in messages.items()},
        "bindings": {"ws": {"method": "GET", "query": query, "headers": _headers(), "bindingVersion": "0.1.0"}},
        "x-close-codes": [
            {"code": int(code), "meaning": code.meaning, **({"advice": code.advice} if code.advice else {})}
            for code in CloseCode
        ],
    }


def _close_codes() -> str:
    rows = (f"| {int(code)} | {code.meaning} | {code.advice} |" for code in CloseCode)
    return "\n".join(("| close code | meaning | what to do |", "|---|---|---|", *rows))


def _query(settings: Settings, *, resumes: bool) -> Schema:
    properties: Schema = {}
    if settings.token_in_url:
        properties["token"] = {"type": "string", "description": "An `access_token`; proxies may log it."}
    properties["ticket"] = {
        "type": "string",
        "description": "From `POST /api/chat/ws-ticket`, in place of a token; valid once, for "
        f"{settings.ticket_seconds} seconds.",
    }
    if resumes:
        properties["after"] = {
            "type": "string",
            "pattern": f"^[0-9]{{1,{MAX_REV_DIGITS}}}$",
            "description": "The highest `rev` you have seen; later changes are sent first.",
        }
        properties["epoch"] = {
            "type": "string",
            "description": "The `epoch` of the `system` frames, to which `after` belongs.",
        }
    return {"type": "object", "properties": properties}


def _headers() -> Schema:
    properties = {
        "Authorization": {"type": "string", "description": "`Bearer TOKEN`, for clients that can set headers."},
        "Sec-WebSocket-Protocol": {
            "type": "string",
            "description": f"`{SUBPROTOCOL}, {BEARER_PREFIX}TOKEN`, for browsers; the server selects `{SUBPROTOCOL}`.",
        },
        "Origin": {
            "type": "string",
            "description": "For web pages: the service's own origin or one of `PULSE_ALLOWED_ORIGINS`, else 403.",
        },
    }
    return {"type": "object", "properties": properties}


def _security(settings: Settings) -> dict[str, Any]:
    """Returns the ways to authenticate; one is enough."""
    in_url = {"tokenInUrl": {"type": "httpApiKey", "in": "query", "name": "token", "description": "An `access_token`."}}
    return {
        "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
        "subprotocol": {
            "type": "httpApiKey",
            "in": "header",
            "name": "Sec-WebSocket-Protocol",
            "description": f"An entry `{BEARER_PREFIX}TOKEN` beside `{SUBPROTOCOL}`.",
        },
        "ticket": {
            "type": "httpApiKey",
            "in": "query",
            "name": "ticket",
            "description": "From `POST /api/chat/ws-ticket`.",
        },
        **(in_url if settings.token_in_url else {}),
    }


def _message(frame: type[Frame], schemas: dict[str, Schema]) -> dict[str, Any]:
    tag = str(frame.__struct_config__.tag)
    summary, _, rest = schemas[frame.__name__]["description"].partition("\n\n")
    return {
        "name": tag,
        "title": frame.__name__,
        "summary": " ".join(summary.split()),
        **({"description": rest} if rest else {}),
        "contentType": "application/json",
        "payload": _reference(frame),
        "examples": [{"name": tag, "payload": example(schemas[frame.__name__], schemas)}],
    }


def _reference(frame: type[Frame]) -> Schema:
    return {"$ref": f"#/components/schemas/{frame.__name__}"}


def _of_session(frame: type[Frame]) -> str:
    """Returns the name of a frame's message on a session's connection."""
    return f"{frame.__name__}InSession" if frame in _ABOUT_ONE else frame.__name__


def _with_conversation(schema: Schema) -> Schema:
    """Makes `conversation_id` a required field of a frame's schema."""
    required = {"required": ["conversation_id"], "properties": {"conversation_id": {"type": "string"}}}
    return {"allOf": [schema, required]}


def example(schema: Schema, schemas: dict[str, Schema]) -> Any:
    """Builds a value for a schema: from the examples in it, or else the simplest one."""
    match schema:
        case {"examples": [first, *_]} | {"enum": [first, *_]}:
            return first
        case {"$ref": reference}:
            return example(schemas[reference.rpartition("/")[2]], schemas)
        case {"anyOf": [first, *_]} | {"allOf": [first, *_]}:
            return example(first, schemas)
        case {"format": "uuid"}:
            return EXAMPLE_ID
        case {"type": "object", "properties": properties}:
            return {name: example(part, schemas) for name, part in properties.items()}
        case {"type": "array", "items": items}:
            return [example(items, schemas)]
        case {"type": "boolean"}:
            return False
        case {"type": "integer"}:
            return schema.get("minimum", 1)
        case {"type": "string"}:
            return "text"
    raise NotImplementedError(f"no example for {sorted(schema)}")
