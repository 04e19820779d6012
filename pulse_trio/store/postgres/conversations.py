"""Conversations in PostgreSQL."""

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

from pulse_trio.model import MyMembership, Properties, SetProperties
from pulse_trio.store.base import (
    LISTED_MEMBERS,
    SHOWN_MEMBERS,
    Conversation,
    ConversationPage,
    Created,
    Head,
    NewConversation,
    NotAMember,
    Outcome,
    UnknownUsers,
    User,
)
from pulse_trio.store.page_size import conversation_bytes, count_fitting
from pulse_trio.store.postgres.callers import Caller
from pulse_trio.store.postgres.connected import (
    APPLIED,
    HEAD,
    KEPT_COMMANDS,
    MESSAGE,
    REPEATED,
    Connected,
    message,
    refusal,
)

MAX_ACTIVITY: Final = 2**63 - 1  # the highest bigint


def _conversations(members: int, more: str = "") -> str:
    """Returns a query for conversations as the user of the first parameter sees them.

    The first `members` members come from the index by position, so that a row's cost does not depend on the group's
    size. The columns end with `more`.
    """
    return f"""
        SELECT c.id, c.name, c.description, c.is_group, c.owner_id, c.created_at, c.updated_at,
            {HEAD}, members.ids, members.names, c.member_count, me.read_seq,
            {MESSAGE}{more}
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
# One statement, so that a page is one round trip; one row with nulls if the page is empty.
_LISTED: Final = f"""
    SELECT found.*, counted.total
    FROM (SELECT count(*) AS total FROM conversation_users WHERE user_id = %s) counted
    LEFT JOIN LATERAL (
        {_conversations(LISTED_MEMBERS, ", c.id AS listed_id, c.activity")}
        JOIN (
            SELECT mine.conversation_id, latest.activity FROM conversation_users mine
            CROSS JOIN LATERAL (
                SELECT activity FROM conversations WHERE id = mine.conversation_id OFFSET 0
            ) latest
            WHERE mine.user_id = %s AND latest.activity < %s
            ORDER BY latest.activity DESC, mine.conversation_id DESC LIMIT %s OFFSET %s
        ) page ON page.conversation_id = c.id
    ) found ON true
    ORDER BY found.activity DESC, found.listed_id DESC
"""

# Users are locked in the order of their ids, as everywhere. Nothing is created if a member does not exist, or a
# conversation with this id or of these two does; then no row has a `user_rev`.
_CREATE: Final = """
    WITH given AS MATERIALIZED (
        SELECT g.user_id, g.ordinal, u.username
        FROM unnest(%(member_ids)s::uuid[]) WITH ORDINALITY AS g (user_id, ordinal)
        LEFT JOIN LATERAL (SELECT username FROM users WHERE id = g.user_id OFFSET 0) u ON true
    ), created AS (
        INSERT INTO conversations
            (id, name, description, is_group, direct_key, owner_id, created_at, updated_at, member_count)
        SELECT %(id)s, %(name)s, %(description)s, %(is_group)s, %(direct_key)s, %(owner_id)s, %(at)s, %(at)s,
            (SELECT count(*) FROM given)
        WHERE NOT EXISTS (SELECT FROM given WHERE username IS NULL)
        ON CONFLICT DO NOTHING RETURNING id
    ), locked AS MATERIALIZED (
        SELECT u.id, given.ordinal, u.username FROM created CROSS JOIN given JOIN users u ON u.id = given.user_id
        ORDER BY u.id FOR NO KEY UPDATE OF u
    ), numbered AS (
        UPDATE users u SET last_rev = u.last_rev + 1 FROM locked WHERE u.id = locked.id
        RETURNING u.id, locked.ordinal, u.username, u.last_rev
    ), added AS (
        INSERT INTO conversation_users (conversation_id, user_id, joined_at, user_rev)
        SELECT %(id)s, id, %(at)s, last_rev FROM numbered ORDER BY ordinal
    )
    SELECT ordinal, id, username, last_rev FROM numbered
    UNION ALL
    SELECT ordinal, user_id, NULL, NULL FROM given WHERE username IS NULL
    ORDER BY ordinal
