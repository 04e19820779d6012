"""The store in PostgreSQL: each statement next to the record that it fills.

Values reach SQL as parameters only. Operations of one statement run in autocommit; the others in a
transaction. Whatever can raise two writers against each other first locks the conversation's row.
"""

from pulse_trio.store.postgres.accounts import Accounts
from pulse_trio.store.postgres.connected import SERVER_SETTINGS
from pulse_trio.store.postgres.conversations import Conversations
from pulse_trio.store.postgres.messages import MESSAGE_CONNECTIONS, Messages
from pulse_trio.store.postgres.people import People

__all__ = ["MESSAGE_CONNECTIONS", "SERVER_SETTINGS", "PostgresStore"]


class PostgresStore(Accounts, Conversations, People, Messages):
    """A `Store` on a pool of connections, each in autocommit.

    With a `message_pool` of `MESSAGE_CONNECTIONS` no other operation keeps messages, edits and deletions waiting.

    Attributes:
        gathering: while its `run` runs, what several rooms append at once shares a transaction.
    """
