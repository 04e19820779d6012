"""`pulse-trio serve --workers N`: several real processes on one port, and what the supervisor does with them."""

import fcntl
import json
import os
import pty
import shutil
import signal
import socket
import ssl
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from pulse_trio import __version__
from tests.e2e.test_serve import assert_refused, run_serve, wait_at_rest, wait_until
from tests.support.certificate import make_certificate
from tests.support.client import Api, Person
from tests.support.cluster import Cluster, traversable_folder
from tests.support.figures import figures
from tests.support.server import METRICS_TOKEN, PROGRAM, SECRET, Server

Start = Callable[..., Server]

LINUX = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """A data folder that is not there yet, in a folder that goes away after the test."""
    folder = traversable_folder()
    yield folder / "data"
    wait_at_rest(folder / "data", 40)
    shutil.rmtree(folder)


@pytest.fixture
def launch(database: str) -> Iterator[Start]:
    """Starts supervisors that need not become ready; ends what is left after the test."""
    servers: list[Server] = []

    def start(workers: int, *arguments: str, **settings: str) -> Server:
        if "PULSE_DATA_DIR" not in settings:
            settings = {"DATABASE_URL": database, **settings}
        settings = {"PULSE_LOG_FORMAT": "json", **settings}
        servers.append(Server(settings, "--workers", str(workers), *arguments))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.wait()


def lines(server: Server, event: str) -> list[dict[str, Any]]:
    """Its log lines of an event."""
    found = [json.loads(line) for line in server.output.splitlines() if line.startswith("{")]
    return [line for line in found if line["event"] == event]


def running(server: Server) -> dict[int, int]:
    """The process of each slot that has started and has not ended."""
    pids = {line["pid"]: line["worker"] for line in lines(server, "worker started")}
    for line in lines(server, "worker ended"):
        del pids[line["pid"]]
    return {slot: pid for pid, slot in pids.items()}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ask(port: int, path: str = "/healthz") -> bytes:
    """The answer to a request on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := sock.recv(65_536):
            answer += part
    return answer


class Visitors:
    """Clients that connect without pause, each request on a connection of its own."""

    def __init__(self, port: int, count: int = 4) -> None:
        self._port = port
        self._is_over = threading.Event()
        self.answered = 0
        self.errors: list[str] = []
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(count)]

    def _run(self) -> None:
        while not self._is_over.is_set():
            try:
                answer = ask(self._port)
                if answer.startswith(b"HTTP/1.1 200 "):
                    self.answered += 1
                else:
                    self.errors.append(repr(answer[:100]))
            except OSError as error:
                self.errors.append(repr(error))

    @contextmanager
    def visiting(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            for thread in self._threads:
                thread.join(30)


def owners(port: int) -> dict[int, int]:
    """Counts the established connections of a server's port by the process that has accepted them."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == "01":
            inodes.add(f"socket:[{fields[9]}]")
    found: dict[int, int] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            count = sum(os.readlink(file) in inodes for file in (process / "fd").iterdir())
        except OSError:
            continue
        if count:
            found[int(process.name)] = count
    return found


@contextmanager
def connections(count: int, connect: Callable[[], socket.socket]) -> Iterator[None]:
    """Opens connections one after the other, and keeps them for the block."""
    opened = []
    try:
        for _ in range(count):
            opened.append(connect())  # noqa: PERF401  # what a failure leaves is closed
        yield
    finally:
        for sock in opened:
            sock.close()


@pytest.mark.process_end
async def test_workers_serve_one_embedded_database_and_end_with_it(data_dir: Path, launch: Start) -> None:
    server = launch(2, PULSE_DATA_DIR=str(data_dir)).wait_ready()
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        for _ in range(8):  # on connections of their own: both workers know what one of them has stored
            response = await Person(server.base_url, "alice", alice.id, alice.token).api.get("/api/auth/me")
            assert response.status_code == 200, response.text
    assert sorted(running(server)) == [0, 1]
    (started,) = lines(server, "started")
    assert started["workers"] == 2
    assert server.stop() == 0
    assert [line["status"] for line in lines(server, "worker ended")] == ["exit code 0"] * 2
    assert lines(server, "stopped")[0]["signal"] == "SIGTERM"
    assert "Traceback" not in server.output


@LINUX
@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_connections_are_spread_evenly(kind: str, launch: Start, tmp_path: Path) -> None:
    arguments: list[str] = []
    if kind == "tls":
        certificate, key = make_certificate(tmp_path)
        file = tmp_path / "http.toml"
        file.write_text(f'certfile = "{certificate}"\nkeyfile = "{key}"\n')
        arguments = ["--config", str(file)]
    server = launch(3, *arguments)
    wait_until(lambda: bool(lines(server, "started")), "it did not start", 120)
    port = int(lines(server, "started")[0]["address"].rpartition(":")[2])

    def connect() -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        time.sleep(0.005)  # one after the other: what came at once is spread, too, but less evenly
        return sock

    with connections(60, connect):
        pids = set(running(server).values())
        wait_until(lambda: sum(n for pid, n in owners(port).items() if pid in pids) == 60, "not all were accepted")
        counts = {pid: n for pid, n in owners(port).items() if pid in pids}
        assert len(counts) == 3, counts
        assert max(counts.values()) - min(counts.values()) <= 6, counts
    assert server.stop() == 0


