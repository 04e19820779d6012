"""Requests with the token of the user who is signed in."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from pulse_trio.client.account import Account, Identity
from pulse_trio.client.errors import AuthenticationFailed
from pulse_trio.client.rest import Rest

T = TypeVar("T")


class Requests:
    """Makes requests with the token; retries once with a new one if the token was rejected.

    Args:
        rest: carries the requests.
        account: has the token.
    """

    def __init__(self, rest: Rest, account: Account) -> None:
        self._rest = rest
        self._account = account

    @property
    def identity(self) -> Identity:
        """The one that is signed in now: requests that belong together are made with the same one."""
        return self._account.identity

    async def ask(self, method: str, path: str, kind: type[T], identity: Identity | None = None, **options: Any) -> T:
        """Makes a request and decodes its answer as `kind`.

        Args:
            method, path: as in HTTP.
            kind: the type of the answer.
            identity: whose request it is; None: the one signed in now.
            options: `json` and `params`, as in `Rest.request`.

        Cancelled: the server may or may not have carried it out.

        Raises:
            AuthenticationFailed: there is no valid token, or another user has signed in.
            ClientError: as in `Rest.request`.
        """
        answer: T = await self._signed(partial(self._rest.request, method, path, kind, **options), identity)
        return answer

    async def do(self, method: str, path: str, **options: Any) -> None:
        """Makes a request whose answer has no body; as `ask` otherwise. Cancelled: it may or may not be carried out."""
        await self._signed(partial(self._rest.request, method, path, None, **options), None)

    async def _signed(self, request: Callable[..., Awaitable[Any]], identity: Identity | None) -> Any:
        identity = identity or self._account.identity
        token = await self._account.current(identity)
        try:
            return await request(token=token)
        except AuthenticationFailed:
            fresh = await self._account.refresh(token, identity)
        return await request(token=fresh)
