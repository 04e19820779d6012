"""New messages in PostgreSQL; one statement stores a batch and assigns seq and rev.

`_POST_ONE`, `_POST_ROOM` and `_POST_ROOMS` store new messages of members and nothing else: they run all the time, so
they are as cheap as they can be, and go through libpq's binary interface. `_POST` finds out about every message that
they have not stored: it is stored already, its sender is not a member, or the members have just changed.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from psycopg import errors as pg

from pulse_trio.model import Message, Post
from pulse_trio.store.base import NotAMember, Outcome, StoreRefused
from pulse_trio.store.postgres.callers import Caller
from pulse_trio.store.postgres.connected import MESSAGE, Connected, message
from pulse_trio.store.postgres.group_commit import LANES, GroupCommit, StoreBusy, max_running
from pulse_trio.trio_psycopg import Pool, Statement, TrioConnection, binary

# One statement, one round trip, one commit for a batch. A message's `ordinal` is its position in the batch, from 1.
# `fresh` excludes messages that are already stored and those of non-members; `locked` locks the conversations' rows in
# the order of their ids, so that two batches cannot deadlock; `bumped` assigns seq and rev under that lock.
# If another transaction commits the same client_id while this one waits for the lock, the unique index rejects the
# whole statement, and `_post` repeats it.
# `fresh` sees the members as of the start of the statement, and only the locked row as it is now (READ COMMITTED;
# PostgreSQL's documentation, 13.2.1). So `members_rev` is compared under the lock. If it has changed, nothing is stored
# in that conversation, a row without an ordinal reports it, and `_post` reads the members again.
# The planner expects a batch of a few rows, and would join its parts by nested loops. So they are not joined: an index
# probe for each message or row (forced by OFFSET 0, or by `= ANY (ARRAY[…])` as in connected.py), a hash of ordinals
# (forced by IS NOT TRUE), and arrays of ordinals that pass through the lock with their conversation. A message's own
# columns are looked up in `given` by its ordinal.
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
        FROM counted JOIN conversations c ON c.id = ANY (ARRAY[counted.conversation_id])
        ORDER BY counted.conversation_id FOR NO KEY UPDATE OF c
    ), bumped AS (
        UPDATE conversations c SET
            last_seq = c.last_seq + locked.n,
            last_rev = c.last_rev + locked.n,
            message_rev = c.last_rev + locked.n,
            activity = nextval('conversation_activity'),
            updated_at = greatest(c.updated_at, locked.latest)
        FROM locked WHERE c.id = ANY (ARRAY[locked.id]) AND locked.is_current
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
        SELECT {MESSAGE} FROM messages m JOIN users u ON u.id = ANY (ARRAY[m.sender_id])
        WHERE m.id = e.id OFFSET 0
    ) old
    UNION ALL
    SELECT ordinal, NULL, NULL, NULL, (SELECT username FROM users WHERE id = senders[ordinal]), NULL, NULL, NULL, NULL,
        NULL, seq, rev, NULL
    FROM numbered, given
    UNION ALL
    SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM locked WHERE NOT is_current
"""

# The same for a single new message. No row: it is not stored.
_POST_ONE: Final = Statement(
    """
    WITH bumped AS (
        UPDATE conversations c SET
            last_seq = c.last_seq + 1, last_rev = c.last_rev + 1, message_rev = c.last_rev + 1,
            activity = nextval('conversation_activity'), updated_at = greatest(c.updated_at, $6)
        FROM conversation_users cu JOIN users u ON u.id = cu.user_id
        WHERE c.id = $2 AND cu.conversation_id = $2 AND cu.user_id = $3
            AND c.members_rev = (SELECT members_rev FROM conversations WHERE id = $2)
            AND NOT EXISTS (SELECT FROM messages WHERE id = $1)
            AND NOT EXISTS (SELECT FROM messages WHERE conversation_id = $2 AND sender_id = $3 AND client_id = $5)
        RETURNING c.last_seq, c.last_rev, u.username
    ), inserted AS (
        INSERT INTO messages (id, conversation_id, sender_id, content, created_at, updated_at, seq, rev, client_id)
        SELECT $1, $2, $3, $4, $6, $6, last_seq, last_rev, $5 FROM bumped
    )
    SELECT last_seq, last_rev, username FROM bumped
    """,
    *(binary.UUID_OID, binary.UUID_OID, binary.UUID_OID),
    *(binary.TEXT_OID, binary.TEXT_OID, binary.TIMESTAMPTZ_OID),
)

