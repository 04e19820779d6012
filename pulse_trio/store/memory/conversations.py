"""Conversations in memory."""

from datetime import datetime
from uuid import UUID

import trio

from pulse_trio.store.base import LISTED_MEMBERS, SHOWN_MEMBERS, Conversation, NewConversation
from pulse_trio.store.memory.state import State, StoredConversation


class Conversations(State):
    """Operations of the contract on conversations."""

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
