"""Every error that a client can be told, in one table, and the exceptions that carry them.

An error has a stable machine-readable `code`, and where it is told over HTTP a status. Over HTTP it
is the JSON object `{"code", "message", "field"?}`; over WebSocket an `error` frame with the same
words. `docs/protocol.md` and `docs/rest.md` list the codes; a test holds them to this table.
"""

import math
from enum import Enum


class ErrorCode(Enum):
    """The stable code of an error and the HTTP status it has in REST and in a refused handshake."""

    # Requests
    BAD_REQUEST = ("bad_request", 400)
    INVALID_JSON = ("invalid_json", 400)
    INVALID_FIELD = ("invalid_field", 422)
    NOT_FOUND = ("not_found", 404)
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405)
    TOO_LARGE = ("too_large", 413)
    UNSUPPORTED_MEDIA_TYPE = ("unsupported_media_type", 415)
    REQUEST_TIMEOUT = ("request_timeout", 408)
    UPGRADE_REQUIRED = ("upgrade_required", 426)
    RATE_LIMITED = ("rate_limited", 429)
    TOO_MANY_CONNECTIONS = ("too_many_connections", 429)
    INTERNAL = ("internal", 500)
    UNAVAILABLE = ("unavailable", 503)
    # Who is asking
    NOT_AUTHENTICATED = ("not_authenticated", 401)
    INVALID_TOKEN = ("invalid_token", 401)
    INVALID_CREDENTIALS = ("invalid_credentials", 401)
    LOGIN_DISABLED = ("login_disabled", 403)
    ORIGIN_NOT_ALLOWED = ("origin_not_allowed", 403)
    # Accounts and conversations
    USERNAME_TAKEN = ("username_taken", 409)
    UNKNOWN_USER = ("unknown_user", 422)
    NOT_A_MEMBER = ("not_a_member", 403)
    NOT_A_GROUP = ("not_a_group", 409)
    OWNER_ONLY = ("owner_only", 403)
    TOO_MANY_MEMBERS = ("too_many_members", 422)
    # Frames
    INVALID_FRAME = ("invalid_frame", 422)
    UNKNOWN_TYPE = ("unknown_type", 422)
    BINARY_FRAME = ("binary_frame", 422)
    EMPTY_CONTENT = ("empty_content", 422)
    CONTENT_TOO_LONG = ("content_too_long", 422)
    INVALID_TEXT = ("invalid_text", 422)
    CLIENT_ID_REUSED = ("client_id_reused", 409)
    NOT_STORED = ("not_stored", 503)
    NO_SUCH_MESSAGE = ("no_such_message", 404)
    NOT_YOUR_MESSAGE = ("not_your_message", 403)
    CANNOT_RESUME = ("cannot_resume", 409)

    def __init__(self, code: str, status: int) -> None:
        self.code = code
        self.status = status


class PulseError(Exception):
    """Something a client did, or asked for, that is answered with an error.

    Args:
        code: which error; gives the HTTP status.
        message: a sentence for a person; holds nothing secret and no text of a message.
        field: the field that the error is about, in a body, a query or a frame.
        retry_after: when it makes sense to try again, in seconds, if that is known.
    """

    def __init__(
        self, code: ErrorCode, message: str, *, field: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.retry_after = retry_after


def too_many(what: str, seconds: float) -> PulseError:
    """The error for a client that exceeded a rate limit and may try again in so many seconds."""
    wait = max(1, math.ceil(seconds))
    return PulseError(ErrorCode.RATE_LIMITED, f"Too many {what}; try again in {wait} seconds", retry_after=float(wait))


class LaunchError(Exception):
    """The service cannot start, or go on: one line that says what is wrong and what to do about it."""
