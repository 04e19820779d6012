"""Leases of processes in memory."""

from collections.abc import Sequence
from uuid import UUID

import trio

from pulse_trio.store.memory.state import State


class Leases(State):
    """Operations of the contract on leases."""

    def __init__(self, epoch: str = "memory") -> None:
        super().__init__(epoch)
        self._renewals: dict[UUID, int] = {}
        self._fenced: set[UUID] = set()

    async def take_lease(self, lease_id: UUID) -> None:
        await trio.lowlevel.checkpoint()
        self._renewals.setdefault(lease_id, 0)

    async def renew_lease(self, lease_id: UUID) -> dict[UUID, int] | None:
        await trio.lowlevel.checkpoint()
        if lease_id not in self._renewals or lease_id in self._fenced:
            return None
        found = dict(self._renewals)
        self._renewals[lease_id] += 1
        return found

    async def leases(self) -> list[UUID]:
        await trio.lowlevel.checkpoint()
        return list(self._renewals)

    async def fence_leases(self, lease_ids: Sequence[UUID]) -> None:
        await trio.lowlevel.checkpoint()
        self._fenced.update(each for each in lease_ids if each in self._renewals)

    async def end_leases(self, lease_ids: Sequence[UUID]) -> None:
        await trio.lowlevel.checkpoint()
        for lease_id in lease_ids:
            self._renewals.pop(lease_id, None)
            self._fenced.discard(lease_id)
