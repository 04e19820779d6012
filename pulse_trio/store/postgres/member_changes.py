"""Additions and removals of members in PostgreSQL.

Rows are locked in the order of the contract: the conversation, its members, users by id. A user's number is taken in
the statement that changes the membership, so their sequence has no holes.
"""

from typing import Final

from pulse_trio.model import AddMembers, Change, Leave, Member, Properties, RemoveMember
from pulse_trio.store.base import Outcome, UnknownUsers
from pulse_trio.store.postgres.connected import APPLIED, KEPT_COMMANDS, REPEATED, Connected, refusal

# Under the lock of the conversation's row. `found` has what is known of each given user; `fresh` those to add. The
# planner expects few of them, so all joins are index probes, and what is needed later passes through the locked users.
_ADD: Final = f"""
    WITH place AS MATERIALIZED (
        SELECT c.is_group, c.member_count, EXISTS (
            SELECT FROM conversation_users WHERE conversation_id = c.id AND user_id = %(actor)s
        ) AS has_actor
        FROM conversations c WHERE c.id = %(conversation)s
    ), found AS MATERIALIZED (
        SELECT g.user_id, g.ordinal, u.username, cu.user_id IS NOT NULL AS is_member,
            coalesce(cu.rev, former.rev) AS rev,
            CASE WHEN cu.user_id IS NOT NULL THEN cu.added_by ELSE former.removed_by END AS actor_id,
            coalesce(cu.command_ids, former.command_ids) AS command_ids
        FROM unnest(%(user_ids)s::uuid[]) WITH ORDINALITY AS g (user_id, ordinal)
        LEFT JOIN LATERAL (SELECT username FROM users WHERE id = g.user_id OFFSET 0) u ON true
        LEFT JOIN LATERAL (
            SELECT user_id, rev, added_by, command_ids FROM conversation_users
            WHERE conversation_id = %(conversation)s AND user_id = g.user_id OFFSET 0
        ) cu ON true
        LEFT JOIN LATERAL (
            SELECT rev, removed_by, command_ids FROM former_members
            WHERE conversation_id = %(conversation)s AND user_id = g.user_id OFFSET 0
        ) former ON true
    ), judged AS MATERIALIZED (
        SELECT CASE
            WHEN EXISTS (SELECT FROM found WHERE %(id)s = ANY (command_ids)) THEN '{REPEATED}'
            WHEN place.has_actor IS NOT TRUE THEN 'NotAMember'
            WHEN NOT place.is_group THEN 'NotAGroup'
            WHEN EXISTS (SELECT FROM found WHERE username IS NULL) THEN 'UnknownUsers'
            WHEN NOT EXISTS (SELECT FROM found WHERE NOT is_member) THEN '{REPEATED}'
            WHEN place.member_count + (SELECT count(*) FROM found WHERE NOT is_member) > %(limit)s
                THEN 'TooManyMembers'
            ELSE '{APPLIED}'
        END AS verdict
        FROM (VALUES (true)) AS always (one) LEFT JOIN place ON true
    ), fresh AS MATERIALIZED (
        SELECT found.user_id, found.command_ids, row_number() OVER (ORDER BY found.ordinal) AS step
        FROM found, judged WHERE judged.verdict = '{APPLIED}' AND NOT found.is_member
    ), back AS (
        DELETE FROM former_members former USING fresh
        WHERE former.conversation_id = %(conversation)s AND former.user_id = fresh.user_id
    ), locked AS MATERIALIZED (
        SELECT u.id, fresh.step, fresh.command_ids FROM fresh JOIN users u ON u.id = fresh.user_id
        ORDER BY u.id FOR NO KEY UPDATE OF u
    ), numbered AS (
        UPDATE users u SET last_rev = u.last_rev + 1 FROM locked WHERE u.id = locked.id
        RETURNING u.id, u.username, u.last_rev, locked.step, locked.command_ids
    ), bumped AS (
        UPDATE conversations c SET
            last_rev = c.last_rev + added.n,
            members_rev = c.last_rev + added.n,
            member_count = c.member_count + added.n,
            activity = nextval('conversation_activity'),
            updated_at = greatest(c.updated_at, %(at)s)
        FROM (SELECT count(*) AS n FROM fresh) added WHERE added.n > 0 AND c.id = %(conversation)s
        RETURNING c.last_rev - added.n AS rev, c.last_seq, c.member_count
    ), added AS (
        INSERT INTO conversation_users
            (conversation_id, user_id, joined_at, read_seq, rev, user_rev, added_by, command_ids)
        SELECT %(conversation)s, numbered.id, %(at)s, bumped.last_seq, bumped.rev + numbered.step, numbered.last_rev,
            %(actor)s, (ARRAY[%(id)s] || numbered.command_ids)[:{KEPT_COMMANDS}]
        FROM numbered, bumped ORDER BY numbered.step
    )
    SELECT NULL AS verdict, numbered.id, numbered.username, true AS is_member, bumped.rev + numbered.step AS rev,
        %(actor)s AS actor_id, bumped.member_count, numbered.last_rev AS user_rev, NULL::bigint AS ordinal
    FROM numbered, bumped
    UNION ALL
    SELECT NULL, found.user_id, found.username, found.is_member, found.rev, found.actor_id, place.member_count, 0, NULL
    FROM found, judged, place WHERE judged.verdict = '{REPEATED}' AND %(id)s = ANY (found.command_ids)
    UNION ALL
    SELECT judged.verdict, found.user_id, NULL, NULL, NULL, NULL, NULL, NULL, found.ordinal
    FROM judged LEFT JOIN found ON judged.verdict = 'UnknownUsers' AND found.username IS NULL
    WHERE judged.verdict NOT IN ('{APPLIED}', '{REPEATED}')
    ORDER BY rev, ordinal
"""

