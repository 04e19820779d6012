"""The store in memory, for tests: the same contract as PostgreSQL's; nothing survives the process."""

from pulse_trio.store.memory.accounts import Accounts
from pulse_trio.store.memory.conversations import Conversations
from pulse_trio.store.memory.last_seen import LastSeen
from pulse_trio.store.memory.members import ConversationMembers
from pulse_trio.store.memory.messages import Messages
from pulse_trio.store.memory.read_positions import ReadPositions

__all__ = ["MemoryStore"]


class MemoryStore(Accounts, Conversations, ConversationMembers, ReadPositions, LastSeen, Messages):
    """A `Store`. Each operation is a checkpoint and then one synchronous step, so it is atomic."""