@LINUX
def test_a_new_worker_has_the_certificate_and_a_rolling_restart_reads_it_again(launch: Start, tmp_path: Path) -> None:
    """The account of the workers may have no right to read the key."""
    certificate, key = make_certificate(tmp_path)
    file = tmp_path / "http.toml"
    file.write_text(f'certfile = "{certificate}"\nkeyfile = "{key}"\n')
    server = launch(2, "--config", str(file))
    wait_until(lambda: bool(lines(server, "started")), "it did not start", 120)
    port = int(lines(server, "started")[0]["address"].rpartition(":")[2])
    first = certificate_of(port)
    key.rename(tmp_path / "away")
    for pid in running(server).values():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(lines(server, "worker ready")) == 4, "no successors", 120)
    assert certificate_of(port) == first
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: bool(lines(server, "rolling restart done")), "the restart did not end", 120)
    assert str(key) in lines(server, "configuration not read again")[0]["problem"]
    assert certificate_of(port) == first
    make_certificate(tmp_path)  # a renewed one
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: len(lines(server, "rolling restart done")) == 2, "the restart did not end", 120)
    assert certificate_of(port) != first
    assert server.stop() == 0


def certificate_of(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=20)


@LINUX
def test_a_closed_terminal_stops_the_service(database: str) -> None:
    """Its SIGHUP is the one that asks for a rolling restart where there is no terminal."""
    program = f"import sys; sys.argv = {[PROGRAM, 'serve', '--workers', '2', '--port', '0']!r}; "
    program += "from pulse_trio.program import main; main()"
    master, terminal = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)

    server = Server(
        {"DATABASE_URL": database, "PULSE_LOG_FORMAT": "json"},
        command=[sys.executable, "-c", program],
        preexec_fn=take_terminal,
        pass_fds=(terminal,),
    )
    try:
        server.wait_ready()
        os.close(terminal)
        os.close(master)
        assert server.wait(30) == 0
    finally:
        server.process.kill()
        server.wait()
    assert lines(server, "stopped")[0]["signal"] == "SIGHUP"
    assert lines(server, "rolling restart begins") == []


@LINUX
def test_a_killed_worker_is_replaced_and_nobody_is_refused(launch: Start) -> None:
    server = launch(2).wait_ready()
    killed = running(server)[0]
    visitors = Visitors(server.port)
    with visitors.visiting():
        wait_until(lambda: visitors.answered > 20, "no answers")
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(lines(server, "worker ready")) == 3, "no successor")
        enough = visitors.answered + 20
        wait_until(lambda: visitors.answered > enough, "no more answers")
    # Those whose connection the dead one had accepted are cut off; those that connect are not refused.
    assert len(visitors.errors) <= 4, visitors.errors
    assert not [error for error in visitors.errors if "Refused" in error]
    assert running(server)[0] != killed
    (ended,) = lines(server, "worker ended")
    assert (ended["worker"], ended["pid"]) == (0, killed)
    assert "9" in ended["status"]
    assert server.stop() == 0


@pytest.mark.process_end
def test_a_rolling_restart_refuses_nobody(launch: Start) -> None:
    server = launch(2).wait_ready()
    before = running(server)
    visitors = Visitors(server.port)
    with visitors.visiting():
        wait_until(lambda: visitors.answered > 20, "no answers")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: bool(lines(server, "rolling restart done")), "the restart did not end", 120)
        enough = visitors.answered + 20
        wait_until(lambda: visitors.answered > enough, "no more answers")
    assert visitors.errors == []
    after = running(server)
    assert sorted(after) == [0, 1]
    assert not set(before.values()) & set(after.values())
    assert [line["status"] for line in lines(server, "worker ended")] == ["exit code 0"] * 2
    assert server.stop() == 0


async def test_a_rolling_restart_closes_the_sockets_of_a_worker_in_order(launch: Start) -> None:
    server = launch(2).wait_ready()
    with trio.fail_after(90):
        alice = await Person.register(server.base_url, "alice")
        async with alice.connect(await alice.create_group()) as chat:
            await chat.receive()
            server.process.send_signal(signal.SIGHUP)
            assert await chat.wait_closed(60) == 1012
    wait_until(lambda: bool(lines(server, "rolling restart done")), "the restart did not end", 120)
    assert server.stop() == 0


@LINUX
def test_a_worker_that_stands_still_is_replaced(launch: Start) -> None:
    server = launch(2, PULSE_WORKER_TIMEOUT="2").wait_ready()
    stopped = running(server)[1]
    os.kill(stopped, signal.SIGSTOP)
    wait_until(lambda: len(lines(server, "worker ready")) == 3, "no successor", 120)
    (killed,) = lines(server, "worker killed")
    assert (killed["worker"], killed["pid"], killed["reason"]) == (1, stopped, "no sign of life")
    assert ask(server.port).startswith(b"HTTP/1.1 200 ")
    assert server.stop() == 0


