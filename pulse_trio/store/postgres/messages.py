"""Messages in PostgreSQL; their statements assign seq and rev."""

from collections.abc import Sequence
from functools import partial
from typing import Final
from uuid import UUID

import trio
from psycopg import errors as pg

from pulse_trio.store.base import (
    Head,
    Message,
    NewMessage,
    NoSuchMessage,
    NotAMember,
    NotYourMessage,
    Page,
    Revision,
    StoreRefused,
    page_range,
)
from pulse_trio.store.postgres.connected import MESSAGE, Connected, count, message
from pulse_trio.store.postgres.group_commit import MAX_APPENDS, GroupCommit, StoreBusy
from pulse_trio.trio_psycopg import Pool

# One statement, one round trip, one commit for a batch. A message's `ordinal` is its position in the batch, from 1.
# `fresh` excludes messages that are already stored and those of non-members; `locked` locks the conversations' rows in
# the order of their ids, so that two batches cannot deadlock; `bumped` assigns seq and rev under that lock.
# If another transaction commits the same client_id while this one waits for the lock, the unique index rejects the
# whole statement, and `append` repeats it.
# `fresh` sees the members as of the start of the statement, and only the locked row as it is now (READ COMMITTED;
# PostgreSQL's documentation, 13.2.1). So the version of the members is compared under the lock. If it has changed,
# nothing is stored in that conversation, a row without an ordinal reports it, and `append` reads the members again.
# The planner expects a batch of a few rows, and would join its parts by nested loops. So they are not joined: an index
# probe for each message (forced by OFFSET 0), a hash of ordinals (forced by IS NOT TRUE), and arrays of ordinals that
# pass through the lock with their conversation. A message's own columns are looked up in `given` by its ordinal.
_APPEND: Final = f"""
    WITH given AS MATERIALIZED (
        SELECT %(ids)s::uuid[] AS ids, %(conversations)s::uuid[] AS conversations, %(senders)s::uuid[] AS senders,
            %(contents)s::text[] AS contents, %(client_ids)s::text[] AS client_ids, %(times)s::timestamptz[] AS times
    ), input AS MATERIALIZED (
        SELECT i.* FROM given, unnest(ids, conversations, senders, client_ids, times)
            WITH ORDINALITY AS i (id, conversation_id, sender_id, client_id, created_at, ordinal)
    ), existing AS MATERIALIZED (
        SELECT i.ordinal, found.id FROM input i CROSS JOIN LATERAL (
            SELECT id FROM messages WHERE id = i.id
            UNION
            SELECT id FROM messages
            WHERE conversation_id = i.conversation_id AND sender_id = i.sender_id AND client_id = i.client_id
        ) found
    ), fresh AS MATERIALIZED (
        SELECT i.conversation_id, i.ordinal, i.created_at, member.members_version
        FROM input i CROSS JOIN LATERAL (
            SELECT c.members_version FROM conversation_users cu JOIN conversations c ON c.id = cu.conversation_id
            WHERE cu.conversation_id = i.conversation_id AND cu.user_id = i.sender_id OFFSET 0
        ) member
        WHERE (i.ordinal IN (SELECT ordinal FROM existing)) IS NOT TRUE
    ), counted AS (
        SELECT conversation_id, members_version, count(*) AS n, max(created_at) AS latest,
            array_agg(ordinal ORDER BY ordinal) AS ordinals
        FROM fresh GROUP BY conversation_id, members_version
    ), locked AS MATERIALIZED (
        SELECT c.id, counted.n, counted.latest, counted.ordinals,
            c.members_version = counted.members_version AS is_current
        FROM conversations c JOIN counted ON counted.conversation_id = c.id
        ORDER BY c.id FOR NO KEY UPDATE OF c
    ), bumped AS (
        UPDATE conversations c SET
            last_seq = c.last_seq + locked.n,
            last_rev = c.last_rev + locked.n,
            updated_at = greatest(c.updated_at, locked.latest)
        FROM locked WHERE c.id = locked.id AND locked.is_current
        RETURNING c.last_seq - locked.n AS seq, c.last_rev - locked.n AS rev, locked.ordinals
    ), numbered AS MATERIALIZED (
        SELECT p.ordinal, bumped.seq + p.step AS seq, bumped.rev + p.step AS rev
        FROM bumped, unnest(bumped.ordinals) WITH ORDINALITY AS p (ordinal, step)
    ), inserted AS (
        INSERT INTO messages
            (id, conversation_id, sender_id, content, created_at, updated_at, seq, rev, client_id)
        SELECT ids[ordinal], conversations[ordinal], senders[ordinal], contents[ordinal], times[ordinal],
            times[ordinal], seq, rev, client_ids[ordinal]
        FROM numbered, given
    )
    SELECT e.ordinal, old.* FROM existing e CROSS JOIN LATERAL (
        SELECT {MESSAGE} FROM messages m JOIN users u ON u.id = m.sender_id WHERE m.id = e.id OFFSET 0
    ) old
    UNION ALL
    SELECT ordinal, NULL, NULL, NULL, (SELECT username FROM users WHERE id = senders[ordinal]), NULL, NULL, NULL, NULL,
        NULL, seq, rev, NULL
    FROM numbered, given
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM locked WHERE NOT is_current
"""

