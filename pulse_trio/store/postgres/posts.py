"""New messages in PostgreSQL; one statement stores a batch and assigns seq and rev."""

from collections.abc import Sequence
from functools import partial
from typing import Final

from psycopg import errors as pg

from pulse_trio.model import Message, Post
from pulse_trio.store.base import NotAMember, Outcome, StoreRefused
from pulse_trio.store.postgres.callers import Caller
from pulse_trio.store.postgres.connected import MESSAGE, Connected, message
from pulse_trio.store.postgres.group_commit import LANES, GroupCommit, StoreBusy, max_running
from pulse_trio.trio_psycopg import Pool

# One statement, one round trip, one commit for a batch. A message's `ordinal` is its position in the batch, from 1.
# `fresh` excludes messages that are already stored and those of non-members; `locked` locks the conversations' rows in
# the order of their ids, so that two batches cannot deadlock; `bumped` assigns seq and rev under that lock.
# If another transaction commits the same client_id while this one waits for the lock, the unique index rejects the
# whole statement, and `_post` repeats it.
# `fresh` sees the members as of the start of the statement, and only the locked row as it is now (READ COMMITTED;
# PostgreSQL's documentation, 13.2.1). So `members_rev` is compared under the lock. If it has changed, nothing is stored
# in that conversation, a row without an ordinal reports it, and `_post` reads the members again.
# The planner expects a batch of a few rows, and would join its parts by nested loops. So they are not joined: an index
# probe for each message (forced by OFFSET 0), a hash of ordinals (forced by IS NOT TRUE), and arrays of ordinals that
# pass through the lock with their conversation. A message's own columns are looked up in `given` by its ordinal.
_POST: Final = f"""
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
        SELECT i.conversation_id, i.ordinal, i.created_at, member.members_rev
        FROM input i CROSS JOIN LATERAL (
            SELECT c.members_rev FROM conversation_users cu JOIN conversations c ON c.id = cu.conversation_id
            WHERE cu.conversation_id = i.conversation_id AND cu.user_id = i.sender_id OFFSET 0
        ) member
        WHERE (i.ordinal IN (SELECT ordinal FROM existing)) IS NOT TRUE
    ), counted AS (
        SELECT conversation_id, members_rev, count(*) AS n, max(created_at) AS latest,
            array_agg(ordinal ORDER BY ordinal) AS ordinals
        FROM fresh GROUP BY conversation_id, members_rev
    ), locked AS MATERIALIZED (
        SELECT c.id, counted.n, counted.latest, counted.ordinals,
            c.members_rev = counted.members_rev AS is_current
        FROM conversations c JOIN counted ON counted.conversation_id = c.id
        ORDER BY c.id FOR NO KEY UPDATE OF c
    ), bumped AS (
        UPDATE conversations c SET
            last_seq = c.last_seq + locked.n,
            last_rev = c.last_rev + locked.n,
            message_rev = c.last_rev + locked.n,
            activity = nextval('conversation_activity'),
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
# its sender is not a member, or the members have changed; `_POST` then finds out which.
_POST_ONE: Final = """
    WITH bumped AS (
        UPDATE conversations c SET
            last_seq = c.last_seq + 1, last_rev = c.last_rev + 1, message_rev = c.last_rev + 1,
            activity = nextval('conversation_activity'), updated_at = greatest(c.updated_at, %s)
        FROM conversation_users cu JOIN users u ON u.id = cu.user_id
        WHERE c.id = %s AND cu.conversation_id = %s AND cu.user_id = %s
            AND c.members_rev = (SELECT members_rev FROM conversations WHERE id = %s)
            AND NOT EXISTS (SELECT FROM messages WHERE id = %s)
            AND NOT EXISTS (SELECT FROM messages WHERE conversation_id = %s AND sender_id = %s AND client_id = %s)
        RETURNING c.last_seq, c.last_rev, u.username
    ), inserted AS (
        INSERT INTO messages (id, conversation_id, sender_id, content, created_at, updated_at, seq, rev, client_id)
        SELECT %s, %s, %s, %s, %s, %s, last_seq, last_rev, %s FROM bumped
    )
    SELECT last_seq, last_rev, username FROM bumped
