"""`serve --wait`: a second process waits for the end of the first one, and then serves the same history."""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from pulse_trio.database.schema import SERVICE_LOCK
from tests.e2e.test_serve import assert_refused, run_serve, wait_until
from tests.support.client import Person
from tests.support.cluster import Cluster
from tests.support.server import PROGRAM, SECRET, Server

Start = Callable[..., Server]


@pytest.fixture
def stand_by() -> Iterator[Start]:
    """Starts standbys, which need not become ready; ends them after the test."""
    servers: list[Server] = []

    def start(port: int = 0, **settings: str) -> Server:
        command = [PROGRAM, "serve", "--wait", "--port", str(port)]
        servers.append(Server({**settings, "PULSE_LOG_FORMAT": "json"}, command=command))
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.wait()


def told(server: Server) -> dict[str, Any]:
    """The line in which it says that it waits."""
    wait_until(lambda: '"standing by"' in server.output, "it does not say that it waits", 60)
    found: dict[str, Any] = next(json.loads(line) for line in server.output.splitlines() if '"standing by"' in line)
    return found


@pytest.mark.process_end
@pytest.mark.parametrize("kind", ["embedded", "DATABASE_URL"])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_a_standby_serves_when_the_service_ends(
    kind: str, how: signal.Signals, folder: Path, database: str, stand_by: Start
) -> None:
    """It takes over the port, too: two processes of one machine can replace each other."""
    is_embedded = kind == "embedded"
    settings = {"PULSE_DATA_DIR": str(folder / "data")} if is_embedded else {"DATABASE_URL": database}
    first = Server(settings).wait_ready()
    try:
        with trio.fail_after(120):
            alice = await Person.register(first.base_url, "alice")
            conversation = await alice.create_group()
            async with alice.connect(conversation) as chat:
                await chat.send({"type": "message", "content": "before"})
                await chat.receive_type("message")
            standby = await trio.to_thread.run_sync(lambda: stand_by(first.port, **settings))
            line = await trio.to_thread.run_sync(told, standby)
            assert line["waits_for"].startswith("pid ")
            if is_embedded:
                assert line["waits_for"] == f"pid {first.process.pid}"
            assert (await alice.api.get("/api/auth/me")).status_code == 200, "the first one serves"
            assert standby.process.poll() is None
            first.process.send_signal(how)
            await trio.to_thread.run_sync(standby.wait_ready)
            assert standby.port == first.port
            assert [message["content"] for message in (await alice.history(conversation))["messages"]] == ["before"]
            assert await trio.to_thread.run_sync(standby.stop) == 0
        assert "Traceback" not in standby.output
        assert standby.output.count("standing by") == 1
    finally:
        first.process.kill()
        first.wait()


@pytest.mark.process_end
@pytest.mark.parametrize("kind", ["embedded", "DATABASE_URL"])
def test_a_signal_ends_a_standby(kind: str, folder: Path, database: str, stand_by: Start) -> None:
    settings = {"PULSE_DATA_DIR": str(folder / "data")} if kind == "embedded" else {"DATABASE_URL": database}
    first = Server(settings).wait_ready()
    try:
        standby = stand_by(**settings)
        told(standby)
        assert standby.stop() == 0
        assert json.loads(standby.output.splitlines()[-1])["event"] == "stopped before it was ready"
        assert "Traceback" not in standby.output
        assert first.process.poll() is None
    finally:
        assert first.stop() == 0


def test_a_standby_outlives_a_failure_of_the_database(own_cluster: Cluster, stand_by: Start) -> None:
    database = own_cluster.new_database()
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (SERVICE_LOCK,))
        standby = stand_by(DATABASE_URL=database)
        assert f"pid {other.info.backend_pid}" in told(standby)["waits_for"]
        own_cluster.kill()
        assert standby.process.poll() is None
        own_cluster.start()
        standby.wait_ready()
        assert standby.stop() == 0


def test_a_newer_version_that_is_refused_leaves_the_schema_alone(database: str) -> None:
    """A migration under the feet of the version that runs could break it."""
    with psycopg.connect(database, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (SERVICE_LOCK,))
        other.execute("DROP TABLE former_members CASCADE; DROP TABLE alembic_version")
        assert_refused(run_serve(DATABASE_URL=database, SECRET_KEY=SECRET), "another pulse-trio process")
        assert other.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,)


def test_a_standby_where_nothing_serves_starts_at_once(database: str) -> None:
    server = Server({"DATABASE_URL": database, "PULSE_STANDBY": "true"}).wait_ready()
    assert server.stop() == 0
    assert "standing by" not in server.output
