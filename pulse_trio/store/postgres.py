"""The store in PostgreSQL: each statement next to the record that it fills.

Values reach SQL as parameters only. Operations of one statement run in autocommit; the others in a
transaction. Whatever can raise two writers against each other first locks the conversation's row.
"""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, LiteralString
from uuid import UUID

import psycopg
from psycopg import errors as pg

from pulse_trio.store.base import (
    Account,
    Conversation,
    Head,
    Message,
    NewConversation,
    NewMessage,
    NoSuchMessage,
    NotAGroup,
    NotAMember,
    NotYourMessage,
    OwnerOnly,
    Page,
    Revision,
    StoreRefused,
    StoreUnavailable,
    TooManyMembers,
    UnknownUsers,
    User,
    UsernameTaken,
    page_range,
)
from pulse_trio.texts import username_key
from pulse_trio.trio_psycopg import Pool, PoolClosed, PoolTimeout, TrioConnection

_MESSAGE: Final = """
    m.id, m.conversation_id, m.sender_id, u.username, m.content, m.is_edited, m.is_deleted,
    m.created_at, m.updated_at, m.seq, m.rev, m.client_id
"""

# One statement, one round trip, one commit for a batch. `fresh` leaves out what is stored already and
# what its sender may not send; `locked` takes the conversations' rows in the order of their ids, so that
# two batches cannot wait for each other; `bumped` gives out seq and rev under that lock.
# A client_id that somebody else commits while this waits for the lock breaks the unique index: the whole
# statement is undone, and `append` repeats it.
_APPEND: Final = f"""
    WITH input AS MATERIALIZED (
        SELECT * FROM unnest(
            %s::uuid[], %s::uuid[], %s::uuid[], %s::text[], %s::text[], %s::timestamptz[]
        ) WITH ORDINALITY AS i (id, conversation_id, sender_id, content, client_id, created_at, place)
    ), existing AS MATERIALIZED (
        SELECT i.place, m.id FROM input i JOIN messages m ON m.id = i.id
        UNION
        SELECT i.place, m.id FROM input i JOIN messages m
            ON m.conversation_id = i.conversation_id AND m.sender_id = i.sender_id
            AND m.client_id = i.client_id
    ), fresh AS MATERIALIZED (
        SELECT i.*, row_number() OVER (PARTITION BY i.conversation_id ORDER BY i.place) AS step
        FROM input i
        JOIN conversation_users cu ON cu.conversation_id = i.conversation_id AND cu.user_id = i.sender_id
        WHERE NOT EXISTS (SELECT FROM existing e WHERE e.place = i.place)
    ), counted AS (
        SELECT conversation_id, count(*) AS n, max(created_at) AS latest FROM fresh GROUP BY conversation_id
    ), locked AS MATERIALIZED (
        SELECT c.id FROM conversations c JOIN counted ON counted.conversation_id = c.id
        ORDER BY c.id FOR NO KEY UPDATE OF c
    ), bumped AS (
        UPDATE conversations c SET
            last_seq = c.last_seq + counted.n,
            last_rev = c.last_rev + counted.n,
            updated_at = greatest(c.updated_at, counted.latest)
        FROM locked JOIN counted ON counted.conversation_id = locked.id
        WHERE c.id = locked.id
        RETURNING c.id, c.last_seq - counted.n AS seq, c.last_rev - counted.n AS rev
    ), inserted AS (
        INSERT INTO messages
            (id, conversation_id, sender_id, content, created_at, updated_at, seq, rev, client_id)
        SELECT f.id, f.conversation_id, f.sender_id, f.content, f.created_at, f.created_at,
            bumped.seq + f.step, bumped.rev + f.step, f.client_id
        FROM fresh f JOIN bumped ON bumped.id = f.conversation_id
        RETURNING *
    )
    SELECT f.place, {_MESSAGE} FROM inserted m JOIN fresh f ON f.id = m.id JOIN users u ON u.id = m.sender_id
    UNION ALL
    SELECT e.place, {_MESSAGE} FROM existing e JOIN messages m ON m.id = e.id JOIN users u ON u.id = m.sender_id
"""

_CONVERSATION: Final = f"""
    SELECT c.id, c.name, c.description, c.is_group, c.owner_id, c.created_at, c.updated_at,
        c.last_seq, c.last_rev, members.ids, members.names, {_MESSAGE}
    FROM conversations c
    CROSS JOIN LATERAL (
        SELECT array_agg(cu.user_id ORDER BY cu.position) AS ids, array_agg(mu.username ORDER BY cu.position) AS names
        FROM conversation_users cu JOIN users mu ON mu.id = cu.user_id WHERE cu.conversation_id = c.id
    ) members
    LEFT JOIN messages m ON m.conversation_id = c.id AND m.seq = c.last_seq
    LEFT JOIN users u ON u.id = m.sender_id
"""

