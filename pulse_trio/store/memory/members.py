"""Members of conversations in memory."""

from collections.abc import Sequence
from uuid import UUID

import trio

from pulse_trio.model import AddMembers, Change, Leave, Member, RemoveMember
from pulse_trio.store.base import (
    Head,
    MemberPage,
    Members,
    Membership,
    Memberships,
    NoSuchMember,
    OwnerOnly,
    TooManyMembers,
)
from pulse_trio.store.memory.state import State, StoredConversation


class ConversationMembers(State):
    """Operations of the contract on members of conversations."""

    async def membership(self, conversation_id: UUID, user_id: UUID) -> int | None:
        await trio.lowlevel.checkpoint()
        conversation = self._conversations.get(conversation_id)
        if conversation is None or user_id not in conversation.members:
            return None
        return conversation.members_rev

    async def memberships(
        self,
        user_id: UUID,
        among: Sequence[UUID] | None = None,
        *,
        limit: int | None = None,
        after: UUID | None = None,
    ) -> Memberships:
        await trio.lowlevel.checkpoint()
        requested = list(self._conversations) if among is None else among
        if limit is not None:
            requested = sorted(key for key in requested if after is None or key > after)
        found = [(key, self._conversations[key]) for key in requested if key in self._conversations]
        heads = [(key, conversation.head()) for key, conversation in found if user_id in conversation.members]
        account = self._accounts.get(user_id)
        return Memberships(dict(heads[:limit]), user_rev=0 if account is None else account.last_rev)

    async def heads(self, conversation_ids: Sequence[UUID]) -> dict[UUID, Head]:
        await trio.lowlevel.checkpoint()
        return {key: self._conversations[key].head() for key in conversation_ids if key in self._conversations}

    async def user_revs(self, user_ids: Sequence[UUID]) -> dict[UUID, int]:
        await trio.lowlevel.checkpoint()
        return {key: self._accounts[key].last_rev for key in user_ids if key in self._accounts}

    async def members(self, conversation_id: UUID) -> Members:
        await trio.lowlevel.checkpoint()
        conversation = self._conversations.get(conversation_id)
        return (
            Members((), 0) if conversation is None else Members(tuple(conversation.members), conversation.members_rev)
        )

    async def page_members(self, conversation_id: UUID, user_id: UUID, *, limit: int, after: int = 0) -> MemberPage:
        await trio.lowlevel.checkpoint()
        conversation = self._require_member(conversation_id, user_id)
        found = [
            Membership(self._accounts[member.user_id].user, member.position, member.read_seq)
            for member in conversation.members.values()
            if member.position > after
        ]
        next_after = found[limit - 1].position if len(found) > limit else None
        return MemberPage(tuple(found[:limit]), len(conversation.members), next_after)

    def _add_members(self, command: AddMembers) -> tuple[Member, ...]:
        group = self._group(command.conversation_id, command.actor_id)
        self._check_users(command.user_ids)
        added = [user_id for user_id in command.user_ids if user_id not in group.members]
        if not added:
            return ()
        if len(group.members) + len(added) > command.limit:
            raise TooManyMembers
        members = [self._join(group, user_id) for user_id in added]
        for member in members:
            member.rev = group.members_rev = group.next_rev()
            member.actor_id = command.actor_id
        group.effects[command.id] = tuple(added)
        self._note_activity(group, command.at)
        return tuple(self._member(group, member.user_id, user_rev=member.user_rev) for member in members)

    def _remove_member(self, command: RemoveMember) -> tuple[Change, ...]:
        group = self._group(command.conversation_id, command.actor_id)
        if command.user_id != command.actor_id and group.owner_id != command.actor_id:
            raise OwnerOnly
        if command.user_id not in group.members:
            raise NoSuchMember
        return self._remove(group, command.user_id, command)

    def _leave(self, command: Leave) -> tuple[Change, ...]:
        group = self._group(command.conversation_id, command.actor_id)
        return self._remove(group, command.actor_id, command)

    def _remove(self, group: StoredConversation, user_id: UUID, command: RemoveMember | Leave) -> tuple[Change, ...]:
        member = group.former[user_id] = group.members.pop(user_id)
        member.read_seq = 0
        member.rev = group.members_rev = group.next_rev()
        member.user_rev = self._next_user_rev(user_id)
        member.actor_id = command.actor_id
        group.effects[command.id] = (user_id,)
        self._note_activity(group, command.at)
        changes: tuple[Change, ...] = (self._member(group, user_id, user_rev=member.user_rev),)
        if group.owner_id == user_id and group.members:
            group.owner_id = next(iter(group.members))
            group.properties_rev = group.next_rev()
            group.properties_actor_id = command.actor_id
            group.effects[command.id] = (user_id, group.new.id)
            changes += (group.properties(),)
        return changes
