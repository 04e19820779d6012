"""Who has read what, and who was here when, in PostgreSQL."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

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

# In the order of their ids, so that two such statements cannot wait for each other in a circle.
_MARK_SEEN: Final = """
    WITH locked AS MATERIALIZED (
        SELECT u.id, seen.moment
        FROM users u JOIN unnest(%s::uuid[], %s::timestamptz[]) AS seen (id, moment) ON seen.id = u.id
        WHERE u.last_seen_at IS NULL OR u.last_seen_at < seen.moment
        ORDER BY u.id FOR NO KEY UPDATE OF u
    )
    UPDATE users u SET last_seen_at = greatest(u.last_seen_at, locked.moment) FROM locked WHERE u.id = locked.id
"""

# Of the user's conversations and those of each one asked about, the shorter list decides: it is read, and each entry is
# looked for in the other one, by index or by a hash of the user's own. So nobody makes others' lists long to slow this
# down. OFFSET 0, CASE and IS TRUE keep the planner from turning that into a join, which compares each with each.
_ACQUAINTANCES: Final = """
    WITH mine AS MATERIALIZED (SELECT conversation_id FROM conversation_users WHERE user_id = %s)
    SELECT u.id, u.last_seen_at
    FROM unnest(%s::uuid[]) AS asked (id)
    JOIN users u ON u.id = asked.id
    WHERE asked.id = %s OR CASE
        WHEN EXISTS (
            SELECT FROM conversation_users theirs WHERE theirs.user_id = asked.id OFFSET (SELECT count(*) FROM mine)
        ) THEN EXISTS (
            SELECT FROM mine WHERE EXISTS (
                SELECT FROM conversation_users theirs
                WHERE theirs.conversation_id = mine.conversation_id AND theirs.user_id = asked.id OFFSET 0
            ) OFFSET 0
        )
        ELSE EXISTS (
            SELECT FROM conversation_users theirs
            WHERE theirs.user_id = asked.id
                AND (theirs.conversation_id IN (SELECT conversation_id FROM mine)) IS TRUE OFFSET 0
        )
    END
"""


class People(Connected):
    """The operations of the contract on read positions and on when users were here."""

    async def mark_read(self, marks: Sequence[ReadMark]) -> list[ReadStanding | None]:
        columns = (
            [mark.conversation_id for mark in marks],
            [mark.user_id for mark in marks],
            [mark.seq for mark in marks],
        )
        rows = await self.all(_MARK_READ, columns)
        found = {(row[0], row[1]): ReadStanding(row[2], row[3]) for row in rows}
        return [found.get((mark.conversation_id, mark.user_id)) for mark in marks]

    async def mark_seen(self, moments: Mapping[UUID, datetime]) -> None:
        async with self.connection() as connection:
            await connection.execute(_MARK_SEEN, (list(moments), list(moments.values())))

    async def acquaintances(self, user_id: UUID, among: Sequence[UUID]) -> dict[UUID, datetime | None]:
        rows = await self.all(_ACQUAINTANCES, (user_id, list(among), user_id))
        return {row[0]: row[1] for row in rows}
