"""Conversations and their members in PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import UUID

from pulse_trio.store.base import (
    LISTED_MEMBERS,
    SHOWN_MEMBERS,
    Added,
    Conversation,
    Head,
    MemberPage,
    Members,
    Membership,
    NewConversation,
    NotAGroup,
    NotAMember,
    OwnerOnly,
    Removed,
    TooManyMembers,
    UnknownUsers,
    User,
)
from pulse_trio.store.postgres.connected import MESSAGE, Connected, count, message
from pulse_trio.trio_psycopg import TrioConnection


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

_MEMBERS: Final = """
    SELECT cu.user_id, u.username, cu.position, cu.read_seq
    FROM (
        SELECT user_id, position, read_seq FROM conversation_users
        WHERE conversation_id = %s AND position > %s ORDER BY position LIMIT %s
    ) cu
    JOIN users u ON u.id = cu.user_id ORDER BY cu.position
"""

_MEMBERSHIPS: Final = """
    SELECT c.id, c.last_seq, c.last_rev, c.members_version
    FROM conversation_users mine JOIN conversations c ON c.id = mine.conversation_id WHERE mine.user_id = %s
"""

# An index probe for each given id. `= ANY` would read all of the user's conversations and compare each with every id;
# OFFSET 0 prevents such a plan.
_MEMBERSHIPS_AMONG: Final = """
    SELECT requested.id, found.last_seq, found.last_rev, found.members_version
    FROM unnest(%s::uuid[]) AS requested (id)
    CROSS JOIN LATERAL (
        SELECT c.last_seq, c.last_rev, c.members_version
        FROM conversation_users mine JOIN conversations c ON c.id = mine.conversation_id
        WHERE mine.conversation_id = requested.id AND mine.user_id = %s OFFSET 0
    ) found
