"""The OpenAPI document: named schemas, the errors of every operation, examples and links."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec
from quart_schema import OpenAPIProvider
from quart_schema.openapi import QUART_SCHEMA_OPERATION_ID_ATTRIBUTE
from quart_schema.typing import Model
from quart_schema.validation import DataSource
from werkzeug.routing import BaseConverter, Rule

from pulse_trio.edge.rest.operation import EXAMPLE_ID
from pulse_trio.edge.services import services
from pulse_trio.errors import ErrorCode

_SUMMARIES: Final = {
    200: "Success",
    201: "Created",
    204: "Success; no body",
    400: "The request cannot be read",
    401: "The token is missing or not valid",
    403: "Not allowed",
    404: "Not found",
    405: "Method not allowed",
    408: "The body did not arrive in time",
    409: "In conflict with the current state",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "A field has an invalid value",
    429: "Rate limit exceeded; retry later",
    500: "Internal error",
    503: "Unavailable; retry in a moment",
}
_RETRY_AFTER: Final = {"Retry-After": {"description": "Seconds to wait before a retry", "schema": {"type": "string"}}}
_HEADERS: Final = {
    401: {"WWW-Authenticate": {"description": "`Bearer`", "schema": {"type": "string"}}},
    429: _RETRY_AFTER,
    503: _RETRY_AFTER,
}


def _link(name: str, **parameters: str) -> dict[str, Any]:
    return {"operationId": name, "parameters": parameters}


# The operations that may follow an answer: the id in the answer is their parameter.
_CONVERSATION: Final = "$response.body#/id"
_LINKS: Final = {
    "createConversation": {
        "get": _link("getConversation", conversation_id=_CONVERSATION),
        "change": _link("changeConversation", conversation_id=_CONVERSATION),
        "members": _link("listMembers", conversation_id=_CONVERSATION),
        "addMembers": _link("addMembers", conversation_id=_CONVERSATION),
        "leave": _link("removeMember", conversation_id=_CONVERSATION, user_id="me"),
        "post": _link("postMessage", conversation_id=_CONVERSATION),
        "history": _link("listMessages", conversation_id=_CONVERSATION),
        "markRead": _link("markRead", conversation_id=_CONVERSATION),
        "readPositions": _link("listReadPositions", conversation_id=_CONVERSATION),
    },
    **{
        name: {
            link: _link(
                operation,
                conversation_id=f"$response.body#{message}/conversation_id",
                message_id=f"$response.body#{message}/id",
            )
            for link, operation in (("edit", "editMessage"), ("delete", "deleteMessage"))
        }
        for name, message in (("postMessage", ""), ("listMessages", "/messages/0"))
    },
}


class Document(OpenAPIProvider):
    """OpenAPI 3.1 with named schemas, and what quart-schema leaves out: errors, examples, links."""

    _document: dict[str, Any] | None = None

    def schema(self) -> dict[str, Any]:
        """Returns the document, with the limits of this service's settings.

        It is built once: that takes some 20 ms, and anybody may ask for it.
        """
        if self._document is None:
            self._document = self._built()
        return self._document

    def _built(self) -> dict[str, Any]:
        document: dict[str, Any] = super().schema()
        schemas = document["components"]["schemas"]
        settings = services().settings
        schemas["Registration"]["properties"]["password"]["minLength"] = settings.password_min_chars
        schemas["MessageChange"]["properties"]["content"]["maxLength"] = settings.max_content_chars
        document["components"]["schemas"] = dict(sorted(schemas.items()))
        return document

    def operation_id(self, method: str, path: str, func: Any) -> str | None:
        """Returns the name in the operation's declaration."""
        name: str = getattr(func, QUART_SCHEMA_OPERATION_ID_ATTRIBUTE)
        return name

    def build_paths(self, rule: Rule) -> tuple[dict[str, Any], dict[str, Any]]:
        """Adds answers, examples and links to the original's paths."""
        paths, components = super().build_paths(rule)
        view = self._app.view_functions[rule.endpoint]
        for operations in paths.values():
            for operation in operations.values():
                operation["description"] = operation["description"].strip() or operation["summary"]
                responses = operation["responses"]
                for status in getattr(view, "pulse_empty", ()):
                    responses[status] = {}
                for status, response in responses.items():
                    self._complete(status, response, getattr(view, "pulse_codes", ()), operation["operationId"])
                operation["responses"] = {str(status): responses[status] for status in sorted(responses)}
                if "requestBody" in operation:
                    operation["requestBody"]["required"] = True
        return paths, components

    def _complete(self, status: int, response: dict[str, Any], codes: Iterable[ErrorCode], name: str) -> None:
        """Adds the description, the error codes, the headers and the links of a response."""
        response["description"] = _SUMMARIES[status]
        errors = sorted((code for code in codes if code.status == status), key=lambda code: code.code)
        if errors:
            response["description"] += ": " + ", ".join(f"`{error.code}`" for error in errors)
            content = response["content"]["application/json"]
            if content["schema"]["$ref"].endswith("/ErrorBody"):
                content["example"] = {"code": errors[0].code, "message": errors[0].sentence}
        if status in _HEADERS:
            response["headers"] = _HEADERS[status]
        links = _LINKS.get(name)
        if links and status < 300:
            response["links"] = links

    def build_path_parameter(self, name: str, converter: BaseConverter) -> dict[str, Any]:
        """Describes the ids in paths, which the original calls strings."""
        parameter: dict[str, Any] = super().build_path_parameter(name, converter)
        uuid = {"type": "string", "format": "uuid"}
        if name == "user_id":
            parameter["description"] = "The id of a user, or `me`"
            parameter["schema"] = {"anyOf": [{"type": "string", "const": "me"}, uuid]}
            parameter["example"] = "me"
        else:
            parameter["description"] = f"The id of a {name.removesuffix('_id')}"
            parameter["schema"] = uuid
            parameter["example"] = EXAMPLE_ID
        return parameter

    def build_querystring_parameters(self, model: type[Model]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Describes all parameters; the original loses the descriptions of those without a default."""
        _, components = _schema(model)
        parameters = []
        for name, schema in components[model.__name__]["properties"].items():
            description = schema.pop("description")
            parameters.append({"name": name, "in": "query", "description": description, "schema": schema})
        return parameters, {}

    def build_request_body(self, model: type[Model], source: DataSource) -> tuple[dict[str, Any], dict[str, Any]]:
        """Describes a JSON body by a reference to its schema, with an example."""
        reference, components = _schema(model)
        content = {"schema": reference, "example": _example(reference, components)}
        return {"content": {"application/json": content}}, components

    def build_response_object(
        self, model: type[Model], headers_model: type[Model] | None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Describes a JSON answer by a reference to its schema; the original loses the schemas that it refers to."""
        reference, components = _schema(model)
        return {"content": {"application/json": {"schema": reference}}, "description": ""}, components


def _schema(model: type[Model]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns a reference to the schema of a model, and the schemas it refers to, by name."""
    (reference,), components = msgspec.json.schema_components([model], ref_template="#/components/schemas/{name}")
    return reference, components


def _example(schema: dict[str, Any], components: dict[str, Any]) -> Any:
    """Builds a value for a schema from the examples in it."""
    if "$ref" in schema:
        return _example(components[schema["$ref"].rpartition("/")[2]], components)
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], components)
    if "examples" in schema:
        return schema["examples"][0]
    if schema.get("type") == "object":
        required = schema.get("required", ())
        parts = {name: part for name, part in schema["properties"].items() if name in required or _has_example(part)}
        return {name: _example(part, components) for name, part in parts.items()}
    return schema["default"]


def _has_example(schema: dict[str, Any]) -> bool:
    """Returns whether a field that may be left out is shown in examples."""
    return bool({"examples", "default", "anyOf", "$ref"} & schema.keys())
