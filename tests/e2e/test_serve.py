"""`pulse-trio serve`: it starts, says where, keeps what it stored, and stops all that it started."""

import fcntl
import json
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from tests.support.certificate import make_certificate
from tests.support.client import Api, Person
from tests.support.cluster import Cluster, traversable_folder
from tests.support.server import PROGRAM, SECRET, Server, environment

Start = Callable[..., Server]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data folder that is not there yet, in a folder that goes away after the test."""
    folder = traversable_folder()
    yield folder / "data"
    wait_at_rest(folder / "data")
    shutil.rmtree(folder)


@pytest.fixture
def launch(data_dir: Path) -> Iterator[Start]:  # its folder must outlive the servers
    """Starts servers that need not become ready; kills what is left after the test."""
    servers: list[Server] = []

    def start(*arguments: str, **settings: str) -> Server:
        servers.append(Server(settings, *arguments))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.wait()


def is_at_rest(data_dir: Path) -> bool:
    """Returns True if no process uses the data folder: the service's and the cluster's each hold a lock in it."""
    for name in ("owner.lock", "lock"):
        path = data_dir / name
        if path.exists():
            with path.open() as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
    return True


def wait_at_rest(data_dir: Path, seconds: float = 20) -> None:
    """Returns when the last process of the data folder is gone."""
    wait_until(lambda: is_at_rest(data_dir), "a process of the data folder lives on", seconds)


def wait_until(condition: Callable[[], bool], otherwise: str, seconds: float = 30) -> None:
    """Looks often; for conditions of other processes, which send no event."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.002)


def postmaster(data_dir: Path) -> int:
    """The process id of the data folder's PostgreSQL."""
    return int((data_dir / "data" / "postmaster.pid").read_text().splitlines()[0])


