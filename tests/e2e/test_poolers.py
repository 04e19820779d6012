"""PgBouncer between the service and PostgreSQL: it works, or is refused in one line, and the doctor says the same."""

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import trio

from tests.e2e.test_cli import answer, refusal
from tests.e2e.test_doctor import findings
from tests.e2e.test_serve import assert_refused, run_serve
from tests.support.client import PASSWORD, Person
from tests.support.cluster import Cluster
from tests.support.pgbouncer import PgBouncer
from tests.support.server import SECRET, Server

Start = Callable[..., Server]

# What PgBouncer is told to make of startup parameters that it does not know: refuse them, or drop them.
BOTH = pytest.mark.parametrize("ignored", ["", "options"], ids=["refuses options", "drops options"])


def own(conninfo: str) -> dict[str, str]:
    return {"DATABASE_URL": conninfo, "SECRET_KEY": SECRET, "PULSE_LOG_FORMAT": "json"}


def advisory_locks(cluster: Cluster) -> int:
    """Counts the advisory locks: behind a pooler they would outlive the client that took them."""
    (row,) = cluster.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
    return int(row[0])


@BOTH
async def test_with_sessions_of_its_own_everything_is_kept(
    own_cluster: Cluster, start_server: Start, ignored: str
) -> None:
    """The sessions' settings are those of a direct connection, whatever the server's defaults are."""
    database = own_cluster.new_database()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("ALTER ROLE pulse SET synchronous_commit = off")
        connection.execute(
            "CREATE TABLE seen AS SELECT '' AS name, '' AS value WHERE false; "
            "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen "
            "SELECT name, current_setting(name) FROM unnest(ARRAY['synchronous_commit', 'statement_timeout', "
            "'lock_timeout', 'plan_cache_mode']) AS name; RETURN NULL; END $$; "
            "CREATE TRIGGER see AFTER INSERT ON messages EXECUTE FUNCTION see()"
        )
    own_cluster.stop()
    own_cluster.server._options["fsync"] = "on"
    own_cluster.start()
    with PgBouncer(database, "session", ignore_startup_parameters=ignored) as pooler, trio.fail_after(90):
        settings = {**own(pooler.conninfo), "PULSE_ALLOW_LOSING_COMMITS": "false"}
        found = findings(**settings)
        assert "failed" not in {check["status"] for check in found.values()}, found
        server = start_server(**settings)
        alice = await Person.register(server.base_url, "alice")
        async with alice.connect(await alice.create_group()) as chat:
            for number in range(20):
                await chat.send({"type": "message", "content": str(number)})
                await chat.receive_type("message")
        assert set(own_cluster_rows(database)) == {
            ("synchronous_commit", "on"),
            ("statement_timeout", "5s"),
            ("lock_timeout", "1s"),
            ("plan_cache_mode", "force_generic_plan"),
        }
        assert_refused(run_serve(**settings), "another pulse-trio process is using this database", "pid ")
        assert "one runs on this database" in findings(**settings)["service"]["text"]
        assert server.stop() == 0


def own_cluster_rows(database: str) -> list[tuple[str, str]]:
    with psycopg.connect(database) as connection:
        return connection.execute("SELECT DISTINCT name, value FROM seen").fetchall()


@BOTH
@pytest.mark.parametrize("order", ["0", "1"], ids=["the last used first", "the last used last"])
def test_sessions_that_are_lent_for_a_transaction_are_refused(
    own_cluster: Cluster, ignored: str, order: str, tmp_path: Path
) -> None:
    database = own_cluster.new_database(migrated=False)
    pool = {"ignore_startup_parameters": ignored, "server_round_robin": order, "min_pool_size": "2"}
    with PgBouncer(database, "transaction", **pool) as pooler:
        for _ in range(2):
            done = run_serve(**own(pooler.conninfo))
            assert_refused(done, "pooler", "pool_mode=session", "directly")
        found = findings(**own(pooler.conninfo))
        assert found["own sessions"]["status"] == "failed"
        assert "pool_mode=session" in found["own sessions"]["text"]
        assert "none runs" in found["service"]["text"]
        assert advisory_locks(own_cluster) == 0
        with psycopg.connect(database) as connection:
            assert connection.execute("SELECT to_regclass('users')").fetchone() == (None,), "it was not migrated either"
        # What needs no session of its own works, and leaves no lock behind.
        answer("migrate", **own(pooler.conninfo))
        answer("user", "add", "alice", "--password", "-", stdin=PASSWORD, **own(pooler.conninfo))
        file = tmp_path / "pulse.dump"
        file.touch()
        for command in ("backup", "restore"):
            assert "pool_mode=session" in refusal(command, str(file), **own(pooler.conninfo))
        assert file.stat().st_size == 0
        assert advisory_locks(own_cluster) == 0


def test_what_pgbouncer_refuses_is_told_with_what_to_do(own_cluster: Cluster) -> None:
    database = own_cluster.new_database()
    with PgBouncer(database, "session") as pooler:
        settings = own(f"{pooler.conninfo} options='-c work_mem=5MB'")
        assert_refused(run_serve(**settings), "unsupported startup parameter", "take the options out of DATABASE_URL")
        found = findings(**settings)
        assert found["database"]["status"] == "failed"
        assert "take the options out" in found["database"]["text"]
    with PgBouncer(database, "statement") as pooler:
        assert_refused(run_serve(**own(pooler.conninfo)), "statement pooling", "pool_mode=session")
    with PgBouncer(database, "session", default_pool_size="1", query_wait_timeout="1") as pooler:
        assert_refused(run_serve(**own(pooler.conninfo)), "query_wait_timeout", "default_pool_size")


def test_a_pooler_with_too_few_sessions_is_told_of_and_not_waited_for(own_cluster: Cluster) -> None:
    """Covers a pool so small that one more session would make PgBouncer wait for ever; the doctor once opened it."""
    database = own_cluster.new_database()
    with PgBouncer(database, "session", default_pool_size="1", query_wait_timeout="0") as pooler:
        done = run_serve(**own(pooler.conninfo))
        said = assert_refused(done, "no answer within", "default_pool_size to PULSE_POOL_MAX + 7")
        found = findings(**own(pooler.conninfo))["own sessions"]
        assert (found["status"], found["text"]) == ("failed", said)
        with psycopg.connect(pooler.conninfo, autocommit=True) as connection:
            connection.execute("SELECT")  # has the only session
            assert_refused(run_serve(**own(pooler.conninfo)), "no answer within", "default_pool_size")
    with PgBouncer(database, "session", default_pool_size="4", query_wait_timeout="0") as pooler:
        found = findings(**own(pooler.conninfo))
        assert found["own sessions"]["status"] == "ok", found


async def test_a_pooler_that_is_started_again_in_another_mode_ends_the_service(
    own_cluster: Cluster, start_server: Start
) -> None:
    """The lock is taken again after a break only where it holds."""
    database = own_cluster.new_database()
    with PgBouncer(database, "session") as pooler, trio.fail_after(60):
        server = start_server(**own(pooler.conninfo))
        pooler.restart("transaction")
        assert await trio.to_thread.run_sync(server.wait) == 1
    assert "pool_mode=session" in server.output
    assert "Traceback" not in server.output
