"""Processes that share a database: who may, who may not, and that all of them follow its history."""

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import trio

from tests.e2e.test_cli import answer
from tests.e2e.test_doctor import findings
from tests.e2e.test_serve import assert_refused, run_serve, wait_until
from tests.e2e.test_workers import lines
from tests.faults.test_failover import both, two_servers
from tests.support.client import Person
from tests.support.cluster import Cluster
from tests.support.pgbouncer import PgBouncer
from tests.support.server import SECRET, Server

Start = Callable[..., Server]
CLUSTER = {"PULSE_CLUSTER": "true", "PULSE_LOG_FORMAT": "json"}


@pytest.fixture
def launch() -> Iterator[Start]:
    """Starts processes that need not become ready; ends what is left after the test."""
    servers: list[Server] = []

    def start(*arguments: str, **settings: str) -> Server:
        servers.append(Server({**CLUSTER, **settings}, *arguments))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.wait()


def own(conninfo: str) -> dict[str, str]:
    return {"DATABASE_URL": conninfo, "SECRET_KEY": SECRET, "PULSE_LOG_FORMAT": "json"}


def locks(conninfo: str) -> list[tuple[Any, ...]]:
    """The modes of the service locks that are held."""
    with psycopg.connect(conninfo) as connection:
        return connection.execute("SELECT mode FROM pg_locks WHERE locktype = 'advisory' AND granted").fetchall()


@pytest.mark.process_end
async def test_processes_of_a_cluster_serve_one_database(database: str, launch: Start) -> None:
    one, two = [launch(DATABASE_URL=database).wait_ready() for _ in range(2)]
    with trio.fail_after(60):
        alice = await Person.register(one.base_url, "alice")
        there = Person(two.base_url, "alice", alice.id, alice.token)
        assert (await there.api.get("/api/auth/me")).status_code == 200
    assert locks(database) == [("ShareLock",)] * 2
    assert_refused(
        run_serve(**own(database)), "another pulse-trio process", "belongs to a cluster", "PULSE_CLUSTER=true"
    )
    text = findings(**own(database))["service"]["text"]
    assert "processes of a cluster run on this database: 2 " in text
    assert one.stop() == two.stop() == 0


@pytest.mark.process_end
def test_a_process_alone_refuses_a_cluster(database: str, launch: Start) -> None:
    alone = launch(DATABASE_URL=database, PULSE_CLUSTER="false").wait_ready()
    assert locks(database) == [("ExclusiveLock",)]
    for arguments in ([], ["--workers", "2"]):
        done = run_serve(*arguments, PULSE_CLUSTER="true", **own(database))
        assert_refused(done, "another pulse-trio process", "does not belong to a cluster")
    assert alone.process.poll() is None
    assert alone.stop() == 0


@pytest.mark.process_end
def test_a_clustered_standby_waits_for_a_process_alone_and_joins_a_cluster(database: str, launch: Start) -> None:
    alone = launch(DATABASE_URL=database, PULSE_CLUSTER="false").wait_ready()
    standby = launch("--wait", "--workers", "2", DATABASE_URL=database)
    wait_until(lambda: bool(lines(standby, "standing by")), "it does not say that it waits", 60)
    assert alone.stop() == 0
    standby.wait_ready()
    joined = launch("--wait", DATABASE_URL=database).wait_ready()
    assert lines(joined, "standing by") == []
    assert joined.stop() == standby.stop() == 0


async def test_all_processes_reopen_with_the_epoch_that_an_operator_has_renewed(database: str, launch: Start) -> None:
    server = launch("--workers", "2", DATABASE_URL=database).wait_ready()
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        async with alice.connect(await alice.create_group()) as chat:
            epoch = (await chat.receive())["epoch"]
            await trio.to_thread.run_sync(lambda: answer("restored", **own(database)))
            assert await chat.wait_closed() == 1012
        event = "database moved to another server, reopening the service"
        while {line["worker"] for line in lines(server, event)} != {0, 1}:  # noqa: ASYNC110  # another process
            await trio.sleep(0.05)
        while (await alice.api.get("/readyz")).status_code != 200:  # noqa: ASYNC110  # another process
            await trio.sleep(0.05)
        async with alice.connect(await alice.create_group()) as chat:
            assert (await chat.receive())["epoch"] != epoch
    assert server.stop() == 0


