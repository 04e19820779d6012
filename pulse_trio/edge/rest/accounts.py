"""The REST resource of accounts: register, log in, renew a token, search users."""

import hashlib
from typing import Annotated, Final
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType
from quart import Blueprint, Response

from pulse_trio.auth.passwords import MAX_PASSWORD_CHARS
from pulse_trio.conversations import accounts as use_cases
from pulse_trio.edge.audit import SecurityEvent
from pulse_trio.edge.response_budget import current_answer
from pulse_trio.edge.responses import answer
from pulse_trio.edge.rest.cursors import Cursor, NextCursor, next_cursor, reject_offset, text_of
from pulse_trio.edge.rest.operation import PageQuery, current_identity, current_user, operation
from pulse_trio.edge.security_events import record_event, username_digest
from pulse_trio.edge.services import services
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.model import User
from pulse_trio.protocol.fields import TEXT_PATTERN
from pulse_trio.texts import MAX_USERNAME_CHARS, username_problem

MAX_SEARCH_OFFSET: Final = 1_000  # rows that PostgreSQL reads and drops; a cursor leads further at no cost
MAX_SEARCH_TOTAL: Final = 1_000  # users that are counted: more than anybody looks through

accounts = Blueprint("accounts", __name__, url_prefix="/api")

Username = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_USERNAME_CHARS,
        description="Letters and digits of one script, with `.`, `_` and `-` between them. Unique regardless of case.",
        examples=["john_doe"],
    ),
]
_TEXT: Final = {"pattern": TEXT_PATTERN}  # documented here; all texts are checked
Password = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_PASSWORD_CHARS,
        examples=["correct horse battery staple"],
        extra_json_schema=_TEXT,
    ),
]


class Registration(msgspec.Struct):
    """A new account."""

    username: Username
    password: Password


class Login(msgspec.Struct):
    """The username and password of an account."""

    username: Annotated[str, Meta(max_length=256, examples=["john_doe"], extra_json_schema=_TEXT)]
    password: Annotated[
        str,
        Meta(max_length=MAX_PASSWORD_CHARS, examples=["correct horse battery staple"], extra_json_schema=_TEXT),
    ]


class UserBody(msgspec.Struct):
    """A user."""

    id: UUID
    username: str


class TokenBody(msgspec.Struct):
    """A token for `Authorization: Bearer` and for the WebSocket."""

    access_token: str
    token_type: Annotated[str, Meta(examples=["bearer"])]
    expires_in: Annotated[int, Meta(description="Seconds until it expires.", examples=[3600])]


class UserQuery(PageQuery):
    """The users to search for."""

    offset: Annotated[
        int, Meta(ge=0, le=MAX_SEARCH_OFFSET, description="Entries to skip; `cursor` leads to pages beyond.")
    ] = 0
    query: Annotated[
        str,
        Meta(
            max_length=MAX_USERNAME_CHARS,
            description="The beginning of the username, in any case.",
            extra_json_schema=_TEXT,
        ),
    ] = ""
    cursor: Cursor | UnsetType = UNSET


class UserList(msgspec.Struct):
    """A page of users, in the order of their names."""

    users: list[UserBody]
    total: Annotated[int, Meta(description=f"The number of users found, counted up to {MAX_SEARCH_TOTAL:,}.")]
    is_total_exact: Annotated[bool, Meta(description="False if there are more than `total`.")]
    limit: int
    offset: int
    next_cursor: NextCursor


@accounts.post("/auth/register")
@operation(
    name="register",
    tags=("accounts",),
    body=Registration,
    responses={201: UserBody},
    errors=(ErrorCode.USERNAME_TAKEN, ErrorCode.LOGIN_DISABLED),
    public=True,
)
async def register(body: Registration) -> Response:
    """Create an account."""
    service, address = services(), current_answer().address
    if not service.tokens.can_issue:
        raise PulseError(ErrorCode.LOGIN_DISABLED)
    problem = username_problem(body.username)
    if problem is not None:
        raise PulseError(ErrorCode.INVALID_FIELD, f"`username` {problem}", field="username")
    problem = use_cases.password_problem(body.password, service.settings)
    if problem is not None:
        raise PulseError(ErrorCode.INVALID_FIELD, f"`password` {problem}", field="password")
    try:
        attempt = await service.limits.registrations.start(address)
        user = await use_cases.register(service, body.username, body.password, address=address, attempt=attempt)
    except PulseError as error:
        record_event(SecurityEvent.REGISTRATION_REFUSED, code=error.code.code)
        raise
    record_event(SecurityEvent.REGISTRATION, user_id=user.id)
    return answer(user_body(user), 201)


