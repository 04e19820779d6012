"""Read positions in memory."""

from collections.abc import Sequence
from uuid import UUID

import trio

from pulse_trio.store.base import ReadMark, ReadState
from pulse_trio.store.memory.state import State


class ReadPositions(State):
    """Operations of the contract on read positions."""

    async def mark_read(self, marks: Sequence[ReadMark]) -> list[ReadState | None]:
        await trio.lowlevel.checkpoint()
        # Marks of one member in one call are one movement, which takes one number.
        highest: dict[tuple[UUID, UUID], int] = {}
        for mark in marks:
            conversation = self._conversations.get(mark.conversation_id)
            if conversation is not None and mark.seq <= len(conversation.messages):
                place = mark.conversation_id, mark.user_id
                highest[place] = max(highest.get(place, 0), mark.seq)
        for (conversation_id, user_id), seq in highest.items():
            member = self._conversations[conversation_id].members.get(user_id)
            if member is not None and member.read_seq < seq:
                member.read_seq = seq
                member.user_rev = self._next_user_rev(user_id)
        return [self._read_state(mark) for mark in marks]

    def _read_state(self, mark: ReadMark) -> ReadState | None:
        conversation = self._conversations.get(mark.conversation_id)
        if conversation is None or mark.user_id not in conversation.members:
            return None
        member = conversation.members[mark.user_id]
        return ReadState(member.read_seq, len(conversation.messages), member.user_rev)