_REVISE: Final = """
    WITH bumped AS (
        UPDATE conversations SET last_rev = last_rev + 1 WHERE id = %s RETURNING last_rev
    )
    UPDATE messages m SET
        content = coalesce(%s, ''),
        is_edited = m.is_edited OR NOT %s,
        is_deleted = %s,
        updated_at = greatest(m.updated_at, %s),
        rev = bumped.last_rev,
        revision_id = %s
    FROM bumped WHERE m.id = %s
"""

# By seq, through the index on (conversation_id, seq), a range no longer than the page: its depth costs nothing.
_PAGE: Final = f"""
    SELECT {_MESSAGE} FROM messages m JOIN users u ON u.id = m.sender_id
    WHERE m.conversation_id = %s AND m.seq BETWEEN %s AND %s ORDER BY m.seq DESC
"""

_CHANGES: Final = f"""
    SELECT {_MESSAGE} FROM messages m JOIN users u ON u.id = m.sender_id
    WHERE m.conversation_id = %s AND m.rev > %s ORDER BY m.rev LIMIT %s
"""

_APPEND_ATTEMPTS: Final = 3  # a client_id committed by somebody else in between: seen by the second


class PostgresStore:
    """A `Store` on a pool of connections, each in autocommit."""

    def __init__(self, pool: Pool, epoch: str = "") -> None:
        self._pool = pool
        self.epoch = epoch

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[TrioConnection[Any]]:
        """A connection, with errors of the driver told as this contract's."""
        try:
            async with self._pool.connection() as connection:
                yield connection
        except (pg.DataError, pg.IntegrityError, pg.ProgramLimitExceeded, UnicodeEncodeError) as error:
            raise StoreRefused(type(error).__name__) from error
        except (psycopg.Error, PoolTimeout, PoolClosed, OSError) as error:
            raise StoreUnavailable(type(error).__name__) from error

    # --- accounts ---

    async def create_user(
        self, user: User, *, password_hash: str | None, subject: str | None, created_at: datetime
    ) -> None:
        async with self._connection() as connection:
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
        row = await self._one(
            "SELECT id, username, password_hash FROM users WHERE username_key = %s", (username_key(username),)
        )
        return None if row is None else Account(User(row[0], row[1]), row[2])

    async def find_subject(self, subject: str, user_id: UUID | None) -> User | None:
        row = await self._one(
            """
            SELECT id, username FROM users WHERE subject = %s OR id = %s
            ORDER BY subject IS NOT DISTINCT FROM %s DESC LIMIT 1
            """,
            (subject, user_id, subject),
        )
        return None if row is None else User(*row)

    async def set_password_hash(self, user_id: UUID, password_hash: str, *, old_hash: str) -> None:
        async with self._connection() as connection:
            await connection.execute(
                "UPDATE users SET password_hash = %s WHERE id = %s AND password_hash = %s",
                (password_hash, user_id, old_hash),
            )

    async def search_users(self, prefix: str, *, limit: int, offset: int) -> tuple[list[User], int]:
        pattern = re.sub(r"([\\%_])", r"\\\1", username_key(prefix)) + "%"
        async with self._connection() as connection, connection.transaction():
            total = await _count(connection, "SELECT count(*) FROM users WHERE username_key LIKE %s", (pattern,))
            cursor = await connection.execute(
                """
                SELECT id, username FROM users WHERE username_key LIKE %s
                ORDER BY username_key LIMIT %s OFFSET %s
                """,
                (pattern, limit, offset),
            )
            return [User(*row) for row in await cursor.fetchall()], total

    # --- conversations ---

    async def create_conversation(self, new: NewConversation) -> tuple[Conversation, bool]:
        direct_key = None if new.is_group else ":".join(sorted(str(user_id) for user_id in new.member_ids))
        async with self._connection() as connection, connection.transaction():
            await _check_users(connection, new.member_ids)
            cursor = await connection.execute(
                """
                INSERT INTO conversations
                    (id, name, description, is_group, direct_key, owner_id, created_at, updated_at)
                VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (direct_key) DO NOTHING
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
                ),
            )
            created = cursor.rowcount == 1
            if created:
                await _insert_members(connection, new.id, new.member_ids, new.created_at)
                cursor = await connection.execute(_CONVERSATION + "WHERE c.id = %s", (new.id,))
            else:
                cursor = await connection.execute(_CONVERSATION + "WHERE c.direct_key = %s", (direct_key,))
            row = await cursor.fetchone()
            assert row is not None
            return _conversation(row), created

    async def get_conversation(self, conversation_id: UUID, user_id: UUID) -> Conversation | None:
        row = await self._one(
            _CONVERSATION
            + """
            WHERE c.id = %s
                AND EXISTS (SELECT FROM conversation_users WHERE conversation_id = c.id AND user_id = %s)
            """,
            (conversation_id, user_id),
        )
        return None if row is None else _conversation(row)

    async def list_conversations(self, user_id: UUID, *, limit: int, offset: int) -> tuple[list[Conversation], int]:
        async with self._connection() as connection, connection.transaction():
            total = await _count(connection, "SELECT count(*) FROM conversation_users WHERE user_id = %s", (user_id,))
            cursor = await connection.execute(
                _CONVERSATION
                + """
                JOIN (
                    SELECT page.id FROM conversations page
                    JOIN conversation_users mine ON mine.conversation_id = page.id AND mine.user_id = %s
                    ORDER BY page.updated_at DESC, page.id DESC LIMIT %s OFFSET %s
                ) page ON page.id = c.id
                ORDER BY c.updated_at DESC, c.id DESC
                """,
                (user_id, limit, offset),
            )
            return [_conversation(row) for row in await cursor.fetchall()], total

    async def is_member(self, conversation_id: UUID, user_id: UUID) -> bool:
        row = await self._one(
            "SELECT 1 FROM conversation_users WHERE conversation_id = %s AND user_id = %s",
            (conversation_id, user_id),
        )
        return row is not None

    async def add_members(
        self, conversation_id: UUID, actor_id: UUID, user_ids: Sequence[UUID], *, limit: int, now: datetime
    ) -> list[User]:
        async with self._connection() as connection, connection.transaction():
            await _lock_group(connection, conversation_id, actor_id)
            await _check_users(connection, user_ids)
            added = await _insert_members(connection, conversation_id, user_ids, now)
            members = await _count(
                connection,
                "SELECT count(*) FROM conversation_users WHERE conversation_id = %s",
                (conversation_id,),
            )
            if members > limit:
                raise TooManyMembers
            if added:
                await _touch(connection, conversation_id, now)
            return added

    async def remove_member(
        self, conversation_id: UUID, actor_id: UUID, user_id: UUID, *, now: datetime
    ) -> User | None:
        async with self._connection() as connection, connection.transaction():
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
            if row is None:
                return None
            if owner_id == user_id:
                await connection.execute(
                    """
                    UPDATE conversations SET owner_id = heir.user_id
                    FROM (
                        SELECT user_id FROM conversation_users WHERE conversation_id = %s
                        ORDER BY position LIMIT 1
                    ) heir
                    WHERE id = %s
                    """,
                    (conversation_id, conversation_id),
                )
            await _touch(connection, conversation_id, now)
            return User(*row)

    async def rename(
        self, conversation_id: UUID, actor_id: UUID, changes: dict[str, str | None], *, now: datetime
    ) -> Conversation:
        async with self._connection() as connection, connection.transaction():
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
            row = await (await connection.execute(_CONVERSATION + "WHERE c.id = %s", (conversation_id,))).fetchone()
            assert row is not None
            return _conversation(row)

    # --- messages ---

    async def head(self, conversation_id: UUID) -> Head:
        row = await self._one("SELECT last_seq, last_rev FROM conversations WHERE id = %s", (conversation_id,))
        if row is None:
            raise NotAMember
        return Head(*row)

    async def append(self, batch: Sequence[NewMessage]) -> list[Message | None]:
        for _ in range(_APPEND_ATTEMPTS - 1):
            try:
                return await self._append(batch)
            except StoreRefused as error:
                if not isinstance(error.__cause__, pg.UniqueViolation):
                    raise
        return await self._append(batch)

    async def _append(self, batch: Sequence[NewMessage]) -> list[Message | None]:
        columns = (
            [new.id for new in batch],
            [new.conversation_id for new in batch],
            [new.sender_id for new in batch],
            [new.content for new in batch],
            [new.client_id for new in batch],
            [new.created_at for new in batch],
        )
        async with self._connection() as connection:
            rows = await (await connection.execute(_APPEND, columns)).fetchall()
        found: dict[int, Message] = {}
        for place, *values in rows:
            # Two rows: the id is one message's, the client_id another's. The id says which one it is.
            if place not in found or values[0] == batch[place - 1].id:
                found[place] = _message(values)
        return [found.get(place) for place in range(1, len(batch) + 1)]

    async def revise(self, revision: Revision) -> Message:
        async with self._connection() as connection, connection.transaction():
            cursor = await connection.execute(
                "SELECT owner_id FROM conversations WHERE id = %s FOR NO KEY UPDATE", (revision.conversation_id,)
            )
            owner = await cursor.fetchone()
            # Under the lock, which orders it with every other change of the conversation.
            members = await _count(
                connection,
                "SELECT count(*) FROM conversation_users WHERE conversation_id = %s AND user_id = %s",
                (revision.conversation_id, revision.actor_id),
            )
            if owner is None or not members:
                raise NotAMember
            cursor = await connection.execute(
                "SELECT sender_id, is_deleted, revision_id FROM messages WHERE id = %s AND conversation_id = %s",
                (revision.message_id, revision.conversation_id),
            )
            old = await cursor.fetchone()
            if old is None:
                raise NoSuchMessage
            sender_id, is_deleted, last_revision = old
            if last_revision != revision.id:
                if is_deleted:
                    raise NoSuchMessage
                may_delete = revision.content is None and owner[0] == revision.actor_id
                if sender_id != revision.actor_id and not may_delete:
                    raise NotYourMessage
                await connection.execute(_REVISE, _revise_values(revision))
            cursor = await connection.execute(
                f"SELECT {_MESSAGE} FROM messages m JOIN users u ON u.id = m.sender_id WHERE m.id = %s",
                (revision.message_id,),
            )
            row = await cursor.fetchone()
            assert row is not None
            return _message(row)

    async def changes(self, conversation_id: UUID, *, after_rev: int, limit: int) -> list[Message]:
        async with self._connection() as connection:
            cursor = await connection.execute(_CHANGES, (conversation_id, after_rev, limit))
            return [_message(row) for row in await cursor.fetchall()]

    async def page_messages(
        self,
        conversation_id: UUID,
        user_id: UUID,
        *,
        limit: int,
        offset: int = 0,
        before_seq: int | None = None,
        after_seq: int | None = None,
    ) -> Page:
        async with self._connection() as connection:
            cursor = await connection.execute(
                """
                SELECT c.last_seq FROM conversations c
                JOIN conversation_users cu ON cu.conversation_id = c.id AND cu.user_id = %s WHERE c.id = %s
                """,
                (user_id, conversation_id),
            )
            row = await cursor.fetchone()
            if row is None:
                raise NotAMember
            total: int = row[0]
            first, last = page_range(total, limit, offset, before_seq, after_seq)
            if last < first:
                return Page((), total)
            cursor = await connection.execute(_PAGE, (conversation_id, first, last))
            return Page(tuple(_message(row) for row in await cursor.fetchall()), total)

    # --- inside ---

    async def _one(self, query: LiteralString, values: Sequence[object]) -> tuple[Any, ...] | None:
        async with self._connection() as connection:
            return await (await connection.execute(query, values)).fetchone()


async def _count(connection: TrioConnection[Any], query: LiteralString, values: Sequence[object]) -> int:
    row = await (await connection.execute(query, values)).fetchone()
    assert row is not None
    return int(row[0])


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
            INSERT INTO conversation_users (conversation_id, user_id, joined_at)
            SELECT %s, new.id, %s FROM unnest(%s::uuid[]) WITH ORDINALITY AS new (id, place) ORDER BY place
            ON CONFLICT DO NOTHING RETURNING user_id, position
        )
        SELECT u.id, u.username FROM added JOIN users u ON u.id = added.user_id ORDER BY added.position
        """,
        (conversation_id, now, list(user_ids)),
    )
    return [User(*row) for row in await cursor.fetchall()]


