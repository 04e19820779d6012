"""Who a client is: its token, and how it gets the next one before this one ends."""

import json
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import trio

from pulse_trio.client.backoff import Backoff
from pulse_trio.client.changes import Changes
from pulse_trio.client.errors import AuthenticationFailed, ClientError, ConnectionLost, Refused
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


class Account:
    """The token in use. `listeners` are called when there is another.

    Args:
        request: does a request of REST: method, path, body, and the token, if any.
        clock: the wall clock, for the `exp` of a token that came from elsewhere.
        on_token: is called with each new token.
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
        self.listeners: set[Callable[[], None]] = set()
        self._changes = Changes()
        self._request = request
        self._clock = clock
        self._on_token = on_token
        self._password: tuple[str, str] | None = None
        self._lock = trio.Lock()
        self._lease = None if token is None else _lease_of(token, clock)

    async def sign_in(self, username: str, password: str) -> None:
        """Gets a token, and keeps the password in memory for the next one.

        Raises:
            AuthenticationFailed, Refused, ConnectionLost.
        """
        body = {"username": username, "password": password}
        answer = await self._request("POST", "/api/auth/login", TokenBody, json=body, token=None)
        self._password = username, password
        self._take(answer)

    async def refresh(self, stale: str | None) -> str:
        """A token that is not `stale`, which is not good any more.

        Raises:
            AuthenticationFailed: there is no password to get one with, or it is not good any more either.
            Refused, ConnectionLost.
        """
        async with self._lock:  # several may find at once that it has ended: one of them signs in
            if self.token is None or self.token == stale:
                if self._password is None:
                    raise AuthenticationFailed("not signed in, or the token has expired: sign in again")
                await self.sign_in(*self._password)
            assert self.token is not None
            return self.token

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
                    await self._renew()
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
                await self._changes.wait()
                continue  # another token: its own time counts
            return

    async def _renew(self) -> None:
        """Raises: ClientError: there is no renewing this token."""
        async with self._lock:
            try:
                answer = await self._request("POST", "/api/auth/renew", TokenBody, token=self.token)
            except (Refused, AuthenticationFailed) as error:
                transient = isinstance(error, Refused) and (error.status or 0) in {429, 500, 502, 503, 504}
                if self._password is None or transient:
                    raise
                # An older server does not renew, and none does for ever.
                await self.sign_in(*self._password)
            else:
                self._take(answer)

    def _take(self, answer: TokenBody) -> None:
        self.token = answer.access_token
        self._lease = Lease(trio.current_time(), answer.expires_in)
        if self._on_token is not None:
            self._on_token(answer.access_token)
        self._changes.tell()
        for listener in tuple(self.listeners):
            listener()


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
