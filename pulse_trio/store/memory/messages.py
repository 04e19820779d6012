"""Messages in memory."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID

import trio

from pulse_trio.store.base import (
    Head,
    Message,
    NewMessage,
    NoSuchMessage,
    NotAMember,
    NotYourMessage,
    Page,
    Revision,
    StoreRefused,
    page_range,
)
from pulse_trio.store.memory.state import State
from pulse_trio.texts import text_problem

MAX_CLIENT_ID_CHARS: Final = 64  # as in the database's schema


class Messages(State):
    """Operations of the contract on messages."""

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
        conversation = self._require_member(conversation_id, user_id)
        total = len(conversation.messages)
        first, last = page_range(total, limit, offset, before_seq, after_seq)
        messages = conversation.messages[first - 1 : max(last, 0)]
        return Page(tuple(reversed(messages)), total)

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
        conversation = self._require_member(revision.conversation_id, revision.actor_id)
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


def _check_text(text: str) -> None:
    problem = text_problem(text)
    if problem is not None:
        raise StoreRefused(problem)
