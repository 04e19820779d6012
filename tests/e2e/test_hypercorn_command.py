"""`hypercorn --config hypercorn.toml pulse_trio.asgi:app`: the operators' way does the same job."""

import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import trio

from pulse_trio.app import NEEDS_TRIO
from tests.support.blocks import ROOT, blocks
from tests.support.client import Person
from tests.support.cluster import traversable_folder
from tests.support.server import PROGRAM, SECRET, Server, environment

CONFIG = ROOT / "hypercorn.toml"
(WRITTEN,) = (
    shlex.split(block.text) for block in blocks(ROOT / "docs" / "operations.md") if block.text.startswith("hypercorn ")
)
# As docs/operations.md has it, but for the port and where we are.
COMMAND = [
    str(Path(sys.executable).with_name("hypercorn")),
    *(str(CONFIG) if word == "hypercorn.toml" else word for word in WRITTEN[1:]),
    *("--bind", "127.0.0.1:0"),
]

Start = Callable[..., Server]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data folder that is not there yet, in a folder that goes away after the test."""
    folder = traversable_folder()
    yield folder / "data"
    shutil.rmtree(folder)


@pytest.fixture
def launch(data_dir: Path) -> Iterator[Start]:  # its folder must outlive the servers
    """Starts the command; ends what is left after the test."""
    servers: list[Server] = []

    def start(*arguments: str, **settings: str) -> Server:
        servers.append(Server(settings, *arguments, command=COMMAND))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


async def wait_at_rest(data_dir: Path) -> None:
    """Returns when the last process of the data folder is gone: each holds a lock in it."""

    def wait() -> None:
        for name in ("owner.lock", "lock"):
            with (data_dir / name).open() as file:
                fcntl.flock(file, fcntl.LOCK_EX)

    with trio.fail_after(20):
        await trio.to_thread.run_sync(wait, abandon_on_cancel=True)


def is_at_rest(data_dir: Path) -> bool:
    """Returns True if no process uses the data folder."""
    with (data_dir / "owner.lock").open() as owner, (data_dir / "lock").open() as cluster:
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(cluster, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@pytest.mark.process_end
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_serves_and_a_signal_stops_everything(launch: Start, data_dir: Path, how: signal.Signals) -> None:
    server = launch(PULSE_DATA_DIR=str(data_dir)).wait_ready()
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        async with alice.connect(await alice.create_group()) as chat:
            await chat.send({"type": "message", "content": "hello"})
            assert (await chat.receive_type("message"))["content"] == "hello"
            assert server.stop(how, 20) == 0
    assert is_at_rest(data_dir)
    assert "Traceback" not in server.output


async def test_ctrl_c_at_a_terminal_reaches_every_process_and_stops_everything(data_dir: Path) -> None:
    server = Server({"PULSE_DATA_DIR": str(data_dir)}, command=COMMAND, start_new_session=True).wait_ready()
    with trio.fail_after(60):
        await Person.register(server.base_url, "alice")
    # A terminal signals the whole group.
    os.killpg(server.process.pid, signal.SIGINT)
    assert server.wait(20) == 0
    assert is_at_rest(data_dir)
    assert "Traceback" not in server.output


@pytest.mark.process_end
async def test_its_postgres_dies_and_it_says_so_and_ends(launch: Start, data_dir: Path) -> None:
    server = launch(PULSE_DATA_DIR=str(data_dir)).wait_ready()
    os.kill(int((data_dir / "data" / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
    assert server.wait(20) != 0
    assert sum("the embedded PostgreSQL ended" in line for line in server.output.splitlines()) == 1
    assert "Traceback" not in server.output
    await wait_at_rest(data_dir)


def refusals(server: Server) -> list[str]:
    """Returns its lines of level critical."""
    found = [json.loads(line) for line in server.output.splitlines() if line.startswith("{")]
    return [line["event"] for line in found if line["level"] == "critical"]


@pytest.mark.process_end
def test_two_workers_without_a_database_of_ones_own_are_refused_in_one_line(launch: Start, data_dir: Path) -> None:
    server = launch("--workers", "2", PULSE_DATA_DIR=str(data_dir))
    server.wait(60)  # Hypercorn loses its workers' exit codes
    (said,) = refusals(server)
    assert said.startswith("hypercorn --workers 2: they need DATABASE_URL")
    assert "pulse-trio serve --workers 2" in said
    assert "Traceback" not in server.output
    assert not data_dir.exists()


@pytest.mark.process_end
def test_two_workers_cannot_share_the_address_of_the_metrics(launch: Start, database: str) -> None:
    server = launch("--workers", "2", DATABASE_URL=database, PULSE_METRICS_BIND="127.0.0.1:0")
    server.wait(60)
    (said,) = refusals(server)
    assert "PULSE_METRICS_BIND" in said


@pytest.mark.process_end
async def test_two_workers_on_a_database_of_ones_own_share_it(launch: Start, database: str) -> None:
    server = launch("--workers", "2", DATABASE_URL=database).wait_ready()
    with trio.fail_after(60):
        while server.output.count("Running on") < 2:  # noqa: ASYNC110  # no event in another process
            await trio.sleep(0.05)
        alice = await Person.register(server.base_url, "alice")
        for _ in range(8):
            response = await Person(server.base_url, "alice", alice.id, alice.token).api.get("/api/auth/me")
            assert response.status_code == 200
    with psycopg.connect(database) as connection:
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ShareLock' AND granted"
        assert connection.execute(query).fetchone() == (2,)
    server.stop()
    assert "Traceback" not in server.output


@pytest.mark.process_end
def test_a_second_service_is_refused_by_the_first(launch: Start, database: str) -> None:
    first = launch(DATABASE_URL=database).wait_ready()
    second = subprocess.run(
        [PROGRAM, "serve", "--port", "0"],
        env=environment(DATABASE_URL=database, SECRET_KEY=SECRET),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 1
    assert "another pulse-trio process" in second.stderr
    third = launch(DATABASE_URL=database)
    assert third.wait(60) != 0
    assert "another pulse-trio process" in third.output
    assert first.stop() == 0


OTHER_HYPERCORN = """
import sys
from pulse_trio.edge.server import workarounds
workarounds.SUPPORTED_VERSIONS = ("9.9.9",)
from pulse_trio.program import main
sys.argv[0] = "pulse-trio"
main()
"""


def test_an_unknown_hypercorn_is_refused_unless_a_setting_allows_it(database: str) -> None:
    command = [sys.executable, "-c", OTHER_HYPERCORN, "serve", "--port", "0"]
    refused = Server({"DATABASE_URL": database}, command=command)
    assert refused.wait(60) == 1
    assert "is not supported" in refused.output
    assert "pip install 'hypercorn==9.9.9'" in refused.output
    assert "Traceback" not in refused.output
    allowed = Server({"DATABASE_URL": database, "PULSE_ALLOW_ANY_HYPERCORN": "true"}, command=command)
    try:
        allowed.wait_ready()
        assert "unsupported Hypercorn version" in allowed.output
    finally:
        assert allowed.stop() == 0


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"SECRET_KEY": "short"}, "SECRET_KEY is too short"),
        ({"ALGORITHM": "EdDSA", "PULSE_PUBLIC_KEY": "/nowhere/key.pem"}, "PULSE_PUBLIC_KEY"),
        ({"DATABASE_URL": "postgresql://pulse:hunter2@127.0.0.1:1/pulse"}, "DATABASE_URL"),
    ],
    ids=str,
)
def test_a_mistake_is_refused_in_one_line(launch: Start, data_dir: Path, settings: dict[str, str], part: str) -> None:
    server = launch(PULSE_DATA_DIR=str(data_dir), **settings)
    assert server.wait(60) != 0
    said = [json.loads(line)["event"] for line in server.output.splitlines()]
    assert len(said) == 1, said
    assert part in said[0]
    assert "hunter2" not in server.output


@pytest.mark.process_end
@pytest.mark.parametrize("workers", ["0", "1"])
async def test_sigkill_leaves_no_postgres(launch: Start, data_dir: Path, workers: str) -> None:
    server = launch("--workers", workers, PULSE_DATA_DIR=str(data_dir)).wait_ready()
    worker = int((data_dir / "owner.lock").read_text())
    os.kill(worker, signal.SIGKILL)
    server.wait(20)
    await wait_at_rest(data_dir)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("milestone", ["init-*", "postgres.log", "conninfo"])
async def test_a_signal_during_the_start_ends_it(
    launch: Start, data_dir: Path, milestone: str, how: signal.Signals
) -> None:
    server = launch(PULSE_DATA_DIR=str(data_dir))
    with trio.fail_after(30):
        while not any(data_dir.glob(milestone)):  # noqa: ASYNC110, ASYNC240  # another process makes the file
            await trio.sleep(0.002)
    assert server.stop(how, 20) == 0
    await wait_at_rest(data_dir)
    assert "Traceback" not in server.output


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
async def test_a_second_signal_changes_nothing(launch: Start, data_dir: Path, how: signal.Signals) -> None:
    server = launch(PULSE_DATA_DIR=str(data_dir)).wait_ready()
    with trio.fail_after(30):
        while server.process.poll() is None:
            server.process.send_signal(how)
            await trio.sleep(0.005)
    assert server.wait() == 0
    assert is_at_rest(data_dir)
    assert "Traceback" not in server.output


async def test_every_line_of_its_log_is_json_and_there_once(launch: Start, data_dir: Path) -> None:
    server = launch(PULSE_DATA_DIR=str(data_dir), PULSE_LOG_FORMAT="json").wait_ready()
    with trio.fail_after(60):
        await Person.register(server.base_url, "alice")
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.output.splitlines()]
    assert sum("Running on" in line["event"] for line in lines) == 1


IMPORTED = (
    "import asyncio, importlib\nasync def load(): importlib.import_module('pulse_trio.asgi')\nasyncio.run(load())"
)
CALLED = """
import asyncio, signal
from pulse_trio.asgi import app
async def call():
    try:
        await app({"type": "lifespan", "asgi": {"version": "3.0"}}, None, None)
    except BaseException:
        pass  # as uvicorn does
asyncio.run(call())
"""


@pytest.mark.parametrize(
    "command",
    [
        [COMMAND[0], "--workers", "0", "--bind", "127.0.0.1:0", "pulse_trio.asgi:app"],
        [COMMAND[0], "--bind", "127.0.0.1:0", "pulse_trio.asgi:app"],
        [sys.executable, "-c", IMPORTED],  # as uvicorn does
        [sys.executable, "-c", CALLED],
    ],
    ids=["hypercorn", "hypercorn with a worker process", "imported under asyncio", "called under asyncio"],
)
def test_a_server_without_trio_is_refused_with_what_to_run(command: list[str], database: str) -> None:
    done = subprocess.run(
        command,
        env=environment(DATABASE_URL=database, SECRET_KEY=SECRET),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("pulse-trio: ")]
    assert said == [f"pulse-trio: {NEEDS_TRIO}"]
    assert "pulse-trio serve" in said[0]
    assert "Traceback" not in done.stdout + done.stderr
