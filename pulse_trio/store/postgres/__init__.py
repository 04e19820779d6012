"""The store in PostgreSQL: each statement next to the record that it fills.

Values reach SQL as parameters only. Every operation that writes is one transaction of one round trip: one statement in
autocommit, or the lock of the conversation's row and the statement that judges and changes under it.
"""

import trio

from pulse_trio.store.postgres.accounts import Accounts
from pulse_trio.store.postgres.changes import Changes
from pulse_trio.store.postgres.last_seen import LastSeen
from pulse_trio.store.postgres.leases import Leases
from pulse_trio.store.postgres.members import ConversationMembers
from pulse_trio.store.postgres.messages import Messages
from pulse_trio.store.postgres.protections import Protections
from pulse_trio.store.postgres.read_positions import ReadPositions
from pulse_trio.store.postgres.revisions import MESSAGE_CONNECTIONS

__all__ = ["MESSAGE_CONNECTIONS", "PostgresStore"]


class PostgresStore(Accounts, ConversationMembers, ReadPositions, LastSeen, Leases, Messages, Changes, Protections):
    """A `Store` on a pool of connections, each in autocommit.

    With a `message_pool` of `MESSAGE_CONNECTIONS`, messages, edits and deletions never wait for other operations.

    While `run` runs, concurrent messages of several rooms share transactions, and stale rows are removed.
    """

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Lets concurrent operations share statements, and removes stale rows, until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(super().run, name="group commits")
            await nursery.start(self.draws.run, name="draws of tickets")
            await nursery.start(self.uses.run, name="uses of tickets")
            nursery.start_soon(self.keep_small, name="removal of stale rows")
            task_status.started()
