"""Look-ups of handshakes in PostgreSQL: the user of a token and their membership, of many clients at once."""

from collections.abc import Sequence
from typing import Final, TypeAlias
from uuid import UUID

from pulse_trio.store.base import Admission, User
from pulse_trio.store.postgres.callers import Caller
from pulse_trio.store.postgres.connected import Connected
from pulse_trio.store.postgres.gathering import Gathering
from pulse_trio.trio_psycopg import Pool

# The user of each given subject or id, as `find_subject` finds them, and the membership.
_ADMISSIONS: Final = """
    SELECT u.id, u.username, membership.members_rev
    FROM unnest(%s::uuid[], %s::text[], %s::uuid[])
        WITH ORDINALITY AS asked (conversation_id, subject, user_id, ordinal)
    LEFT JOIN LATERAL (
        SELECT id, username FROM users WHERE subject = asked.subject OR id = asked.user_id
        ORDER BY subject IS NOT DISTINCT FROM asked.subject DESC LIMIT 1
    ) u ON true
    LEFT JOIN LATERAL (
        SELECT c.members_rev FROM conversation_users cu JOIN conversations c ON c.id = cu.conversation_id
        WHERE cu.conversation_id = asked.conversation_id AND cu.user_id = u.id OFFSET 0
    ) membership ON true
    ORDER BY asked.ordinal
"""

_Asked: TypeAlias = tuple[UUID, str, UUID | None]
"""The arguments of `admission`."""


class Admissions(Connected):
    """The operation of the contract that handshakes need.

    Attributes:
        admissions: gathers the look-ups of one moment.
    """

    def __init__(self, pool: Pool, epoch: str = "") -> None:
        super().__init__(pool, epoch)
        self.admissions: Gathering[_Asked, Admission] = Gathering(self._find_admissions)

    async def admission(self, conversation_id: UUID, subject: str, user_id: UUID | None) -> Admission | None:
        return await self.admissions.ask((conversation_id, subject, user_id))

    async def _find_admissions(self, asked: Sequence[_Asked]) -> list[Admission | None]:
        conversation_ids, subjects, user_ids = map(list, zip(*asked, strict=True))
        rows = await self.all(Caller.LOOK_UPS, None, _ADMISSIONS, (conversation_ids, subjects, user_ids))
        return [None if row[0] is None else Admission(User(row[0], row[1]), row[2]) for row in rows]
