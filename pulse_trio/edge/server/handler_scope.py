"""The cancel scope of the task that handles a request or a handshake: cancelled when its client has gone.

The framework learns of that by a message, for which it keeps a task waiting beside each handler. A handler without such
a task runs in this scope.
"""

from contextvars import ContextVar
from typing import Final

import trio

_current: Final[ContextVar[trio.CancelScope | None]] = ContextVar("handler_scope", default=None)


def begin_handler() -> trio.CancelScope:
    """Opens the scope of a handler that is about to start; the tasks that this one starts from now on find it."""
    scope = trio.CancelScope()
    _current.set(scope)
    return scope


def handler_scope() -> trio.CancelScope | None:
    """Returns the scope of the handler that this task runs; None on an unsupported version of Hypercorn."""
    return _current.get()


def end_handler() -> None:
    """Forgets the scope: this task starts no further handler."""
    _current.set(None)