# Under the lock of the conversation's row. The member's row is locked before the user's, because a read mark, which
# takes no lock of the conversation, does so too.
_REMOVE: Final = f"""
    WITH place AS MATERIALIZED (
        SELECT c.*, %(id)s = ANY (c.properties_command_ids) AS has_new_owner, EXISTS (
            SELECT FROM conversation_users WHERE conversation_id = c.id AND user_id = %(actor)s
        ) AS has_actor
        FROM conversations c WHERE c.id = %(conversation)s
    ), target AS MATERIALIZED (
        SELECT u.username, cu.user_id IS NOT NULL AS is_member, coalesce(cu.rev, former.rev) AS rev,
            CASE WHEN cu.user_id IS NOT NULL THEN cu.added_by ELSE former.removed_by END AS actor_id,
            coalesce(cu.command_ids, former.command_ids) AS command_ids
        FROM users u
        LEFT JOIN conversation_users cu ON cu.conversation_id = %(conversation)s AND cu.user_id = u.id
        LEFT JOIN former_members former ON former.conversation_id = %(conversation)s AND former.user_id = u.id
        WHERE u.id = %(user)s
    ), judged AS MATERIALIZED (
        SELECT CASE
            WHEN %(id)s = ANY (target.command_ids) THEN '{REPEATED}'
            WHEN place.has_actor IS NOT TRUE THEN 'NotAMember'
            WHEN NOT place.is_group THEN 'NotAGroup'
            WHEN %(user)s <> %(actor)s AND place.owner_id <> %(actor)s THEN 'OwnerOnly'
            WHEN target.is_member IS NOT TRUE THEN 'NoSuchMember'
            ELSE '{APPLIED}'
        END AS verdict
        FROM (VALUES (true)) AS always (one) LEFT JOIN place ON true LEFT JOIN target ON true
    ), gone AS (
        DELETE FROM conversation_users cu USING judged
        WHERE judged.verdict = '{APPLIED}' AND cu.conversation_id = %(conversation)s AND cu.user_id = %(user)s
        RETURNING cu.user_id, cu.command_ids
    ), numbered AS (
        UPDATE users u SET last_rev = u.last_rev + 1 FROM gone WHERE u.id = gone.user_id
        RETURNING u.last_rev, gone.command_ids
    ), successor AS MATERIALIZED (
        SELECT longest.user_id FROM place CROSS JOIN LATERAL (
            SELECT user_id FROM conversation_users
            WHERE conversation_id = place.id AND user_id <> %(user)s ORDER BY position LIMIT 1
        ) longest
        WHERE place.owner_id = %(user)s
    ), bumped AS (
        UPDATE conversations c SET
            last_rev = c.last_rev + CASE WHEN successor.user_id IS NULL THEN 1 ELSE 2 END,
            members_rev = c.last_rev + 1,
            member_count = c.member_count - 1,
            owner_id = coalesce(successor.user_id, c.owner_id),
            properties_rev = CASE WHEN successor.user_id IS NULL THEN c.properties_rev ELSE c.last_rev + 2 END,
            properties_by = CASE WHEN successor.user_id IS NULL THEN c.properties_by ELSE %(actor)s END,
            properties_command_ids = CASE
                WHEN successor.user_id IS NULL THEN c.properties_command_ids
                ELSE (ARRAY[%(id)s] || c.properties_command_ids)[:{KEPT_COMMANDS}]
            END,
            activity = nextval('conversation_activity'),
            updated_at = greatest(c.updated_at, %(at)s)
        FROM numbered LEFT JOIN successor ON true WHERE c.id = %(conversation)s
        RETURNING c.*, successor.user_id IS NOT NULL AS has_new_owner, numbered.last_rev AS user_rev,
            numbered.command_ids
    ), former AS (
        INSERT INTO former_members (conversation_id, user_id, rev, user_rev, left_at, removed_by, command_ids)
        SELECT %(conversation)s, %(user)s, members_rev, user_rev, %(at)s, %(actor)s,
            (ARRAY[%(id)s] || command_ids)[:{KEPT_COMMANDS}]
        FROM bumped
    )
    SELECT '{APPLIED}', bumped.members_rev, target.username, false, %(actor)s, bumped.member_count, bumped.user_rev,
        bumped.has_new_owner, bumped.properties_rev, bumped.name, bumped.description, bumped.owner_id,
        bumped.properties_by
    FROM bumped, target
    UNION ALL
    SELECT judged.verdict, target.rev, target.username, target.is_member, target.actor_id, place.member_count, 0,
        place.has_new_owner, place.properties_rev, place.name, place.description, place.owner_id, place.properties_by
    FROM judged LEFT JOIN place ON true LEFT JOIN target ON true WHERE judged.verdict <> '{APPLIED}'
"""


