"""The history of messages in PostgreSQL."""

from typing import Final, LiteralString
from uuid import UUID

from pulse_trio.store.base import Head, NotAMember, Page, page_range
from pulse_trio.store.page_size import message_page
from pulse_trio.store.postgres.callers import Caller
from pulse_trio.store.postgres.connected import HEAD, MESSAGE, Connected, message


def _page(order: LiteralString) -> str:
    """Returns the query for a page that is read in this order, newest first.

    By the index on (conversation_id, seq), a range no longer than the page: the cost does not depend on its depth. What
    does not fit is not sent: the length of a long text is known without reading it.
    """
    return f"""
        SELECT {MESSAGE} FROM (
            SELECT *, sum(octet_length(content)) OVER (ORDER BY seq {order}) - octet_length(content) AS bytes_before
            FROM messages WHERE conversation_id = %s AND seq BETWEEN %s AND %s
        ) m JOIN users u ON u.id = m.sender_id
        WHERE m.bytes_before < %s ORDER BY m.seq DESC
    """


_DOWNWARD: Final = _page("DESC")
_UPWARD: Final = _page("ASC")
NO_BOUND: Final = 2**62


class Messages(Connected):
    """Operations of the contract that read messages."""

    async def head(self, conversation_id: UUID) -> Head:
        row = await self.one(
            Caller.ROOMS, conversation_id, f"SELECT {HEAD} FROM conversations c WHERE c.id = %s", (conversation_id,)
        )
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
        max_bytes: int | None = None,
    ) -> Page:
        async with self.connection(Caller.LISTS, user_id) as connection:
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
                return Page((), total, has_more=False)
            query = _UPWARD if after_seq is not None and before_seq is None else _DOWNWARD
            max_octets = NO_BOUND if max_bytes is None else max(1, max_bytes)  # never before the first message
            cursor = await connection.execute(query, (conversation_id, first, last, max_octets))
            found = [message(row) for row in await cursor.fetchall()]
        return message_page(found, total, before_seq=before_seq, after_seq=after_seq, max_bytes=max_bytes)