def run_serve(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs a `serve` that is to fail."""
    return subprocess.run(
        [PROGRAM, "serve", "--port", "0", *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_refused(done: subprocess.CompletedProcess[str], *parts: str) -> str:
    """It ended with one line that says all of these; returns what it says."""
    assert done.returncode not in {0, None}
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    is_json = lines[0].startswith("{")
    said = str(json.loads(lines[0])["event"]) if is_json else lines[0].removeprefix("pulse-trio: ")
    assert is_json or said != lines[0]
    for part in parts:
        assert part in said
    return said


async def test_says_what_to_open_and_serves_it(launch: Start, data_dir: Path) -> None:
    server = launch("--data-dir", str(data_dir), PULSE_LOG_FORMAT="console").wait_ready()
    with trio.fail_after(60):
        assert (await Api(server.base_url).get("/docs")).status_code == 200
        await Person.register(server.base_url, "alice")
    assert f"{server.base_url}/docs" in server.output
    assert str(data_dir) in server.output
    assert server.stop() == 0
    assert "Traceback" not in server.output


@pytest.mark.process_end
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_stops_everything_with_a_client_connected(
    launch: Start, data_dir: Path, how: signal.Signals
) -> None:
    server = launch("--data-dir", str(data_dir)).wait_ready()
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        async with alice.connect(await alice.create_group()) as chat:
            await chat.receive()
            server.process.send_signal(how)
            assert await chat.wait_closed() == 1012
            assert server.wait(20) == 0
    assert is_at_rest(data_dir)
    assert json.loads(server.output.splitlines()[-1])["event"] == "stopped"
    assert "Traceback" not in server.output


@pytest.mark.process_end
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_changes_nothing(launch: Start, data_dir: Path, how: signal.Signals) -> None:
    server = launch("--data-dir", str(data_dir)).wait_ready()
    deadline = time.monotonic() + 20
    while server.process.poll() is None:
        assert time.monotonic() < deadline
        server.process.send_signal(how)
        time.sleep(0.005)
    assert server.wait() == 0
    assert is_at_rest(data_dir)
    assert json.loads(server.output.splitlines()[-1])["event"] == "stopped"


def test_the_log_has_start_stop_and_unknown_settings(launch: Start, data_dir: Path) -> None:
    server = launch("--data-dir", str(data_dir), PULSE_MAX_CONECTIONS="5").wait_ready()
    assert server.stop(signal.SIGTERM) == 0
    told = {line["event"]: line for line in map(json.loads, server.output.splitlines())}
    assert told["unknown setting"]["did_you_mean"] == "PULSE_MAX_CONNECTIONS"
    assert told["started"]["address"] == f"127.0.0.1:{server.port}"
    assert told["stopped"]["signal"] == "SIGTERM"


async def test_under_nohup_a_closed_terminal_stops_nothing(data_dir: Path) -> None:
    server = Server({"PULSE_DATA_DIR": str(data_dir)}, command=["nohup", PROGRAM, "serve", "--port", "0"]).wait_ready()
    try:
        server.process.send_signal(signal.SIGHUP)
        with trio.fail_after(60):
            await Person.register(server.base_url, "alice")
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("milestone", ["owner.lock", "init-*", "postgres.log", "conninfo", "secret_key"])
def test_a_signal_during_the_start_ends_it(launch: Start, data_dir: Path, milestone: str, how: signal.Signals) -> None:
    server = launch("--data-dir", str(data_dir))
    wait_until(lambda: any(data_dir.glob(milestone)), f"no {milestone}")
    assert server.stop(how, 20) == 0
    wait_at_rest(data_dir)  # a program of initdb may need a moment to see that it is alone
    assert "Traceback" not in server.output
    assert "stopped" in server.output.splitlines()[-1].lower()

    again = launch("--data-dir", str(data_dir)).wait_ready()
    assert again.stop() == 0


async def test_a_second_start_finds_the_data_and_takes_old_tokens(launch: Start, data_dir: Path) -> None:
    first = launch("--data-dir", str(data_dir)).wait_ready()
    with trio.fail_after(60):
        alice = await Person.register(first.base_url, "alice")
    assert first.stop() == 0
    assert stat.S_IMODE((data_dir / "secret_key").stat().st_mode) == 0o600

    second = launch(PULSE_DATA_DIR=str(data_dir)).wait_ready()
    with trio.fail_after(60):
        me = await Person(second.base_url, "alice", alice.id, alice.token).api.get("/api/auth/me")
        assert (me.status_code, me.json()["id"]) == (200, alice.id)
    assert second.stop() == 0


@pytest.mark.process_end
@pytest.mark.parametrize("killed", ["service", "postgres", "both"])
async def test_a_start_after_a_kill_finds_the_data(launch: Start, data_dir: Path, killed: str) -> None:
    first = launch("--data-dir", str(data_dir)).wait_ready()
    with trio.fail_after(60):
        alice = await Person.register(first.base_url, "alice")
        conversation = await alice.create_group()
        async with alice.connect(conversation) as chat:
            await chat.send({"type": "message", "content": "kept"})
            await chat.receive_type("message")
            if killed != "service":
                os.kill(postmaster(data_dir), signal.SIGKILL)
            if killed != "postgres":
                first.process.kill()
            first.wait()

    second = launch("--data-dir", str(data_dir)).wait_ready()
    with trio.fail_after(60):
        history = await Person(second.base_url, "alice", alice.id, alice.token).history(conversation)
        assert [message["content"] for message in history["messages"]] == ["kept"]
    assert second.stop() == 0
    assert is_at_rest(data_dir)


@pytest.mark.process_end
def test_its_postgres_dies_and_it_says_so_and_ends(launch: Start, data_dir: Path) -> None:
    server = launch("--data-dir", str(data_dir), PULSE_LOG_FORMAT="json").wait_ready()
    os.kill(postmaster(data_dir), signal.SIGKILL)
    assert server.wait(20) == 1
    reasons = [json.loads(line)["reason"] for line in server.output.splitlines() if '"service stops"' in line]
    assert len(reasons) == 1
    assert "PostgreSQL" in reasons[0]
    assert "postgres.log" in reasons[0]
    assert "Traceback" not in server.output
    wait_at_rest(data_dir)


async def test_a_data_folder_with_a_path_of_150_characters(launch: Start) -> None:
    folder = traversable_folder()
    try:
        data_dir = folder / "long" / ("n" * (150 - len(str(folder)) - 6))
        assert len(str(data_dir)) == 150
        server = launch("--data-dir", str(data_dir)).wait_ready()
        with trio.fail_after(60):
            await Person.register(server.base_url, "alice")
        assert server.stop() == 0
        assert is_at_rest(data_dir)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def ordinary() -> dict[str, Any]:
    """Returns the command that starts a program as an ordinary user."""
    if os.geteuid() != 0:
        pytest.skip("not root: every other test here runs as an ordinary user already")
    nobody = pwd.getpwnam("nobody")
    account: dict[str, Any] = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": "/"}
    try:
        subprocess.run([PROGRAM, "--version"], check=True, capture_output=True, **account)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"{sys.executable} is in a folder that an ordinary user cannot enter")
    return account


async def test_an_ordinary_user_runs_it(ordinary: dict[str, Any]) -> None:
    folder = traversable_folder()
    try:
        os.chown(folder, ordinary["user"], ordinary["group"])
        server = Server({"PULSE_DATA_DIR": str(folder / "data")}, **ordinary)
        server.wait_ready()
        with trio.fail_after(60):
            await Person.register(server.base_url, "alice")
        assert server.stop() == 0
        assert is_at_rest(folder / "data")
        assert (folder / "data").stat().st_uid == ordinary["user"]
    finally:
        shutil.rmtree(folder)


async def test_listens_on_the_host_and_port_it_is_told(launch: Start, database: str) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0)) if sys.platform == "linux" else probe.bind(("127.0.0.1", 0))
        host, port = probe.getsockname()
    server = launch("--host", host, "--port", str(port), DATABASE_URL=database, PULSE_LOG_FORMAT="console").wait_ready()
    with trio.fail_after(60):
        assert (await Api(f"http://{host}:{port}").get("/openapi.json")).status_code == 200
    assert f"http://{host}:{port}/docs" in server.output
    assert server.stop() == 0


def test_a_port_in_use_is_refused_before_postgres_starts(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_serve("--port", str(port), "--data-dir", str(data_dir))
    assert_refused(done, f"127.0.0.1:{port}", "in use", "--port")
    assert not data_dir.exists()


@pytest.mark.parametrize(
    ("host", "advice"),
    [("192.0.2.1", "this machine has no such address"), ("no such host", "--host takes an address or a name")],
)
def test_an_address_of_another_machine_is_refused(host: str, advice: str, data_dir: Path) -> None:
    assert_refused(run_serve("--host", host, "--data-dir", str(data_dir)), host, advice)


def test_a_data_folder_that_cannot_be_written_is_refused(data_dir: Path) -> None:
    data_dir.write_text("a file is in its place")
    assert_refused(run_serve("--data-dir", str(data_dir / "below")), str(data_dir), "--data-dir")


@pytest.mark.process_end
def test_a_data_folder_in_use_is_refused_and_its_service_lives_on(launch: Start, data_dir: Path) -> None:
    first = launch("--data-dir", str(data_dir)).wait_ready()
    assert_refused(run_serve("--data-dir", str(data_dir)), str(data_dir), "another pulse-trio", str(first.process.pid))
    assert first.process.poll() is None
    assert first.stop() == 0


@pytest.mark.process_end
def test_a_database_in_use_is_refused_with_the_reason(server: Server, database: str) -> None:
    assert_refused(run_serve(DATABASE_URL=database, SECRET_KEY=SECRET), "another pulse-trio process", "one process")
    assert server.process.poll() is None


def test_a_database_that_is_not_there_is_refused() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it
        port = closed.getsockname()[1]
        url = f"postgresql://pulse:hunter2@127.0.0.1:{port}/pulse"
        done = run_serve(DATABASE_URL=url, SECRET_KEY=SECRET)
    assert_refused(done, "DATABASE_URL", "127.0.0.1", str(port), "refused")
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://pulse:hunter2@[::1/pulse",
        "postgresql://pulse:hunter2%zz@127.0.0.1/pulse",
        "postgresql://pulse:a@hunter2@127.0.0.1/pulse",
        "postgresql://pulse:hunter2/b@127.0.0.1/pulse",
        "postgresql://pulse:1/hunter2@127.0.0.1/pulse",
        "postgresql://pulse:hunter2?b@127.0.0.1/pulse",
        "host=127.0.0.1 password='hunter2",
        "host=127.0.0.1 password=a hunter2",
        "hunter2",
    ],
)
def test_a_database_url_with_a_mistake_is_refused_without_showing_it(url: str) -> None:
    done = run_serve(DATABASE_URL=url, SECRET_KEY=SECRET)
    assert_refused(done, "DATABASE_URL")
    assert "hunter2" not in done.stderr


def test_a_newer_schema_is_refused(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    done = run_serve(DATABASE_URL=database, SECRET_KEY=SECRET)
    assert_refused(done, "9999", "newer", "run the version")


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"SECRET_KEY": "short"}, ["SECRET_KEY", "32"]),
        ({"SECRET_KEY": "changeme" * 5}, ["SECRET_KEY", "placeholder"]),
        ({"DATABASE_URL": "postgresql://127.0.0.1:1/x"}, ["SECRET_KEY", "missing"]),
        ({"PULSE_POOL_MAX": "many"}, ["PULSE_POOL_MAX"]),
        ({"PULSE_POOL_MIN": "5", "PULSE_POOL_MAX": "4"}, ["PULSE_POOL_MIN", "PULSE_POOL_MAX"]),
        ({"PULSE_LOG_LEVEL": "loud"}, ["PULSE_LOG_LEVEL", "debug"]),
        ({"PULSE_ALLOWED_ORIGINS": "*"}, ["PULSE_ALLOWED_ORIGINS", "https://app.example"]),
        ({"ALGORITHM": "none"}, ["ALGORITHM", "HS256"]),
        ({"ALGORITHM": "RS256"}, ["ALGORITHM", "PULSE_PUBLIC_KEY"]),
        ({"ALGORITHM": "RS256", "PULSE_PUBLIC_KEY": "key.pem"}, ["PULSE_TOKEN_ISSUER", "PULSE_TOKEN_AUDIENCE"]),
        ({"ALGORITHM": "EdDSA", "PULSE_PUBLIC_KEY": "/nowhere/key.pem"}, ["PULSE_PUBLIC_KEY"]),
        ({"PULSE_POSTGRES_BIN": "/nowhere"}, ["PULSE_POSTGRES_BIN", "/nowhere"]),
    ],
    ids=str,
)
def test_a_wrong_setting_is_refused_by_its_name(settings: dict[str, str], parts: list[str], data_dir: Path) -> None:
    done = run_serve("--data-dir", str(data_dir), **settings)
    assert_refused(done, *parts)
    wait_at_rest(data_dir)


def test_a_broken_signing_key_is_refused(launch: Start, data_dir: Path) -> None:
    assert launch("--data-dir", str(data_dir)).wait_ready().stop() == 0
    (data_dir / "secret_key").write_text("")
    assert_refused(run_serve("--data-dir", str(data_dir)), "secret_key")
    assert is_at_rest(data_dir)


def test_logs_are_json_lines_when_the_settings_say_so(launch: Start, database: str) -> None:
    server = launch(DATABASE_URL=database, PULSE_LOG_FORMAT="json").wait_ready()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = "
            "(SELECT oid FROM pg_database WHERE datname = current_database())"
        )
    wait_until(lambda: "service lock" in server.output, "the lost lock was not logged")
    assert server.stop() == 0
    lines = [json.loads(line) for line in server.output.splitlines()]
    lost = next(line for line in lines if "service lock" in line["event"])
    assert lost["level"] == "warning"
    assert "timestamp" in lost


async def test_connections_outlive_a_database_that_is_killed_and_started_again(
    launch: Start, own_cluster: Cluster
) -> None:
    server = launch(DATABASE_URL=own_cluster.conninfo).wait_ready()
    with trio.fail_after(120):
        alice = await Person.register(server.base_url, "alice")
        conversation = await alice.create_group()
        async with alice.connect(conversation) as chat:
            await chat.send({"type": "message", "content": "before"})
            assert (await chat.receive_type("message"))["seq"] == 1

            await trio.to_thread.run_sync(own_cluster.kill)
            answer = await alice.api.get("/api/chat/conversations")
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            await chat.send({"type": "ping"})
            await chat.receive_type("pong")

            own_cluster.start()  # on this thread, which lives on: PostgreSQL follows the thread that started it
            while (await alice.api.get("/api/chat/conversations")).status_code == 503:  # noqa: ASYNC110  # no event
                await trio.sleep(0.05)
            await chat.send({"type": "message", "content": "after", "client_id": "c2"})
            stored = await chat.receive_type("message", "error")
            assert (stored["type"], stored["seq"], stored["content"]) == ("message", 2, "after")
    assert server.stop() == 0
    assert "Traceback" not in server.output


# --- Hypercorn's settings, and the two streams ---


def test_a_port_that_only_root_may_use_is_refused_with_what_helps(data_dir: Path, ordinary: dict[str, Any]) -> None:
    limit = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    if not limit.exists() or int(limit.read_text()) <= 80:
        pytest.skip("any account may use any port here")
    done = subprocess.run(
        [PROGRAM, "serve", "--port", "80", "--data-dir", str(data_dir)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **ordinary,
    )
    assert_refused(done, "Permission denied", "CAP_NET_BIND_SERVICE")


async def test_a_file_gives_tls_and_the_address(launch: Start, database: str, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    file = tmp_path / "own.toml"
    file.write_text(f"bind = '127.0.0.1:0'\ncertfile = '{certificate}'\nkeyfile = '{key}'\n")
    settings = {"DATABASE_URL": database, "SECRET_KEY": SECRET, "PULSE_LOG_FORMAT": "json"}
    server = Server(settings, "--config", str(file), command=[PROGRAM, "serve"])
    try:
        wait_until(lambda: "started" in server.output, "it did not start")
        url = next(line["url"] for line in map(json.loads, server.output.splitlines()) if line["event"] == "started")
        assert url.startswith("https://127.0.0.1:")
        with trio.fail_after(30):
            answer = await Api(url).get("/healthz")
        assert answer.status_code == 200
        assert "server" not in answer.headers  # as packaged
    finally:
        assert server.stop() == 0


async def test_a_unix_socket_is_served_and_named(database: str, tmp_path: Path) -> None:
    path = traversable_folder() / "socket"
    file = tmp_path / "own.toml"
    file.write_text(f"bind = 'unix:{path}'\n")
    settings = {"DATABASE_URL": database, "PULSE_HYPERCORN_CONFIG": str(file), "PULSE_LOG_FORMAT": "json"}
    server = Server(settings, command=[PROGRAM, "serve"])
    try:
        wait_until(lambda: "started" in server.output, "it did not start")
        assert f"unix:{path}" in server.output
        with trio.fail_after(30):
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(b"GET /healthz HTTP/1.1\r\nHost: pulse\r\nConnection: close\r\n\r\n")
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
    finally:
        assert server.stop() == 0
        shutil.rmtree(path.parent)


@pytest.mark.parametrize("log_format", ["json", "auto"])
def test_every_line_of_a_refused_start_is_json(log_format: str, data_dir: Path) -> None:
    for settings in (
        {"PULSE_POOL_MAX": "many"},
        {"DATABASE_URL": "postgresql://127.0.0.1:1/x", "SECRET_KEY": SECRET},
        {"PULSE_LOG_LEVEL": "loud", "PULSE_UNKNOWN": "1"},
    ):
        done = run_serve("--data-dir", str(data_dir), PULSE_LOG_FORMAT=log_format, **settings)
        assert (done.returncode, done.stdout) == (1, "")
        lines = [json.loads(line) for line in done.stderr.splitlines()]
        assert lines[-1]["level"] == "critical"


def test_a_line_of_a_command_for_people_is_no_json(data_dir: Path) -> None:
    done = subprocess.run(
        [PROGRAM, "token", "alice", "--data-dir", str(data_dir)],
        env=environment(PULSE_LOG_FORMAT="auto"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr.startswith("pulse-trio: there is no database")


def test_warnings_and_tracebacks_are_json_too() -> None:
    program = (
        "import threading, warnings\n"
        "from pulse_trio import logs\n"
        "logs.configure_start()\n"
        "class Bad:\n"
        "    def __del__(self): raise ValueError('in a finalizer')\n"
        "warnings.warn('a warning')\n"
        "Bad()\n"
        "thread = threading.Thread(target=lambda: 1 / 0)\n"
        "thread.start()\n"
        "thread.join()\n"
        "raise OSError('at the end')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", program],
        env=environment(PULSE_LOG_FORMAT="json"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert len(lines) == 4
    for line, part in zip(lines, ("a warning", "in a finalizer", "ZeroDivisionError", "at the end"), strict=True):
        assert part in line["event"] + line.get("exception", "")