# The same for several messages of one conversation ($2). No row: none of them is stored. `members` and `fresh` are
# judged before the lock, so `members_rev` is compared under it, as in `_POST`. OFFSET 0 keeps each probe a probe.
_POST_ROOM: Final = Statement(
    """
    WITH bumped AS (
        UPDATE conversations c SET
            last_seq = c.last_seq + fresh.n, last_rev = c.last_rev + fresh.n, message_rev = c.last_rev + fresh.n,
            activity = nextval('conversation_activity'), updated_at = greatest(c.updated_at, fresh.latest)
        FROM (
            SELECT count(*) AS n, max(created_at) AS latest, array_agg(username ORDER BY ordinal) AS usernames
            FROM unnest($1, $3, $5, $6) WITH ORDINALITY AS i (id, sender_id, client_id, created_at, ordinal)
            CROSS JOIN LATERAL (
                SELECT u.username FROM conversation_users cu JOIN users u ON u.id = cu.user_id
                WHERE cu.conversation_id = $2 AND cu.user_id = i.sender_id OFFSET 0
            ) member
            WHERE NOT EXISTS (SELECT FROM messages WHERE id = i.id OFFSET 0)
                AND NOT EXISTS (
                    SELECT FROM messages
                    WHERE conversation_id = $2 AND sender_id = i.sender_id AND client_id = i.client_id OFFSET 0
                )
        ) fresh
        WHERE c.id = $2 AND fresh.n = cardinality($1)
            AND c.members_rev = (SELECT members_rev FROM conversations WHERE id = $2)
        RETURNING c.last_seq - fresh.n AS seq, c.last_rev - fresh.n AS rev, fresh.usernames
    ), inserted AS (
        INSERT INTO messages (id, conversation_id, sender_id, content, created_at, updated_at, seq, rev, client_id)
        SELECT i.id, $2, i.sender_id, i.content, i.created_at, i.created_at, seq + ordinal, rev + ordinal, i.client_id
        FROM bumped, unnest($1, $3, $4, $5, $6)
            WITH ORDINALITY AS i (id, sender_id, content, client_id, created_at, ordinal)
    )
    SELECT seq, rev, usernames FROM bumped
    """,
    *(binary.UUIDS_OID, binary.UUID_OID, binary.UUIDS_OID),
    *(binary.TEXTS_OID, binary.TEXTS_OID, binary.TIMESTAMPTZS_OID),
)

