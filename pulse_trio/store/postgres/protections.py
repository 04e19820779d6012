"""Tickets and attempts in PostgreSQL, and the task that keeps their tables small."""

from contextlib import suppress
from typing import Final

import trio

from pulse_trio.store.base import StoreError
from pulse_trio.store.postgres.attempts import Attempts
from pulse_trio.store.postgres.tickets import Tickets

# Seconds between removals of stale rows. Beyond its bound a table grows by what this time allows: of attempts, some 5
# rows for each password hash.
FORGET_INTERVAL: Final = 10.0


class Protections(Tickets, Attempts):
    """Operations of the contract on tickets and attempts."""

    async def forget_stale(self) -> None:
        await self.forget_tickets()
        await self.forget_attempts()

    async def keep_small(self) -> None:
        """Removes stale rows every few seconds, until cancelled. Several processes may do so: none waits for another.

        While the database does not answer, nothing is removed, and nothing is added either.
        """
        while True:
            await trio.sleep(FORGET_INTERVAL)
            with suppress(StoreError):
                await self.forget_stale()