"""

_EXISTING: Final = (
    _CONVERSATION
    + """
    WHERE c.id = coalesce(
        (SELECT id FROM conversations WHERE id = %s), (SELECT id FROM conversations WHERE direct_key = %s)
    )
    """
)

# Under the lock of the conversation's row.
_SET_PROPERTIES: Final = f"""
    WITH place AS MATERIALIZED (
        SELECT c.is_group, c.properties_rev, c.name, c.description, c.owner_id, c.properties_by,
            CASE WHEN %(has_name)s THEN %(name)s::text ELSE c.name END AS new_name,
            CASE WHEN %(has_description)s THEN %(description)s::text ELSE c.description END AS new_description,
            %(id)s = ANY (c.properties_command_ids) AS is_repeat,
            EXISTS (
                SELECT FROM conversation_users WHERE conversation_id = c.id AND user_id = %(actor)s
            ) AS has_actor
        FROM conversations c WHERE c.id = %(conversation)s
    ), judged AS MATERIALIZED (
        SELECT CASE
            WHEN place.is_repeat THEN '{REPEATED}'
            WHEN place.has_actor IS NOT TRUE THEN 'NotAMember'
            WHEN NOT place.is_group THEN 'NotAGroup'
            WHEN (new_name, new_description) IS NOT DISTINCT FROM (name, description) THEN '{REPEATED}'
            ELSE '{APPLIED}'
        END AS verdict
        FROM (VALUES (true)) AS always (one) LEFT JOIN place ON true
    ), bumped AS (
        UPDATE conversations c SET
            last_rev = c.last_rev + 1,
            properties_rev = c.last_rev + 1,
            name = place.new_name,
            description = place.new_description,
            properties_by = %(actor)s,
            properties_command_ids = (ARRAY[%(id)s] || c.properties_command_ids)[:{KEPT_COMMANDS}],
            activity = nextval('conversation_activity'),
            updated_at = greatest(c.updated_at, %(at)s)
        FROM place, judged WHERE judged.verdict = '{APPLIED}' AND c.id = %(conversation)s
        RETURNING c.properties_rev, c.name, c.description, c.owner_id, c.properties_by
    )
    SELECT '{APPLIED}', bumped.* FROM bumped
    UNION ALL
    SELECT judged.verdict, place.properties_rev, place.name, place.description, place.owner_id, place.properties_by
    FROM judged LEFT JOIN place ON true WHERE judged.verdict <> '{APPLIED}'
"""


class Conversations(Connected):
    """Operations of the contract on conversations."""

    async def create_conversation(self, new: NewConversation) -> Created:
        direct_key = None if new.is_group else ":".join(sorted(str(user_id) for user_id in new.member_ids))
        values = {
            "id": new.id,
            "name": new.name,
            "description": new.description,
            "is_group": new.is_group,
            "direct_key": direct_key,
            "owner_id": new.owner_id,
            "member_ids": list(new.member_ids),
            "at": new.created_at,
        }
        async with self.connection(Caller.CHANGES, new.owner_id) as connection:
            rows = await (await connection.execute(_CREATE, values)).fetchall()
            unknown = [row[1] for row in rows if row[2] is None]
            if unknown:
                raise UnknownUsers(unknown)
            if rows:
                return _created(new, rows)
            # A statement of its own: it sees the conversation that another transaction may just have committed.
            cursor = await connection.execute(_EXISTING, (new.owner_id, new.id, direct_key))
            row = await cursor.fetchone()
        if row is None:
            raise NotAMember
        return Created(_conversation(row), is_new=False, memberships=())

    async def get_conversation(self, conversation_id: UUID, user_id: UUID) -> Conversation | None:
        row = await self.one(Caller.LOOK_UPS, user_id, _CONVERSATION + "WHERE c.id = %s", (user_id, conversation_id))
        return None if row is None else _conversation(row)

    async def list_conversations(
        self, user_id: UUID, *, limit: int, offset: int = 0, before: int | None = None, max_bytes: int | None = None
    ) -> ConversationPage:
        rows = await self.all(
            Caller.LISTS,
            user_id,
            _LISTED,
            (user_id, user_id, user_id, MAX_ACTIVITY if before is None else before, limit + 1, offset),
        )
        total: int = rows[0][-1]
        listed = [] if rows[0][0] is None else rows
        found = [_conversation(row) for row in listed[:limit]]
        fitting = count_fitting(map(conversation_bytes, found), max_bytes)
        next_before = listed[fitting - 1][-2] if len(listed) > fitting else None
        return ConversationPage(tuple(found[:fitting]), total, next_before)

    async def _set_properties(self, command: SetProperties) -> Outcome:
        values = {
            "id": command.id,
            "conversation": command.conversation_id,
            "actor": command.actor_id,
            "at": command.at,
            "has_name": "name" in command.values,
            "name": command.values.get("name"),
            "has_description": "description" in command.values,
            "description": command.values.get("description"),
        }
        ((verdict, *row),) = await self.all_under_lock(command.conversation_id, _SET_PROPERTIES, values)
        if verdict not in {APPLIED, REPEATED}:
            return refusal(verdict)
        return (Properties(command.conversation_id, *row),)


def _created(new: NewConversation, rows: Sequence[tuple[Any, ...]]) -> Created:
    """Builds the answer from the members' rows: ordinal, id, username, number in the user's own sequence."""
    conversation = Conversation(
        id=new.id,
        name=new.name,
        description=new.description,
        is_group=new.is_group,
        owner_id=new.owner_id,
        created_at=new.created_at,
        updated_at=new.created_at,
        head=Head(0, 0),
        members=tuple(User(row[1], row[2]) for row in rows[:SHOWN_MEMBERS]),
        member_count=len(rows),
        read_seq=0,
        last_message=None,
    )
    memberships = (MyMembership(new.id, row[1], row[3], is_member=True, read_seq=0) for row in rows)
    return Created(conversation, is_new=True, memberships=tuple(sorted(memberships, key=lambda mine: mine.user_id)))


def _conversation(row: Sequence[Any]) -> Conversation:
    members = tuple(User(*member) for member in zip(row[12] or (), row[13] or (), strict=True))
    last_message = None if row[16] is None else message(row[16:28])
    rest: tuple[Any, ...] = (Head(*row[7:12]), members, row[14], row[15], last_message)
    return Conversation(*row[:7], *rest)
