"""Commands and changes in PostgreSQL."""

from collections.abc import Sequence
from typing import Any, Final, LiteralString, cast
from uuid import UUID

from pulse_trio.model import (
    AddMembers,
    Change,
    Command,
    Delete,
    Edit,
    Kind,
    Leave,
    Member,
    MyMembership,
    Post,
    Properties,
    RemoveMember,
    SetProperties,
)
from pulse_trio.store.base import Handover, Outcome
from pulse_trio.store.postgres.callers import Caller
from pulse_trio.store.postgres.connected import MESSAGE, message
from pulse_trio.store.postgres.conversations import Conversations
from pulse_trio.store.postgres.member_changes import MemberChanges
from pulse_trio.store.postgres.revisions import Revisions

# The objects of each kind in the order of rev. Each part walks an index and stops at its own LIMIT, so a page costs no
# more than its size for each kind. The parts have the columns of a message, in which the other kinds put theirs.
_MESSAGES: Final = f"""
    SELECT {Kind.MESSAGE}, {MESSAGE} FROM messages m JOIN users u ON u.id = m.sender_id
    WHERE m.conversation_id = %(conversation)s AND m.rev > %(after)s ORDER BY m.rev LIMIT %(limit)s
"""
_COUNT: Final = "(SELECT member_count::bigint FROM conversations WHERE id = %(conversation)s)"
_PRESENT: Final = f"""
    SELECT {Kind.MEMBER}, cu.added_by, cu.conversation_id, cu.user_id, u.username, NULL::text, true, false,
        NULL::timestamptz, NULL::timestamptz, {_COUNT}, cu.rev, NULL::text
    FROM conversation_users cu JOIN users u ON u.id = cu.user_id
    WHERE cu.conversation_id = %(conversation)s AND cu.rev > %(after)s ORDER BY cu.rev LIMIT %(limit)s
"""
_FORMER: Final = f"""
    SELECT {Kind.MEMBER}, f.removed_by, f.conversation_id, f.user_id, u.username, NULL::text, false, false,
        NULL::timestamptz, NULL::timestamptz, {_COUNT}, f.rev, NULL::text
    FROM former_members f JOIN users u ON u.id = f.user_id
    WHERE f.conversation_id = %(conversation)s AND f.rev > %(after)s ORDER BY f.rev LIMIT %(limit)s
"""
_PROPERTIES: Final = f"""
    SELECT {Kind.CONVERSATION}, c.properties_by, c.id, c.owner_id, c.name, c.description, false, false,
        NULL::timestamptz, NULL::timestamptz, NULL::bigint, c.properties_rev, NULL::text
    FROM conversations c WHERE c.id = %(conversation)s AND c.properties_rev > %(after)s
"""
_PARTS: Final = {
    Kind.MESSAGE: (_MESSAGES,),
    Kind.MEMBER: (_PRESENT, _FORMER),
    Kind.CONVERSATION: (_PROPERTIES,),
}
_REV_COLUMN: Final = 12


def _merged(kinds: int) -> LiteralString:
    """Returns a query for changes of these kinds; the others are not read."""
    parts = [part for kind, of_kind in _PARTS.items() if kinds & kind for part in of_kind]
    if len(parts) == 1:
        return parts[0]
    return " UNION ALL ".join(f"({part})" for part in parts) + f" ORDER BY {_REV_COLUMN} LIMIT %(limit)s"


_CHANGES: Final = {kinds: _merged(kinds) for kinds in range(1, Kind.ALL + 1)}

_USER_CHANGES: Final = """
    (
        SELECT conversation_id, user_id, user_rev, true, read_seq FROM conversation_users
        WHERE user_id = %(user)s AND user_rev > %(after)s ORDER BY user_rev LIMIT %(limit)s
    )
    UNION ALL
    (
        SELECT conversation_id, user_id, user_rev, false, 0 FROM former_members
        WHERE user_id = %(user)s AND user_rev > %(after)s ORDER BY user_rev LIMIT %(limit)s
    )
    ORDER BY 3 LIMIT %(limit)s
"""


class Changes(Conversations, MemberChanges, Revisions):
    """Operations of the contract on commands and changes."""

    async def apply(self, commands: Sequence[Command]) -> list[Outcome]:
        if not commands:
            return []
        if all(isinstance(command, Post) for command in commands):
            return await self.group_commit.apply(cast("Sequence[Post]", commands))
        if all(isinstance(command, Edit | Delete) for command in commands):
            return await self.revision_commit.apply(cast("Sequence[Edit | Delete]", commands))
        (command,) = commands
        match command:
            case SetProperties():
                return [await self._set_properties(command)]
            case AddMembers():
                return [await self._add_members(command)]
            case RemoveMember() | Leave():
                return [await self._remove_member(command)]
            case _:
                raise TypeError(f"no such command: {command!r}")

    def apply_soon(self, handover: Handover[Post]) -> bool:
        return self.group_commit.apply_soon(handover)

    async def changes(self, conversation_id: UUID, *, after_rev: int, kinds: int, limit: int) -> list[Change]:
        if not kinds & Kind.ALL:
            return []
        values = {"conversation": conversation_id, "after": after_rev, "limit": limit}
        return [
            _change(row) for row in await self.all(Caller.ROOMS, conversation_id, _CHANGES[kinds & Kind.ALL], values)
        ]

    async def user_changes(self, user_id: UUID, *, after_rev: int, limit: int) -> list[MyMembership]:
        values = {"user": user_id, "after": after_rev, "limit": limit}
        return [MyMembership(*row) for row in await self.all(Caller.ROOMS, user_id, _USER_CHANGES, values)]


def _change(row: Sequence[Any]) -> Change:
    kind, *columns = row
    if kind == Kind.MESSAGE:
        return message(columns)
    actor_id, conversation_id, user_id, name, text, is_member, _, _, _, count, rev, _ = columns
    if kind == Kind.CONVERSATION:
        return Properties(conversation_id, rev, name, text, user_id, actor_id)
    return Member(conversation_id, rev, user_id, name, is_member, actor_id, count)
