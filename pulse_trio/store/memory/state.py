"""Data of the store in memory."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import trio

from pulse_trio.store.base import Head, Message, NewConversation, NotAGroup, NotAMember, UnknownUsers, User


@dataclass(slots=True)
class StoredAccount:
    user: User
    password_hash: str | None
    subject: str | None
    last_seen_at: datetime | None = None


@dataclass(slots=True)
class StoredConversation:
    new: NewConversation
    name: str | None
    description: str | None
    owner_id: UUID
    updated_at: datetime
    members: dict[UUID, int]  # member → read position, in the order they joined
    positions: dict[UUID, int] = field(default_factory=dict)  # of members, in the same order
    last_position: int = 0
    messages: list[Message] = field(default_factory=list)  # messages[n] has seq n + 1
    last_rev: int = 0
    members_version: int = 0

    def add(self, user_ids: Iterable[UUID]) -> None:
        """Adds members with the read position at the end."""
        for user_id in user_ids:
            self.last_position += 1
            self.members[user_id] = len(self.messages)
            self.positions[user_id] = self.last_position


class State:
    """Everything in the store, and look-ups that several operations share."""

    def __init__(self, epoch: str = "memory") -> None:
        self.epoch = epoch
        self._accounts: dict[UUID, StoredAccount] = {}
        self._conversations: dict[UUID, StoredConversation] = {}
        self._locations: dict[UUID, tuple[StoredConversation, int]] = {}  # message → its conversation and index
        self._resendable: dict[tuple[UUID, UUID, str], UUID] = {}  # conversation, sender, client_id → message
        self._revisions: dict[UUID, UUID] = {}  # message → its last revision

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()

    def _head(self, conversation: StoredConversation) -> Head:
        return Head(len(conversation.messages), conversation.last_rev, conversation.members_version)

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
