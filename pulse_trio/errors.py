"""The errors that clients get, in one table, and the exceptions that carry them.

Each error has a `code` for programs, which never changes, an HTTP status, and a sentence for people. REST answers with
the JSON object `{"code", "message", "field"?}`; a WebSocket sends an `error` frame with the same code and sentence.
`docs/protocol.md` and `docs/rest.md` list the codes; `tests/documents` holds them to this table.
"""

import math
from enum import Enum


class ErrorCode(Enum):
    """An error: its code, the HTTP status of its answer, and the sentence used unless there is a more specific one."""

    # Requests
    BAD_REQUEST = ("bad_request", 400, "The request cannot be read")
    INVALID_JSON = ("invalid_json", 400, "The body is not valid JSON")
    INVALID_FIELD = ("invalid_field", 422, "A field is missing or has an invalid value")
    NOT_FOUND = ("not_found", 404, "There is nothing at this address")
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405, "This address does not support this method")
    TOO_LARGE = ("too_large", 413, "The request body is too large")
    UNSUPPORTED_MEDIA_TYPE = ("unsupported_media_type", 415, "The body must be JSON: Content-Type: application/json")
    REQUEST_TIMEOUT = ("request_timeout", 408, "The request body did not arrive in time")
    MISDIRECTED = ("misdirected", 421, "This service does not answer under this host name")
    UPGRADE_REQUIRED = (
        "upgrade_required",
        426,
        "This address is for WebSockets; if you sent a handshake, a proxy dropped its `Upgrade` header",
    )
    RATE_LIMITED = ("rate_limited", 429, "Rate limit exceeded; retry in a second")
    TOO_MANY_CONNECTIONS = ("too_many_connections", 429, "Too many connections are open; close one first")
    INTERNAL = ("internal", 500, "Internal error; the server has logged it")
    UNAVAILABLE = ("unavailable", 503, "The service is unavailable; retry in a moment")
    # Authentication
    NOT_AUTHENTICATED = ("not_authenticated", 401, "Missing token: send `Authorization: Bearer TOKEN`")
    INVALID_TOKEN = ("invalid_token", 401, "The token is not valid")
    INVALID_CREDENTIALS = ("invalid_credentials", 401, "Wrong username or password")
    LOGIN_DISABLED = ("login_disabled", 403, "Accounts and tokens come from this server's identity provider")
    ORIGIN_NOT_ALLOWED = ("origin_not_allowed", 403, "Origin not allowed")
    # Accounts and conversations
    USERNAME_TAKEN = ("username_taken", 409, "This username is taken")
    UNKNOWN_USER = ("unknown_user", 422, "There is no such user")
    NOT_A_MEMBER = ("not_a_member", 403, "You are not a member of this conversation, or it does not exist")
    NOT_A_GROUP = ("not_a_group", 409, "A one-to-one conversation keeps its members and its name")
    OWNER_ONLY = ("owner_only", 403, "Only the owner of the group may remove others")
    TOO_MANY_MEMBERS = ("too_many_members", 422, "The group would have too many members")
    # Frames and messages
    INVALID_FRAME = ("invalid_frame", 422, "A frame must be a JSON object with valid fields")
    UNKNOWN_TYPE = ("unknown_type", 422, "Unknown frame type")
    BINARY_FRAME = ("binary_frame", 422, "Frames are JSON in text messages, not binary ones")
    EMPTY_CONTENT = ("empty_content", 422, "Message content cannot be empty")  # the specification's sentence
    CONTENT_TOO_LONG = ("content_too_long", 422, "Message content is too long")
    INVALID_TEXT = ("invalid_text", 422, "The text has a NUL character or a lone surrogate")
    CLIENT_ID_REUSED = ("client_id_reused", 409, "This client_id was used for a message with other content")
    NOT_STORED = (
        "not_stored",
        503,
        "The message could not be stored in time; send it again with the same client_id",
    )
    NO_SUCH_MESSAGE = ("no_such_message", 404, "There is no such message in this conversation")
    NOT_YOUR_MESSAGE = (
        "not_your_message",
        403,
        "Only its sender may edit a message; its sender and the owner may delete it",
    )
    CONFLICT = ("conflict", 409, "The message has changed since; look at it before you edit it")
    CANNOT_RESUME = ("cannot_resume", 409, "Cannot resume from there; reload the history")

    def __init__(self, code: str, status: int, sentence: str) -> None:
        self.code = code
        self.status = status
        self.sentence = sentence


class PulseError(Exception):
    """A client's request, handshake or frame that the service refuses.

    Args:
        code: identifies the error; gives the HTTP status.
        message: a sentence for people, without secrets or text of messages; by default the sentence of the code.
        field: the field of a body, a query or a frame that caused the error.
        retry_after: the seconds after which a retry may succeed, if known.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str | None = None,
        *,
        field: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.code = code
        self.message = code.sentence if message is None else message
        self.field = field
        self.retry_after = retry_after
        super().__init__(self.message)


def too_many(what: str, seconds: float) -> PulseError:
    """Returns the error for an exceeded rate limit, as in "Too many logins; retry in 3 s".

    Args:
        what: the things that are limited, in the plural.
        seconds: until a retry may succeed.
    """
    wait = max(1, math.ceil(seconds))
    return PulseError(ErrorCode.RATE_LIMITED, f"Too many {what}; retry in {wait} s", retry_after=float(wait))


class LaunchError(Exception):
    """A reason why the service cannot start or continue: one line that says what is wrong and how to repair it."""
