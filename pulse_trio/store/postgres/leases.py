"""Leases of processes in PostgreSQL."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from pulse_trio.store.postgres.callers import Caller
from pulse_trio.store.postgres.connected import Connected

# `found` is as of the begin of the statement: of the renewed lease it has the counter of before.
_RENEW: Final = """
    WITH renewed AS (
        UPDATE process_leases SET renewals = renewals + 1 WHERE id = %s AND NOT is_fenced RETURNING id
    )
    SELECT found.id, found.renewals, renewed.id IS NOT NULL
    FROM process_leases found LEFT JOIN renewed ON renewed.id = found.id
"""


class Leases(Connected):
    """Operations of the contract on leases."""

    async def take_lease(self, lease_id: UUID) -> None:
        query = "INSERT INTO process_leases (id) VALUES (%s) ON CONFLICT DO NOTHING"
        async with self.connection(Caller.LOOK_UPS, lease_id) as connection:
            await connection.execute(query, (lease_id,))

    async def renew_lease(self, lease_id: UUID) -> dict[UUID, int] | None:
        rows = await self.all(Caller.LOOK_UPS, lease_id, _RENEW, (lease_id,))
        return {row[0]: row[1] for row in rows} if any(row[2] for row in rows) else None

    async def leases(self) -> list[UUID]:
        return [row[0] for row in await self.all(Caller.CHANGES, None, "SELECT id FROM process_leases", ())]

    async def fence_leases(self, lease_ids: Sequence[UUID]) -> None:
        query = "UPDATE process_leases SET is_fenced = true WHERE id = ANY(%s)"
        async with self.connection(Caller.CHANGES) as connection:
            await connection.execute(query, (list(lease_ids),))

    async def end_leases(self, lease_ids: Sequence[UUID]) -> None:
        async with self.connection(Caller.CHANGES) as connection:
            await connection.execute("DELETE FROM process_leases WHERE id = ANY(%s)", (list(lease_ids),))
