"""Conversations in memory."""

from uuid import UUID

import trio

from pulse_trio.model import MyMembership, Properties, SetProperties
from pulse_trio.store.base import (
    LISTED_MEMBERS,
    SHOWN_MEMBERS,
    Conversation,
    ConversationPage,
    Created,
    NewConversation,
    NotAMember,
)
from pulse_trio.store.memory.state import State, StoredConversation
from pulse_trio.store.page_size import conversation_bytes, count_fitting


class Conversations(State):
    """Operations of the contract on conversations."""

    async def create_conversation(self, new: NewConversation) -> Created:
        await trio.lowlevel.checkpoint()
        self._check_users(new.member_ids)
        existing = self._existing(new)
        if existing is not None:
            if new.owner_id not in existing.members:
                raise NotAMember
            return Created(self._view(existing, new.owner_id), is_new=False, memberships=())
        conversation = StoredConversation(new, new.name, new.description, new.owner_id, new.created_at)
        for user_id in new.member_ids:
            self._join(conversation, user_id)
        self._note_activity(conversation, new.created_at)
        self._conversations[new.id] = conversation
        memberships = tuple(
            MyMembership(new.id, user_id, conversation.members[user_id].user_rev, is_member=True, read_seq=0)
            for user_id in sorted(new.member_ids)
        )
        return Created(self._view(conversation, new.owner_id), is_new=True, memberships=memberships)

    async def get_conversation(self, conversation_id: UUID, user_id: UUID) -> Conversation | None:
        await trio.lowlevel.checkpoint()
        conversation = self._conversations.get(conversation_id)
        if conversation is None or user_id not in conversation.members:
            return None
        return self._view(conversation, user_id)

    async def list_conversations(
        self, user_id: UUID, *, limit: int, offset: int = 0, before: int | None = None, max_bytes: int | None = None
    ) -> ConversationPage:
        await trio.lowlevel.checkpoint()
        mine = [c for c in self._conversations.values() if user_id in c.members]
        found = [c for c in mine if before is None or c.activity < before]
        found.sort(key=lambda c: c.activity, reverse=True)
        page = found[offset : offset + limit]
        views = tuple(self._view(c, user_id, LISTED_MEMBERS) for c in page)
        fitting = count_fitting(map(conversation_bytes, views), max_bytes)
        return ConversationPage(
            views[:fitting],
            total=len(mine),
            next_before=page[fitting - 1].activity if page and len(found) > offset + fitting else None,
        )

    def _set_properties(self, command: SetProperties) -> Properties:
        group = self._group(command.conversation_id, command.actor_id)
        name = command.values.get("name", group.name)
        description = command.values.get("description", group.description)
        if (name, description) != (group.name, group.description):
            group.name = name
            group.description = description
            group.properties_rev = group.next_rev()
            group.properties_actor_id = command.actor_id
            group.effects[command.id] = (group.new.id,)
            self._note_activity(group, command.at)
        return group.properties()

    def _existing(self, new: NewConversation) -> StoredConversation | None:
        if new.id in self._conversations:
            return self._conversations[new.id]
        if not new.is_group:
            for other in self._conversations.values():
                if not other.new.is_group and set(other.members) == set(new.member_ids):
                    return other
        return None

    def _view(self, conversation: StoredConversation, user_id: UUID, shown: int = SHOWN_MEMBERS) -> Conversation:
        return Conversation(
            id=conversation.new.id,
            name=conversation.name,
            description=conversation.description,
            is_group=conversation.new.is_group,
            owner_id=conversation.owner_id,
            created_at=conversation.new.created_at,
            updated_at=conversation.updated_at,
            head=conversation.head(),
            members=tuple(self._accounts[member_id].user for member_id in list(conversation.members)[:shown]),
            member_count=len(conversation.members),
            read_seq=conversation.members[user_id].read_seq,
            last_message=conversation.messages[-1] if conversation.messages else None,
        )
