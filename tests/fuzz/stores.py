"""Stores on one PostgreSQL, like those of several processes, with random pauses between statements."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, cast
from uuid import UUID

import psycopg
import trio
from psycopg import AsyncPipeline

from pulse_trio.database.sessions import STORE_SETTINGS
from pulse_trio.store.postgres import PostgresStore
from pulse_trio.store.postgres.callers import Caller
from pulse_trio.trio_psycopg import Pool, TrioConnection

CONNECTIONS: Final = 6  # of each store; fewer than its concurrent operations, so that some wait
# Deadlocks are detected before the lock timeout ends the wait.
SETTINGS: Final = {**STORE_SETTINGS, "deadlock_timeout": "100"}
PAUSES: Final = (0.0, 0.0, 0.0, 0.002, 0.01)  # seconds; one is drawn as the maximum of each pause

Pause = Callable[[], Awaitable[None]]


class _SlowConnection:
    """A connection that pauses before and after each statement, also within a pipeline."""

    def __init__(self, connection: TrioConnection[Any], pause: Pause) -> None:
        self._connection = connection
        self._pause = pause

    async def execute(self, *arguments: Any, **options: Any) -> Any:
        await self._pause()
        cursor = await self._connection.execute(*arguments, **options)
        await self._pause()
        return cursor

    async def fetch_prepared(self, *arguments: Any) -> Any:
        await self._pause()
        rows = await self._connection.fetch_prepared(*arguments)
        await self._pause()
        return rows

    @asynccontextmanager
    async def pipeline(self) -> AsyncIterator[AsyncPipeline]:
        async with self._connection.pipeline() as pipeline:
            yield pipeline
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
    async def connection(
        self, caller: Caller | None = None, key: UUID | None = None, *, pool: Pool | None = None
    ) -> AsyncIterator[TrioConnection[Any]]:
        async with super().connection(caller, key, pool=pool) as connection:
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
            await nursery.start(store.run)
        yield stores
        nursery.cancel_scope.cancel()


# The database itself records every change, in the transaction that makes it. Those of a conversation are made under the
# lock of its row, so their ids have its order.
JOURNAL: Final = """
    CREATE TABLE journal (
        id bigserial PRIMARY KEY, transaction xid8 NOT NULL DEFAULT pg_current_xact_id(),
        conversation_id uuid NOT NULL, what text NOT NULL, object_id uuid NOT NULL,
        rev bigint, user_rev bigint, seq bigint, actor_id uuid, command_id uuid
    );
    CREATE FUNCTION note_message() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO journal (conversation_id, what, object_id, rev, seq, actor_id, command_id)
        VALUES (NEW.conversation_id, 'message', NEW.id, NEW.rev, NEW.seq, NEW.sender_id, NEW.id);
        RETURN NULL;
    END $$;
    CREATE FUNCTION note_revision() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO journal (conversation_id, what, object_id, rev, seq, command_id)
        VALUES (NEW.conversation_id, 'revision', NEW.id, NEW.rev, NEW.seq, NEW.revision_ids[1]);
        RETURN NULL;
    END $$;
    CREATE FUNCTION note_joined() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO journal (conversation_id, what, object_id, rev, user_rev, seq, actor_id, command_id)
        VALUES (NEW.conversation_id, 'joined', NEW.user_id, NEW.rev, NEW.user_rev, NEW.read_seq, NEW.added_by,
            NEW.command_ids[1]);
        RETURN NULL;
    END $$;
    CREATE FUNCTION note_left() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO journal (conversation_id, what, object_id, rev, user_rev, actor_id, command_id)
        VALUES (NEW.conversation_id, 'left', NEW.user_id, NEW.rev, NEW.user_rev, NEW.removed_by, NEW.command_ids[1]);
        RETURN NULL;
    END $$;
    CREATE FUNCTION note_read() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO journal (conversation_id, what, object_id, user_rev, seq)
        VALUES (NEW.conversation_id, 'read', NEW.user_id, NEW.user_rev, NEW.read_seq);
        RETURN NULL;
    END $$;
    CREATE FUNCTION note_properties() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        INSERT INTO journal (conversation_id, what, object_id, rev, actor_id, command_id)
        VALUES (NEW.id, 'properties', NEW.id, NEW.properties_rev, NEW.properties_by, NEW.properties_command_ids[1]);
        RETURN NULL;
    END $$;
    CREATE TRIGGER message AFTER INSERT ON messages FOR EACH ROW EXECUTE FUNCTION note_message();
    CREATE TRIGGER revision AFTER UPDATE ON messages FOR EACH ROW EXECUTE FUNCTION note_revision();
    CREATE TRIGGER joined AFTER INSERT ON conversation_users FOR EACH ROW EXECUTE FUNCTION note_joined();
    CREATE TRIGGER read AFTER UPDATE ON conversation_users FOR EACH ROW EXECUTE FUNCTION note_read();
    CREATE TRIGGER "left" AFTER INSERT ON former_members FOR EACH ROW EXECUTE FUNCTION note_left();
    CREATE TRIGGER properties AFTER UPDATE ON conversations FOR EACH ROW
        WHEN (NEW.properties_rev <> OLD.properties_rev) EXECUTE FUNCTION note_properties();
"""


def prepare(conninfo: str) -> None:
    """Creates the journal in a database."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute(JOURNAL)
