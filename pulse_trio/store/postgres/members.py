"""Members of conversations in PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import UUID

from pulse_trio.store.base import (
    Added,
    Head,
    MemberPage,
    Members,
    Membership,
    NotAGroup,
    NotAMember,
    OwnerOnly,
    Removed,
    TooManyMembers,
    UnknownUsers,
    User,
)
from pulse_trio.store.postgres.connected import Connected, count
from pulse_trio.trio_psycopg import TrioConnection

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


class ConversationMembers(Connected):
    """Operations of the contract on members of conversations."""

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
            await lock_group(connection, conversation_id, actor_id)
            await check_users(connection, user_ids)
            added = await insert_members(connection, conversation_id, user_ids, now)
            version, members = await _count_change(connection, conversation_id, now, change=len(added))
            if added and members > limit:
                raise TooManyMembers
            return Added(tuple(added), version)

    async def remove_member(self, conversation_id: UUID, actor_id: UUID, user_id: UUID, *, now: datetime) -> Removed:
        async with self.connection() as connection, connection.transaction():
            owner_id = await lock_group(connection, conversation_id, actor_id)
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


async def check_users(connection: TrioConnection[Any], user_ids: Sequence[UUID]) -> None:
    cursor = await connection.execute("SELECT id FROM users WHERE id = ANY(%s)", (list(user_ids),))
    known = {row[0] for row in await cursor.fetchall()}
    unknown = [user_id for user_id in user_ids if user_id not in known]
    if unknown:
        raise UnknownUsers(unknown)


async def insert_members(
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


async def lock_group(connection: TrioConnection[Any], conversation_id: UUID, actor_id: UUID) -> UUID:
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