"""

MAX_POSTS: Final = max_running(LANES)  # concurrent statements that store messages

# The second attempt sees a client_id or a change of members that another transaction has committed in between. After
# several in succession the row counts as busy, and its room is isolated from the others.
MAX_POST_ATTEMPTS: Final = 3
_SAME_MESSAGE: Final = ("messages_pkey", "messages_client_id")  # constraints that an already stored message violates


class MembersChanged(StoreBusy):
    """The members of a conversation changed while its row was locked; nothing was stored in it."""


class StoredMeanwhile(StoreBusy):
    """Another transaction stored the same message while the row was locked; the next attempt finds it."""


class Posts(Connected):
    """Stores new messages, those of several rooms in one transaction.

    Attributes:
        group_commit: the group commit of new messages.
    """

    def __init__(self, pool: Pool, epoch: str = "", *, message_pool: Pool | None = None) -> None:
        super().__init__(pool, epoch)
        self._message_pool = message_pool or pool
        self.group_commit: GroupCommit[Post] = GroupCommit(
            partial(self._post, self._message_pool), partial(self._post, pool), lanes=LANES
        )

    async def _post(self, pool: Pool, batch: Sequence[Post]) -> list[Outcome]:
        for _ in range(MAX_POST_ATTEMPTS - 1):
            try:
                return await self._post_once(pool, batch)
            except (MembersChanged, StoredMeanwhile):
                pass  # the next attempt returns messages that are stored already
        return await self._post_once(pool, batch)

    async def _post_once(self, pool: Pool, batch: Sequence[Post]) -> list[Outcome]:
        try:
            if len(batch) == 1:
                stored = await self._post_one(pool, batch[0])
                if stored is not None:
                    return [(stored,)]
            return await self._post_many(pool, batch)
        except StoreRefused as error:
            cause = error.__cause__
            if isinstance(cause, pg.UniqueViolation) and cause.diag.constraint_name in _SAME_MESSAGE:
                raise StoredMeanwhile("the same message was stored while the row was locked") from error
            raise

    async def _post_one(self, pool: Pool, new: Post) -> Message | None:
        conversation, sender, at = new.conversation_id, new.actor_id, new.at
        bump = (at, conversation, conversation, sender, conversation, new.id, conversation, sender, new.client_id)
        insert = (new.id, conversation, sender, new.content, at, at, new.client_id)
        async with self.connection(Caller.CHANGES, conversation, pool=pool) as connection:
            row = await (await connection.execute(_POST_ONE, bump + insert, prepare=True)).fetchone()
        if row is None:
            return None
        seq, rev, username = row
        return _stored(new, username, seq, rev)

    async def _post_many(self, pool: Pool, batch: Sequence[Post]) -> list[Outcome]:
        columns = {
            "ids": [new.id for new in batch],
            "conversations": [new.conversation_id for new in batch],
            "senders": [new.actor_id for new in batch],
            "contents": [new.content for new in batch],
            "client_ids": [new.client_id for new in batch],
            "times": [new.at for new in batch],
        }
        async with self.connection(Caller.CHANGES, batch[0].conversation_id, pool=pool) as connection:
            rows = await (await connection.execute(_POST, columns, prepare=True)).fetchall()
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
        return [(found[ordinal],) if ordinal in found else NotAMember() for ordinal in range(1, len(batch) + 1)]


def _stored(new: Post, username: str, seq: int, rev: int) -> Message:
    """Builds the record of a message just stored."""
    return Message(
        id=new.id,
        conversation_id=new.conversation_id,
        sender_id=new.actor_id,
        sender_username=username,
        content=new.content,
        is_edited=False,
        is_deleted=False,
        created_at=new.at,
        updated_at=new.at,
        seq=seq,
        rev=rev,
        client_id=new.client_id,
    )
