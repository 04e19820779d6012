"""Members of conversations in memory."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import trio

from pulse_trio.store.base import (
    Added,
    Head,
    MemberPage,
    Members,
    Membership,
    OwnerOnly,
    Removed,
    TooManyMembers,
)
from pulse_trio.store.memory.state import State


class ConversationMembers(State):
    """Operations of the contract on members of conversations."""

    async def membership(self, conversation_id: UUID, user_id: UUID) -> int | None:
        await trio.lowlevel.checkpoint()
        conversation = self._conversations.get(conversation_id)
        if conversation is None or user_id not in conversation.members:
            return None
        return conversation.members_version

    async def memberships(self, user_id: UUID, among: Sequence[UUID] | None = None) -> dict[UUID, Head]:
        await trio.lowlevel.checkpoint()
        requested = list(self._conversations) if among is None else among
        found = {key: self._conversations[key] for key in requested if key in self._conversations}
        return {key: self._head(conversation) for key, conversation in found.items() if user_id in conversation.members}

    async def members(self, conversation_id: UUID) -> Members:
        await trio.lowlevel.checkpoint()
        conversation = self._conversations.get(conversation_id)
        return (
            Members((), 0)
            if conversation is None
            else Members(tuple(conversation.members), conversation.members_version)
        )

    async def page_members(self, conversation_id: UUID, user_id: UUID, *, limit: int, after: int = 0) -> MemberPage:
        await trio.lowlevel.checkpoint()
        conversation = self._require_member(conversation_id, user_id)
        found = [
            Membership(self._accounts[member_id].user, position, conversation.members[member_id])
            for member_id, position in conversation.positions.items()
            if position > after
        ]
        next_after = found[limit - 1].position if len(found) > limit else None
        return MemberPage(tuple(found[:limit]), len(conversation.members), next_after)

    async def add_members(
        self, conversation_id: UUID, actor_id: UUID, user_ids: Sequence[UUID], *, limit: int, now: datetime
    ) -> Added:
        await trio.lowlevel.checkpoint()
        group = self._group(conversation_id, actor_id)
        self._check_users(user_ids)
        added = [user_id for user_id in dict.fromkeys(user_ids) if user_id not in group.members]
        if added and len(group.members) + len(added) > limit:
            raise TooManyMembers
        group.add(added)
        if added:
            group.members_version += 1
            group.updated_at = max(group.updated_at, now)
        return Added(tuple(self._accounts[user_id].user for user_id in added), group.members_version)

    async def remove_member(self, conversation_id: UUID, actor_id: UUID, user_id: UUID, *, now: datetime) -> Removed:
        await trio.lowlevel.checkpoint()
        group = self._group(conversation_id, actor_id)
        if user_id != actor_id and group.owner_id != actor_id:
            raise OwnerOnly
        if user_id not in group.members:
            return Removed(None, group.members_version)
        del group.members[user_id], group.positions[user_id]
        group.members_version += 1
        if group.owner_id == user_id and group.members:
            group.owner_id = next(iter(group.members))
        group.updated_at = max(group.updated_at, now)
        return Removed(self._accounts[user_id].user, group.members_version)
