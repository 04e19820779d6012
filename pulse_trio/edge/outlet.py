"""The short way out: whole WebSocket frames straight to a connection's socket, when it is free.

The server puts an outlet in place for each connection that can have one; a route finds it here. Where there is
none everything goes the long way, through the ASGI server, with the same outcome.
"""

from contextvars import ContextVar
from typing import Final, Protocol

import trio


class Outlet(Protocol):
    """A connection as far as the short way needs it."""

    @property
    def is_behind(self) -> bool:
        """Whether something that was taken is not out yet."""

    def write_now(self, data: bytes) -> bool:
        """Takes whole frames, if nothing else is on its way to the client and the connection is open.

        What the network does not take at once is kept, `is_behind` is then true, and `flush` must follow.
        """

    async def flush(self) -> None:
        """Writes what was kept; a dead connection is not an error."""

    def abandon(self) -> None:
        """What was kept must not reach the client: the connection is cut if anything was, with no close frame."""


class NoOutlet:
    """Of a connection that has no short way."""

    is_behind = False

    def write_now(self, data: bytes) -> bool:
        return False

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()

    def abandon(self) -> None:
        pass


_NONE: Final = NoOutlet()
_current: Final[ContextVar[Outlet]] = ContextVar("outlet", default=_NONE)


def current_outlet() -> Outlet:
    """The outlet of the connection that this task serves."""
    return _current.get()


def set_outlet(outlet: Outlet) -> None:
    """For the tasks that this one starts from now on: what serves this connection finds it."""
    _current.set(outlet)
