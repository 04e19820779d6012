"""What can go wrong for a client, one class for each thing that a program would do something else about."""

from collections.abc import Callable
from functools import partial
from typing import Any

from pulse_trio.errors import ErrorCode


class ClientError(Exception):
    """Anything that this package raises on purpose."""


class ConnectionLost(ClientError):
    """The server cannot be reached, and as many attempts were made as `Backoff` allows; or it answers nonsense."""


class AuthenticationFailed(ClientError):
    """Wrong username or password; or a token that is not good (any more), with no password to get another.

    Attributes:
        code: the server's, see docs/protocol.md; `invalid_credentials`, `invalid_token` and the like.
    """

    def __init__(self, message: str, code: str = ErrorCode.NOT_AUTHENTICATED.code) -> None:
        super().__init__(message)
        self.code = code


class NotAMember(ClientError):
    """You are not in this conversation, or not any more; or there is no such conversation."""


class Refused(ClientError):
    """The server refused what was asked, and would again.

    Attributes:
        code: stable, for programs: docs/protocol.md and docs/rest.md list them.
        message: for people.
        field: the field that it is about, if it is about one.
        status: of HTTP, if it was a request.
        retry_after: in how many seconds it makes sense to ask again, if that is known.
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
        """Gives the arguments from which pickle and copy make it again."""
        return partial(type(self), self.code, self.message), (), self.__dict__


class NotStored(ClientError):
    """The server could not store the message, several times; it may be stored all the same.

    Attributes:
        client_id: send the same text again with it, and it is stored once.
    """

    def __init__(self, client_id: str) -> None:
        super().__init__("The message could not be stored; send it again with the same client_id")
        self.client_id = client_id


class ProtocolError(ClientError):
    """The other side does not speak this protocol, or speaks one that this client is too old for."""