class MemberChanges(Connected):
    """Adds and removes members, in one order with all other changes of the conversation."""

    async def _add_members(self, command: AddMembers) -> Outcome:
        values = {
            "id": command.id,
            "conversation": command.conversation_id,
            "actor": command.actor_id,
            "at": command.at,
            "user_ids": list(command.user_ids),
            "limit": command.limit,
        }
        rows = await self.all_under_lock(command.conversation_id, _ADD, values)
        if rows and rows[0][0] is not None:
            verdict = rows[0][0]
            return UnknownUsers([row[1] for row in rows]) if verdict == UnknownUsers.__name__ else refusal(verdict)
        return tuple(
            Member(
                conversation_id=command.conversation_id,
                rev=rev,
                user_id=user_id,
                username=username,
                is_member=is_member,
                actor_id=actor_id,
                member_count=member_count,
                user_rev=user_rev,
            )
            for _, user_id, username, is_member, rev, actor_id, member_count, user_rev, _ in rows
        )

    async def _remove_member(self, command: RemoveMember | Leave) -> Outcome:
        user_id = command.user_id if isinstance(command, RemoveMember) else command.actor_id
        values = {
            "id": command.id,
            "conversation": command.conversation_id,
            "actor": command.actor_id,
            "at": command.at,
            "user": user_id,
        }
        (row,) = await self.all_under_lock(command.conversation_id, _REMOVE, values)
        verdict, rev, username, is_member, actor_id, member_count, user_rev, has_new_owner, *properties = row
        if verdict not in {APPLIED, REPEATED}:
            return refusal(verdict)
        changes: list[Change] = [
            Member(
                conversation_id=command.conversation_id,
                rev=rev,
                user_id=user_id,
                username=username,
                is_member=is_member,
                actor_id=actor_id,
                member_count=member_count,
                user_rev=user_rev,
            )
        ]
        if has_new_owner:
            changes.append(Properties(command.conversation_id, *properties))
        return tuple(sorted(changes, key=lambda change: change.rev))
