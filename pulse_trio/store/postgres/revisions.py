"""Edits and deletions of messages in PostgreSQL; a transaction carries out many of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import trio

from pulse_trio.model import Delete, Edit
from pulse_trio.store.base import Message, Outcome, StaleRev
from pulse_trio.store.postgres.admissions import Admissions
from pulse_trio.store.postgres.connected import APPLIED, KEPT_COMMANDS, MESSAGE, REPEATED, message, refusal
from pulse_trio.store.postgres.group_commit import GroupCommit, max_running
from pulse_trio.store.postgres.posts import MAX_POSTS, Posts
from pulse_trio.trio_psycopg import Pool

# Under the lock of the conversations' rows, so what `place` and `old` see cannot change any more. Each message comes
# once; a revision's `ordinal` is its position, from 1. As in posts.py no two parts are joined, because the planner
# expects few rows and would choose nested loops: an index probe for each revision (forced by OFFSET 0, or by
# `= ANY (ARRAY[…])` as in connected.py), arrays of ordinals that pass through the update of their conversation, and
# columns that are looked up in `given`. IS TRUE keeps the planner from an index that begins with the conversation.
_REVISE: Final = f"""
    WITH given AS MATERIALIZED (
        SELECT %(ids)s::uuid[] AS ids, %(conversations)s::uuid[] AS conversations, %(actors)s::uuid[] AS actors,
            %(messages)s::uuid[] AS messages, %(contents)s::text[] AS contents, %(deletions)s::bool[] AS deletions,
            %(if_revs)s::bigint[] AS if_revs, %(times)s::timestamptz[] AS times
    ), input AS MATERIALIZED (
        SELECT i.* FROM given, unnest(ids, conversations, actors, messages, deletions, if_revs)
            WITH ORDINALITY AS i (id, conversation_id, actor_id, message_id, is_deletion, if_rev, ordinal)
    ), judged AS MATERIALIZED (
        SELECT i.ordinal, i.conversation_id, CASE
            WHEN old.is_repeat THEN '{REPEATED}'
            WHEN place.has_actor IS NOT TRUE THEN 'NotAMember'
            WHEN old.is_deleted IS NOT FALSE THEN 'NoSuchMessage'
            WHEN old.sender_id <> i.actor_id AND NOT (i.is_deletion AND place.owner_id = i.actor_id)
                THEN 'NotYourMessage'
            WHEN old.rev <> i.if_rev THEN 'StaleRev'
            ELSE '{APPLIED}'
        END AS verdict
        FROM input i LEFT JOIN LATERAL (
            SELECT c.owner_id, EXISTS (
                SELECT FROM conversation_users WHERE conversation_id = c.id AND user_id = i.actor_id
            ) AS has_actor
            FROM conversations c WHERE c.id = i.conversation_id OFFSET 0
        ) place ON true LEFT JOIN LATERAL (
            SELECT sender_id, is_deleted, rev, i.id = ANY (revision_ids) AS is_repeat
            FROM messages WHERE id = i.message_id AND (conversation_id = i.conversation_id) IS TRUE OFFSET 0
        ) old ON true
    ), counted AS (
        SELECT conversation_id, count(*) AS n, array_agg(ordinal ORDER BY ordinal) AS ordinals
        FROM judged WHERE verdict = '{APPLIED}' GROUP BY conversation_id
    ), bumped AS (
        UPDATE conversations c SET last_rev = c.last_rev + counted.n, message_rev = c.last_rev + counted.n
        FROM counted WHERE c.id = ANY (ARRAY[counted.conversation_id])
        RETURNING c.last_rev - counted.n AS rev, counted.ordinals
    ), numbered AS MATERIALIZED (
        SELECT p.ordinal, bumped.rev + p.step AS rev
        FROM bumped, unnest(bumped.ordinals) WITH ORDINALITY AS p (ordinal, step)
    ), revised AS (
        UPDATE messages m SET
            content = contents[ordinal],
            is_edited = m.is_edited OR NOT deletions[ordinal],
            is_deleted = deletions[ordinal],
            updated_at = greatest(m.updated_at, times[ordinal]),
            rev = numbered.rev,
            revision_ids = (ids[ordinal] || m.revision_ids)[:{KEPT_COMMANDS}]
        FROM numbered, given WHERE m.id = ANY (ARRAY[messages[ordinal]])
    )
    SELECT j.ordinal, j.verdict, NULL::bigint, old.* FROM judged j LEFT JOIN LATERAL (
        SELECT {MESSAGE} FROM given, messages m JOIN users u ON u.id = ANY (ARRAY[m.sender_id])
        WHERE m.id = messages[j.ordinal] AND j.verdict IN ('{APPLIED}', '{REPEATED}', 'StaleRev') OFFSET 0
    ) old ON true
    UNION ALL
    SELECT ordinal, NULL, rev, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM numbered