async def test_all_processes_move_to_a_promoted_standby() -> None:
    with two_servers() as (primary, standby), trio.fail_after(120):
        server = Server({**CLUSTER, "DATABASE_URL": both(primary, standby)}, "--workers", "2").wait_ready()
        try:
            alice = await Person.register(server.base_url, "alice")
            primary.kill()
            standby.promote()
            event = "database moved to another server, reopening the service"
            while {line["worker"] for line in lines(server, event)} != {0, 1}:  # noqa: ASYNC110  # another process
                await trio.sleep(0.05)
            for _ in range(8):
                while (await alice.api.get("/readyz")).status_code != 200:  # noqa: ASYNC110  # another process
                    await trio.sleep(0.05)
            assert lines(server, "worker ended") == []
        finally:
            assert server.stop() == 0
        assert "Traceback" not in server.output


async def test_workers_behind_a_pooler_keep_their_sessions(own_cluster: Cluster, launch: Start) -> None:
    """In session mode alone, and with a direct URL for the locks."""
    database = own_cluster.new_database()
    with PgBouncer(database, "session", default_pool_size="60") as pooler, trio.fail_after(120):
        for direct in ({}, {"PULSE_DATABASE_DIRECT_URL": database}):
            server = launch("--workers", "2", DATABASE_URL=pooler.conninfo, **direct)
            await trio.to_thread.run_sync(server.wait_ready)
            name = f"alice{len(direct)}"
            alice = await Person.register(server.base_url, name)
            async with alice.connect(await alice.create_group()) as chat:
                await chat.send({"type": "message", "content": "kept"})
                assert (await chat.receive_type("message"))["content"] == "kept"
            assert set(locks(database)) == {("ShareLock",)}
            assert await trio.to_thread.run_sync(server.stop) == 0
        if direct:
            pid = holder(database)
            assert pid is None, "the lock has ended with its processes"


def holder(conninfo: str) -> int | None:
    with psycopg.connect(conninfo) as connection:
        row = connection.execute("SELECT pid FROM pg_locks WHERE locktype = 'advisory'").fetchone()
        return None if row is None else int(row[0])


def test_what_shares_sessions_is_refused_also_with_a_direct_url(own_cluster: Cluster) -> None:
    """Sessions of the pool need their settings, such as synchronous_commit; the lock needs one of its own."""
    database, other = own_cluster.new_database(), own_cluster.new_database()
    with PgBouncer(database, "transaction") as pooler:
        for url, direct in ((pooler.conninfo, database), (database, pooler.conninfo)):
            settings = {**own(url), "PULSE_DATABASE_DIRECT_URL": direct}
            for arguments in ([], ["--workers", "2"]):
                assert_refused(run_serve(*arguments, **settings), "pooler", "pool_mode=session", "directly")
        assert locks(database) == []
    done = run_serve(**own(database), PULSE_DATABASE_DIRECT_URL=other)
    assert_refused(done, "PULSE_DATABASE_DIRECT_URL leads to another database")
    done = run_serve(PULSE_DATABASE_DIRECT_URL=database)
    assert_refused(done, "PULSE_DATABASE_DIRECT_URL needs DATABASE_URL")
    done = run_serve(**own(database), PULSE_DATABASE_DIRECT_URL="postgresql://pulse:hunter2@127.0.0.1:1/pulse")
    said = assert_refused(done, "PULSE_DATABASE_DIRECT_URL cannot be used")
    assert "hunter2" not in said


async def test_a_pooler_that_is_started_again_in_another_mode_ends_the_workers(
    own_cluster: Cluster, launch: Start
) -> None:
    """They are started again, and serve nothing, until it is put right."""
    database = own_cluster.new_database()
    with PgBouncer(database, "session", default_pool_size="60") as pooler, trio.fail_after(120):
        server = launch("--workers", "2", DATABASE_URL=pooler.conninfo)
        await trio.to_thread.run_sync(server.wait_ready)
        pooler.restart("transaction")
        while len(lines(server, "worker ended")) < 4:  # noqa: ASYNC110  # another process
            await trio.sleep(0.05)
        assert len(lines(server, "worker ready")) == 2
        assert locks(database) == []
        pooler.restart("session")
        while len(lines(server, "worker ready")) < 4:  # noqa: ASYNC110  # another process
            await trio.sleep(0.05)
        assert await trio.to_thread.run_sync(server.stop) == 0
    assert "pool_mode=session" in server.output
    assert "Traceback" not in server.output
