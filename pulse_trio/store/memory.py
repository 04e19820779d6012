"""The store in memory, for tests: the same contract as PostgreSQL's; nothing survives the process."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final
from uuid import UUID

import trio

from pulse_trio.store.base import (
    LISTED_MEMBERS,
    SHOWN_MEMBERS,
    Account,
    Added,
    Conversation,
    Head,
    MemberPage,
    Members,
    Membership,
    Message,
    NewConversation,
    NewMessage,
    NoSuchMessage,
    NotAGroup,
    NotAMember,
    NotYourMessage,
    OwnerOnly,
    Page,
    ReadMark,
    ReadState,
    Removed,
    Revision,
    StoreRefused,
    TooManyMembers,
    UnknownUsers,
    User,
    UsernameTaken,
    page_range,
)
from pulse_trio.texts import text_problem, username_key

MAX_CLIENT_ID_CHARS: Final = 64  # as in the database's schema


@dataclass(slots=True)
class _Account:
    user: User
    password_hash: str | None
    subject: str | None
    last_seen_at: datetime | None = None


@dataclass(slots=True)
class _Conversation:
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


class MemoryStore:
    """A `Store`. Each operation is a checkpoint and then one synchronous step, so it is atomic."""

    def __init__(self, epoch: str = "memory") -> None:
        self.epoch = epoch
        self._accounts: dict[UUID, _Account] = {}
        self._conversations: dict[UUID, _Conversation] = {}
        self._locations: dict[UUID, tuple[_Conversation, int]] = {}  # message → its conversation and index
        self._resendable: dict[tuple[UUID, UUID, str], UUID] = {}  # conversation, sender, client_id → message
        self._revisions: dict[UUID, UUID] = {}  # message → its last revision

    async def ping(self) -> None:
        await trio.lowlevel.checkpoint()

    # --- accounts ---

    async def create_user(
        self, user: User, *, password_hash: str | None, subject: str | None, created_at: datetime
    ) -> None:
        await trio.lowlevel.checkpoint()
        for other in self._accounts.values():
            if username_key(other.user.username) == username_key(user.username):
                raise UsernameTaken
            if subject is not None and other.subject == subject:
                raise UsernameTaken
        self._accounts[user.id] = _Account(user, password_hash, subject)

    async def find_account(self, username: str) -> Account | None:
        await trio.lowlevel.checkpoint()
        key = username_key(username)
        for account in self._accounts.values():
            if username_key(account.user.username) == key:
                return Account(account.user, account.password_hash)
        return None

    async def find_subject(self, subject: str, user_id: UUID | None) -> User | None:
        await trio.lowlevel.checkpoint()
        for account in self._accounts.values():
            if account.subject == subject:
                return account.user
        account_by_id = None if user_id is None else self._accounts.get(user_id)
        return None if account_by_id is None else account_by_id.user

    async def set_password_hash(self, user_id: UUID, password_hash: str, *, old_hash: str) -> None:
        await trio.lowlevel.checkpoint()
        account = self._accounts.get(user_id)
        if account is not None and account.password_hash == old_hash:
            account.password_hash = password_hash

    async def search_users(self, prefix: str, *, limit: int, offset: int) -> tuple[list[User], int]:
        await trio.lowlevel.checkpoint()
        key = username_key(prefix)
        found = [account.user for account in self._accounts.values()]
        found = [user for user in found if username_key(user.username).startswith(key)]
        found.sort(key=lambda user: username_key(user.username))
        return found[offset : offset + limit], len(found)

    # --- conversations and members ---

    async def create_conversation(self, new: NewConversation) -> tuple[Conversation, bool]:
        await trio.lowlevel.checkpoint()
        self._check_users(new.member_ids)
        if not new.is_group:
            for other in self._conversations.values():
                if not other.new.is_group and set(other.members) == set(new.member_ids):
                    return self._view(other, new.owner_id), False
        conversation = _Conversation(new, new.name, new.description, new.owner_id, new.created_at, {})
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
        conversation = self._conversations.get(conversation_id)
        if conversation is None or user_id not in conversation.members:
            raise NotAMember
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

    async def rename(
        self, conversation_id: UUID, actor_id: UUID, changes: dict[str, str | None], *, now: datetime
    ) -> Conversation:
        await trio.lowlevel.checkpoint()
        group = self._group(conversation_id, actor_id)
        group.name = changes.get("name", group.name)
        group.description = changes.get("description", group.description)
        group.updated_at = max(group.updated_at, now)
        return self._view(group, actor_id)

    # --- read positions and last-seen times ---

    async def mark_read(self, marks: Sequence[ReadMark]) -> list[ReadState | None]:
        await trio.lowlevel.checkpoint()
        for mark in marks:
            conversation = self._conversations.get(mark.conversation_id)
            if conversation is not None and mark.user_id in conversation.members:
                self._mark_read(conversation, mark)
        return [self._read_state(mark) for mark in marks]

    async def mark_seen(self, moments: Mapping[UUID, datetime]) -> None:
        await trio.lowlevel.checkpoint()
        for user_id, moment in moments.items():
            account = self._accounts.get(user_id)
            if account is not None and (account.last_seen_at is None or account.last_seen_at < moment):
                account.last_seen_at = moment

    async def acquaintances(self, user_id: UUID, among: Sequence[UUID]) -> dict[UUID, datetime | None]:
        await trio.lowlevel.checkpoint()
        mine = [
            conversation.members for conversation in self._conversations.values() if user_id in conversation.members
        ]
        return {
            other_id: self._accounts[other_id].last_seen_at
            for other_id in among
            if other_id in self._accounts and (other_id == user_id or any(other_id in members for members in mine))
        }

    # --- messages ---

    async def head(self, conversation_id: UUID) -> Head:
        await trio.lowlevel.checkpoint()
        if conversation_id not in self._conversations:
            raise NotAMember
        return self._head(self._conversations[conversation_id])

    async def append(self, batch: Sequence[NewMessage]) -> list[Message | None]:
        await trio.lowlevel.checkpoint()
        for new in batch:
            _check_text(new.content)
            if new.client_id is not None:
                _check_text(new.client_id)
                if not 1 <= len(new.client_id) <= MAX_CLIENT_ID_CHARS:
                    raise StoreRefused("client_id")
        return [self._append(new) for new in batch]

    async def revise(self, revision: Revision) -> Message:
        await trio.lowlevel.checkpoint()
        _check_text(revision.content or "")
        return self._revise(revision)

    async def changes(self, conversation_id: UUID, *, after_rev: int, limit: int) -> list[Message]:
        await trio.lowlevel.checkpoint()
        conversation = self._conversations.get(conversation_id)
        changed = [] if conversation is None else [m for m in conversation.messages if m.rev > after_rev]
        return sorted(changed, key=lambda message: message.rev)[:limit]

    async def page_messages(
        self,
        conversation_id: UUID,
        user_id: UUID,
        *,
        limit: int,
        offset: int = 0,
        before_seq: int | None = None,
        after_seq: int | None = None,
    ) -> Page:
        await trio.lowlevel.checkpoint()
        conversation = self._conversations.get(conversation_id)
        if conversation is None or user_id not in conversation.members:
            raise NotAMember
        total = len(conversation.messages)
        first, last = page_range(total, limit, offset, before_seq, after_seq)
        messages = conversation.messages[first - 1 : max(last, 0)]
        return Page(tuple(reversed(messages)), total)

    # --- helpers ---

    def _append(self, new: NewMessage) -> Message | None:
        resent_id = self._resendable.get((new.conversation_id, new.sender_id, new.client_id or ""))
        location = self._locations.get(new.id) or (resent_id and self._locations[resent_id])
        if location:
            return location[0].messages[location[1]]
        conversation = self._conversations.get(new.conversation_id)
        if conversation is None or new.sender_id not in conversation.members:
            return None
        conversation.last_rev += 1
        message = Message(
            id=new.id,
            conversation_id=new.conversation_id,
            sender_id=new.sender_id,
            sender_username=self._accounts[new.sender_id].user.username,
            content=new.content,
            is_edited=False,
            is_deleted=False,
            created_at=new.created_at,
            updated_at=new.created_at,
            seq=len(conversation.messages) + 1,
            rev=conversation.last_rev,
            client_id=new.client_id,
        )
        self._locations[message.id] = conversation, len(conversation.messages)
        if new.client_id is not None:
            self._resendable[new.conversation_id, new.sender_id, new.client_id] = message.id
        conversation.messages.append(message)
        conversation.updated_at = max(conversation.updated_at, new.created_at)
        return message

    def _revise(self, revision: Revision) -> Message:
        conversation = self._conversations.get(revision.conversation_id)
        if conversation is None or revision.actor_id not in conversation.members:
            raise NotAMember
        home, index = self._locations.get(revision.message_id, (None, 0))
        if home is not conversation:
            raise NoSuchMessage
        old = conversation.messages[index]
        if self._revisions.get(old.id) == revision.id:
            return old
        if old.is_deleted:
            raise NoSuchMessage
        is_deletion = revision.content is None
        if old.sender_id != revision.actor_id and not (is_deletion and conversation.owner_id == revision.actor_id):
            raise NotYourMessage
        conversation.last_rev += 1
        conversation.messages[index] = replace(
            old,
            content=revision.content or "",
            is_edited=old.is_edited or not is_deletion,
            is_deleted=is_deletion,
            updated_at=max(old.updated_at, revision.made_at),
            rev=conversation.last_rev,
        )
        self._revisions[old.id] = revision.id
        return conversation.messages[index]

    def _mark_read(self, conversation: _Conversation, mark: ReadMark) -> None:
        if mark.seq <= len(conversation.messages):
            conversation.members[mark.user_id] = max(conversation.members[mark.user_id], mark.seq)

    def _read_state(self, mark: ReadMark) -> ReadState | None:
        conversation = self._conversations.get(mark.conversation_id)
        if conversation is None or mark.user_id not in conversation.members:
            return None
        return ReadState(conversation.members[mark.user_id], len(conversation.messages))

    def _check_users(self, user_ids: Iterable[UUID]) -> None:
        unknown = [user_id for user_id in user_ids if user_id not in self._accounts]
        if unknown:
            raise UnknownUsers(unknown)

    def _group(self, conversation_id: UUID, actor_id: UUID) -> _Conversation:
        conversation = self._conversations.get(conversation_id)
        if conversation is None or actor_id not in conversation.members:
            raise NotAMember
        if not conversation.new.is_group:
            raise NotAGroup
        return conversation

    def _head(self, conversation: _Conversation) -> Head:
        return Head(len(conversation.messages), conversation.last_rev, conversation.members_version)

    def _view(self, conversation: _Conversation, user_id: UUID, shown: int = SHOWN_MEMBERS) -> Conversation:
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


def _check_text(text: str) -> None:
    problem = text_problem(text)
    if problem is not None:
        raise StoreRefused(problem)
