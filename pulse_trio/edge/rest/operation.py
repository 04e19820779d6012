"""How a REST operation is declared: what it takes and answers, read and documented from one place."""

import re
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Annotated, Any, Final, TypeVar

import msgspec
from msgspec import Meta
from quart import g, request
from quart_schema import (
    document_querystring,
    document_request,
    document_response,
    operation_id,
    security_scheme,
    tag,
)
from werkzeug.datastructures import MultiDict

from pulse_trio import strict_json
from pulse_trio.auth.tokens import Identity, bearer_token
from pulse_trio.edge.response_budget import current_answer
from pulse_trio.edge.responses import ErrorBody
from pulse_trio.edge.services import services
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.store.base import User
from pulse_trio.texts import text_problem

PAGE_LIMIT: Final = 200  # rows a page; what a client can show, and a response of a bounded size
RESERVED_BYTES: Final = 16_384  # at least, for an answer that may be large
ROW_BYTES: Final = 1_024  # for each row that a client asks for; few messages are larger
OFFSET_LIMIT: Final = 2**31 - 1
EXAMPLE_ID: Final = "0190a6c0-7f6e-7c3e-8a3e-3f2b1c0d9e8f"

Time = Annotated[
    str,
    Meta(
        description="UTC, RFC 3339, with microseconds.",
        extra_json_schema={"format": "date-time"},
        examples=["2026-01-31T12:00:00.000000Z"],
    ),
]
Limit = Annotated[int, Meta(ge=1, le=PAGE_LIMIT, description="Most entries of this page.")]
Offset = Annotated[int, Meta(ge=0, le=OFFSET_LIMIT, description="Entries to skip.")]

Model = TypeVar("Model", bound=msgspec.Struct)
Handler = Callable[..., Awaitable[Any]]

_PATH: Final = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")
_MISSING: Final = re.compile(r"^Object missing required field `([^`]+)`")


class PageQuery(msgspec.Struct):
    """Which part of a list to return."""

    limit: Limit = 50
    offset: Offset = 0


def operation(
    *,
    name: str,
    tags: tuple[str, ...],
    responses: dict[int, type[msgspec.Struct] | None],
    body: type[msgspec.Struct] | None = None,
    query: type[msgspec.Struct] | None = None,
    errors: tuple[ErrorCode, ...] = (),
    public: bool = False,
    large: bool = False,
) -> Callable[[Handler], Handler]:
    """Declares a REST operation.

    Before the handler runs the caller is known (`current_identity`, unless `public`), and the body and the query are
    read and checked; they reach it as the arguments `body` and `query`.

    Args:
        name: the operation's id in OpenAPI.
        tags: the groups it is listed under.
        responses: the model of each good answer; None is an answer without a body.
        body: the model of the JSON body.
        query: the model of the query string.
        errors: what it may refuse, beside what follows from the other arguments.
        public: whether anybody may call it.
        large: whether its answer may be large. Then bytes are reserved for it before anything is looked up or
            changed, and it is refused while there is no room for them.
    """

    def declare(handler: Handler) -> Handler:
        @wraps(handler)
        async def wrapper(**arguments: Any) -> Any:
            if not large or body is not None:
                return await run(arguments)
            current_answer().reserve(_page_bytes(query))
            async with current_answer().turn():
                return await run(arguments)

        async def run(arguments: dict[str, Any]) -> Any:
            if not public:
                token = bearer_token(request.headers.get("Authorization"))
                g.identity = await services().authenticator.authenticate(token)
            if query is not None:
                arguments["query"] = read_query(request.args, query)
            if body is not None:
                arguments["body"] = await read_body(body)
                if large:  # now, as a client may take its time with the body
                    current_answer().reserve(RESERVED_BYTES)
            return await handler(**arguments)

        codes = {*errors, ErrorCode.RATE_LIMITED, ErrorCode.INTERNAL, ErrorCode.UNAVAILABLE}
        if not public:
            codes |= {ErrorCode.NOT_AUTHENTICATED, ErrorCode.INVALID_TOKEN}
            wrapper = security_scheme([{"bearer": []}])(wrapper)
        if query is not None:
            codes.add(ErrorCode.INVALID_FIELD)
            wrapper = document_querystring(query)(wrapper)
        if body is not None:
            codes |= {
                ErrorCode.INVALID_JSON,
                ErrorCode.INVALID_FIELD,
                ErrorCode.TOO_LARGE,
                ErrorCode.UNSUPPORTED_MEDIA_TYPE,
                ErrorCode.REQUEST_TIMEOUT,
            }
            wrapper = document_request(body)(wrapper)
        for status in sorted({code.status for code in codes}):
            wrapper = document_response(ErrorBody, status)(wrapper)
        for status, model in responses.items():
            if model is not None:
                wrapper = document_response(model, status)(wrapper)
        wrapper.pulse_large = large  # type: ignore[attr-defined]  # a test holds every operation to it
        wrapper.pulse_codes = codes  # type: ignore[attr-defined]  # read by the OpenAPI provider
        wrapper.pulse_empty = [status for status, model in responses.items() if model is None]  # type: ignore[attr-defined]
        return operation_id(name)(tag(tags)(wrapper))

    return declare