async def _lock_group(connection: TrioConnection[Any], conversation_id: UUID, actor_id: UUID) -> UUID:
    """Locks the group's row, which orders whatever changes its members; returns its owner."""
    cursor = await connection.execute(
        "SELECT is_group, owner_id FROM conversations WHERE id = %s FOR NO KEY UPDATE", (conversation_id,)
    )
    row = await cursor.fetchone()
    # Only now, under the lock: a statement sees what was committed before it began.
    members = await _count(
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


async def _touch(connection: TrioConnection[Any], conversation_id: UUID, now: datetime) -> None:
    await connection.execute(
        "UPDATE conversations SET updated_at = greatest(updated_at, %s) WHERE id = %s", (now, conversation_id)
    )


def _revise_values(revision: Revision) -> tuple[object, ...]:
    is_deletion = revision.content is None
    return (
        revision.conversation_id,
        revision.content,
        is_deletion,
        is_deletion,
        revision.made_at,
        revision.id,
        revision.message_id,
    )


def _message(row: Sequence[Any]) -> Message:
    return Message(*row)


def _conversation(row: Sequence[Any]) -> Conversation:
    members = tuple(User(*member) for member in zip(row[9] or (), row[10] or (), strict=True))
    last_message = None if row[11] is None else _message(row[11:])
    rest: tuple[Any, ...] = (Head(row[7], row[8]), members, last_message)
    return Conversation(*row[:7], *rest)
