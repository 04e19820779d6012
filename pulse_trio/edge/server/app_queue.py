"""The queue of an ASGI application, which no task waits for once the application has ended."""

from collections.abc import Awaitable, Callable
from typing import Any

import trio


class AppQueue:
    """Puts messages into the application's queue.

    Hypercorn's own `app_put` waits for ever when the queue is full and the application has ended; the connection then
    stays, with all its tasks.
    """

    def __init__(self, put: Callable[[Any], Awaitable[None]]) -> None:
        self._put = put
        self._scopes: set[trio.CancelScope] = set()
        self._has_ended = False

    async def __call__(self, message: Any) -> None:
        """Puts a message, or drops it when the application has ended."""
        if self._has_ended:
            await trio.lowlevel.checkpoint()
            return
        scope = trio.CancelScope()
        self._scopes.add(scope)
        try:
            with scope:
                await self._put(message)
        finally:
            self._scopes.discard(scope)

    def end(self) -> None:
        """Releases the tasks that wait, because the application has ended."""
        self._has_ended = True
        for scope in self._scopes:
            scope.cancel()
