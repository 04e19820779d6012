"""Read positions in PostgreSQL."""

from collections.abc import Sequence
from typing import Final

from pulse_trio.store.base import ReadMark, ReadStanding
from pulse_trio.store.postgres.connected import Connected

# One statement for marks of any conversations. Rows that somebody else has locked are left as they are, so that one
# of them does not hold up the others, and two such statements cannot wait for each other.
_MARK_READ: Final = """
    WITH asked AS MATERIALIZED (
        SELECT mark.conversation_id, mark.user_id, c.last_seq,
            coalesce(max(mark.seq) FILTER (WHERE mark.seq <= c.last_seq), 0) AS seq
        FROM unnest(%s::uuid[], %s::uuid[], %s::bigint[]) AS mark (conversation_id, user_id, seq)
        JOIN conversations c ON c.id = mark.conversation_id
        GROUP BY mark.conversation_id, mark.user_id, c.last_seq
    ), free AS MATERIALIZED (
        SELECT cu.conversation_id, cu.user_id, asked.seq
        FROM conversation_users cu
        JOIN asked ON asked.conversation_id = cu.conversation_id AND asked.user_id = cu.user_id
        WHERE cu.read_seq < asked.seq FOR NO KEY UPDATE OF cu SKIP LOCKED
    ), moved AS (
        UPDATE conversation_users cu SET read_seq = greatest(cu.read_seq, free.seq)
        FROM free WHERE cu.conversation_id = free.conversation_id AND cu.user_id = free.user_id
        RETURNING cu.conversation_id, cu.user_id, cu.read_seq
    )
    SELECT asked.conversation_id, asked.user_id, coalesce(moved.read_seq, cu.read_seq), asked.last_seq
    FROM asked
    JOIN conversation_users cu ON cu.conversation_id = asked.conversation_id AND cu.user_id = asked.user_id
    LEFT JOIN moved ON moved.conversation_id = asked.conversation_id AND moved.user_id = asked.user_id
"""


class ReadPositions(Connected):
    """Operations of the contract on read positions."""

    async def mark_read(self, marks: Sequence[ReadMark]) -> list[ReadStanding | None]:
        columns = (
            [mark.conversation_id for mark in marks],
            [mark.user_id for mark in marks],
            [mark.seq for mark in marks],
        )
        rows = await self.all(_MARK_READ, columns)
        found = {(row[0], row[1]): ReadStanding(row[2], row[3]) for row in rows}
        return [found.get((mark.conversation_id, mark.user_id)) for mark in marks]
