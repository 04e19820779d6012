"""A wake-up for tasks that wait for a condition on plain state."""

from collections.abc import Callable

import trio


class Changes:
    """Told of every change of some state; wakes whoever waits for it to be so and so."""

    __slots__ = ("_changed",)

    def __init__(self) -> None:
        self._changed = trio.Event()

    def tell(self) -> None:
        """Something changed."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait(self) -> None:
        """Returns at the next change."""
        await self._changed.wait()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Returns when the condition holds, at once if it does already; always a checkpoint."""
        await trio.lowlevel.checkpoint()
        while not condition():
            await self._changed.wait()
