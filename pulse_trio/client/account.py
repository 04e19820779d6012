"""Holds the token of a client and renews it before it expires."""

import json
import math
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

RENEW_AT: Final = 0.5  # of a token's lifetime: the other half allows for a server that is away
MIN_RENEWAL_INTERVAL: Final = 1.0  # seconds, however short-lived the tokens are
LOOK_EVERY: Final = 30.0  # seconds between two looks at the wall clock


class TokenBody(msgspec.Struct, frozen=True):
    """The server's answer to a login or a renewal; `expires_in` in seconds."""

    access_token: str
    expires_in: float


@dataclass(frozen=True, slots=True)
class Lease:
    """The lifetime of a token.

    By two clocks, because Trio's may stand still while the machine sleeps, and the wall clock may be set back.

    Attributes:
        since: when it was issued, in seconds of Trio's clock.
        wall_since: the same, in seconds since 1970 by the wall clock.
        seconds: duration.
    """

    since: float
    wall_since: float
    seconds: float

    def due_in(self, wall_now: float) -> float:
        """Returns the seconds until it is to be renewed by the clock that is ahead; 0 or less: now."""
        age = max(trio.current_time() - self.since, wall_now - self.wall_since)
        return max(self.seconds * RENEW_AT, MIN_RENEWAL_INTERVAL) - age


def token_problem(token: str) -> str | None:
    """Returns the reason why a token cannot be sent, without quoting it; None if it can.

    Checked here because HTTP libraries quote a header that they reject, and logs would show it.
    """
    if not token:
        return "is empty"
    if not token.isascii() or not token.isprintable() or token != token.strip():
        return "has a space at an end, a control character (a line feed, say), or one that is not ASCII"
    return None


class Identity:
    """Identifies one user's time in this client: signing in as another user makes a new object.

    Rooms and requests belong to one identity, so that none of them continues as another user.
    """


class Account:
    """The current token and its user.

    Attributes:
        token: None if nobody is signed in.
        user: the user of the token; None until the server has confirmed it.
        identity: the one that requests are bound to.
        listeners: called after each change of the token.

    Args:
        request: makes a REST request: method, path, body, and the token, if any.
        clock: the wall clock, for the `exp` of a token from elsewhere and for the time that the machine slept.
        on_token: called with each new token, after the listeners.
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

        Token, user and password change together. If this raises or is cancelled, none of them changes.

        Args:
            leave: called before the change if it is to another user.

        Raises:
            AuthenticationFailed, Refused, ConnectionLost.
        """
        async with self._lock:  # a concurrent renewal would bring the old token back
            answer = await self._log_in(username, password)
            user: User = await self._request("GET", "/api/auth/me", User, token=answer.access_token)
            self.identify(user, leave)
            self._password = username, password
            self._take(answer)
        return user

    def identify(self, user: User, leave: Callable[[], None]) -> None:
        """Sets the user of the token; if it is another one than before, calls `leave` and changes the identity."""
        if self.user is not None and self.user.id != user.id:
            leave()
            self.identity = Identity()
        self.user = user

    async def current(self, identity: Identity) -> str:
        """Returns the token for a request of `identity`.

        Raises:
            AuthenticationFailed: another user has signed in, or nobody is signed in.
            Refused, ConnectionLost.
        """
        self.check(identity)
        if self._due_in() <= 0:
            self._wakeup.notify()  # the machine may have slept since the last look
        return self.token or await self.refresh(None, identity)

    async def refresh(self, stale: str | None, identity: Identity) -> str:
        """Returns a token other than `stale`, which the server rejected.

        Raises:
            AuthenticationFailed: there is no password to sign in with, or it is rejected too; or another user has
                signed in.
            Refused, ConnectionLost.
        """
        async with self._lock:  # several tasks may find the token expired at once: only one signs in
            self.check(identity)
            if self.token is None or self.token == stale:
                if self._password is None:
                    raise AuthenticationFailed("not signed in, or the token has expired: sign in again")
                self._take(await self._log_in(*self._password))
            assert self.token is not None
            return self.token

    def hide(self, text: str) -> str:
        """Removes the current token and password from a text that came from the network."""
        return redacted(text, self.token, None if self._password is None else self._password[1])

    def check(self, identity: Identity) -> None:
        """Raises AuthenticationFailed if another user has signed in since."""
        if identity is not self.identity:
            raise AuthenticationFailed("another user has signed in")

    async def keep(self, backoff: Backoff) -> None:
        """Renews each token before it expires, until cancelled.

        A token that cannot be renewed expires; later requests then raise AuthenticationFailed.
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
                await trio.sleep(backoff.delay(failures, least=MIN_RENEWAL_INTERVAL))
                failures += 1

    async def _wait_until_due(self) -> None:
        while (due_in := self._due_in()) > 0:
            with trio.move_on_after(min(due_in, LOOK_EVERY)):
                await self._wakeup.wait()

    def _due_in(self) -> float:
        """Returns the seconds until the token is to be renewed, infinity if it is not."""
        return math.inf if self._lease is None else self._lease.due_in(self._clock().timestamp())

    async def _log_in(self, username: str, password: str) -> TokenBody:
        body = {"username": username, "password": password}
        return await self._ask_token("/api/auth/login", json=body, token=None)

    async def _ask_token(self, path: str, **options: Any) -> TokenBody:
        answer: TokenBody = await self._request("POST", path, TokenBody, **options)
        problem = token_problem(answer.access_token)
        if problem is not None:
            raise ProtocolError(f"the server issued a token that {problem}")
        return answer

    async def _renew(self, stale: str | None) -> None:
        """Raises: ClientError: this token cannot be renewed."""
        async with self._lock:
            if self.token != stale:
                return  # a sign-in has replaced it
            try:
                answer = await self._ask_token("/api/auth/renew", token=self.token)
            except (Refused, AuthenticationFailed) as error:
                transient = isinstance(error, Refused) and (error.status or 0) in {429, 500, 502, 503, 504}
                if self._password is None or transient:
                    raise
                # Older servers cannot renew, and no server renews a token for ever.
                answer = await self._log_in(*self._password)
            self._take(answer)

    def _take(self, answer: TokenBody) -> None:
        self.token = answer.access_token
        self._lease = Lease(trio.current_time(), self._clock().timestamp(), answer.expires_in)
        self._wakeup.notify()
        for listener in tuple(self.listeners):
            listener()
        if self._on_token is not None:
            self._on_token(answer.access_token)


def _lease_of(token: str, clock: Clock) -> Lease | None:
    """Reads the lifetime of a token from elsewhere, without verifying it; None if the token does not say."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        expires = float(claims["exp"])
        now = clock().timestamp()
        issued = float(claims.get("iat", now))
    except (IndexError, ValueError, TypeError, KeyError, AttributeError):
        return None
    age = max(now - issued, 0.0)
    return Lease(trio.current_time() - age, now - age, max(expires - issued, 0.0))