# The same for a single new message: less to plan, send and read. It returns no row if the message is already stored,
# its sender is not a member, or the members have changed; `_APPEND` then finds out which.
_APPEND_ONE: Final = """
    WITH bumped AS (
        UPDATE conversations c SET
            last_seq = c.last_seq + 1, last_rev = c.last_rev + 1, updated_at = greatest(c.updated_at, %s)
        FROM conversation_users cu JOIN users u ON u.id = cu.user_id
        WHERE c.id = %s AND cu.conversation_id = %s AND cu.user_id = %s
            AND c.members_version = (SELECT members_version FROM conversations WHERE id = %s)
            AND NOT EXISTS (SELECT FROM messages WHERE id = %s)
            AND NOT EXISTS (SELECT FROM messages WHERE conversation_id = %s AND sender_id = %s AND client_id = %s)
        RETURNING c.last_seq, c.last_rev, u.username
    ), inserted AS (
        INSERT INTO messages (id, conversation_id, sender_id, content, created_at, updated_at, seq, rev, client_id)
        SELECT %s, %s, %s, %s, %s, %s, last_seq, last_rev, %s FROM bumped
    )
    SELECT last_seq, last_rev, username FROM bumped
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

# By the index on (conversation_id, seq), a range no longer than the page: the cost does not depend on its depth.
_PAGE: Final = f"""
    SELECT {MESSAGE} FROM messages m JOIN users u ON u.id = m.sender_id
    WHERE m.conversation_id = %s AND m.seq BETWEEN %s AND %s ORDER BY m.seq DESC
"""

_CHANGES: Final = f"""
    SELECT {MESSAGE} FROM messages m JOIN users u ON u.id = m.sender_id
    WHERE m.conversation_id = %s AND m.rev > %s ORDER BY m.rev LIMIT %s
