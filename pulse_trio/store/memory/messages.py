"""Messages in memory."""

from collections import deque
from dataclasses import replace
from uuid import UUID

import trio

from pulse_trio.model import Delete, Edit, Post
from pulse_trio.store.base import (
    Head,
    Message,
    NoSuchMessage,
    NotAMember,
    NotYourMessage,
    Page,
    StaleRev,
    page_range,
)
from pulse_trio.store.memory.state import KEPT_REVISIONS, State
from pulse_trio.store.page_size import message_page


class Messages(State):
    """Operations of the contract on messages."""

    async def head(self, conversation_id: UUID) -> Head:
        await trio.lowlevel.checkpoint()
        if conversation_id not in self._conversations:
            raise NotAMember
        return self._conversations[conversation_id].head()

    async def page_messages(
        self,
        conversation_id: UUID,
        user_id: UUID,
        *,
        limit: int,
        offset: int = 0,
        before_seq: int | None = None,
        after_seq: int | None = None,
        max_bytes: int | None = None,
    ) -> Page:
        await trio.lowlevel.checkpoint()
        conversation = self._require_member(conversation_id, user_id)
        total = len(conversation.messages)
        first, last = page_range(total, limit, offset, before_seq, after_seq)
        messages = conversation.messages[first - 1 : max(last, 0)]
        return message_page(messages[::-1], total, before_seq=before_seq, after_seq=after_seq, max_bytes=max_bytes)

    def _post(self, command: Post) -> Message:
        resent_id = self._resendable.get((command.conversation_id, command.actor_id, command.client_id or ""))
        location = self._locations.get(command.id) or (resent_id and self._locations[resent_id])
        if location:
            return location[0].messages[location[1]]
        conversation = self._require_member(command.conversation_id, command.actor_id)
        conversation.message_rev = conversation.next_rev()
        message = Message(
            id=command.id,
            conversation_id=command.conversation_id,
            sender_id=command.actor_id,
            sender_username=self._accounts[command.actor_id].user.username,
            content=command.content,
            is_edited=False,
            is_deleted=False,
            created_at=command.at,
            updated_at=command.at,
            seq=len(conversation.messages) + 1,
            rev=conversation.message_rev,
            client_id=command.client_id,
        )
        self._locations[message.id] = conversation, len(conversation.messages)
        if command.client_id is not None:
            self._resendable[command.conversation_id, command.actor_id, command.client_id] = message.id
        self._revisions[message.id] = deque(maxlen=KEPT_REVISIONS)
        conversation.messages.append(message)
        self._note_activity(conversation, command.at)
        return message

    def _revise(self, command: Edit | Delete) -> Message:
        old = self._addressed(command)
        if old is not None and command.id in self._revisions[old.id]:
            return old
        conversation = self._require_member(command.conversation_id, command.actor_id)
        if old is None or old.is_deleted:
            raise NoSuchMessage
        is_sender = old.sender_id == command.actor_id
        if isinstance(command, Edit):
            if not is_sender:
                raise NotYourMessage
            if command.if_rev not in (None, old.rev):
                raise StaleRev(old)
            changed = replace(old, content=command.content, is_edited=True)
        else:
            if not is_sender and conversation.owner_id != command.actor_id:
                raise NotYourMessage
            changed = replace(old, content="", is_deleted=True)
        conversation.message_rev = conversation.next_rev()
        changed = replace(changed, updated_at=max(old.updated_at, command.at), rev=conversation.message_rev)
        conversation.messages[old.seq - 1] = changed
        self._revisions[old.id].append(command.id)
        return changed

    def _addressed(self, command: Edit | Delete) -> Message | None:
        conversation, index = self._locations.get(command.message_id, (None, 0))
        if conversation is None or conversation.new.id != command.conversation_id:
            return None
        return conversation.messages[index]
