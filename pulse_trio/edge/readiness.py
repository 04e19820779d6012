"""Whether the service can do its work at this moment: for load balancers and whoever restarts it."""

import math
from typing import Final

import trio

from pulse_trio.rooms.hub import Hub
from pulse_trio.store.base import Store, StoreError

TIMEOUT: Final = 2.0  # seconds for the database to answer; below the usual timeout of a probe and its next turn
FRESH: Final = 1.0  # seconds that an answer of the database is good for, however many ask


class Readiness:
    """Asks the database, once for all who ask within a moment.

    Args:
        store: is asked whether it answers.
        hub: knows whether everybody is being sent away.

    Attributes:
        stopping: the service was asked to end, and goes on for a while so that nobody new is sent to it.
    """

    def __init__(self, store: Store, hub: Hub) -> None:
        self._store = store
        self._hub = hub
        self.stopping = False
        self._asking = trio.Lock()
        self._answers = False
        self._until = -1.0  # when what is known of the database is no longer good

    async def failing(self) -> list[str]:
        """The names of the checks that fail: of `stopping` and `database`.

        Takes `TIMEOUT` seconds at most, and as long again if who asked for this one has gone.
        """
        answers = False
        with trio.move_on_after(TIMEOUT) as waiting:
            async with self._asking:
                waiting.deadline = math.inf
                if trio.current_time() >= self._until:
                    await self._ask()
                answers = self._answers
        checks = {"stopping": self.stopping or self._hub.draining, "database": not answers}
        return [name for name, fails in checks.items() if fails]

    async def _ask(self) -> None:
        answers = False
        try:
            with trio.move_on_after(TIMEOUT):
                await self._store.ping()
                answers = True
        except StoreError:
            pass
        # Not reached when whoever asks has gone: then the next one asks.
        self._answers = answers
        self._until = trio.current_time() + FRESH
