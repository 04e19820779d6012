"""Read positions in PostgreSQL."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from pulse_trio.store.base import ReadMark, ReadState
from pulse_trio.store.postgres.callers import Caller
from pulse_trio.store.postgres.connected import Connected

# One statement for marks of any conversations. Rows locked by another transaction are skipped, so that one of them does
# not delay the others, and two such statements cannot deadlock. Marks of one member are one movement. A user's
# movements pass through the lock of their row as arrays, in the given order: a join would compare all pairs.
# The first rows say what the members' rows were when the statement began, the others what they became.
_MARK_READ: Final = """
    WITH requested AS MATERIALIZED (
        SELECT mark.conversation_id, mark.user_id, c.last_seq,
            coalesce(max(mark.seq) FILTER (WHERE mark.seq <= c.last_seq), 0) AS seq,
            min(mark.ordinal) FILTER (WHERE mark.seq <= c.last_seq) AS ordinal
        FROM unnest(%s::uuid[], %s::uuid[], %s::bigint[])
            WITH ORDINALITY AS mark (conversation_id, user_id, seq, ordinal)
        JOIN conversations c ON c.id = mark.conversation_id
        GROUP BY mark.conversation_id, mark.user_id, c.last_seq
    ), free AS MATERIALIZED (
        SELECT cu.conversation_id, cu.user_id, requested.seq, requested.ordinal
        FROM conversation_users cu
        JOIN requested ON requested.conversation_id = cu.conversation_id AND requested.user_id = cu.user_id
        WHERE cu.read_seq < requested.seq FOR NO KEY UPDATE OF cu SKIP LOCKED
    ), counted AS (
        SELECT user_id, count(*) AS n, array_agg(conversation_id ORDER BY ordinal) AS conversation_ids,
            array_agg(seq ORDER BY ordinal) AS seqs
        FROM free GROUP BY user_id
    ), locked AS MATERIALIZED (
        SELECT counted.* FROM counted JOIN users u ON u.id = counted.user_id
        ORDER BY u.id FOR NO KEY UPDATE OF u SKIP LOCKED
    ), numbered AS (
        UPDATE users u SET last_rev = u.last_rev + locked.n FROM locked WHERE u.id = locked.user_id
        RETURNING u.id, u.last_rev - locked.n AS user_rev, locked.conversation_ids, locked.seqs
    ), moves AS MATERIALIZED (
        SELECT numbered.id AS user_id, move.conversation_id, move.seq, numbered.user_rev + move.step AS user_rev
        FROM numbered, unnest(conversation_ids, seqs) WITH ORDINALITY AS move (conversation_id, seq, step)
    ), moved AS (
        UPDATE conversation_users cu SET read_seq = moves.seq, user_rev = moves.user_rev
        FROM moves WHERE cu.conversation_id = moves.conversation_id AND cu.user_id = moves.user_id
        RETURNING cu.conversation_id, cu.user_id, cu.read_seq, cu.user_rev
    )
    SELECT requested.conversation_id, requested.user_id, cu.read_seq, cu.user_rev, requested.last_seq
    FROM requested CROSS JOIN LATERAL (
        SELECT read_seq, user_rev FROM conversation_users
        WHERE conversation_id = requested.conversation_id AND user_id = requested.user_id OFFSET 0
    ) cu
    UNION ALL
    SELECT conversation_id, user_id, read_seq, user_rev, NULL FROM moved
"""


class ReadPositions(Connected):
    """Operations of the contract on read positions."""

    async def mark_read(self, marks: Sequence[ReadMark]) -> list[ReadState | None]:
        columns = (
            [mark.conversation_id for mark in marks],
            [mark.user_id for mark in marks],
            [mark.seq for mark in marks],
        )
        found: dict[tuple[UUID, UUID], ReadState] = {}
        for conversation_id, user_id, read_seq, user_rev, last_seq in await self.all(
            Caller.CHANGES, None, _MARK_READ, columns
        ):
            member = conversation_id, user_id
            if last_seq is not None:
                found[member] = ReadState(read_seq, last_seq, user_rev)
            elif member in found:
                found[member] = ReadState(read_seq, found[member].last_seq, user_rev)
        return [found.get((mark.conversation_id, mark.user_id)) for mark in marks]
