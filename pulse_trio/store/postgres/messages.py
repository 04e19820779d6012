"""The history of messages in PostgreSQL."""

from typing import Final, LiteralString
from uuid import UUID

from pulse_trio.store.base import Head, NotAMember, Page
from pulse_trio.store.page_size import message_page
from pulse_trio.store.postgres.callers import Caller
from pulse_trio.store.postgres.connected import HEAD, MESSAGE, Connected, message


def _page(order: LiteralString) -> str:
    """Returns the query for a page that is read in this order, newest first; each row begins with the number of all.

    One statement, so that a page is one round trip. Its parameters are the user, the most messages to skip, the highest
    and the lowest seq, the most messages, the most bytes and the conversation; the range of seqs follows from them as
    in `page_range`. There is no row if the user is not a member, and one with nulls if the page is empty.

    By the index on (conversation_id, seq), a range no longer than the page: the cost does not depend on its depth. What
    does not fit is not sent: the length of a long text is known without reading it.
    """
    return f"""
        SELECT c.last_seq, page.* FROM conversations c
        JOIN conversation_users cu ON cu.conversation_id = c.id AND cu.user_id = %s
        CROSS JOIN LATERAL (SELECT least(c.last_seq - %s::bigint, %s::bigint) AS last_seq) upper
        LEFT JOIN LATERAL (
            SELECT {MESSAGE} FROM (
                SELECT *, sum(octet_length(content)) OVER (ORDER BY seq {order}) - octet_length(content) AS bytes_before
                FROM messages
                WHERE conversation_id = c.id
                    AND seq BETWEEN greatest(%s::bigint, upper.last_seq - %s::bigint + 1) AND upper.last_seq
            ) m JOIN users u ON u.id = m.sender_id
            WHERE m.bytes_before < %s::bigint
        ) page ON true
        WHERE c.id = %s ORDER BY page.seq DESC
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
        is_upward = after_seq is not None and before_seq is None
        lowest = min(max(after_seq or 0, 0) + 1, NO_BOUND)  # PostgreSQL's numbers end at 2**63
        if before_seq is not None:
            highest, offset = min(before_seq - 1, NO_BOUND), 0
        elif is_upward:
            highest, offset = lowest + limit - 1, 0
        else:
            highest, offset = NO_BOUND, min(offset, NO_BOUND)
        max_octets = NO_BOUND if max_bytes is None else max(1, max_bytes)  # never before the first message
        rows = await self.all(
            Caller.LISTS,
            user_id,
            _UPWARD if is_upward else _DOWNWARD,
            (user_id, offset, highest, lowest, limit, max_octets, conversation_id),
        )
        if not rows:
            raise NotAMember
        found = [message(row[1:]) for row in rows if row[1] is not None]
        return message_page(found, rows[0][0], before_seq=before_seq, after_seq=after_seq, max_bytes=max_bytes)