"""

# The second attempt sees a client_id or a change of members that another transaction has committed in between. After
# several in succession the row counts as busy, and its room is isolated from the others.
MAX_APPEND_ATTEMPTS: Final = 3
_SAME_MESSAGE: Final = ("messages_pkey", "messages_client_id")  # constraints that an already stored message violates

MAX_REVISIONS: Final = 2  # concurrent transactions of edits and deletions, so that appends find a connection
MESSAGE_CONNECTIONS: Final = MAX_APPENDS + MAX_REVISIONS  # size of a pool for messages


class MembersChanged(StoreBusy):
    """The members of a conversation changed while its row was locked; nothing was stored in it."""


class StoredMeanwhile(StoreBusy):
    """Another transaction stored the same message while the row was locked; the next attempt finds it."""


class Messages(Connected):
    """Operations of the contract on messages."""

    def __init__(self, pool: Pool, epoch: str = "", *, message_pool: Pool | None = None) -> None:
        super().__init__(pool, epoch)
        self._message_pool = message_pool or pool
        self._revisions = trio.Semaphore(MAX_REVISIONS)
        self.group_commit = GroupCommit(partial(self._append, self._message_pool), partial(self._append, pool))

    async def head(self, conversation_id: UUID) -> Head:
        row = await self.one(
            "SELECT last_seq, last_rev, members_version FROM conversations WHERE id = %s", (conversation_id,)
        )
        if row is None:
            raise NotAMember
        return Head(*row)

    async def append(self, batch: Sequence[NewMessage]) -> list[Message | None]:
        return await self.group_commit.append(batch)

    async def _append(self, pool: Pool, batch: Sequence[NewMessage]) -> list[Message | None]:
        for _ in range(MAX_APPEND_ATTEMPTS - 1):
            try:
                return await self._append_once(pool, batch)
            except (MembersChanged, StoredMeanwhile):
                pass  # the next attempt returns messages that are stored already
        return await self._append_once(pool, batch)

    async def _append_once(self, pool: Pool, batch: Sequence[NewMessage]) -> list[Message | None]:
        try:
            if len(batch) == 1:
                stored = await self._append_one(pool, batch[0])
                if stored is not None:
                    return [stored]
            return await self._append_many(pool, batch)
        except StoreRefused as error:
            cause = error.__cause__
            if isinstance(cause, pg.UniqueViolation) and cause.diag.constraint_name in _SAME_MESSAGE:
                raise StoredMeanwhile("the same message was stored while the row was locked") from error
            raise

    async def _append_one(self, pool: Pool, new: NewMessage) -> Message | None:
        conversation, sender, at = new.conversation_id, new.sender_id, new.created_at
        bump = (at, conversation, conversation, sender, conversation, new.id, conversation, sender, new.client_id)
        insert = (new.id, conversation, sender, new.content, at, at, new.client_id)
        async with self.connection(pool) as connection:
            row = await (await connection.execute(_APPEND_ONE, bump + insert, prepare=True)).fetchone()
        if row is None:
            return None
        seq, rev, username = row
        return _stored(new, username, seq, rev)

    async def _append_many(self, pool: Pool, batch: Sequence[NewMessage]) -> list[Message | None]:
        columns = {
            "ids": [new.id for new in batch],
            "conversations": [new.conversation_id for new in batch],
            "senders": [new.sender_id for new in batch],
            "contents": [new.content for new in batch],
            "client_ids": [new.client_id for new in batch],
            "times": [new.created_at for new in batch],
        }
        async with self.connection(pool) as connection:
            rows = await (await connection.execute(_APPEND, columns, prepare=True)).fetchall()
        found: dict[int, Message] = {}
        for ordinal, *values in rows:
            if ordinal is None:
                raise MembersChanged("the members changed while the row was locked")
            new = batch[ordinal - 1]
            if values[0] is None:
                found[ordinal] = _stored(new, username=values[3], seq=values[9], rev=values[10])
            # Two rows if the id is one message's and the client_id another's; the id takes precedence.
            elif ordinal not in found or values[0] == new.id:
                found[ordinal] = message(values)
        return [found.get(ordinal) for ordinal in range(1, len(batch) + 1)]

    async def revise(self, revision: Revision) -> Message:
        # On the pool for messages: while an edit waits, so do the room's writer and all messages behind it.
        async with self._revisions, self.connection(self._message_pool) as connection, connection.transaction():
            cursor = await connection.execute(
                "SELECT owner_id FROM conversations WHERE id = %s FOR NO KEY UPDATE", (revision.conversation_id,)
            )
            owner = await cursor.fetchone()
            # After taking the lock: a statement sees only what was committed before it began.
            members = await count(
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
                f"SELECT {MESSAGE} FROM messages m JOIN users u ON u.id = m.sender_id WHERE m.id = %s",
                (revision.message_id,),
            )
            row = await cursor.fetchone()
            assert row is not None
            return message(row)

    async def changes(self, conversation_id: UUID, *, after_rev: int, limit: int) -> list[Message]:
        return [message(row) for row in await self.all(_CHANGES, (conversation_id, after_rev, limit))]

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
        async with self.connection() as connection:
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
            return Page(tuple(message(row) for row in await cursor.fetchall()), total)


def _stored(new: NewMessage, username: str, seq: int, rev: int) -> Message:
    """Builds the record of a message just stored."""
    return Message(
        id=new.id,
        conversation_id=new.conversation_id,
        sender_id=new.sender_id,
        sender_username=username,
        content=new.content,
        is_edited=False,
        is_deleted=False,
        created_at=new.created_at,
        updated_at=new.created_at,
        seq=seq,
        rev=rev,
        client_id=new.client_id,
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
