"""Members of conversations in PostgreSQL."""

from collections.abc import Sequence
from typing import Final, LiteralString
from uuid import UUID

from pulse_trio.store.base import Head, MemberPage, Members, Membership, Memberships, NotAMember, User
from pulse_trio.store.postgres.callers import Caller
from pulse_trio.store.postgres.connected import HEAD, Connected

NIL: Final = UUID(int=0)  # sorts before every id

# One statement, so that a page is one round trip. There is no row if the user is not a member, and one with nulls if
# the page is empty.
_MEMBERS: Final = """
    SELECT c.member_count, page.* FROM conversations c
    JOIN conversation_users mine ON mine.conversation_id = c.id AND mine.user_id = %s
    LEFT JOIN LATERAL (
        SELECT cu.user_id, u.username, cu.position, cu.read_seq
        FROM (
            SELECT user_id, position, read_seq FROM conversation_users
            WHERE conversation_id = c.id AND position > %s ORDER BY position LIMIT %s
        ) cu
        JOIN users u ON u.id = cu.user_id
    ) page ON true
    WHERE c.id = %s ORDER BY page.position
"""

# One statement, so that the heads and the end of the user's own sequence are of one snapshot. A user without
# conversations has one row with nulls.
_MEMBERSHIPS: Final = f"""
    SELECT u.last_rev, found.* FROM users u LEFT JOIN LATERAL (
        SELECT c.id, {HEAD}
        FROM conversation_users mine JOIN conversations c ON c.id = mine.conversation_id WHERE mine.user_id = u.id
    ) found ON true
    WHERE u.id = %s
"""

# A page of the same, in the order of the ids.
_MEMBERSHIPS_PAGE: Final = f"""
    SELECT u.last_rev, found.* FROM users u LEFT JOIN LATERAL (
        SELECT c.id, {HEAD}
        FROM conversation_users mine JOIN conversations c ON c.id = mine.conversation_id
        WHERE mine.user_id = u.id AND mine.conversation_id > %s ORDER BY mine.conversation_id LIMIT %s
    ) found ON true
    WHERE u.id = %s
"""

# An index probe for each given id. `= ANY` would read all of the user's conversations and compare each with every id;
# OFFSET 0 prevents such a plan.
_MEMBERSHIPS_AMONG: Final = f"""
    SELECT u.last_rev, found.* FROM users u LEFT JOIN (
        unnest(%s::uuid[]) AS requested (id)
        CROSS JOIN LATERAL (
            SELECT c.id, {HEAD}
            FROM conversation_users mine JOIN conversations c ON c.id = mine.conversation_id
            WHERE mine.conversation_id = requested.id AND mine.user_id = %s OFFSET 0
        ) found
    ) ON true
    WHERE u.id = %s
"""


class ConversationMembers(Connected):
    """Operations of the contract that read members of conversations."""

    async def membership(self, conversation_id: UUID, user_id: UUID) -> int | None:
        row = await self.one(
            Caller.LOOK_UPS,
            user_id,
            """
            SELECT c.members_rev FROM conversations c
            JOIN conversation_users cu ON cu.conversation_id = c.id WHERE c.id = %s AND cu.user_id = %s
            """,
            (conversation_id, user_id),
        )
        return None if row is None else int(row[0])

    async def memberships(
        self,
        user_id: UUID,
        among: Sequence[UUID] | None = None,
        *,
        limit: int | None = None,
        after: UUID | None = None,
    ) -> Memberships:
        if limit is not None:
            page = (NIL if after is None else after, limit, user_id)
            rows = await self.all(Caller.ROOMS, user_id, _MEMBERSHIPS_PAGE, page)
        elif among is None:
            rows = await self.all(Caller.ROOMS, user_id, _MEMBERSHIPS, (user_id,))
        else:
            rows = await self.all(Caller.ROOMS, user_id, _MEMBERSHIPS_AMONG, (list(among), user_id, user_id))
        heads = {row[1]: Head(*row[2:]) for row in rows if row[1] is not None}
        return Memberships(heads, rows[0][0] if rows else 0)

    async def heads(self, conversation_ids: Sequence[UUID]) -> dict[UUID, Head]:
        query: LiteralString = f"SELECT c.id, {HEAD} FROM conversations c WHERE c.id = ANY(%s)"
        rows = await self.all(Caller.ROOMS, None, query, (list(conversation_ids),))
        return {row[0]: Head(*row[1:]) for row in rows}

    async def user_revs(self, user_ids: Sequence[UUID]) -> dict[UUID, int]:
        query: LiteralString = "SELECT id, last_rev FROM users WHERE id = ANY(%s)"
        rows = await self.all(Caller.ROOMS, None, query, (list(user_ids),))
        return {row[0]: row[1] for row in rows}

    async def members(self, conversation_id: UUID) -> Members:
        # One statement, so that the members and their rev are of one snapshot.
        rows = await self.all(
            Caller.ROOMS,
            conversation_id,
            """
            SELECT cu.user_id, c.members_rev FROM conversations c
            LEFT JOIN conversation_users cu ON cu.conversation_id = c.id WHERE c.id = %s ORDER BY cu.position
            """,
            (conversation_id,),
        )
        ids = tuple(row[0] for row in rows if row[0] is not None)  # a group without members has one row with a null
        return Members(ids, rows[0][1] if rows else 0)

    async def page_members(self, conversation_id: UUID, user_id: UUID, *, limit: int, after: int = 0) -> MemberPage:
        rows = await self.all(Caller.LISTS, user_id, _MEMBERS, (user_id, after, limit + 1, conversation_id))
        if not rows:
            raise NotAMember
        found = [Membership(User(row[1], row[2]), row[3], row[4]) for row in rows if row[1] is not None]
        next_after = found[limit - 1].position if len(found) > limit else None
        return MemberPage(tuple(found[:limit]), rows[0][0], next_after)
