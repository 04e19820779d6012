"""Errors of the client: one class for each case that a program handles differently."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from pulse_trio.client.records import Message
from pulse_trio.errors import ErrorCode

CONFLICT: Final = "conflict"  # the `code` of the answer


class ClientError(Exception):
    """Base class of the errors that this package raises."""


class ConnectionLost(ClientError):
    """The server cannot be reached, or gives no usable answer, after the attempts that `Backoff` allows."""


class AuthenticationFailed(ClientError):
    """The username or password is wrong; or the token is invalid or expired, and there is no password to renew it.

    Attributes:
        code: the server's, see docs/protocol.md: `invalid_credentials`, `invalid_token` and the like.
    """

    def __init__(self, message: str, code: str = ErrorCode.NOT_AUTHENTICATED.code) -> None:
        super().__init__(message)
        self.code = code


class NotAMember(ClientError):
    """You are not, or no longer, a member of this conversation; or it does not exist."""


class Refused(ClientError):
    """The server rejected a request or a frame, and would again.

    Attributes:
        code: stable, for programs: docs/protocol.md and docs/rest.md list them.
        message: for people.
        field: the field that the error is about, if any.
        status: the HTTP status, if it was a request.
        retry_after: seconds after which a retry makes sense, if known.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        field: str | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.status = status
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[Callable[[], "Refused"], tuple[()], dict[str, Any]]:
        """Supports pickle and copy, which would lose the keyword arguments."""
        return partial(type(self), self.code, self.message), (), self.__dict__


class Conflict(Refused):
    """The message was changed meanwhile, so that an edit with `if_rev` did not happen.

    Attributes:
        current: the message as it now is; None if the server's answer does not have it.
    """

    def __init__(self, message: str, current: Message | None) -> None:
        super().__init__(CONFLICT, message, status=409)
        self.current = current

    def __reduce__(self) -> tuple[Callable[[], "Conflict"], tuple[()], dict[str, Any]]:
        """Supports pickle and copy, as in `Refused`."""
        return partial(type(self), self.message, self.current), (), self.__dict__


class NotStored(ClientError):
    """The server failed to store the message several times; it may be stored nevertheless.

    Attributes:
        client_id: resend the same text with it, and the message is stored once.
    """

    def __init__(self, client_id: str) -> None:
        super().__init__("The message could not be stored; send it again with the same client_id")
        self.client_id = client_id


class ProtocolError(ClientError):
    """The server does not speak this protocol, or a version that this client does not know."""
