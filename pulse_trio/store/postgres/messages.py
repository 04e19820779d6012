"""The history of messages in PostgreSQL."""

from typing import Final
from uuid import UUID

from pulse_trio.store.base import Head, NotAMember, Page, page_range
from pulse_trio.store.postgres.connected import HEAD, MESSAGE, Connected, message

# By the index on (conversation_id, seq), a range no longer than the page: the cost does not depend on its depth.
_PAGE: Final = f"""
    SELECT {MESSAGE} FROM messages m JOIN users u ON u.id = m.sender_id
    WHERE m.conversation_id = %s AND m.seq BETWEEN %s AND %s ORDER BY m.seq DESC
"""


class Messages(Connected):
    """Operations of the contract that read messages."""

    async def head(self, conversation_id: UUID) -> Head:
        row = await self.one(f"SELECT {HEAD} FROM conversations c WHERE c.id = %s", (conversation_id,))
        if row is None:
            raise NotAMember
        return Head(*row)

    async def page_messages(
        self,
        conversation_id: UUID,
        user_id: UUID,
        *,
        limit: int,
        offset: int = 0,
        before_seq: int | None = None,
        after_seq: int | None = None,
    ) -> Page:
        async with self.connection() as connection:
            cursor = await connection.execute(
                """
                SELECT c.last_seq FROM conversations c
                JOIN conversation_users cu ON cu.conversation_id = c.id AND cu.user_id = %s WHERE c.id = %s
                """,
                (user_id, conversation_id),
            )
            row = await cursor.fetchone()
            if row is None:
                raise NotAMember
            total: int = row[0]
            first, last = page_range(total, limit, offset, before_seq, after_seq)
            if last < first:
                return Page((), total)
            cursor = await connection.execute(_PAGE, (conversation_id, first, last))
            return Page(tuple(message(row) for row in await cursor.fetchall()), total)
