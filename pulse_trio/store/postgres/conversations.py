"""Conversations in PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from pulse_trio.store.base import LISTED_MEMBERS, SHOWN_MEMBERS, Conversation, Head, NewConversation, User
from pulse_trio.store.postgres.connected import MESSAGE, Connected, count, message
from pulse_trio.store.postgres.members import check_users, insert_members, lock_group


def _conversations(members: int) -> str:
    """Returns a query for conversations as the user of the first parameter sees them.

    The first `members` members come from the index by position, so that a row's cost does not depend on the group's
    size.
    """
    return f"""
        SELECT c.id, c.name, c.description, c.is_group, c.owner_id, c.created_at, c.updated_at,
            c.last_seq, c.last_rev, c.members_version, members.ids, members.names, c.member_count, me.read_seq,
            {MESSAGE}
        FROM conversations c
        JOIN conversation_users me ON me.conversation_id = c.id AND me.user_id = %s
        CROSS JOIN LATERAL (
            SELECT array_agg(shown.user_id ORDER BY shown.position) AS ids,
                array_agg((SELECT username FROM users WHERE id = shown.user_id) ORDER BY shown.position) AS names
            FROM (
                SELECT cu.user_id, cu.position FROM conversation_users cu
                WHERE cu.conversation_id = c.id ORDER BY cu.position LIMIT {members}
            ) shown
        ) members
        LEFT JOIN messages m ON m.conversation_id = c.id AND m.seq = c.last_seq
        LEFT JOIN users u ON u.id = m.sender_id
    """


_CONVERSATION: Final = _conversations(SHOWN_MEMBERS)
_LISTED: Final = _conversations(LISTED_MEMBERS)


class Conversations(Connected):
    """Operations of the contract on conversations."""

    async def create_conversation(self, new: NewConversation) -> tuple[Conversation, bool]:
        direct_key = None if new.is_group else ":".join(sorted(str(user_id) for user_id in new.member_ids))
        async with self.connection() as connection, connection.transaction():
            await check_users(connection, new.member_ids)
            cursor = await connection.execute(
                """
                INSERT INTO conversations
                    (id, name, description, is_group, direct_key, owner_id, created_at, updated_at, member_count)
                VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (direct_key) DO NOTHING
                """,
                (
                    new.id,
                    new.name,
                    new.description,
                    new.is_group,
                    direct_key,
                    new.owner_id,
                    new.created_at,
                    new.created_at,
                    len(new.member_ids),
                ),
            )
            created = cursor.rowcount == 1
            if created:
                await insert_members(connection, new.id, new.member_ids, new.created_at)
                cursor = await connection.execute(_CONVERSATION + "WHERE c.id = %s", (new.owner_id, new.id))
            else:
                cursor = await connection.execute(_CONVERSATION + "WHERE c.direct_key = %s", (new.owner_id, direct_key))
            row = await cursor.fetchone()
            assert row is not None
            return _conversation(row), created

    async def get_conversation(self, conversation_id: UUID, user_id: UUID) -> Conversation | None:
        row = await self.one(_CONVERSATION + "WHERE c.id = %s", (user_id, conversation_id))
        return None if row is None else _conversation(row)

    async def list_conversations(self, user_id: UUID, *, limit: int, offset: int) -> tuple[list[Conversation], int]:
        async with self.list_connection() as connection, connection.transaction():
            total = await count(connection, "SELECT count(*) FROM conversation_users WHERE user_id = %s", (user_id,))
            cursor = await connection.execute(
                _LISTED
                + """
                JOIN (
                    SELECT mine.conversation_id FROM conversation_users mine
                    CROSS JOIN LATERAL (
                        SELECT updated_at FROM conversations WHERE id = mine.conversation_id OFFSET 0
                    ) latest
                    WHERE mine.user_id = %s
                    ORDER BY latest.updated_at DESC, mine.conversation_id DESC LIMIT %s OFFSET %s
                ) page ON page.conversation_id = c.id
                ORDER BY c.updated_at DESC, c.id DESC
                """,
                (user_id, user_id, limit, offset),
            )
            return [_conversation(row) for row in await cursor.fetchall()], total

    async def rename(
        self, conversation_id: UUID, actor_id: UUID, changes: dict[str, str | None], *, now: datetime
    ) -> Conversation:
        async with self.connection() as connection, connection.transaction():
            await lock_group(connection, conversation_id, actor_id)
            await connection.execute(
                """
                UPDATE conversations SET
                    name = CASE WHEN %s THEN %s ELSE name END,
                    description = CASE WHEN %s THEN %s ELSE description END,
                    updated_at = greatest(updated_at, %s)
                WHERE id = %s
                """,
                (
                    "name" in changes,
                    changes.get("name"),
                    "description" in changes,
                    changes.get("description"),
                    now,
                    conversation_id,
                ),
            )
            cursor = await connection.execute(_CONVERSATION + "WHERE c.id = %s", (actor_id, conversation_id))
            row = await cursor.fetchone()
            assert row is not None
            return _conversation(row)


def _conversation(row: Sequence[Any]) -> Conversation:
    members = tuple(User(*member) for member in zip(row[10] or (), row[11] or (), strict=True))
    last_message = None if row[14] is None else message(row[14:])
    rest: tuple[Any, ...] = (Head(*row[7:10]), members, row[12], row[13], last_message)
    return Conversation(*row[:7], *rest)