_LOGIN_EVENTS: Final = {
    ErrorCode.INVALID_CREDENTIALS: SecurityEvent.LOGIN_FAILED,
    ErrorCode.RATE_LIMITED: SecurityEvent.LOGIN_LIMITED,
}


@accounts.post("/auth/login")
@operation(
    name="login",
    tags=("accounts",),
    body=Login,
    responses={200: TokenBody},
    errors=(ErrorCode.INVALID_CREDENTIALS, ErrorCode.LOGIN_DISABLED),
    public=True,
)
async def login(body: Login) -> Response:
    """Get a token for a username and password."""
    service, address = services(), current_answer().address
    if not service.tokens.can_issue:
        raise PulseError(ErrorCode.LOGIN_DISABLED)
    try:
        attempt = await service.limits.logins.start(address, body.username)
        user, token = await use_cases.login(service, body.username, body.password, address=address, attempt=attempt)
    except PulseError as error:
        event = _LOGIN_EVENTS.get(error.code)
        if event is not None:  # not for a service that is busy: filters ban by these lines
            record_event(event, code=error.code.code, username_digest=username_digest(body.username))
        raise
    record_event(SecurityEvent.LOGIN, user_id=user.id)
    return answer(TokenBody(token, "bearer", service.tokens.lifetime))


@accounts.post("/auth/renew")
@operation(
    name="renewToken",
    tags=("accounts",),
    responses={200: TokenBody},
    errors=(ErrorCode.LOGIN_DISABLED,),
)
async def renew() -> Response:
    """Get a new token for one that is still valid.

    No token lasts longer than `PULSE_SIGN_IN_DAYS` after the login; from then on the answer is `invalid_token`.
    """
    service, identity = services(), current_identity()
    try:
        await service.limits.renewals.start(identity.user.id)
        token, seconds = service.tokens.renew(identity)
    except PulseError as error:
        record_event(SecurityEvent.RENEWAL_REFUSED, user_id=identity.user.id, code=error.code.code)
        raise
    record_event(SecurityEvent.RENEWAL, user_id=identity.user.id)
    return answer(TokenBody(token, "bearer", seconds))


@accounts.get("/auth/me")
@operation(name="me", tags=("accounts",), responses={200: UserBody})
async def me() -> Response:
    """Show the user of the token."""
    return answer(user_body(current_user()))


@accounts.get("/users")
@operation(
    name="searchUsers", tags=("accounts",), query=UserQuery, responses={200: UserList}, large=True, compressed=True
)
async def search_users(query: UserQuery) -> Response:
    """Search users by the beginning of their username.

    A search costs the same however many users it finds: `total` is counted up to a bound.
    """
    service = services()
    reject_offset(query.cursor, query.offset)
    of_list = _search_key(query.query)
    after = text_of(of_list, query.cursor)
    user = current_user()
    service.limits.searches.start(user.id)
    page = await service.store.search_users(
        query.query, limit=query.limit, offset=query.offset, after=after, max_total=MAX_SEARCH_TOTAL, by=user.id
    )
    users = [user_body(found) for found in page.users]
    cursor = next_cursor(of_list, page.next_after)
    return answer(UserList(users, page.total, page.is_total_exact, query.limit, query.offset, cursor))


def _search_key(prefix: str) -> bytes:
    """Names the list of the users found with a prefix, for its cursors."""
    return hashlib.blake2b(prefix.encode("utf-8", "surrogatepass"), digest_size=32, person=b"users").digest()


def user_body(user: User) -> UserBody:
    """Returns a user as REST shows them."""
    return UserBody(user.id, user.username)
