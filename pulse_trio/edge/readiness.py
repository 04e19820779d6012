"""Readiness: the service can do its work at this moment. For load balancers and orchestrators."""

import math
from typing import Final

import trio

from pulse_trio.rooms.hub import Hub
from pulse_trio.store.base import Store, StoreError

PING_TIMEOUT: Final = 2.0  # seconds for the database to answer; less than the usual timeout and interval of probes
PING_FRESH: Final = 1.0  # seconds for which one answer of the database serves all probes


class Readiness:
    """Checks the database, once for all probes of a moment.

    Args:
        store: the store to ping.
        hub: knows whether the service is draining.

    Attributes:
        stopping: the service was asked to end; it serves on for a moment, so that load balancers can leave it.
    """

    def __init__(self, store: Store, hub: Hub) -> None:
        self._store = store
        self._hub = hub
        self.stopping = False
        self._pinging = trio.Lock()
        self._is_up = False  # the last ping was answered
        self._fresh_until = -1.0  # on Trio's clock

    async def failing(self) -> list[str]:
        """Returns the names of the checks that fail, of `stopping` and `database`.

        Takes at most `PING_TIMEOUT` seconds, and twice that if the probe whose ping this one waits for is cancelled.
        """
        is_up = False
        with trio.move_on_after(PING_TIMEOUT) as waiting:
            async with self._pinging:
                waiting.deadline = math.inf
                if trio.current_time() >= self._fresh_until:
                    await self._ping()
                is_up = self._is_up
        checks = {"stopping": self.stopping or self._hub.draining, "database": not is_up}
        return [name for name, fails in checks.items() if fails]

    async def _ping(self) -> None:
        is_up = False
        try:
            with trio.move_on_after(PING_TIMEOUT):
                await self._store.ping()
                is_up = True
        except StoreError:
            pass
        # Not reached when this probe is cancelled: then the next one pings.
        self._is_up = is_up
        self._fresh_until = trio.current_time() + PING_FRESH
