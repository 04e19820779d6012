"""Shared parts of the store's operations: connections, translated errors, the conversation's lock, common columns."""

from collections.abc import AsyncIterator, Collection, Hashable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, LiteralString
from uuid import UUID

import psycopg
from psycopg import errors as pg

from pulse_trio.store.base import (
    Message,
    NoSuchMember,
    NoSuchMessage,
    NotAGroup,
    NotAMember,
    NotYourMessage,
    OwnerOnly,
    Refusal,
    StoreRefused,
    StoreUnavailable,
    TooManyMembers,
)
from pulse_trio.store.postgres.callers import Caller
from pulse_trio.store.postgres.group_commit import StoreBusy
from pulse_trio.trio_psycopg import Pool, PoolClosed, PoolTimeout, TrioConnection

# The columns of a `Message`, from a message `m` and its sender `u`.
MESSAGE: Final = """
    m.id, m.conversation_id, m.sender_id, u.username, m.content, m.is_edited, m.is_deleted,
    m.created_at, m.updated_at, m.seq, m.rev, m.client_id
"""

# The columns of a `Head`, from a conversation `c`.
HEAD: Final = "c.last_seq, c.last_rev, c.message_rev, c.members_rev, c.properties_rev"

# An object keeps the ids of its latest commands, by which their repeats are recognized even if others came between.
KEPT_COMMANDS: Final = 16

_LOCK: Final = "SELECT FROM conversations WHERE id = %s FOR NO KEY UPDATE"
# In the order of their ids, as all do that lock several: two of them cannot deadlock.
# `= ANY (ARRAY[…])` forces an index probe for each row: PostgreSQL can neither merge nor hash by it, and sessions of
# the store scan no table. By a plain `=`, or in the order of `c.id`, a plan that was made while the table was small
# would walk its whole primary key, and be kept while the table grows.
_LOCK_MANY: Final = """
    SELECT FROM unnest(%s::uuid[]) AS given (id) JOIN conversations c ON c.id = ANY (ARRAY[given.id])
    ORDER BY given.id FOR NO KEY UPDATE OF c
"""

# The first column of a statement that judges a command: APPLIED, REPEATED, or the name of a refusal.
APPLIED: Final = "applied"
REPEATED: Final = "repeated"
_REFUSALS: Final[dict[str, type[Refusal]]] = {
    kind.__name__: kind
    for kind in (NoSuchMember, NoSuchMessage, NotAGroup, NotAMember, NotYourMessage, OwnerOnly, TooManyMembers)
}


class Connected:
    """Base of all operations: lends connections, and translates driver errors to the contract's."""

    def __init__(self, pool: Pool, epoch: str = "") -> None:
        self._pool = pool
        self.epoch = epoch

    @asynccontextmanager
    async def connection(
        self, caller: Caller | None = None, key: Hashable = None, *, pool: Pool | None = None
    ) -> AsyncIterator[TrioConnection[Any]]:
        """Lends a connection, from `pool` or the main pool.

        Args:
            caller: its use, whose share of the pool it is from; None for none of them.
            key: the user or conversation that it is for; those of one use have their turns one after the other.
            pool: another pool than the main one.

        Raises:
            StoreRefused: PostgreSQL rejects a value.
            StoreBusy: a row was locked for too long.
            StoreUnavailable: any other error of the driver or the pool.
        """
        try:
            async with (pool or self._pool).connection(caller, key) as connection:
                try:
                    yield connection
                except pg.ReadOnlySqlTransaction:
                    # A session keeps the default of its start; a new one finds out if the database is still read-only.
                    connection.abort()
                    raise
        except (pg.DataError, pg.IntegrityError, pg.ProgramLimitExceeded, UnicodeEncodeError) as error:
            raise StoreRefused(type(error).__name__) from error
        except pg.LockNotAvailable as error:
            raise StoreBusy(type(error).__name__) from error
        except (psycopg.Error, PoolTimeout, PoolClosed, OSError) as error:
            raise StoreUnavailable(type(error).__name__) from error

    async def ping(self) -> None:
        await self.one(Caller.LOOK_UPS, "ping", "SELECT 1", ())  # not behind those who wait to be found

    async def one(
        self, caller: Caller, key: Hashable, query: LiteralString, values: Sequence[object]
    ) -> tuple[Any, ...] | None:
        """Runs a query on a connection of its own; returns the first row. For `caller` and `key` see `connection`."""
        async with self.connection(caller, key) as connection:
            return await (await connection.execute(query, values)).fetchone()

    async def all(
        self,
        caller: Caller,
        key: Hashable,
        query: LiteralString,
        values: Sequence[object] | Mapping[str, object],
    ) -> list[tuple[Any, ...]]:
        """Runs a query on a connection of its own; returns all rows. For `caller` and `key` see `connection`."""
        async with self.connection(caller, key) as connection:
            return await (await connection.execute(query, values)).fetchall()

    async def all_under_lock(
        self, conversation_id: UUID, query: str, values: Mapping[str, object]
    ) -> list[tuple[Any, ...]]:
        """Runs a statement that judges and changes a locked conversation; returns its rows."""
        (rows,) = await self.all_under_locks([conversation_id], [(query, values)])
        return rows

    async def all_under_locks(
        self,
        conversation_ids: Collection[UUID],
        statements: Sequence[tuple[str, Mapping[str, object]]],
        *,
        pool: Pool | None = None,
    ) -> list[list[tuple[Any, ...]]]:
        """Runs statements, each with its values, that judge and change locked conversations; returns the rows of each.

        A statement sees what was committed before it began (READ COMMITTED), so the locks are taken by a statement of
        their own: the others then see everything that earlier holders of the locks have done. All are sent without
        waiting in between, and are one transaction, which the end of the pipeline commits. So it costs one round trip,
        and the rows are not held while the event loop does something else. Several statements are between BEGIN and
        COMMIT: when the values of a later one cannot be sent, the end of the pipeline must not commit the earlier ones.
        """
        is_long = len(statements) > 1
        key = next(iter(conversation_ids))
        async with self.connection(Caller.CHANGES, key, pool=pool) as connection:
            async with connection.pipeline():
                if is_long:
                    await connection.execute("BEGIN")
                if len(conversation_ids) == 1:
                    await connection.execute(_LOCK, (*conversation_ids,), prepare=True)
                else:
                    await connection.execute(_LOCK_MANY, (list(conversation_ids),), prepare=True)
                cursors = [await connection.execute(query, values, prepare=True) for query, values in statements]
                if is_long:
                    await connection.execute("COMMIT")
            return [await cursor.fetchall() for cursor in cursors]


def refusal(verdict: str) -> Refusal:
    """Returns the refusal of this name."""
    return _REFUSALS[verdict]()


def message(row: Sequence[Any]) -> Message:
    """Builds a message from the columns of `MESSAGE`."""
    return Message(*row)
