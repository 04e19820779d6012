"""The rights of the running service: its account, and no core dumps."""

import json
import os
import pwd
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from hypercorn.config import Config

from pulse_trio.edge import server as edge_server
from pulse_trio.errors import LaunchError
from tests.e2e.test_serve import assert_refused, postmaster, run_serve, wait_at_rest
from tests.support.certificate import make_certificate
from tests.support.client import Person
from tests.support.server import PROGRAM, SECRET, Server

ACCOUNT = "daemon"  # of every system; PostgreSQL's programs run as it, and nothing else does in a test

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")


@pytest.fixture
def readable_by_account() -> None:
    """Skips the test where the account cannot read Python and the product."""
    account = pwd.getpwnam(ACCOUNT)
    command = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": [], "cwd": "/"}
    try:
        subprocess.run([PROGRAM, "--version"], check=True, capture_output=True, **command)  # type: ignore[call-overload]
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"{sys.executable} is in a folder that {ACCOUNT} cannot enter")


def status(pid: int) -> dict[str, list[str]]:
    """The fields of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}


def core_limit(pid: int) -> str:
    """The soft limit of a process's core dumps."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (found,) = [line.split()[4] for line in lines if line.startswith("Max core file size")]
    return found


def privileged_port() -> int:
    """A free port that only root may listen on."""
    for port in range(1_023, 0, -1):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    pytest.skip("no port below 1024 is free")


@linux
def test_no_process_of_the_service_leaves_a_core_dump(folder: Path) -> None:
    server = Server({"PULSE_DATA_DIR": str(folder / "data")}, preexec_fn=allow_core_dumps).wait_ready()
    try:
        assert core_limit(server.process.pid) == "0"
        assert core_limit(postmaster(folder / "data")) == "0"
    finally:
        assert server.stop() == 0


def allow_core_dumps() -> None:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))


@as_root
def test_root_is_warned_at_the_start(database: str, start_server: Callable[..., Server]) -> None:
    server = start_server(PULSE_LOG_FORMAT="json")
    (line,) = [line for line in server.output.splitlines() if "running as root" in line]
    assert "PULSE_USER" in line


@linux
@as_root
@pytest.mark.process_end
@pytest.mark.usefixtures("readable_by_account")
@pytest.mark.parametrize("workers", ["1", "2"])
async def test_the_service_gives_up_the_rights_of_root_once_its_port_is_bound(folder: Path, workers: str) -> None:
    account = pwd.getpwnam(ACCOUNT)
    data = folder / "data"
    data.mkdir()
    os.chown(data, account.pw_uid, account.pw_gid)
    port = privileged_port()
    command = [PROGRAM, "serve", "--port", str(port), "--user", ACCOUNT, "--data-dir", str(data), "--workers", workers]
    server = Server({"PULSE_LOG_FORMAT": "json"}, command=command).wait_ready()
    try:
        started = [json.loads(line) for line in server.output.splitlines() if '"worker started"' in line]
        assert len(started) == (0 if workers == "1" else 2)
        for pid in (server.process.pid, postmaster(data), *(line["pid"] for line in started)):
            found = status(pid)
            assert found["Uid"] == [str(account.pw_uid)] * 4
            assert found["Gid"] == [str(account.pw_gid)] * 4
            assert "0" not in found["Groups"]
            assert int(found["CapEff"][0], 16) == int(found["CapPrm"][0], 16) == 0
        assert server.port == port
        with trio.fail_after(60):
            alice = await Person.register(server.base_url, "alice")
            async with alice.connect(await alice.create_group()) as chat:
                await chat.receive()
        assert (data / "secret_key").stat().st_uid == account.pw_uid
        assert stat.S_IMODE((data / "secret_key").stat().st_mode) == 0o600
        assert server.stop() == 0
        assert "running as root" not in server.output
        assert "Traceback" not in server.output
        wait_at_rest(data)
        assert_refused(run_serve("--data-dir", str(data)), "belongs to user id", str(account.pw_uid))
    finally:
        server.stop()


@as_root
def test_an_account_that_cannot_be_taken_is_refused(folder: Path, database: str) -> None:
    own = {"DATABASE_URL": database, "SECRET_KEY": SECRET}
    assert_refused(run_serve("--user", "nobody-of-this-name", **own), "no account nobody-of-this-name", "useradd")
    assert_refused(run_serve("--user", "root", **own), "root's")
    assert_refused(run_serve("--user", ACCOUNT), "PULSE_USER needs PULSE_DATA_DIR or DATABASE_URL")


def test_a_certificate_is_read_before_the_rights_to_read_it_are_given_up(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    config = Config.from_mapping(certfile=str(certificate), keyfile=str(key))
    edge_server.load_certificate(config)
    key.unlink()
    context = config.create_ssl_context()
    assert context is not None
    assert context.cert_store_stats() is not None
    with pytest.raises(LaunchError, match="certificate"):
        edge_server.load_certificate(Config.from_mapping(certfile=str(certificate), keyfile=str(key)))
