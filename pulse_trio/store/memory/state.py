"""Data of the store in memory."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import UUID

import trio

from pulse_trio.model import Change, Member, Properties
from pulse_trio.store.base import Head, Message, NewConversation, NotAGroup, NotAMember, UnknownUsers, User

KEPT_REVISIONS: Final = 16  # ids of a message's latest edits and deletions, by which their repeats are recognized


@dataclass(slots=True)
class StoredAccount:
    user: User
    password_hash: str | None
    subject: str | None
    last_seen_at: datetime | None = None
    last_rev: int = 0  # of the user's own sequence


@dataclass(slots=True)
class StoredMember:
    """A user's place in a conversation: a member's, or the tombstone of a former one."""

    user_id: UUID
    position: int
    read_seq: int
    user_rev: int
    rev: int = 0  # 0: a member since the creation, which takes no rev
    actor_id: UUID | None = None


@dataclass(slots=True)
class StoredConversation:
    new: NewConversation
    name: str | None
    description: str | None
    owner_id: UUID
    updated_at: datetime
    activity: int = 0  # of two conversations the one with the higher number was active later
    members: dict[UUID, StoredMember] = field(default_factory=dict)  # in the order they joined
    former: dict[UUID, StoredMember] = field(default_factory=dict)  # those who left; nobody is in both
    last_position: int = 0
    messages: list[Message] = field(default_factory=list)  # messages[n] has seq n + 1
    last_rev: int = 0
    message_rev: int = 0
    members_rev: int = 0
    properties_rev: int = 0
    properties_actor_id: UUID | None = None
    # command → what it changed, to recognize its repeat: users, and this conversation for its properties
    effects: dict[UUID, tuple[UUID, ...]] = field(default_factory=dict)

    def next_rev(self) -> int:
        self.last_rev += 1
        return self.last_rev

    def head(self) -> Head:
        return Head(len(self.messages), self.last_rev, self.message_rev, self.members_rev, self.properties_rev)

    def properties(self) -> Properties:
        return Properties(
            conversation_id=self.new.id,
            rev=self.properties_rev,
            name=self.name,
            description=self.description,
            owner_id=self.owner_id,
            actor_id=self.properties_actor_id,
        )


class State:
    """Everything in the store, and steps that several operations share.

    Attributes:
        nursery: runs handovers; None while the store takes none.
    """

    nursery: trio.Nursery | None = None

    def __init__(self, epoch: str = "memory") -> None:
        self.epoch = epoch
        self._accounts: dict[UUID, StoredAccount] = {}
        self._conversations: dict[UUID, StoredConversation] = {}
        self._locations: dict[UUID, tuple[StoredConversation, int]] = {}  # message → its conversation and index
        self._resendable: dict[tuple[UUID, UUID, str], UUID] = {}  # conversation, sender, client_id → message
        self._revisions: dict[UUID, deque[UUID]] = {}  # message → its latest edits and deletions
        self._last_activity = 0

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()

    def _require_member(self, conversation_id: UUID, user_id: UUID) -> StoredConversation:
        """Returns a conversation of a member.

        Raises:
            NotAMember: it does not exist, or the user is not a member.
        """
        conversation = self._conversations.get(conversation_id)
        if conversation is None or user_id not in conversation.members:
            raise NotAMember
        return conversation

    def _group(self, conversation_id: UUID, actor_id: UUID) -> StoredConversation:
        conversation = self._require_member(conversation_id, actor_id)
        if not conversation.new.is_group:
            raise NotAGroup
        return conversation

    def _check_users(self, user_ids: Iterable[UUID]) -> None:
        unknown = [user_id for user_id in user_ids if user_id not in self._accounts]
        if unknown:
            raise UnknownUsers(unknown)

    def _next_user_rev(self, user_id: UUID) -> int:
        account = self._accounts[user_id]
        account.last_rev += 1
        return account.last_rev

    def _note_activity(self, conversation: StoredConversation, at: datetime) -> None:
        self._last_activity += 1
        conversation.activity = self._last_activity
        conversation.updated_at = max(conversation.updated_at, at)

    def _join(self, conversation: StoredConversation, user_id: UUID) -> StoredMember:
        """Adds a member with the read position at the end; a tombstone of theirs goes."""
        conversation.former.pop(user_id, None)
        conversation.last_position += 1
        read_seq = len(conversation.messages)
        member = StoredMember(user_id, conversation.last_position, read_seq, self._next_user_rev(user_id))
        conversation.members[user_id] = member
        return member

    def _member(self, conversation: StoredConversation, user_id: UUID, *, user_rev: int = 0) -> Member:
        """Returns the member, or former member, as they now are."""
        member = conversation.members.get(user_id) or conversation.former[user_id]
        return Member(
            conversation_id=conversation.new.id,
            rev=member.rev,
            user_id=user_id,
            username=self._accounts[user_id].user.username,
            is_member=user_id in conversation.members,
            actor_id=member.actor_id,
            member_count=len(conversation.members),
            user_rev=user_rev,
        )

    def _effects(self, conversation: StoredConversation, command_id: UUID) -> tuple[Change, ...] | None:
        """Returns the objects that a command changed, as they now are; None if it was not carried out."""
        objects = conversation.effects.get(command_id)
        if objects is None:
            return None
        found = [
            conversation.properties() if key == conversation.new.id else self._member(conversation, key)
            for key in objects
        ]
        return tuple(sorted(found, key=lambda change: change.rev))
