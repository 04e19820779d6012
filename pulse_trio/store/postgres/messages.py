"""Messages in PostgreSQL: what gives out seq and rev."""

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
from pulse_trio.store.postgres.group_commit import APPENDS, GroupCommit, StoreBusy
from pulse_trio.trio_psycopg import Pool

# One statement, one round trip, one commit for a batch. `fresh` leaves out what is stored already and
# what its sender may not send; `locked` takes the conversations' rows in the order of their ids, so that
# two batches cannot wait for each other; `bumped` gives out seq and rev under that lock.
# A client_id that somebody else commits while this waits for the lock breaks the unique index: the whole
# statement is undone, and `append` repeats it.
# `fresh` sees the members as they were when the statement began, and only the locked row as it is now (READ COMMITTED;
# PostgreSQL's documentation, 13.2.1). So the version of the members is compared under the lock: where it has changed
# nothing is stored, a row without a place says so, and `append` looks at the members again.
# The planner takes a batch for a few rows, and would join its parts by comparing each with each. So they are not
# joined: a probe of an index for each message (OFFSET 0 keeps it one), a hash of the places (IS NOT TRUE does), and
# arrays of places, which go with their conversation through the lock. A message's own columns come from `given`, by its
# place.
_APPEND: Final = f"""
    WITH given AS MATERIALIZED (
        SELECT %(ids)s::uuid[] AS ids, %(rooms)s::uuid[] AS rooms, %(senders)s::uuid[] AS senders,
            %(contents)s::text[] AS contents, %(client_ids)s::text[] AS client_ids, %(times)s::timestamptz[] AS times
    ), input AS MATERIALIZED (
        SELECT i.* FROM given, unnest(ids, rooms, senders, client_ids, times)
            WITH ORDINALITY AS i (id, conversation_id, sender_id, client_id, created_at, place)
    ), existing AS MATERIALIZED (
        SELECT i.place, found.id FROM input i CROSS JOIN LATERAL (
            SELECT id FROM messages WHERE id = i.id
            UNION
            SELECT id FROM messages
            WHERE conversation_id = i.conversation_id AND sender_id = i.sender_id AND client_id = i.client_id
        ) found
    ), fresh AS MATERIALIZED (
        SELECT i.conversation_id, i.place, i.created_at, member.members_version
        FROM input i CROSS JOIN LATERAL (
            SELECT c.members_version FROM conversation_users cu JOIN conversations c ON c.id = cu.conversation_id
            WHERE cu.conversation_id = i.conversation_id AND cu.user_id = i.sender_id OFFSET 0
        ) member
        WHERE (i.place IN (SELECT place FROM existing)) IS NOT TRUE
    ), counted AS (
        SELECT conversation_id, members_version, count(*) AS n, max(created_at) AS latest,
            array_agg(place ORDER BY place) AS places
        FROM fresh GROUP BY conversation_id, members_version
    ), locked AS MATERIALIZED (
        SELECT c.id, counted.n, counted.latest, counted.places,
            c.members_version = counted.members_version AS is_current
        FROM conversations c JOIN counted ON counted.conversation_id = c.id
        ORDER BY c.id FOR NO KEY UPDATE OF c
    ), bumped AS (
        UPDATE conversations c SET
            last_seq = c.last_seq + locked.n,
            last_rev = c.last_rev + locked.n,
            updated_at = greatest(c.updated_at, locked.latest)
        FROM locked WHERE c.id = locked.id AND locked.is_current
        RETURNING c.last_seq - locked.n AS seq, c.last_rev - locked.n AS rev, locked.places
    ), numbered AS MATERIALIZED (
        SELECT p.place, bumped.seq + p.step AS seq, bumped.rev + p.step AS rev
        FROM bumped, unnest(bumped.places) WITH ORDINALITY AS p (place, step)
    ), inserted AS (
        INSERT INTO messages
            (id, conversation_id, sender_id, content, created_at, updated_at, seq, rev, client_id)
        SELECT ids[place], rooms[place], senders[place], contents[place], times[place], times[place], seq, rev,
            client_ids[place]
        FROM numbered, given
    )
    SELECT e.place, old.* FROM existing e CROSS JOIN LATERAL (
        SELECT {MESSAGE} FROM messages m JOIN users u ON u.id = m.sender_id WHERE m.id = e.id OFFSET 0
    ) old
    UNION ALL
    SELECT place, NULL, NULL, NULL, (SELECT username FROM users WHERE id = senders[place]), NULL, NULL, NULL, NULL,
        NULL, seq, rev, NULL
    FROM numbered, given
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM locked WHERE NOT is_current
"""

