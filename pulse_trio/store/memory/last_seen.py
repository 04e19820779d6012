"""Last-seen times of users in memory."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

import trio

from pulse_trio.store.memory.state import State


class LastSeen(State):
    """Operations of the contract on last-seen times."""

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
