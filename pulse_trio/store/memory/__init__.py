"""The store in memory, for tests: the same contract as PostgreSQL's; nothing survives the process."""

from pulse_trio.store.memory.accounts import Accounts
from pulse_trio.store.memory.changes import Changes
from pulse_trio.store.memory.last_seen import LastSeen
from pulse_trio.store.memory.read_positions import ReadPositions

__all__ = ["MemoryStore"]


class MemoryStore(Accounts, Changes, ReadPositions, LastSeen):
    """A `Store`. Each operation is a checkpoint and then one synchronous step, so it is atomic."""
