"""The store in PostgreSQL: each statement next to the record that it fills.

Values reach SQL as parameters only. Operations of one statement run in autocommit, all others in a transaction.
Operations that may conflict with another writer lock the conversation's row first.
"""

from pulse_trio.store.postgres.accounts import Accounts
from pulse_trio.store.postgres.conversations import Conversations
from pulse_trio.store.postgres.last_seen import LastSeen
from pulse_trio.store.postgres.members import ConversationMembers
from pulse_trio.store.postgres.messages import MESSAGE_CONNECTIONS, Messages
from pulse_trio.store.postgres.read_positions import ReadPositions

__all__ = ["MESSAGE_CONNECTIONS", "PostgresStore"]


class PostgresStore(Accounts, Conversations, ConversationMembers, ReadPositions, LastSeen, Messages):
    """A `Store` on a pool of connections, each in autocommit.

    With a `message_pool` of `MESSAGE_CONNECTIONS`, messages, edits and deletions never wait for other operations.

    Attributes:
        group_commit: while its `run` runs, concurrent appends of several rooms share a transaction.
    """