# The same for one message that is new: less to plan, to send and to read. It finds no row when the message is
# stored already, its sender may not send it, or the members have changed; then `_APPEND` says which.
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

# By seq, through the index on (conversation_id, seq), a range no longer than the page: its depth costs nothing.
_PAGE: Final = f"""
    SELECT {MESSAGE} FROM messages m JOIN users u ON u.id = m.sender_id
    WHERE m.conversation_id = %s AND m.seq BETWEEN %s AND %s ORDER BY m.seq DESC
"""

_CHANGES: Final = f"""
    SELECT {MESSAGE} FROM messages m JOIN users u ON u.id = m.sender_id
    WHERE m.conversation_id = %s AND m.rev > %s ORDER BY m.rev LIMIT %s
"""

# A client_id, or a change of the members, that somebody else commits in between is seen by the second attempt. With
# more of them in a row the row counts as busy, and its room waits apart from the others.
_APPEND_ATTEMPTS: Final = 3
_SAME_MESSAGE: Final = ("messages_pkey", "messages_client_id")  # what a message breaks that is stored already

REVISIONS: Final = 2  # transactions of edits and deletions under way at most, so that appends find a connection
MESSAGE_CONNECTIONS: Final = APPENDS + REVISIONS  # what a pool for messages needs


class MembersChanged(StoreBusy):
    """The members of a conversation changed while its row was waited for; nothing was stored there."""


class StoredMeanwhile(StoreBusy):
    """Somebody else stored the same message while the row was waited for; the next attempt finds it."""


class Messages(Connected):
    """The operations of the contract on messages."""

    def __init__(self, pool: Pool, epoch: str = "", *, message_pool: Pool | None = None) -> None:
        super().__init__(pool, epoch)
        self._message_pool = message_pool or pool
        self._revisions = trio.Semaphore(REVISIONS)
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
        for _ in range(_APPEND_ATTEMPTS - 1):
            try:
                return await self._append_once(pool, batch)
            except (MembersChanged, StoredMeanwhile):
                pass  # what of it is stored comes back as it is
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
        room, sender, at = new.conversation_id, new.sender_id, new.created_at
        bump = (at, room, room, sender, room, new.id, room, sender, new.client_id)
        insert = (new.id, room, sender, new.content, at, at, new.client_id)
        async with self.connection(pool) as connection:
            row = await (await connection.execute(_APPEND_ONE, bump + insert, prepare=True)).fetchone()
        if row is None:
            return None
        seq, rev, username = row
        return _stored(new, username, seq, rev)

    async def _append_many(self, pool: Pool, batch: Sequence[NewMessage]) -> list[Message | None]:
        columns = {
            "ids": [new.id for new in batch],
            "rooms": [new.conversation_id for new in batch],
            "senders": [new.sender_id for new in batch],
            "contents": [new.content for new in batch],
            "client_ids": [new.client_id for new in batch],
            "times": [new.created_at for new in batch],
        }
        async with self.connection(pool) as connection:
            rows = await (await connection.execute(_APPEND, columns, prepare=True)).fetchall()
        found: dict[int, Message] = {}
        for place, *values in rows:
            if place is None:
                raise MembersChanged("the members changed while the row was locked")
            new = batch[place - 1]
            if values[0] is None:
                found[place] = _stored(new, username=values[3], seq=values[9], rev=values[10])
            # Two rows: the id is one message's, the client_id another's. The id says which one it is.
            elif place not in found or values[0] == new.id:
                found[place] = message(values)
        return [found.get(place) for place in range(1, len(batch) + 1)]

    async def revise(self, revision: Revision) -> Message:
        # The writer of the room waits for it, and with the writer everybody's messages there.
        async with self._revisions, self.connection(self._message_pool) as connection, connection.transaction():
            cursor = await connection.execute(
                "SELECT owner_id FROM conversations WHERE id = %s FOR NO KEY UPDATE", (revision.conversation_id,)
            )
            owner = await cursor.fetchone()
            # Under the lock, which orders it with every other change of the conversation.
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
    """A message that has just been stored."""
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
