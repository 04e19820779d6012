"""Read positions in PostgreSQL."""

from collections.abc import Sequence
from typing import Final

from pulse_trio.store.base import ReadMark, ReadState
from pulse_trio.store.postgres.connected import Connected

# One statement for marks of any conversations. Rows locked by another transaction are skipped, so that one of them does
# not delay the others, and two such statements cannot deadlock.
_MARK_READ: Final = """
    WITH requested AS MATERIALIZED (
        SELECT mark.conversation_id, mark.user_id, c.last_seq,
            coalesce(max(mark.seq) FILTER (WHERE mark.seq <= c.last_seq), 0) AS seq
        FROM unnest(%s::uuid[], %s::uuid[], %s::bigint[]) AS mark (conversation_id, user_id, seq)
        JOIN conversations c ON c.id = mark.conversation_id
        GROUP BY mark.conversation_id, mark.user_id, c.last_seq
    ), free AS MATERIALIZED (
        SELECT cu.conversation_id, cu.user_id, requested.seq
        FROM conversation_users cu
        JOIN requested ON requested.conversation_id = cu.conversation_id AND requested.user_id = cu.user_id
        WHERE cu.read_seq < requested.seq FOR NO KEY UPDATE OF cu SKIP LOCKED
    ), moved AS (
        UPDATE conversation_users cu SET read_seq = greatest(cu.read_seq, free.seq)
        FROM free WHERE cu.conversation_id = free.conversation_id AND cu.user_id = free.user_id
        RETURNING cu.conversation_id, cu.user_id, cu.read_seq
    )
    SELECT requested.conversation_id, requested.user_id, coalesce(moved.read_seq, cu.read_seq), requested.last_seq
    FROM requested
    JOIN conversation_users cu ON cu.conversation_id = requested.conversation_id AND cu.user_id = requested.user_id
    LEFT JOIN moved ON moved.conversation_id = requested.conversation_id AND moved.user_id = requested.user_id
"""


class ReadPositions(Connected):
    """Operations of the contract on read positions."""

    async def mark_read(self, marks: Sequence[ReadMark]) -> list[ReadState | None]:
        columns = (
            [mark.conversation_id for mark in marks],
            [mark.user_id for mark in marks],
            [mark.seq for mark in marks],
        )
        rows = await self.all(_MARK_READ, columns)
        found = {(row[0], row[1]): ReadState(row[2], row[3]) for row in rows}
        return [found.get((mark.conversation_id, mark.user_id)) for mark in marks]
