"""Accounts: register, log in and stay so, who am I, and finding people to talk to."""

from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta
from quart import Blueprint, Response

from pulse_trio.auth.hash_queue import HashKind
from pulse_trio.auth.passwords import MAX_PASSWORD_CHARS
from pulse_trio.edge.response_budget import current_answer
from pulse_trio.edge.responses import answer
from pulse_trio.edge.rest.operation import PageQuery, current_identity, current_user, operation
from pulse_trio.edge.services import services
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.store.base import User, UsernameTaken
from pulse_trio.texts import USERNAME_MAX_CHARS, username_problem

accounts = Blueprint("accounts", __name__, url_prefix="/api")

Username = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=USERNAME_MAX_CHARS,
        description="Letters and digits of one script, with `.`, `_` and `-` between them. "
        "Unique without regard to case.",
        examples=["john_doe"],
    ),
]
Password = Annotated[str, Meta(min_length=1, max_length=MAX_PASSWORD_CHARS, examples=["correct horse battery staple"])]


class Registration(msgspec.Struct):
    """Who wants an account."""

    username: Username
    password: Password


class Login(msgspec.Struct):
    """Who logs in."""

    username: Annotated[str, Meta(max_length=256, examples=["john_doe"])]
    password: Annotated[str, Meta(max_length=MAX_PASSWORD_CHARS, examples=["correct horse battery staple"])]


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
    """Whom to look for."""

    query: Annotated[
        str, Meta(max_length=USERNAME_MAX_CHARS, description="The beginning of the username, in any case.")
    ] = ""


class UserList(msgspec.Struct):
    """A page of users, in the order of their names."""

    users: list[UserBody]
    total: int
    limit: int
    offset: int


def user_body(user: User) -> UserBody:
    """A user as REST shows them."""
    return UserBody(user.id, user.username)


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
    parts = services()
    if not parts.tokens.can_issue:
        raise PulseError(ErrorCode.LOGIN_DISABLED, "Accounts come from this server's identity provider")
    problem = username_problem(body.username)
    if problem is not None:
        raise PulseError(ErrorCode.INVALID_FIELD, f"`username` {problem}", field="username")
    least = parts.settings.password_min_chars
    if len(body.password) < least:
        raise PulseError(ErrorCode.INVALID_FIELD, f"`password` must have at least {least} characters", field="password")
    address = current_answer().address
    attempt = parts.limits.registrations.start(address)
    is_hashed = False
    try:
        async with parts.hash_queue.place(HashKind.REGISTRATION, address):
            is_hashed = True
            password_hash = await parts.passwords.hash(body.password)
    finally:
        if not is_hashed:
            attempt.forgive()
    user = User(parts.ids(), body.username)
    try:
        await parts.store.create_user(user, password_hash=password_hash, subject=None, created_at=parts.clock())
    except UsernameTaken:
        raise PulseError(ErrorCode.USERNAME_TAKEN, "This username is taken", field="username") from None
    return answer(user_body(user), 201)


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
    parts = services()
    if not parts.tokens.can_issue:
        raise PulseError(ErrorCode.LOGIN_DISABLED, "Tokens come from this server's identity provider")
    address = current_answer().address
    attempt = parts.limits.logins.start(address, body.username)
    is_failure = False
    try:
        async with parts.hash_queue.place(HashKind.LOGIN, address):
            account = await parts.store.find_account(body.username)
            stored = None if account is None else account.password_hash
            is_failure = True  # from here on, for whoever hangs up before the answer as well
            # The same work and the same answer, whether the user exists or not.
            is_right = await parts.passwords.check(stored, body.password)
            if account is None or stored is None or not is_right:
                parts.metrics.login_failures += 1
                raise PulseError(ErrorCode.INVALID_CREDENTIALS, "Wrong username or password")
            is_failure = False
            if parts.passwords.is_outdated(stored):
                password_hash = await parts.passwords.hash(body.password)
                await parts.store.set_password_hash(account.user.id, password_hash, old_hash=stored)
    finally:
        if is_failure:
            attempt.fail()
        else:
            attempt.forgive()
    return answer(TokenBody(parts.tokens.issue(account.user), "bearer", parts.tokens.lifetime))


@accounts.post("/auth/renew")
@operation(
    name="renewToken",
    tags=("accounts",),
    responses={200: TokenBody},
    errors=(ErrorCode.LOGIN_DISABLED,),
)
async def renew() -> Response:
    """Get a new token for one that is still good.

    Until `PULSE_SIGN_IN_DAYS` after the login: then it is refused with `invalid_token`, and no token lasts beyond.
    """
    parts = services()
    identity = current_identity()
    parts.limits.renewals.start(identity.user.id)
    token, seconds = parts.tokens.renew(identity)
    return answer(TokenBody(token, "bearer", seconds))


@accounts.get("/auth/me")
@operation(name="me", tags=("accounts",), responses={200: UserBody})
async def me() -> Response:
    """Show whose token this is."""
    return answer(user_body(current_user()))


@accounts.get("/users")
@operation(name="searchUsers", tags=("accounts",), query=UserQuery, responses={200: UserList}, large=True)
async def search_users(query: UserQuery) -> Response:
    """Find people by the beginning of their username."""
    users, total = await services().store.search_users(query.query, limit=query.limit, offset=query.offset)
    return answer(UserList([user_body(user) for user in users], total, query.limit, query.offset))