"""

# Of one transaction, which holds the rows of its conversations: with two revisions of each message, a batch takes about
# as many statements as it has messages.
MAX_STATEMENTS: Final = 16
REVISION_LANES: Final = 1  # fewer than for posts: revisions are rarer, and a connection costs memory
MAX_REVISIONS: Final = max_running(REVISION_LANES)
MESSAGE_CONNECTIONS: Final = MAX_POSTS + MAX_REVISIONS  # size of a pool for messages


class Revisions(Posts, Admissions):
    """Changes messages, those of several rooms in one transaction.

    Attributes:
        revision_commit: the group commit of edits and deletions.
    """

    def __init__(self, pool: Pool, epoch: str = "", *, message_pool: Pool | None = None) -> None:
        super().__init__(pool, epoch, message_pool=message_pool)
        self.revision_commit: GroupCommit[Edit | Delete] = GroupCommit(
            partial(self._revise, self._message_pool), partial(self._revise, pool), lanes=REVISION_LANES
        )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Lets concurrent posts of several rooms share transactions, and concurrent revisions, until cancelled.

        Concurrent look-ups of handshakes share statements.
        """
        async with trio.open_nursery() as nursery:
            await nursery.start(self.group_commit.run, name="group commit of posts")
            await nursery.start(self.revision_commit.run, name="group commit of revisions")
            await nursery.start(self.admissions.run, name="look-ups of handshakes")
            task_status.started()

    async def _revise(self, pool: Pool, batch: Sequence[Edit | Delete]) -> list[Outcome]:
        statements = _statements(batch)
        answers: list[list[tuple[Any, ...]]] = []
        for at in range(0, len(statements), MAX_STATEMENTS):
            # Each part is a transaction. If a later one fails, the caller repeats all, and the earlier ones are known.
            part = statements[at : at + MAX_STATEMENTS]
            keys = {command.conversation_id for statement in part for command in statement}
            values = [(_REVISE, _columns(statement)) for statement in part]
            answers += await self.all_under_locks(keys, values, pool=pool)
        outcomes: list[Outcome] = []
        for statement, rows in zip(statements, answers, strict=True):
            revs: dict[int, int] = {}
            judged: dict[int, tuple[str, Sequence[Any]]] = {}
            for ordinal, verdict, rev, *old in rows:
                if verdict is None:
                    revs[ordinal] = rev
                else:
                    judged[ordinal] = verdict, old
            for ordinal, command in enumerate(statement, start=1):
                verdict, row = judged[ordinal]
                outcomes.append(_outcome(command, verdict, row, revs.get(ordinal, 0)))
        return outcomes


def _statements(batch: Sequence[Edit | Delete]) -> list[list[Edit | Delete]]:
    """Cuts a batch into statements, each with a message once: the next one sees what the one before has done."""
    statements: list[list[Edit | Delete]] = []
    seen: set[object] = set()
    for command in batch:
        if not statements or command.message_id in seen:
            statements.append([])
            seen = set()
        statements[-1].append(command)
        seen.add(command.message_id)
    return statements


def _columns(statement: Sequence[Edit | Delete]) -> Mapping[str, object]:
    return {
        "ids": [command.id for command in statement],
        "conversations": [command.conversation_id for command in statement],
        "actors": [command.actor_id for command in statement],
        "messages": [command.message_id for command in statement],
        "contents": [command.content if isinstance(command, Edit) else "" for command in statement],
        "deletions": [isinstance(command, Delete) for command in statement],
        "if_revs": [command.if_rev if isinstance(command, Edit) else None for command in statement],
        "times": [command.at for command in statement],
    }


def _outcome(command: Edit | Delete, verdict: str, row: Sequence[Any], rev: int) -> Outcome:
    if verdict not in {APPLIED, REPEATED, StaleRev.__name__}:
        return refusal(verdict)
    old: Message = message(row)
    if verdict == StaleRev.__name__:
        return StaleRev(old)
    if verdict == REPEATED:
        return (old,)
    updated_at = max(old.updated_at, command.at)
    if isinstance(command, Delete):
        return (replace(old, content="", is_deleted=True, updated_at=updated_at, rev=rev),)
    return (replace(old, content=command.content, is_edited=True, updated_at=updated_at, rev=rev),)
