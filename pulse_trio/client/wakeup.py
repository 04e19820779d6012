"""A wake-up for tasks that wait for a condition on plain state."""

from collections.abc import Callable

import trio


class Wakeup:
    """Wakes tasks that wait for a condition on plain state.

    The task that changes the state calls `notify`; each waiting task then looks at its condition again.
    """

    __slots__ = ("_changed",)

    def __init__(self) -> None:
        self._changed = trio.Event()

    def notify(self) -> None:
        """Wakes all waiting tasks."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait(self) -> None:
        """Waits for the next change."""
        await self._changed.wait()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Returns when the condition holds, at once if it does already; always a checkpoint."""
        await trio.lowlevel.checkpoint()
        while not condition():
            await self._changed.wait()
