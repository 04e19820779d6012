"""Accounts in PostgreSQL."""

from datetime import datetime
from typing import Final
from uuid import UUID

from pulse_trio.store.base import Account, User, UsernameTaken, UserPage
from pulse_trio.store.postgres.callers import Caller
from pulse_trio.store.postgres.connected import Connected
from pulse_trio.texts import username_key

# One statement, so that a page is one round trip; one row with nulls if the page is empty.
_SEARCH: Final = """
    SELECT counted.total, page.* FROM (
        SELECT count(*) AS total
        FROM (SELECT FROM users WHERE username_key BETWEEN %s AND %s LIMIT %s) found
    ) counted
    LEFT JOIN LATERAL (
        SELECT id, username, username_key FROM users
        WHERE username_key BETWEEN %s AND %s AND username_key > %s ORDER BY username_key LIMIT %s OFFSET %s
    ) page ON true
    ORDER BY page.username_key
"""


class Accounts(Connected):
    """Operations of the contract on accounts."""

    async def create_user(
        self, user: User, *, password_hash: str | None, subject: str | None, created_at: datetime
    ) -> None:
        async with self.connection(Caller.CHANGES) as connection:
            cursor = await connection.execute(
                """
                INSERT INTO users (id, username, username_key, password_hash, subject, created_at, updated_at)
                VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
                """,
                (
                    user.id,
                    user.username,
                    username_key(user.username),
                    password_hash,
                    subject,
                    created_at,
                    created_at,
                ),
            )
            if cursor.rowcount == 0:
                raise UsernameTaken

    async def find_account(self, username: str) -> Account | None:
        key = username_key(username)
        query = "SELECT id, username, password_hash FROM users WHERE username_key = %s"
        row = await self.one(Caller.LOOK_UPS, key, query, (key,))
        return None if row is None else Account(User(row[0], row[1]), row[2])

    async def find_subject(self, subject: str, user_id: UUID | None) -> User | None:
        row = await self.one(
            Caller.LOOK_UPS,
            subject if user_id is None else user_id,
            """
            SELECT id, username FROM users WHERE subject = %s OR id = %s
            ORDER BY subject IS NOT DISTINCT FROM %s DESC LIMIT 1
            """,
            (subject, user_id, subject),
        )
        return None if row is None else User(*row)

    async def set_password_hash(self, user_id: UUID, password_hash: str, *, old_hash: str) -> None:
        async with self.connection(Caller.CHANGES) as connection:
            await connection.execute(
                "UPDATE users SET password_hash = %s WHERE id = %s AND password_hash = %s",
                (password_hash, user_id, old_hash),
            )

    async def search_users(
        self,
        prefix: str,
        *,
        limit: int,
        offset: int = 0,
        after: str | None = None,
        max_total: int | None = None,
        by: UUID | None = None,
    ) -> UserPage:
        # A range of the index, in byte order: U+10FFFF is not a character, so no name has it.
        lowest = username_key(prefix)
        highest = lowest + "\U0010ffff"
        rows = await self.all(
            Caller.LISTS,
            by,
            _SEARCH,
            (
                lowest,
                highest,
                None if max_total is None else max_total + 1,
                lowest,
                highest,
                after or "",
                limit + 1,
                offset,
            ),
        )
        counted: int = rows[0][0]
        found = [row[1:] for row in rows if row[1] is not None]
        next_after = found[limit - 1][2] if len(found) > limit else None
        total = counted if max_total is None else min(counted, max_total)
        return UserPage(tuple(User(*row[:2]) for row in found[:limit]), total, next_after, counted == total)