# The same for messages of several conversations: those that can be stored at once are, and come back as arrays of their
# ordinals, seqs, revs and senders' names. Of a conversation whose members have just changed none is stored.
_POST_ROOMS: Final = Statement(
    """
    WITH input AS MATERIALIZED (
        SELECT * FROM unnest($1, $2, $3, $5, $6)
            WITH ORDINALITY AS i (id, conversation_id, sender_id, client_id, created_at, ordinal)
    ), fresh AS MATERIALIZED (
        SELECT i.conversation_id, i.ordinal, i.created_at, member.members_rev, member.username
        FROM input i CROSS JOIN LATERAL (
            SELECT c.members_rev, u.username
            FROM conversation_users cu
            JOIN conversations c ON c.id = cu.conversation_id JOIN users u ON u.id = cu.user_id
            WHERE cu.conversation_id = i.conversation_id AND cu.user_id = i.sender_id OFFSET 0
        ) member
        WHERE NOT EXISTS (SELECT FROM messages WHERE id = i.id OFFSET 0)
            AND NOT EXISTS (
                SELECT FROM messages WHERE conversation_id = i.conversation_id AND sender_id = i.sender_id
                    AND client_id = i.client_id OFFSET 0
            )
    ), counted AS (
        SELECT conversation_id, members_rev, count(*) AS n, max(created_at) AS latest,
            array_agg(ordinal ORDER BY ordinal) AS ordinals, array_agg(username ORDER BY ordinal) AS usernames
        FROM fresh GROUP BY conversation_id, members_rev
    ), locked AS MATERIALIZED (
        SELECT c.id, counted.n, counted.latest, counted.ordinals, counted.usernames,
            c.members_rev = counted.members_rev AS is_current
        FROM counted JOIN conversations c ON c.id = ANY (ARRAY[counted.conversation_id])
        ORDER BY counted.conversation_id FOR NO KEY UPDATE OF c
    ), bumped AS (
        UPDATE conversations c SET
            last_seq = c.last_seq + locked.n, last_rev = c.last_rev + locked.n, message_rev = c.last_rev + locked.n,
            activity = nextval('conversation_activity'), updated_at = greatest(c.updated_at, locked.latest)
        FROM locked WHERE c.id = ANY (ARRAY[locked.id]) AND locked.is_current
        RETURNING c.last_seq - locked.n AS seq, c.last_rev - locked.n AS rev, locked.ordinals, locked.usernames
    ), numbered AS MATERIALIZED (
        SELECT p.ordinal, p.username, bumped.seq + p.step AS seq, bumped.rev + p.step AS rev
        FROM bumped, unnest(bumped.ordinals, bumped.usernames) WITH ORDINALITY AS p (ordinal, username, step)
    ), inserted AS (
        INSERT INTO messages (id, conversation_id, sender_id, content, created_at, updated_at, seq, rev, client_id)
        SELECT $1[ordinal], $2[ordinal], $3[ordinal], $4[ordinal], $6[ordinal], $6[ordinal], seq, rev, $5[ordinal]
        FROM numbered
    )
    SELECT array_agg(ordinal), array_agg(seq), array_agg(rev), array_agg(username) FROM numbered HAVING count(*) > 0
    """,
    *(binary.UUIDS_OID, binary.UUIDS_OID, binary.UUIDS_OID),
    *(binary.TEXTS_OID, binary.TEXTS_OID, binary.TIMESTAMPTZS_OID),
)

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
    """Stores new messages, those of several rooms in one transaction; in a second one what is not new or not stored.

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
            fresh = await self._post_fresh(pool, batch)
            rest = [number for number in range(len(batch)) if number not in fresh]
            outcomes: dict[int, Outcome] = {number: (stored,) for number, stored in fresh.items()}
            if rest:
                judged = await self._post_many(pool, [batch[number] for number in rest])
                outcomes.update(zip(rest, judged, strict=True))
            return [outcomes[number] for number in range(len(batch))]
        except StoreRefused as error:
            cause = error.__cause__
            if isinstance(cause, pg.UniqueViolation) and cause.diag.constraint_name in _SAME_MESSAGE:
                raise StoredMeanwhile("the same message was stored while the row was locked") from error
            raise

    async def _post_fresh(self, pool: Pool, batch: Sequence[Post]) -> dict[int, Message]:
        """Stores new messages of members; returns those stored, each with its index in the batch."""
        async with self.connection(Caller.CHANGES, batch[0].conversation_id, pool=pool) as connection:
            if len(batch) == 1:
                return await _fetch_one(connection, batch[0])
            if all(new.conversation_id == batch[0].conversation_id for new in batch):
                return await _fetch_room(connection, batch)
            return await _fetch_rooms(connection, batch)

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


async def _fetch_one(connection: TrioConnection[Any], new: Post) -> dict[int, Message]:
    values = [
        *(new.id.bytes, new.conversation_id.bytes, new.actor_id.bytes),
        *(new.content.encode(), binary.text(new.client_id), binary.timestamptz(new.at)),
    ]
    for seq, rev, username in await connection.fetch_prepared(_POST_ONE, values):
        return {0: _stored(new, username.decode(), binary.read_int8(seq), binary.read_int8(rev))}
    return {}


async def _fetch_room(connection: TrioConnection[Any], batch: Sequence[Post]) -> dict[int, Message]:
    values = _columns(batch, batch[0].conversation_id.bytes)
    for seq, rev, usernames in await connection.fetch_prepared(_POST_ROOM, values):
        seqs, revs = binary.read_int8(seq), binary.read_int8(rev)
        names = binary.read_texts(usernames)
        return {n: _stored(new, names[n], seqs + n + 1, revs + n + 1) for n, new in enumerate(batch)}
    return {}


async def _fetch_rooms(connection: TrioConnection[Any], batch: Sequence[Post]) -> dict[int, Message]:
    values = _columns(batch, binary.uuids([new.conversation_id for new in batch]))
    for ordinals, seqs, revs, usernames in await connection.fetch_prepared(_POST_ROOMS, values):
        columns = binary.read_texts(usernames), binary.read_int8s(seqs), binary.read_int8s(revs)
        return {
            ordinal - 1: _stored(batch[ordinal - 1], username, seq, rev)
            for ordinal, username, seq, rev in zip(binary.read_int8s(ordinals), *columns, strict=True)
        }
    return {}


def _columns(batch: Sequence[Post], conversations: bytes) -> list[bytes]:
    return [
        *(binary.uuids([new.id for new in batch]), conversations, binary.uuids([new.actor_id for new in batch])),
        *(binary.texts([new.content for new in batch]), binary.texts([new.client_id for new in batch])),
        binary.timestamptzs([new.at for new in batch]),
    ]


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
