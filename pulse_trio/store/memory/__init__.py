"""The store in memory, for tests: the same contract as PostgreSQL's; nothing survives the process."""

from uuid import UUID

from pulse_trio.store.base import Admission
from pulse_trio.store.memory.accounts import Accounts
from pulse_trio.store.memory.changes import Changes
from pulse_trio.store.memory.last_seen import LastSeen
from pulse_trio.store.memory.leases import Leases
from pulse_trio.store.memory.protections import Protections
from pulse_trio.store.memory.read_positions import ReadPositions

__all__ = ["MemoryStore"]


class MemoryStore(Accounts, Changes, ReadPositions, LastSeen, Leases, Protections):
    """A `Store`. Each operation is a checkpoint and then one synchronous step, so it is atomic."""

    async def admission(self, conversation_id: UUID, subject: str, user_id: UUID | None) -> Admission | None:
        user = await self.find_subject(subject, user_id)  # which stays as it is, so this is atomic, too
        return None if user is None else Admission(user, await self.membership(conversation_id, user.id))