@LINUX
@pytest.mark.process_end
def test_the_supervisors_death_ends_everything(data_dir: Path, launch: Start) -> None:
    """PostgreSQL waits for the sessions of the workers, which store what they have taken."""
    server = launch(2, PULSE_DATA_DIR=str(data_dir)).wait_ready()
    pids = [*running(server).values(), int((data_dir / "data" / "postmaster.pid").read_text().splitlines()[0])]
    assert all(map(is_alive, pids))
    server.process.kill()
    wait_until(lambda: not any(map(is_alive, pids)), "a child lives on", 40)
    assert "Traceback" not in server.output


@pytest.mark.process_end
def test_a_worker_that_cannot_start_ends_the_service_with_a_reason(launch: Start) -> None:
    """A module that the interpreter imports at its start ends the workers."""
    folder = traversable_folder()
    try:
        (folder / "sitecustomize.py").write_text(
            "import os, sys\nif 'pulse_trio.workers.worker' in sys.orig_argv: os._exit(3)\n"
        )
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        server = launch(2, PYTHONPATH=path)
        assert server.wait(60) == 1
        assert "times before it was ready" in json.loads(server.output.splitlines()[-1])["event"]
        ended = [line for line in lines(server, "worker ended") if line["status"] == "exit code 3"]
        assert 5 <= len(ended) <= 10
        assert "Traceback" not in server.output
    finally:
        shutil.rmtree(folder)


@pytest.mark.process_end
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_changes_nothing(launch: Start, how: signal.Signals) -> None:
    server = launch(2).wait_ready()
    deadline = time.monotonic() + 30
    while server.process.poll() is None:
        assert time.monotonic() < deadline
        server.process.send_signal(how)
        time.sleep(0.005)
    assert server.wait() == 0
    assert lines(server, "stopped")[0]["signal"] == how.name


@pytest.mark.process_end
def test_the_end_of_postgres_ends_the_service_with_its_reason(data_dir: Path, launch: Start) -> None:
    server = launch(2, PULSE_DATA_DIR=str(data_dir)).wait_ready()
    os.kill(int((data_dir / "data" / "postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)
    assert server.wait(60) == 1
    said = json.loads(server.output.splitlines()[-1])["event"]
    assert "the embedded PostgreSQL ended" in said
    assert "postgres.log" in said


async def test_one_scrape_gives_the_metrics_of_all_workers(launch: Start) -> None:
    server = launch(2).wait_ready()
    with trio.fail_after(60):
        await Person.register(server.base_url, "alice")
        found = await figures(server.base_url)
        assert [found("pulse_process_up", worker=str(slot)) for slot in (0, 1)] == [1, 1]
        assert {labels["worker"] for labels, _ in found.series("pulse_tcp_connections")} == {"0", "1"}
        requests = found.series("pulse_requests_total")
        assert sum(value for labels, value in requests if labels["operation"] == "register") == 1
        assert found("pulse_build_info", version=__version__, worker="0") == 1

        os.kill(running(server)[1], signal.SIGSTOP)
        with trio.fail_after(20):
            while (found := await figures(server.base_url))("pulse_process_up", worker="1"):
                pass  # the first scrape may have been queued for the one that stands still
        assert found("pulse_process_up", worker="0") == 1
        os.kill(running(server)[1], signal.SIGCONT)
        accept = {"Authorization": f"Bearer {METRICS_TOKEN}", "Accept": "application/openmetrics-text; version=1.0.0"}
        text = (await Api(server.base_url).get("/metrics", headers=accept)).text
        assert text.endswith("# EOF\n")
        assert text.count("# EOF") == 1
        assert text.count("# HELP pulse_rooms ") == 1
        assert (await Api(server.base_url).get("/metrics")).status_code == 401
    assert server.stop() == 0


def test_the_address_of_the_metrics_is_shared(launch: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    server = launch(2, PULSE_METRICS_BIND=f"127.0.0.1:{port}").wait_ready()
    text = ask(port, "/metrics").decode()
    assert 'pulse_process_up{worker="0"} 1.0' in text
    assert 'pulse_process_up{worker="1"} 1.0' in text
    assert ask(port, "/api/auth/me").startswith(b"HTTP/1.1 404")
    assert ask(server.port, "/metrics").startswith(b"HTTP/1.1 404")
    assert server.stop() == 0


@pytest.mark.parametrize("is_enough", [False, True], ids=["too few", "just enough"])
def test_the_connections_of_the_database_are_shared_out(is_enough: bool, launch: Start) -> None:
    """Three are PostgreSQL's own, seven are left for people, and a worker has four beside its pools."""
    cluster = Cluster(max_connections="26" if is_enough else "25")
    cluster.start()
    try:
        database = cluster.new_database()
        if is_enough:
            server = launch(2, DATABASE_URL=database).wait_ready()
            assert ask(server.port, "/readyz").startswith(b"HTTP/1.1 200 ")
            assert server.stop() == 0
        else:
            done = run_serve("--workers", "2", DATABASE_URL=database, SECRET_KEY=SECRET)
            assert_refused(done, "too few for 2 workers", "max_connections", "PULSE_WORKERS")
    finally:
        cluster.remove()
