"""Tickets in PostgreSQL: drawn in one process, used once in any."""

from collections.abc import Sequence
from typing import Final

from pulse_trio.store.base import User
from pulse_trio.store.postgres.callers import Caller
from pulse_trio.store.postgres.connected import Connected
from pulse_trio.store.postgres.gathering import Gathering
from pulse_trio.store.protections import MAX_TICKETS, MAX_TICKETS_OF_USER, Ticket, UsedTicket
from pulse_trio.trio_psycopg import Pool

# No statement on tickets waits for a row: one that another statement has locked is about to be deleted by it.
_DRAW: Final = """
    WITH drawn AS MATERIALIZED (
        SELECT * FROM unnest(
            %(digests)s::bytea[], %(user_ids)s::uuid[], %(conversation_ids)s::uuid[],
            %(token_expires)s::float8[], %(signed_in)s::float8[], %(lifetimes)s::float8[]
        ) AS drawn (digest, user_id, conversation_id, token_expires, signed_in, lifetime)
    ), excess AS MATERIALIZED (
        SELECT t.digest FROM tickets t
        WHERE t.digest IN (
            SELECT older.digest FROM (SELECT DISTINCT user_id FROM drawn) whose
            CROSS JOIN LATERAL (
                SELECT digest FROM tickets WHERE user_id = whose.user_id ORDER BY drawn_at DESC OFFSET %(kept)s
            ) older
        ) FOR UPDATE OF t SKIP LOCKED
    ), forgotten AS (
        DELETE FROM tickets t USING excess WHERE t.digest = excess.digest
    )
    INSERT INTO tickets (digest, user_id, conversation_id, token_expires, signed_in, expires_at)
    SELECT digest, user_id, conversation_id, token_expires, signed_in,
        clock_timestamp() + lifetime * interval '1 second'
    FROM drawn
"""
# A ticket drawn in the future is rejected as well: else a clock that is set back would prolong its life.
_USE: Final = """
    WITH locked AS MATERIALIZED (
        SELECT digest FROM tickets WHERE digest = ANY(%s) FOR UPDATE SKIP LOCKED
    ), used AS (
        DELETE FROM tickets t USING locked WHERE t.digest = locked.digest
        RETURNING t.*, clock_timestamp() AS used_at
    )
    SELECT used.digest, u.id, u.username, used.conversation_id, used.token_expires, used.signed_in,
        membership.members_rev
    FROM used JOIN users u ON u.id = used.user_id
    LEFT JOIN LATERAL (
        SELECT c.members_rev FROM conversation_users cu JOIN conversations c ON c.id = cu.conversation_id
        WHERE cu.conversation_id = used.conversation_id AND cu.user_id = u.id OFFSET 0
    ) membership ON true
    WHERE used.used_at >= used.drawn_at AND used.used_at < used.expires_at
"""
_FORGET: Final = """
    WITH stale AS MATERIALIZED (
        SELECT digest FROM tickets
        WHERE expires_at <= greatest(
            clock_timestamp(), (SELECT expires_at FROM tickets ORDER BY expires_at DESC OFFSET %s LIMIT 1)
        ) FOR UPDATE SKIP LOCKED
    )
    DELETE FROM tickets t USING stale WHERE t.digest = stale.digest
"""


class Tickets(Connected):
    """Operations of the contract on tickets.

    Attributes:
        draws: gathers the tickets drawn in one moment.
        uses: gathers the tickets used in one moment.
    """

    max_tickets_of_user = MAX_TICKETS_OF_USER
    max_tickets = MAX_TICKETS

    def __init__(self, pool: Pool, epoch: str = "") -> None:
        super().__init__(pool, epoch)
        self.draws: Gathering[Ticket, None] = Gathering(self._draw_all)
        self.uses: Gathering[bytes, UsedTicket] = Gathering(self._use_all)

    async def draw_ticket(self, ticket: Ticket) -> None:
        await self.draws.ask(ticket)

    async def use_ticket(self, digest: bytes) -> UsedTicket | None:
        return await self.uses.ask(digest)

    async def forget_tickets(self) -> None:
        """Removes expired tickets, and the oldest beyond the bound."""
        async with self.connection(Caller.CHANGES) as connection:
            await connection.execute(_FORGET, (self.max_tickets,))

    async def _draw_all(self, drawn: Sequence[Ticket]) -> list[None]:
        async with self.connection(Caller.LOOK_UPS) as connection:
            await connection.execute(
                _DRAW,
                {
                    "digests": [ticket.digest for ticket in drawn],
                    "user_ids": [ticket.user_id for ticket in drawn],
                    "conversation_ids": [ticket.conversation_id for ticket in drawn],
                    "token_expires": [ticket.token_expires for ticket in drawn],
                    "signed_in": [ticket.signed_in for ticket in drawn],
                    "lifetimes": [ticket.lifetime for ticket in drawn],
                    "kept": self.max_tickets_of_user - 1,
                },
                prepare=True,
            )
        return [None] * len(drawn)

    async def _use_all(self, digests: Sequence[bytes]) -> list[UsedTicket | None]:
        rows = await self.all(Caller.LOOK_UPS, None, _USE, (list(digests),))
        found = {row[0]: UsedTicket(User(row[1], row[2]), *row[3:]) for row in rows}
        return [found.pop(digest, None) for digest in digests]  # the first of several uses of one ticket gets it
