"""Stores on one PostgreSQL, like those of several processes, with random pauses between statements."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, cast

import psycopg
import trio
from psycopg import AsyncTransaction

from pulse_trio.database.sessions import STORE_SETTINGS
from pulse_trio.store.postgres import PostgresStore
from pulse_trio.trio_psycopg import Pool, TrioConnection

CONNECTIONS: Final = 6  # of each store; fewer than its concurrent operations, so that some wait
# Deadlocks are detected before the lock timeout ends the wait.
SETTINGS: Final = {**STORE_SETTINGS, "deadlock_timeout": "100"}
PAUSES: Final = (0.0, 0.0, 0.0, 0.002, 0.01)  # seconds; one is drawn as the maximum of each pause

Pause = Callable[[], Awaitable[None]]


class _SlowConnection:
    """A connection that pauses before and after each statement, also within a transaction."""

    def __init__(self, connection: TrioConnection[Any], pause: Pause) -> None:
        self._connection = connection
        self._pause = pause

    async def execute(self, *arguments: Any, **options: Any) -> Any:
        await self._pause()
        cursor = await self._connection.execute(*arguments, **options)
        await self._pause()
        return cursor

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncTransaction]:
        async with self._connection.transaction() as transaction:
            yield transaction
        await self._pause()  # so that another commit's result may arrive first


class SlowStore(PostgresStore):
    """A store on a pool of its own.

    Args:
        pool: source of its connections.
        rand: determines the pauses.
    """

    def __init__(self, pool: Pool, rand: random.Random) -> None:
        super().__init__(pool, "one")
        self._rand = rand

    @asynccontextmanager
    async def connection(self, pool: Pool | None = None) -> AsyncIterator[TrioConnection[Any]]:
        async with super().connection(pool) as connection:
            yield cast("TrioConnection[Any]", _SlowConnection(connection, self._pause))

    async def _pause(self) -> None:
        await trio.sleep(self._rand.uniform(0, self._rand.choice(PAUSES)))


@asynccontextmanager
async def open_stores(conninfo: str, seed: int, count: int) -> AsyncIterator[list[SlowStore]]:
    """Opens that many stores, each with its own group commit."""
    async with AsyncExitStack() as stack:
        nursery = await stack.enter_async_context(trio.open_nursery())
        stores = []
        for number in range(count):
            pool = Pool(conninfo, autocommit=True, max_size=CONNECTIONS, server_settings=SETTINGS)
            store = SlowStore(await stack.enter_async_context(pool), random.Random(f"{seed}/store {number}"))
            stores.append(store)
        for store in stores:
            await nursery.start(store.group_commit.run)
        yield stores
        nursery.cancel_scope.cancel()


# The database itself records every commit, under the row lock that orders it.
JOURNAL: Final = """
    CREATE TABLE journal (
        id bigserial PRIMARY KEY, transaction xid8 NOT NULL DEFAULT pg_current_xact_id(),
        conversation_id uuid NOT NULL, what text NOT NULL,
        user_id uuid, message_id uuid, seq bigint, rev bigint, client_id text, revision_id uuid, version bigint
    );
    CREATE FUNCTION note_member_in() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO journal (conversation_id, what, user_id) VALUES (NEW.conversation_id, 'in', NEW.user_id);
        RETURN NULL;
    END $$;
    CREATE FUNCTION note_member_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO journal (conversation_id, what, user_id) VALUES (OLD.conversation_id, 'out', OLD.user_id);
        RETURN NULL;
    END $$;
    CREATE FUNCTION note_version() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO journal (conversation_id, what, version) VALUES (NEW.id, 'version', NEW.members_version);
        RETURN NULL;
    END $$;
    CREATE FUNCTION note_message() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO journal (conversation_id, what, user_id, message_id, seq, rev, client_id)
        VALUES (NEW.conversation_id, 'message', NEW.sender_id, NEW.id, NEW.seq, NEW.rev, NEW.client_id);
        RETURN NULL;
    END $$;
    CREATE FUNCTION note_revision() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO journal (conversation_id, what, message_id, seq, rev, revision_id)
        VALUES (NEW.conversation_id, 'revision', NEW.id, NEW.seq, NEW.rev, NEW.revision_id);
        RETURN NULL;
    END $$;
    CREATE TRIGGER member_in AFTER INSERT ON conversation_users FOR EACH ROW EXECUTE FUNCTION note_member_in();
    CREATE TRIGGER member_out AFTER DELETE ON conversation_users FOR EACH ROW EXECUTE FUNCTION note_member_out();
    CREATE TRIGGER version AFTER UPDATE ON conversations FOR EACH ROW
        WHEN (NEW.members_version <> OLD.members_version) EXECUTE FUNCTION note_version();
    CREATE TRIGGER message AFTER INSERT ON messages FOR EACH ROW EXECUTE FUNCTION note_message();
    CREATE TRIGGER revision AFTER UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION note_revision();
"""


def prepare(conninfo: str) -> None:
    """Creates the journal in a database."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(JOURNAL)
