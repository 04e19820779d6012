"""A process that stands still in the middle of a transaction does not keep rows locked."""

from uuid import UUID

import psycopg
import pytest
import trio

from pulse_trio.database.opening import Database, plan_sessions
from pulse_trio.settings import Settings
from pulse_trio.store.base import StoreUnavailable
from pulse_trio.store.postgres import PostgresStore
from pulse_trio.trio_psycopg import Pool
from tests.contract.people import People
from tests.support.commands import carry_out, post
from tests.support.server import SECRET

LIMIT = 30  # seconds
TIMEOUT = 0.3  # seconds of a statement


@pytest.mark.parametrize("block", ["transaction", "pipeline"])
async def test_a_transaction_that_stands_still_ends(database: str, block: str) -> None:
    settings = Settings.load(
        database_url=database, secret_key=SECRET, statement_timeout=TIMEOUT, allow_losing_commits=True
    )
    sessions = plan_sessions(Database(settings, database, "a test's"))
    with trio.fail_after(2 * LIMIT):
        async with Pool(sessions.conninfo, autocommit=True, server_settings=sessions.settings) as pool:
            store = PostgresStore(pool)
            alice = await People(store).user("alice")
            group = await People(store).group(alice)
            with pytest.raises(StoreUnavailable):
                await stand_still(store, block, database, group)
            await carry_out(store, post(group, alice))


@pytest.mark.parametrize("seconds", [1e-9, 0.0004, 0.3])
async def test_a_limit_below_a_millisecond_is_still_a_limit(database: str, seconds: float) -> None:
    """0 milliseconds would be no limit: https://www.postgresql.org/docs/current/runtime-config-client.html."""
    settings = Settings.load(
        database_url=database, secret_key=SECRET, statement_timeout=seconds, allow_losing_commits=True
    )
    limits = plan_sessions(Database(settings, database, "a test's")).settings
    names = [name for name in limits if name.endswith("_timeout") and name != "idle_session_timeout"]
    assert len(names) >= 2
    assert all(int(limits[name]) >= max(1, int(1000 * seconds)) for name in names), limits
    pool = Pool(database, statement_timeout=seconds)
    assert int(pool._settings["statement_timeout"]) >= max(1, int(1000 * seconds))


async def stand_still(store: PostgresStore, block: str, conninfo: str, conversation_id: UUID) -> None:
    """Locks a conversation, and continues when somebody else has got the lock."""
    async with store.connection() as frozen, getattr(frozen, block)():
        await frozen.execute("SELECT FROM conversations WHERE id = %s FOR NO KEY UPDATE", (conversation_id,))
        await trio.to_thread.run_sync(_wait_lock, conninfo, conversation_id)
        await frozen.execute("SELECT 1")


def _wait_lock(conninfo: str, conversation_id: UUID) -> None:
    with psycopg.connect(conninfo) as other:
        other.execute(f"SET lock_timeout = '{LIMIT}s'")
        try:
            other.execute("SELECT FROM conversations WHERE id = %s FOR UPDATE", (conversation_id,))
        except psycopg.errors.LockNotAvailable:
            pytest.fail("the row stays locked")
