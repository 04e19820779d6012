"""Conversations and their members in memory."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

import trio

from pulse_trio.store.base import (
    LISTED_MEMBERS,
    SHOWN_MEMBERS,
    Added,
    Conversation,
    Head,
    MemberPage,
    Members,
    Membership,
    NewConversation,
    NotAGroup,
    OwnerOnly,
    Removed,
    TooManyMembers,
    UnknownUsers,
)
from pulse_trio.store.memory.state import State, StoredConversation


class Conversations(State):
    """Operations of the contract on conversations and their members."""

    async def create_conversation(self, new: NewConversation) -> tuple[Conversation, bool]:
        await trio.lowlevel.checkpoint()
        self._check_users(new.member_ids)
        if not new.is_group:
            for other in self._conversations.values():
                if not other.new.is_group and set(other.members) == set(new.member_ids):
                    return self._view(other, new.owner_id), False
        conversation = StoredConversation(new, new.name, new.description, new.owner_id, new.created_at, {})
        conversation.add(new.member_ids)
        self._conversations[new.id] = conversation
        return self._view(conversation, new.owner_id), True

    async def get_conversation(self, conversation_id: UUID, user_id: UUID) -> Conversation | None:
        await trio.lowlevel.checkpoint()
        conversation = self._conversations.get(conversation_id)
        if conversation is None or user_id not in conversation.members:
            return None
        return self._view(conversation, user_id)

    async def list_conversations(self, user_id: UUID, *, limit: int, offset: int) -> tuple[list[Conversation], int]:
        await trio.lowlevel.checkpoint()
        mine = [c for c in self._conversations.values() if user_id in c.members]
        mine.sort(key=lambda c: (c.updated_at, c.new.id), reverse=True)
        return [self._view(c, user_id, LISTED_MEMBERS) for c in mine[offset : offset + limit]], len(mine)

    async def rename(
        self, conversation_id: UUID, actor_id: UUID, changes: dict[str, str | None], *, now: datetime
    ) -> Conversation:
        await trio.lowlevel.checkpoint()
        group = self._group(conversation_id, actor_id)
        group.name = changes.get("name", group.name)
        group.description = changes.get("description", group.description)
        group.updated_at = max(group.updated_at, now)
        return self._view(group, actor_id)

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

    def _check_users(self, user_ids: Iterable[UUID]) -> None:
        unknown = [user_id for user_id in user_ids if user_id not in self._accounts]
        if unknown:
            raise UnknownUsers(unknown)

    def _group(self, conversation_id: UUID, actor_id: UUID) -> StoredConversation:
        conversation = self._require_member(conversation_id, actor_id)
        if not conversation.new.is_group:
            raise NotAGroup
        return conversation

    def _view(self, conversation: StoredConversation, user_id: UUID, shown: int = SHOWN_MEMBERS) -> Conversation:
        return Conversation(
            id=conversation.new.id,
            name=conversation.name,
            description=conversation.description,
            is_group=conversation.new.is_group,
            owner_id=conversation.owner_id,
            created_at=conversation.new.created_at,
            updated_at=conversation.updated_at,
            head=self._head(conversation),
            members=tuple(self._accounts[member_id].user for member_id in list(conversation.members)[:shown]),
            member_count=len(conversation.members),
            read_seq=conversation.members[user_id],
            last_message=conversation.messages[-1] if conversation.messages else None,
        )