def current_user() -> User:
    """Who called the operation."""
    return current_identity().user


def current_identity() -> Identity:
    """Who called the operation, and until when their token is good."""
    identity = g.identity
    assert isinstance(identity, Identity)
    return identity


async def read_body(model: type[Model]) -> Model:
    """The JSON body of the request.

    Raises:
        PulseError: it is not JSON, or not what `model` says; names the field.
    """
    mimetype = request.mimetype
    if mimetype != "application/json":
        raise PulseError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "The body must be JSON: Content-Type: application/json")
    data = await request.get_data(as_text=False)
    assert isinstance(data, bytes)
    try:
        value = strict_json.loads(data)
    except strict_json.InvalidJSON as error:
        raise PulseError(ErrorCode.INVALID_JSON, f"The body is not valid JSON: {error}") from None
    return _convert(value, model, strict=True)


def read_query(arguments: MultiDict[str, str], model: type[Model]) -> Model:
    """The query string of the request.

    Raises:
        PulseError: it is not what `model` says; names the field.
    """
    for name in model.__struct_fields__:
        if len(arguments.getlist(name)) > 1:
            raise PulseError(ErrorCode.INVALID_FIELD, f"`{name}` must be given once", field=name)
    return _convert(arguments.to_dict(), model, strict=False)


def _page_bytes(query: type[msgspec.Struct] | None) -> int:
    """The bytes to reserve for an answer, by the rows that are asked for; the query is not checked yet."""
    if query is None or "limit" not in query.__struct_fields__:
        return RESERVED_BYTES
    text = request.args.get("limit", "")
    # Who gives none, or a wrong one, gets a usual page, or an error.
    rows = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0
    return max(RESERVED_BYTES, min(rows or PageQuery().limit, PAGE_LIMIT) * ROW_BYTES)


def _is_bad_text(value: object, name: str) -> bool:
    text = value.get(name) if isinstance(value, dict) else None
    return isinstance(text, str) and text_problem(text) is not None


def _convert(value: Any, model: type[Model], *, strict: bool) -> Model:
    try:
        converted = msgspec.convert(value, model, strict=strict)
    except msgspec.ValidationError as error:
        text = str(error)
        missing = _MISSING.match(text)
        path = _PATH.search(text)
        field = missing[1] if missing is not None else path[1] if path is not None else None
        message = text if path is None else text[: path.start()]
        prefix = f"`{field}`: " if field else ""
        raise PulseError(ErrorCode.INVALID_FIELD, prefix + message, field=field or None) from None
    except UnicodeEncodeError:  # msgspec, of a name, or of a text where a number should be; other texts are seen below
        wrong = (name for name in model.__struct_fields__ if _is_bad_text(value, name))
        field = next(wrong, None)
        message = (
            "The name of a field must not contain a lone surrogate" if field is None else f"`{field}`: Expected no text"
        )
        raise PulseError(ErrorCode.INVALID_FIELD, message, field=field) from None
    for name in model.__struct_fields__:
        item = getattr(converted, name)
        for text in item if isinstance(item, list | tuple) else (item,):
            problem = text_problem(text) if isinstance(text, str) else None
            if problem is not None:
                raise PulseError(ErrorCode.INVALID_FIELD, f"`{name}` {problem}", field=name)
    return converted