"""


class Conversations(Connected):
    """Operations of the contract on conversations and their members."""

    async def create_conversation(self, new: NewConversation) -> tuple[Conversation, bool]:
        direct_key = None if new.is_group else ":".join(sorted(str(user_id) for user_id in new.member_ids))
        async with self.connection() as connection, connection.transaction():
            await _check_users(connection, new.member_ids)
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
                await _insert_members(connection, new.id, new.member_ids, new.created_at)
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

    async def membership(self, conversation_id: UUID, user_id: UUID) -> int | None:
        row = await self.one(
            """
            SELECT c.members_version FROM conversations c
            JOIN conversation_users cu ON cu.conversation_id = c.id WHERE c.id = %s AND cu.user_id = %s
            """,
            (conversation_id, user_id),
        )
        return None if row is None else int(row[0])

    async def memberships(self, user_id: UUID, among: Sequence[UUID] | None = None) -> dict[UUID, Head]:
        if among is None:
            rows = await self.all(_MEMBERSHIPS, (user_id,))
        else:
            rows = await self.all(_MEMBERSHIPS_AMONG, (list(among), user_id))
        return {row[0]: Head(*row[1:]) for row in rows}

    async def members(self, conversation_id: UUID) -> Members:
        # One statement, so that the members and their version are of one snapshot.
        rows = await self.all(
            """
            SELECT cu.user_id, c.members_version FROM conversations c
            LEFT JOIN conversation_users cu ON cu.conversation_id = c.id WHERE c.id = %s ORDER BY cu.position
            """,
            (conversation_id,),
        )
        ids = tuple(row[0] for row in rows if row[0] is not None)  # a group without members has one row with a null
        return Members(ids, rows[0][1] if rows else 0)

    async def page_members(self, conversation_id: UUID, user_id: UUID, *, limit: int, after: int = 0) -> MemberPage:
        async with self.connection() as connection:
            cursor = await connection.execute(
                """
                SELECT c.member_count FROM conversations c
                JOIN conversation_users cu ON cu.conversation_id = c.id AND cu.user_id = %s WHERE c.id = %s
                """,
                (user_id, conversation_id),
            )
            row = await cursor.fetchone()
            if row is None:
                raise NotAMember
            total: int = row[0]
            cursor = await connection.execute(_MEMBERS, (conversation_id, after, limit + 1))
            found = [Membership(User(row[0], row[1]), row[2], row[3]) for row in await cursor.fetchall()]
        next_after = found[limit - 1].position if len(found) > limit else None
        return MemberPage(tuple(found[:limit]), total, next_after)

    async def add_members(
        self, conversation_id: UUID, actor_id: UUID, user_ids: Sequence[UUID], *, limit: int, now: datetime
    ) -> Added:
        async with self.connection() as connection, connection.transaction():
            await _lock_group(connection, conversation_id, actor_id)
            await _check_users(connection, user_ids)
            added = await _insert_members(connection, conversation_id, user_ids, now)
            version, members = await _count_change(connection, conversation_id, now, change=len(added))
            if added and members > limit:
                raise TooManyMembers
            return Added(tuple(added), version)

    async def remove_member(self, conversation_id: UUID, actor_id: UUID, user_id: UUID, *, now: datetime) -> Removed:
        async with self.connection() as connection, connection.transaction():
            owner_id = await _lock_group(connection, conversation_id, actor_id)
            if user_id != actor_id and owner_id != actor_id:
                raise OwnerOnly
            cursor = await connection.execute(
                """
                DELETE FROM conversation_users cu USING users u
                WHERE cu.conversation_id = %s AND cu.user_id = %s AND u.id = cu.user_id
                RETURNING u.id, u.username
                """,
                (conversation_id, user_id),
            )
            row = await cursor.fetchone()
            if row is not None and owner_id == user_id:
                await connection.execute(
                    """
                    UPDATE conversations SET owner_id = successor.user_id
                    FROM (
                        SELECT user_id FROM conversation_users WHERE conversation_id = %s
                        ORDER BY position LIMIT 1
                    ) successor
                    WHERE id = %s
                    """,
                    (conversation_id, conversation_id),
                )
            change = 0 if row is None else -1
            version, _ = await _count_change(connection, conversation_id, now, change=change)
            return Removed(None if row is None else User(*row), version)

    async def rename(
        self, conversation_id: UUID, actor_id: UUID, changes: dict[str, str | None], *, now: datetime
    ) -> Conversation:
        async with self.connection() as connection, connection.transaction():
            await _lock_group(connection, conversation_id, actor_id)
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


async def _check_users(connection: TrioConnection[Any], user_ids: Sequence[UUID]) -> None:
    cursor = await connection.execute("SELECT id FROM users WHERE id = ANY(%s)", (list(user_ids),))
    known = {row[0] for row in await cursor.fetchall()}
    unknown = [user_id for user_id in user_ids if user_id not in known]
    if unknown:
        raise UnknownUsers(unknown)


async def _insert_members(
    connection: TrioConnection[Any], conversation_id: UUID, user_ids: Sequence[UUID], now: datetime
) -> list[User]:
    cursor = await connection.execute(
        """
        WITH added AS (
            INSERT INTO conversation_users (conversation_id, user_id, joined_at, read_seq)
            SELECT c.id, new.id, %s, c.last_seq
            FROM conversations c, unnest(%s::uuid[]) WITH ORDINALITY AS new (id, ordinal)
            WHERE c.id = %s ORDER BY ordinal
            ON CONFLICT DO NOTHING RETURNING user_id, position
        )
        SELECT u.id, u.username FROM added JOIN users u ON u.id = added.user_id ORDER BY added.position
        """,
        (now, list(user_ids), conversation_id),
    )
    return [User(*row) for row in await cursor.fetchall()]


async def _lock_group(connection: TrioConnection[Any], conversation_id: UUID, actor_id: UUID) -> UUID:
    """Locks the group's row, which orders all changes of its members; returns its owner.

    Raises:
        NotAMember: the actor is not a member.
        NotAGroup: it is a one-to-one.
    """
    cursor = await connection.execute(
        "SELECT is_group, owner_id FROM conversations WHERE id = %s FOR NO KEY UPDATE", (conversation_id,)
    )
    row = await cursor.fetchone()
    # After taking the lock: a statement sees only what was committed before it began.
    members = await count(
        connection,
        "SELECT count(*) FROM conversation_users WHERE conversation_id = %s AND user_id = %s",
        (conversation_id, actor_id),
    )
    if row is None or not members:
        raise NotAMember
    if not row[0]:
        raise NotAGroup
    owner_id: UUID = row[1]
    return owner_id


async def _count_change(
    connection: TrioConnection[Any], conversation_id: UUID, now: datetime, *, change: int
) -> tuple[int, int]:
    """Returns the version and the number of a locked group's members, after `change` joined (below 0: left)."""
    query: LiteralString = "SELECT members_version, member_count FROM conversations WHERE id = %s"
    values: tuple[object, ...] = (conversation_id,)
    if change:
        query = """
            UPDATE conversations SET
                members_version = members_version + 1,
                member_count = member_count + %s,
                updated_at = greatest(updated_at, %s)
            WHERE id = %s RETURNING members_version, member_count
        """
        values = (change, now, conversation_id)
    row = await (await connection.execute(query, values)).fetchone()
    assert row is not None
    return row[0], row[1]


def _conversation(row: Sequence[Any]) -> Conversation:
    members = tuple(User(*member) for member in zip(row[10] or (), row[11] or (), strict=True))
    last_message = None if row[14] is None else message(row[14:])
    rest: tuple[Any, ...] = (Head(*row[7:10]), members, row[12], row[13], last_message)
    return Conversation(*row[:7], *rest)
