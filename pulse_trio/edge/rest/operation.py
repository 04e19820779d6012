"""Declaration of REST operations: authentication, parsing and documentation from one place."""

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import wraps
from typing import Annotated, Any, Final, TypeVar, cast, get_args

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
from pulse_trio.clock import rfc3339
from pulse_trio.edge.response_budget import current_answer
from pulse_trio.edge.responses import ErrorBody
from pulse_trio.edge.services import app_parts, services
from pulse_trio.edge.turns import LARGE_BYTES
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.store.base import User
from pulse_trio.texts import text_problem

MAX_PAGE_ROWS: Final = 200  # as many as a client can show; bounds the size of a response
MIN_RESERVED_BYTES: Final = 16_384  # for an answer that may be large
ROW_BYTES: Final = 1_024  # reserved for each row that a client asks for; few messages are larger
MAX_OFFSET: Final = 2**31 - 1
EXAMPLE_ID: Final = "0190a6c0-7f6e-7c3e-8a3e-3f2b1c0d9e8f"

Time = Annotated[
    str,
    Meta(
        description="UTC, RFC 3339, with microseconds.",
        extra_json_schema={"format": "date-time"},
        examples=["2026-01-31T12:00:00.000000Z"],
    ),
]
Limit = Annotated[int, Meta(ge=1, le=MAX_PAGE_ROWS, description="Most entries of this page.")]
Offset = Annotated[int, Meta(ge=0, le=MAX_OFFSET, description="Entries to skip.")]

Model = TypeVar("Model", bound=msgspec.Struct)
Handler = Callable[..., Awaitable[Any]]

_PATH: Final = re.compile(r" - at `(?:key in )?\$\.?([^`]*)`$")
_MISSING: Final = re.compile(r"^Object missing required field `([^`]+)`")


class PageQuery(msgspec.Struct):
    """The page of a list to return."""

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
    compressed: bool = False,
) -> Callable[[Handler], Handler]:
    """Declares a REST operation.

    Before the handler runs, the caller is authenticated (`current_identity`, unless `public`), and the body and the
    query are parsed; the handler gets them as the arguments `body` and `query`.

    Args:
        name: the operation's id in OpenAPI.
        tags: the groups of operations that list it.
        responses: the model of each successful answer; None is an answer without a body.
        body: the model of the JSON body.
        query: the model of the query string.
        errors: the errors it may answer, beside those that follow from the other arguments.
        public: True if it needs no token.
        large: True if its answer may be large. Bytes are then reserved for it before anything is looked up or changed;
            without room for them the request is rejected (503).
        compressed: True if its answer may be compressed: all of it is known to everybody who can write into it.
    """
    codes = _all_codes(errors, takes_body=body is not None, takes_query=query is not None, public=public)

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
                if large:  # only now: a slow body must not hold the reservation
                    current_answer().reserve(MIN_RESERVED_BYTES)
            return await handler(**arguments)

        documented: Handler = wrapper
        for document in _documentation(responses, codes, body=body, query=query, public=public):
            documented = document(documented)
        documented.pulse_compressed = compressed  # type: ignore[attr-defined]  # read by `api`
        documented.pulse_large = large  # type: ignore[attr-defined]  # read by a test of all operations
        documented.pulse_codes = codes  # type: ignore[attr-defined]  # read by the OpenAPI document
        documented.pulse_empty = [status for status, model in responses.items() if model is None]  # type: ignore[attr-defined]
        return operation_id(name)(tag(tags)(documented))

    return declare


def _all_codes(
    errors: Iterable[ErrorCode], *, takes_body: bool, takes_query: bool, public: bool
) -> frozenset[ErrorCode]:
    """Returns the errors that an operation may answer: its own, and those that follow from what it takes."""
    codes = {*errors, ErrorCode.RATE_LIMITED, ErrorCode.INTERNAL, ErrorCode.UNAVAILABLE}
    if not public:
        codes |= {ErrorCode.NOT_AUTHENTICATED, ErrorCode.INVALID_TOKEN}
    if takes_body or takes_query:
        codes.add(ErrorCode.INVALID_FIELD)
    if takes_body:
        codes |= {
            ErrorCode.INVALID_JSON,
            ErrorCode.TOO_LARGE,
            ErrorCode.UNSUPPORTED_MEDIA_TYPE,
            ErrorCode.REQUEST_TIMEOUT,
        }
    return frozenset(codes)


