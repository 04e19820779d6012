"""Accounts: create, register, log in."""

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from pulse_trio.auth.hash_queue import HashKind, HashQueue
from pulse_trio.auth.passwords import MAX_PASSWORD_CHARS, Passwords
from pulse_trio.auth.tokens import Tokens
from pulse_trio.conversations.core import Core
from pulse_trio.errors import ErrorCode, PulseError
from pulse_trio.metrics import Metrics
from pulse_trio.settings import Settings
from pulse_trio.store.base import Store, User, UsernameTaken
from pulse_trio.texts import text_problem


@dataclass(frozen=True, slots=True)
class AccountCore(Core):
    """The core, and the parts that check passwords and issue tokens."""

    tokens: Tokens
    passwords: Passwords
    hash_queue: HashQueue
    metrics: Metrics


class Attempt(Protocol):
    """A registration or login as a rate limit counted it when it began."""

    async def forgive(self) -> None:
        """Counts the attempt no more, also when cancelled."""

    def fail(self) -> None:
        """Counts the attempt as a failed one."""


def password_problem(password: str, settings: Settings) -> str | None:
    """Returns why a new account cannot have this password, as in "must have 8 to 256 characters"; None if it can."""
    if not settings.password_min_chars <= len(password) <= MAX_PASSWORD_CHARS:
        return f"must have {settings.password_min_chars} to {MAX_PASSWORD_CHARS} characters"
    return text_problem(password)


async def create(store: Store, passwords: Passwords, user: User, password: str, *, now: datetime) -> None:
    """Creates an account, without a rate limit: for operators.

    Raises:
        UsernameTaken: another user has this name, in this form or another.
        StoreUnavailable: it may be created or not.
    """
    password_hash = await passwords.hash(password)
    await store.create_user(user, password_hash=password_hash, subject=None, created_at=now)


async def register(core: AccountCore, username: str, password: str, *, address: str, attempt: Attempt) -> User:
    """Creates an account for a client.

    Args:
        core: the running service.
        username: a name that `texts.username_problem` accepts.
        password: a password that `password_problem` accepts.
        address: the client's, as the hash queue counts it.
        attempt: the registration as the rate limit counts it; forgiven if no password was hashed.

    Raises:
        PulseError: the username is taken, or the hash queue is full.
        StoreUnavailable: it may be created or not.
    Cancelled: it may be created or not.
    """
    is_hashed = False
    try:
        async with core.hash_queue.place(HashKind.REGISTRATION, address):
            is_hashed = True
            password_hash = await core.passwords.hash(password)
    finally:
        if not is_hashed:
            await attempt.forgive()  # noqa: ASYNC102  # shields itself, with a deadline
    user = User(core.ids(), username)
    try:
        await core.store.create_user(user, password_hash=password_hash, subject=None, created_at=core.clock())
    except UsernameTaken:
        raise PulseError(ErrorCode.USERNAME_TAKEN, field="username") from None
    return user


async def login(core: AccountCore, username: str, password: str, *, address: str, attempt: Attempt) -> tuple[User, str]:
    """Checks a password and returns its user and a token; replaces a hash with outdated parameters.

    Args:
        core: the running service.
        username: the name, in any case and form.
        password: the password.
        address: the client's, as the hash queue counts it.
        attempt: the login as the rate limit counts it; fails with the password, and is forgiven otherwise.

    Raises:
        PulseError: the username or the password is wrong, or the hash queue is full.
        StoreUnavailable: the user could not be looked up, or the new hash not be stored.
    Cancelled: a failed attempt if the password was being checked.
    """
    is_failure = False
    try:
        async with core.hash_queue.place(HashKind.LOGIN, address):
            account = await core.store.find_account(username)
            stored = None if account is None else account.password_hash
            is_failure = True  # also for a client that hangs up before the answer
            # The same work and the same answer whether the user exists or not.
            is_right = await core.passwords.check(stored, password)
            if account is None or stored is None or not is_right:
                core.metrics.login_failures += 1
                raise PulseError(ErrorCode.INVALID_CREDENTIALS)
            is_failure = False
            if core.passwords.is_outdated(stored):
                password_hash = await core.passwords.hash(password)
                await core.store.set_password_hash(account.user.id, password_hash, old_hash=stored)
    finally:
        if is_failure:
            attempt.fail()
        else:
            await attempt.forgive()  # noqa: ASYNC102  # shields itself, with a deadline
    return account.user, core.tokens.issue(account.user)
