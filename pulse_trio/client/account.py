"""Who a client is: its token, and how it gets the next one before this one ends."""

import json
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import trio

from pulse_trio.client.backoff import Backoff
from pulse_trio.client.errors import AuthenticationFailed, ClientError, ConnectionLost, ProtocolError, Refused
from pulse_trio.client.records import User
from pulse_trio.client.redaction import redacted
from pulse_trio.client.wakeup import Wakeup
from pulse_trio.clock import Clock

RENEW_AT: Final = 0.5  # of a token's lifetime: the other half is there for a server that is away meanwhile
SOONEST: Final = 1.0  # seconds between two renewals, however short the tokens are


class TokenBody(msgspec.Struct, frozen=True):
    """What the server gives out."""

    access_token: str
    expires_in: float


@dataclass(frozen=True, slots=True)
class Lease:
    """When a token was given out, for how long; seconds of Trio's clock."""

    since: float
    seconds: float


def token_problem(token: str) -> str | None:
    """Why a token cannot be sent, or None when it can. The token is no part of it.

    HTTP libraries put a header that they refuse into the text of their error, and that into logs.
    """
    if not token:
        return "is empty"
    if not token.isascii() or not token.isprintable() or token != token.strip():
        return "has a space at an end, a control character (a line feed, say), or one that is not ASCII"
    return None


class Identity:
    """Somebody's stay: another object when somebody else has signed in. What begins in one ends in it."""


class Account:
    """The token in use, and whose it is.

    Attributes:
        token: None: nobody is signed in.
        user: whose token it is; None as long as the server has not said.
        identity: what requests are bound to, so that none is made as somebody else.
        listeners: called when there is another token.

    Args:
        request: does a request of REST: method, path, body, and the token, if any.
        clock: the wall clock, for the `exp` of a token that came from elsewhere.
        on_token: is called with each new token, when everything else knows of it.
    """

    def __init__(
        self,
        request: Callable[..., Awaitable[Any]],
        clock: Clock,
        *,
        token: str | None,
        on_token: Callable[[str], None] | None,
    ) -> None:
        self.token = token
        self.user: User | None = None
        self.identity = Identity()
        self.listeners: set[Callable[[], None]] = set()
        self._wakeup = Wakeup()
        self._request = request
        self._clock = clock
        self._on_token = on_token
        self._password: tuple[str, str] | None = None
        self._lock = trio.Lock()
        self._lease = None if token is None else _lease_of(token, clock)

    async def sign_in(self, username: str, password: str, leave: Callable[[], None]) -> User:
        """Gets a token, and keeps the password in memory for the next one.

        Token, user and password are taken together, or none of them: if this raises or is cancelled, everything is as
        it was.

        Args:
            leave: is called before they change, if they are somebody else's.

        Raises:
            AuthenticationFailed, Refused, ConnectionLost.
        """
        async with self._lock:  # a renewal that is under way would bring the old token back
            answer = await self._log_in(username, password)
            user: User = await self._request("GET", "/api/auth/me", User, token=answer.access_token)
            self.identify(user, leave)
            self._password = username, password
            self._take(answer)
        return user

    def identify(self, user: User, leave: Callable[[], None]) -> None:
        """Takes the user of the token, as the server says; what is bound to somebody else ends."""
        if self.user is not None and self.user.id != user.id:
            leave()
            self.identity = Identity()
        self.user = user

    async def current(self, identity: Identity) -> str:
        """The token, for what somebody began.

        Raises:
            AuthenticationFailed: somebody else has signed in, or nobody.
            Refused, ConnectionLost.
        """
        self.check(identity)
        return self.token or await self.refresh(None, identity)

    async def refresh(self, stale: str | None, identity: Identity) -> str:
        """A token that is not `stale`, which is not good any more.

        Raises:
            AuthenticationFailed: there is no password to get one with, or it is not good any more either; or somebody
                else has signed in.
            Refused, ConnectionLost.
        """
        async with self._lock:  # several may find at once that it has ended: one of them signs in
            self.check(identity)
            if self.token is None or self.token == stale:
                if self._password is None:
                    raise AuthenticationFailed("not signed in, or the token has expired: sign in again")
                self._take(await self._log_in(*self._password))
            assert self.token is not None
            return self.token

    def hide(self, text: str) -> str:
        """A text that came over a connection, without the token and the password in use."""
        return redacted(text, self.token, None if self._password is None else self._password[1])

    def check(self, identity: Identity) -> None:
        """Raises AuthenticationFailed if somebody else has signed in since."""
        if identity is not self.identity:
            raise AuthenticationFailed("somebody else has signed in")

    async def keep(self, backoff: Backoff) -> None:
        """Renews the token, again and again, before it ends; until cancelled.

        What cannot be renewed ends, and whoever uses it then is told.
        """
        while True:
            failures = 0
            await self._wait_until_due()
            stale = self.token
            while self.token == stale:
                try:
                    await self._renew(stale)
                except ConnectionLost:
                    pass
                except Refused as error:
                    if error.status is not None and error.status < 500 and error.status != 429:
                        self._lease = None
                        break
                except ClientError:
                    self._lease = None
                    break
                else:
                    break
                await trio.sleep(backoff.delay(failures, least=SOONEST))
                failures += 1

    async def _wait_until_due(self) -> None:
        while True:
            due = trio.current_time() + float("inf")
            if self._lease is not None:
                due = self._lease.since + max(self._lease.seconds * RENEW_AT, SOONEST)
            with trio.move_on_at(due):
                await self._wakeup.wait()
                continue  # another token: its own time counts
            return

    async def _log_in(self, username: str, password: str) -> TokenBody:
        body = {"username": username, "password": password}
        return await self._ask_token("/api/auth/login", json=body, token=None)

    async def _ask_token(self, path: str, **options: Any) -> TokenBody:
        answer: TokenBody = await self._request("POST", path, TokenBody, **options)
        problem = token_problem(answer.access_token)
        if problem is not None:
            raise ProtocolError(f"the server gave out a token that {problem}")
        return answer

    async def _renew(self, stale: str | None) -> None:
        """Raises: ClientError: there is no renewing this token."""
        async with self._lock:
            if self.token != stale:
                return  # somebody has signed in meanwhile
            try:
                answer = await self._ask_token("/api/auth/renew", token=self.token)
            except (Refused, AuthenticationFailed) as error:
                transient = isinstance(error, Refused) and (error.status or 0) in {429, 500, 502, 503, 504}
                if self._password is None or transient:
                    raise
                # An older server does not renew, and none does for ever.
                answer = await self._log_in(*self._password)
            self._take(answer)

    def _take(self, answer: TokenBody) -> None:
        self.token = answer.access_token
        self._lease = Lease(trio.current_time(), answer.expires_in)
        self._wakeup.notify()
        for listener in tuple(self.listeners):
            listener()
        if self._on_token is not None:
            self._on_token(answer.access_token)


def _lease_of(token: str, clock: Clock) -> Lease | None:
    """When a token from elsewhere was given out and for how long; None when it does not say. Nothing is verified."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        expires = float(claims["exp"])
        now = clock().timestamp()
        issued = float(claims.get("iat", now))
    except (IndexError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return Lease(trio.current_time() - max(now - issued, 0.0), max(expires - issued, 0.0))