def _documentation(
    responses: dict[int, type[msgspec.Struct] | None],
    codes: frozenset[ErrorCode],
    *,
    body: type[msgspec.Struct] | None,
    query: type[msgspec.Struct] | None,
    public: bool,
) -> Iterator[Callable[[Handler], Handler]]:
    """Yields quart-schema's decorators for an operation."""
    if not public:
        yield security_scheme([{"bearer": []}])
    if query is not None:
        yield document_querystring(query)
    if body is not None:
        yield document_request(body)
    for status in sorted({code.status for code in codes}):
        yield document_response(ErrorBody, status)
    for status, model in responses.items():
        if model is not None:
            yield document_response(model, status)


def json_time(moment: datetime) -> str:
    """Returns a time for a field of an answer, which is written as by `rfc3339`.

    Nothing reads the field but msgspec, which writes the same text at a tenth of the cost, except where it would leave
    out microseconds that are 0, or write an offset.
    """
    return cast("str", moment) if moment.microsecond and moment.tzinfo is UTC else rfc3339(moment)


def current_user() -> User:
    """Returns the user who called the operation."""
    return current_identity().user


def current_identity() -> Identity:
    """Returns the user who called the operation, with the expiry of their token."""
    identity = g.identity
    assert isinstance(identity, Identity)
    return identity


async def read_body(model: type[Model]) -> Model:
    """Parses the JSON body of the request.

    Raises:
        PulseError: it is not JSON, or does not fit `model`; names the field.
    """
    mimetype = request.mimetype
    if mimetype != "application/json":
        raise PulseError(ErrorCode.UNSUPPORTED_MEDIA_TYPE)
    codings = {coding.strip().lower() for coding in request.headers.get("Content-Encoding", "").split(",")}
    if codings - {"", "identity"}:  # RFC 9110, section 15.5.16
        raise PulseError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "The body must not be compressed")
    data = await request.get_data(as_text=False)
    assert isinstance(data, bytes)
    if len(data) >= LARGE_BYTES:
        await app_parts().turns.take(len(data), current_answer().address)
    try:
        value = strict_json.loads(data)
    except strict_json.InvalidJSON as error:
        raise PulseError(ErrorCode.INVALID_JSON, f"The body is not valid JSON: {error}") from None
    if isinstance(value, dict):
        for field in msgspec.structs.fields(model):
            if field.name in value and _is_integer(field.type):
                value[field.name] = strict_json.as_integer(value[field.name])
    return _convert(value, model)


def read_query(arguments: MultiDict[str, str], model: type[Model]) -> Model:
    """Parses the query string of the request.

    Raises:
        PulseError: it does not fit `model`, or repeats a parameter; names the field.
    """
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(model):
        texts = arguments.getlist(field.encode_name)
        if len(texts) > 1:
            raise PulseError(ErrorCode.INVALID_FIELD, f"`{field.name}` must be given once", field=field.name)
        for text in texts:
            number = strict_json.parse_integer(text) if _is_integer(field.type) else None
            values[field.name] = text if number is None else number
    return _convert(values, model)


def _is_integer(kind: Any) -> bool:
    """Returns whether a field of a query takes integers: `int`, annotated, or one of several."""
    return kind is int or any(_is_integer(part) for part in get_args(kind))


def _page_bytes(query: type[msgspec.Struct] | None) -> int:
    """Returns the bytes to reserve for an answer, by the rows that the query asks for; it is not checked yet."""
    if query is None or "limit" not in query.__struct_fields__:
        return MIN_RESERVED_BYTES
    # Without a limit the answer is a page of the default size, with an invalid one an error.
    rows = strict_json.parse_integer(request.args.get("limit", "")) or PageQuery().limit
    return max(MIN_RESERVED_BYTES, min(rows, MAX_PAGE_ROWS) * ROW_BYTES)


def _is_bad_text(value: object, name: str) -> bool:
    text = value.get(name) if isinstance(value, dict) else None
    return isinstance(text, str) and text_problem(text) is not None


def _convert(value: Any, model: type[Model]) -> Model:
    try:
        converted = msgspec.convert(value, model)
    except msgspec.ValidationError as error:
        text = str(error)
        missing = _MISSING.match(text)
        path = _PATH.search(text)
        field = missing[1] if missing is not None else path[1] if path is not None else None
        message = text if path is None else text[: path.start()]
        prefix = f"`{field}`: " if field else ""
        raise PulseError(ErrorCode.INVALID_FIELD, prefix + message, field=field or None) from None
    except UnicodeEncodeError:  # by msgspec, for a name or a text in place of a number; other texts are checked below
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
