"""Edits and deletions of messages in PostgreSQL."""

from dataclasses import replace
from typing import Final

import trio

from pulse_trio.model import Delete, Edit
from pulse_trio.store.base import Outcome, StaleRev
from pulse_trio.store.postgres.connected import APPLIED, KEPT_COMMANDS, MESSAGE, REPEATED, message, refusal
from pulse_trio.store.postgres.group_commit import MAX_APPENDS
from pulse_trio.store.postgres.posts import Posts
from pulse_trio.trio_psycopg import Pool

# Under the lock of the conversation's row, so what `place` and `old` see cannot change any more.
_REVISE: Final = f"""
    WITH place AS MATERIALIZED (
        SELECT c.owner_id, EXISTS (
            SELECT FROM conversation_users WHERE conversation_id = c.id AND user_id = %(actor)s
        ) AS has_actor
        FROM conversations c WHERE c.id = %(conversation)s
    ), old AS MATERIALIZED (
        SELECT {MESSAGE}, %(id)s = ANY (m.revision_ids) AS is_repeat
        FROM messages m JOIN users u ON u.id = m.sender_id
        WHERE m.id = %(message)s AND m.conversation_id = %(conversation)s
    ), judged AS MATERIALIZED (
        SELECT CASE
            WHEN old.is_repeat THEN '{REPEATED}'
            WHEN place.has_actor IS NOT TRUE THEN 'NotAMember'
            WHEN old.is_deleted IS NOT FALSE THEN 'NoSuchMessage'
            WHEN old.sender_id <> %(actor)s AND NOT (%(is_deletion)s AND place.owner_id = %(actor)s)
                THEN 'NotYourMessage'
            WHEN old.rev <> %(if_rev)s::bigint THEN 'StaleRev'
            ELSE '{APPLIED}'
        END AS verdict
        FROM (VALUES (true)) AS always (one) LEFT JOIN place ON true LEFT JOIN old ON true
    ), bumped AS (
        UPDATE conversations c SET last_rev = c.last_rev + 1, message_rev = c.last_rev + 1
        FROM judged WHERE judged.verdict = '{APPLIED}' AND c.id = %(conversation)s
        RETURNING c.last_rev
    ), revised AS (
        UPDATE messages m SET
            content = %(content)s,
            is_edited = m.is_edited OR NOT %(is_deletion)s,
            is_deleted = %(is_deletion)s,
            updated_at = greatest(m.updated_at, %(at)s),
            rev = bumped.last_rev,
            revision_ids = (ARRAY[%(id)s] || m.revision_ids)[:{KEPT_COMMANDS}]
        FROM bumped WHERE m.id = %(message)s
    )
    SELECT judged.verdict, bumped.last_rev, old.*
    FROM judged LEFT JOIN old ON true LEFT JOIN bumped ON true
"""

MAX_REVISIONS: Final = 2  # concurrent transactions of edits and deletions, so that posts find a connection
MESSAGE_CONNECTIONS: Final = MAX_APPENDS + MAX_REVISIONS  # size of a pool for messages


class Revisions(Posts):
    """Changes messages, one at a time."""

    def __init__(self, pool: Pool, epoch: str = "", *, message_pool: Pool | None = None) -> None:
        super().__init__(pool, epoch, message_pool=message_pool)
        self._revisions = trio.Semaphore(MAX_REVISIONS)

    async def _revise(self, command: Edit | Delete) -> Outcome:
        content, if_rev = (command.content, command.if_rev) if isinstance(command, Edit) else ("", None)
        values = {
            "id": command.id,
            "conversation": command.conversation_id,
            "actor": command.actor_id,
            "at": command.at,
            "message": command.message_id,
            "content": content,
            "is_deletion": isinstance(command, Delete),
            "if_rev": if_rev,
        }
        # On the pool for messages: while an edit waits, so do the room's writer and all messages behind it.
        async with self._revisions:
            ((verdict, rev, *row),) = await self.all_under_lock(
                command.conversation_id, _REVISE, values, pool=self._message_pool
            )
        if verdict not in {APPLIED, REPEATED, StaleRev.__name__}:
            return refusal(verdict)
        old = message(row[:-1])
        if verdict == StaleRev.__name__:
            return StaleRev(old)
        if verdict == REPEATED:
            return (old,)
        updated_at = max(old.updated_at, command.at)
        if isinstance(command, Delete):
            return (replace(old, content="", is_deleted=True, updated_at=updated_at, rev=rev),)
        return (replace(old, content=content, is_edited=True, updated_at=updated_at, rev=rev),)
