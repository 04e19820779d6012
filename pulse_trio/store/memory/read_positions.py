"""Read positions in memory."""

from collections.abc import Sequence

import trio

from pulse_trio.store.base import ReadMark, ReadState
from pulse_trio.store.memory.state import State, StoredConversation


class ReadPositions(State):
    """Operations of the contract on read positions."""

    async def mark_read(self, marks: Sequence[ReadMark]) -> list[ReadState | None]:
        await trio.lowlevel.checkpoint()
        for mark in marks:
            conversation = self._conversations.get(mark.conversation_id)
            if conversation is not None and mark.user_id in conversation.members:
                self._mark_read(conversation, mark)
        return [self._read_state(mark) for mark in marks]

    def _mark_read(self, conversation: StoredConversation, mark: ReadMark) -> None:
        if mark.seq <= len(conversation.messages):
            conversation.members[mark.user_id] = max(conversation.members[mark.user_id], mark.seq)

    def _read_state(self, mark: ReadMark) -> ReadState | None:
        conversation = self._conversations.get(mark.conversation_id)
        if conversation is None or mark.user_id not in conversation.members:
            return None
        return ReadState(conversation.members[mark.user_id], len(conversation.messages))
