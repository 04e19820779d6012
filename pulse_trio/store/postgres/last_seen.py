"""Last-seen times of users in PostgreSQL."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from pulse_trio.store.postgres.callers import Caller
from pulse_trio.store.postgres.connected import Connected

# Locked in the order of their ids, so that two such statements cannot deadlock.
_MARK_SEEN: Final = """
    WITH locked AS MATERIALIZED (
        SELECT u.id, seen.moment
        FROM users u JOIN unnest(%s::uuid[], %s::timestamptz[]) AS seen (id, moment) ON seen.id = u.id
        WHERE u.last_seen_at IS NULL OR u.last_seen_at < seen.moment
        ORDER BY u.id FOR NO KEY UPDATE OF u
    )
    UPDATE users u SET last_seen_at = greatest(u.last_seen_at, locked.moment) FROM locked WHERE u.id = locked.id
"""

# For each requested user the shorter of two lists is read, the user's conversations or theirs, and each entry is looked
# up in the other one, by index or by a hash of the user's own. So nobody can slow this down by adding others to many
# groups. OFFSET 0, CASE and IS TRUE prevent a plan with a nested-loop join.
_ACQUAINTANCES: Final = """
    WITH mine AS MATERIALIZED (SELECT conversation_id FROM conversation_users WHERE user_id = %s)
    SELECT u.id, u.last_seen_at
    FROM unnest(%s::uuid[]) AS requested (id)
    JOIN users u ON u.id = requested.id
    WHERE requested.id = %s OR CASE
        WHEN EXISTS (
            SELECT FROM conversation_users theirs WHERE theirs.user_id = requested.id OFFSET (SELECT count(*) FROM mine)
        ) THEN EXISTS (
            SELECT FROM mine WHERE EXISTS (
                SELECT FROM conversation_users theirs
                WHERE theirs.conversation_id = mine.conversation_id AND theirs.user_id = requested.id OFFSET 0
            ) OFFSET 0
        )
        ELSE EXISTS (
            SELECT FROM conversation_users theirs
            WHERE theirs.user_id = requested.id
                AND (theirs.conversation_id IN (SELECT conversation_id FROM mine)) IS TRUE OFFSET 0
        )
    END
"""


class LastSeen(Connected):
    """Operations of the contract on last-seen times."""

    async def mark_seen(self, moments: Mapping[UUID, datetime]) -> None:
        async with self.connection(Caller.CHANGES) as connection:
            await connection.execute(_MARK_SEEN, (list(moments), list(moments.values())))

    async def acquaintances(self, user_id: UUID, among: Sequence[UUID]) -> dict[UUID, datetime | None]:
        rows = await self.all(Caller.LISTS, user_id, _ACQUAINTANCES, (user_id, list(among), user_id))
        return {row[0]: row[1] for row in rows}
