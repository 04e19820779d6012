"""Requests of the REST API: JSON in and out, errors as exceptions."""

from typing import Any, Final, TypeVar, overload

import httpx2
import msgspec
import trio

from pulse_trio.client.errors import (
    CONFLICT,
    AuthenticationFailed,
    ClientError,
    Conflict,
    ConnectionLost,
    NotAMember,
    ProtocolError,
    Refused,
)
from pulse_trio.client.records import Message
from pulse_trio.client.redaction import identifier, redacted
from pulse_trio.errors import ErrorCode

REQUEST_TIMEOUT: Final = 30.0  # seconds from the request to the end of its answer
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024  # 200 messages of the longest content need a fifth of it

T = TypeVar("T")


class ErrorBody(msgspec.Struct):
    """The body of an error. `current`: of a `conflict`, the message as it now is."""

    code: str
    message: str
    field: str | None = None
    current: Message | None = None


class Rest:
    """Requests to one server.

    Args:
        http: carries them; its creator closes it.
    """

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    @overload
    async def request(
        self, method: str, path: str, kind: type[T], *, token: str | None, json: Any = None, params: Any = None
    ) -> T: ...

    @overload
    async def request(
        self, method: str, path: str, kind: None, *, token: str | None, json: Any = None, params: Any = None
    ) -> None: ...

    async def request(
        self,
        method: str,
        path: str,
        kind: type[T] | None,
        *,
        token: str | None,
        json: Any = None,
        params: Any = None,
    ) -> T | None:
        """Makes a request and decodes its answer as `kind`.

        Cancelled: the server may or may not have carried it out.

        Raises:
            ConnectionLost: there was no answer.
            AuthenticationFailed, NotAMember, Refused: the server rejected it. Refused also if the request has a text
                that cannot be encoded.
            ProtocolError: the answer cannot be decoded.
        """
        password = json.get("password") if isinstance(json, dict) else None
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        content = None
        if json is not None:
            headers["Content-Type"] = "application/json"
            content = _encoded(json)
        for value in (params or {}).values():
            _encoded(value)
        try:
            with trio.fail_after(REQUEST_TIMEOUT):
                async with self._http.stream(method, path, content=content, params=params, headers=headers) as answer:
                    body = await _read(answer)
        except httpx2.LocalProtocolError as error:  # its text quotes the header or value, perhaps the token
            raise ConnectionLost(f"the request cannot be sent: {type(error).__name__}") from None
        except httpx2.HTTPError as error:
            reason = redacted(str(error), token, password) or type(error).__name__
            raise ConnectionLost(f"the server cannot be reached: {reason}") from None
        except trio.TooSlowError:
            raise ConnectionLost(f"the server did not answer within {REQUEST_TIMEOUT:g} seconds") from None
        if answer.status_code >= 300:
            raise error_of(
                answer.status_code, body, answer.headers.get("Retry-After"), path, token=token, password=password
            )
        if kind is None:
            return None
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.DecodeError as error:
            reason = redacted(str(error), token, password)
            raise ProtocolError(f"the answer of {path.split('?')[0]} cannot be decoded: {reason}") from None


def _encoded(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # the error quotes the whole text, which may be a password
        raise Refused(ErrorCode.INVALID_TEXT.code, "a text has a lone surrogate, which cannot be sent") from None


async def _read(answer: httpx2.Response) -> bytes:
    body = bytearray()
    async for piece in answer.aiter_bytes():
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise ProtocolError(f"an answer is longer than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def error_of(
    status: int,
    body: bytes,
    retry_after: str | None,
    path: str,
    *,
    token: str | None,
    password: str | None = None,
) -> ClientError:
    """Returns the exception for an answer with an error, without the secrets of the request."""
    try:
        error = msgspec.json.decode(body, type=ErrorBody)
    except msgspec.DecodeError:
        error = ErrorBody("unknown", f"the server answered {status}")  # from a proxy, or another kind of server
    message = redacted(error.message, token, password)
    code = identifier(error.code, token) or "unknown"
    field = None if error.field is None else identifier(error.field, token)
    if status == 401:
        return AuthenticationFailed(message, code)
    if code == "not_a_member" or (code == "not_found" and path.startswith("/api/chat/conversations/")):
        return NotAMember(message)
    if code == CONFLICT:
        return Conflict(message, error.current)
    seconds = float(retry_after) if retry_after is not None and retry_after.isdecimal() else None
    return Refused(code, message, field=field, status=status, retry_after=seconds)
