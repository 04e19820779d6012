"""Commands and changes in memory."""

from collections.abc import Iterator, Sequence
from typing import Final
from uuid import UUID

import trio

from pulse_trio.model import (
    AddMembers,
    Change,
    Command,
    Delete,
    Edit,
    Kind,
    Leave,
    MyMembership,
    Post,
    RemoveMember,
    SetProperties,
)
from pulse_trio.store.base import Answer, Handover, Outcome, Refusal, StoreError, StoreRefused, StoreUnavailable
from pulse_trio.store.memory.conversations import Conversations
from pulse_trio.store.memory.members import ConversationMembers
from pulse_trio.store.memory.messages import Messages
from pulse_trio.store.memory.state import StoredConversation
from pulse_trio.texts import text_problem

MAX_CLIENT_ID_CHARS: Final = 64  # as in the database's schema


class Changes(Conversations, ConversationMembers, Messages):
    """Operations of the contract on commands and changes."""

    async def apply(self, commands: Sequence[Command]) -> list[Outcome]:
        await trio.lowlevel.checkpoint()
        for command in commands:
            _check_texts(command)
        return [self._outcome(command) for command in commands]

    def apply_soon(self, handover: Handover[Post]) -> bool:
        if self.nursery is None:
            return False
        self.nursery.start_soon(self._apply_handover, handover)
        return True

    async def _apply_handover(self, handover: Handover[Post]) -> None:
        answer: Answer = StoreUnavailable("the store does not answer in time")
        with trio.move_on_at(handover.deadline):
            await trio.lowlevel.checkpoint()
            commands = handover.take()
            if not commands:
                return
            try:
                answer = await self.apply(commands)
            except StoreError as error:
                answer = error
        handover.on_answer(answer)

    async def changes(self, conversation_id: UUID, *, after_rev: int, kinds: int, limit: int) -> list[Change]:
        await trio.lowlevel.checkpoint()
        conversation = self._conversations.get(conversation_id)
        if conversation is None:
            return []
        changed = [change for change in self._objects(conversation, kinds) if change.rev > after_rev]
        return sorted(changed, key=lambda change: change.rev)[:limit]

    async def user_changes(self, user_id: UUID, *, after_rev: int, limit: int) -> list[MyMembership]:
        await trio.lowlevel.checkpoint()
        changed = []
        for key, conversation in self._conversations.items():
            member = conversation.members.get(user_id) or conversation.former.get(user_id)
            if member is not None and member.user_rev > after_rev:
                is_member = user_id in conversation.members
                changed.append(MyMembership(key, user_id, member.user_rev, is_member, member.read_seq))
        return sorted(changed, key=lambda membership: membership.user_rev)[:limit]

    def _objects(self, conversation: StoredConversation, kinds: int) -> Iterator[Change]:
        if kinds & Kind.MESSAGE:
            yield from conversation.messages
        if kinds & Kind.MEMBER:
            for user_id in (*conversation.members, *conversation.former):
                yield self._member(conversation, user_id)
        if kinds & Kind.CONVERSATION:
            yield conversation.properties()

    def _outcome(self, command: Command) -> Outcome:
        try:
            return self._carry_out(command)
        except Refusal as refusal:
            return refusal

    def _carry_out(self, command: Command) -> tuple[Change, ...]:
        conversation = self._conversations.get(command.conversation_id)
        repeated = None if conversation is None else self._effects(conversation, command.id)
        if repeated is not None:
            return repeated
        match command:
            case Post():
                return (self._post(command),)
            case Edit() | Delete():
                return (self._revise(command),)
            case SetProperties():
                return (self._set_properties(command),)
            case AddMembers():
                return self._add_members(command)
            case RemoveMember():
                return self._remove_member(command)
            case Leave():
                return self._leave(command)
            case _:
                raise TypeError(f"no such command: {command!r}")


def _check_texts(command: Command) -> None:
    """Refuses what PostgreSQL cannot store."""
    texts: list[str | None] = []
    match command:
        case Post():
            texts = [command.content, command.client_id]
            if command.client_id is not None and not 1 <= len(command.client_id) <= MAX_CLIENT_ID_CHARS:
                raise StoreRefused("client_id")
        case Edit():
            texts = [command.content]
        case SetProperties():
            texts = list(command.values.values())
    for text in texts:
        problem = None if text is None else text_problem(text)
        if problem is not None:
            raise StoreRefused(problem)
