"""`pulse-trio doctor`: what it says of a service that is well, and of each fault that it looks for."""

import json
import os
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pulse_trio import doctor
from pulse_trio.bus import opening
from pulse_trio.database.schema import MIGRATION_LOCK
from pulse_trio.database.service_role import DATABASE, SERVICE_ROLE
from pulse_trio.settings import Settings
from tests.support.certificate import make_certificate
from tests.support.cluster import Cluster, traversable_folder
from tests.support.redis_server import RedisServer
from tests.support.server import PROGRAM, SECRET, Server, environment


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def run(
    *arguments: str, limit: int | None = None, port: int | None = 0, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Runs the doctor, on a free port unless the arguments or the configuration (`port=None`) name one."""

    def lower() -> None:
        assert limit is not None
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    has_port = port is None or "--port" in arguments
    return subprocess.run(
        [PROGRAM, "doctor", *(() if has_port else ("--port", str(free_port()))), *arguments],
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=None if limit is None else lower,
    )


def findings(
    *arguments: str, limit: int | None = None, port: int | None = 0, **settings: str
) -> dict[str, dict[str, Any]]:
    """Returns the findings by name, after comparing them with the text for people and the exit code."""
    done = run("--json", *arguments, limit=limit, port=port, **settings)
    assert done.stderr == ""
    report = json.loads(done.stdout)
    checks = report["checks"]
    assert report["ok"] is (done.returncode == 0) is all(check["status"] != "failed" for check in checks)
    assert len({check["name"] for check in checks}) == len(checks)
    for check in checks:
        assert check["status"] in {"ok", "warning", "failed"}
        assert bool(check["mend"]) is (check["status"] != "ok"), check
    return {check["name"]: check for check in checks}


def statuses(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: check["status"] for name, check in found.items()}


@pytest.fixture
def own(database: str) -> dict[str, str]:
    return {"DATABASE_URL": database, "SECRET_KEY": SECRET}


@pytest.fixture
def folder() -> Iterator[Path]:
    folder = traversable_folder()
    yield folder / "data"
    folder.chmod(0o700)
    shutil.rmtree(folder)


def test_a_line_for_each_check_and_an_exit_code(own: dict[str, str]) -> None:
    done = run(**own)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(lines) >= 12
    assert all(line.split()[0] in {"ok", "warning", "failed"} for line in lines)
    assert any(line.startswith("ok       database     PostgreSQL 18.") for line in lines)
    # The clusters of the tests have fsync off, and their settings allow it.
    (durability,) = [line for line in lines if " durability " in line]
    assert durability.startswith("warning")
    assert "fsync" in durability
    misspelt = run(**own, PULSE_MAX_CONECTIONS="5")
    assert misspelt.returncode == 0
    assert misspelt.stdout.startswith("warning  settings     unknown settings are ignored: ")
    assert "PULSE_MAX_CONECTIONS (did you mean PULSE_MAX_CONNECTIONS?)" in misspelt.stdout
    bad = run(**own, PULSE_POOL_MAX="many")
    assert bad.returncode == 1
    assert bad.stdout.startswith("failed   settings     PULSE_POOL_MAX")


def test_a_service_that_runs_is_well(own: dict[str, str]) -> None:
    server = Server(own).wait_ready()
    try:
        found = findings("--port", str(server.port), **own)
        assert "failed" not in statuses(found).values(), found
        assert "one runs on this database" in found["service"]["text"]
        assert "the service answers" in found["port"]["text"]
        assert found["schema"]["status"] == "ok"
    finally:
        assert server.stop() == 0
    found = findings("--port", str(server.port), **own)
    assert "none runs" in found["service"]["text"]
    assert "is free" in found["port"]["text"]


def test_an_embedded_database_before_its_first_start_while_it_runs_and_after(folder: Path) -> None:
    settings = {"PULSE_DATA_DIR": str(folder), "PULSE_ALLOW_LOSING_COMMITS": "false"}
    found = findings(**settings)
    assert "failed" not in statuses(found).values()
    assert "does not exist yet" in found["data folder"]["text"]
    assert not folder.exists(), "it makes nothing"
    server = Server(settings).wait_ready()
    try:
        while_it_runs = findings("--port", str(server.port), **settings)
    finally:
        assert server.stop() == 0
    after = findings(**settings)
    for found in (while_it_runs, after):
        assert "failed" not in statuses(found).values(), found
        assert found["durability"]["status"] == found["schema"]["status"] == found["keys"]["status"] == "ok"
        assert "closed to other accounts" in found["data folder"]["text"]
    (folder / "secret_key").chmod(0o644)
    found = findings(**settings)
    assert found["data folder"]["status"] == "failed"
    assert "secret_key" in found["data folder"]["text"]


def test_a_database_that_loses_commits_fails_unless_that_is_allowed(own: dict[str, str]) -> None:
    found = findings(**own, PULSE_ALLOW_LOSING_COMMITS="false")
    assert found["durability"]["status"] == "failed"
    assert "fsync" in found["durability"]["mend"]


def test_a_database_that_is_away_fails_and_its_password_is_not_shown() -> None:
    url = f"postgresql://pulse:hunter2@127.0.0.1:{free_port()}/pulse"
    done = run(DATABASE_URL=url, SECRET_KEY=SECRET)
    assert done.returncode == 1
    assert "failed   database " in done.stdout
    assert "hunter2" not in done.stdout + done.stderr


def test_an_old_schema_is_a_warning_and_a_newer_one_fails(cluster: Cluster, own: dict[str, str]) -> None:
    empty = cluster.new_database(migrated=False)
    found = findings(DATABASE_URL=empty, SECRET_KEY=SECRET)
    assert found["schema"]["status"] == "warning"
    with psycopg.connect(empty) as connection:
        assert connection.execute("SELECT to_regclass('users')").fetchone() == (None,), "it makes nothing"
    with psycopg.connect(own["DATABASE_URL"]) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    found = findings(**own)
    assert found["schema"]["status"] == "failed"
    assert "9999" in found["schema"]["text"]


def test_too_few_files_and_sessions_are_warnings(own: dict[str, str]) -> None:
    found = findings(limit=1_024, **own)
    assert found["open files"]["status"] == "warning"
    assert "1,024" in found["open files"]["text"]
    assert findings(limit=1_024, PULSE_MAX_CONNECTIONS="500", **own)["open files"]["status"] == "ok"
    assert findings(limit=1_024, PULSE_MAX_CONNECTIONS="0", **own)["open files"]["status"] == "warning"
    found = findings(PULSE_POOL_MAX="200", **own)
    assert found["sessions"]["status"] == "warning"
    assert "PULSE_POOL_MAX" in found["sessions"]["mend"]


def test_a_limit_of_the_role_or_the_database_is_a_warning(own_cluster: Cluster) -> None:
    settings = {"DATABASE_URL": own_cluster.server.conninfo, "SECRET_KEY": SECRET}
    for limited in (f"ROLE {SERVICE_ROLE}", f"DATABASE {DATABASE}"):
        with psycopg.connect(own_cluster.conninfo, autocommit=True) as connection:
            connection.execute(f"ALTER {limited} CONNECTION LIMIT 10")  # type: ignore[arg-type]
            found = findings(**settings)
            assert found["sessions"]["status"] == "warning"
            assert "allows 10 connections" in found["sessions"]["text"]
            connection.execute(f"ALTER {limited} CONNECTION LIMIT -1")  # type: ignore[arg-type]
    assert findings(**settings)["sessions"]["status"] == "ok"


def test_a_session_that_migrates_is_a_warning(own: dict[str, str]) -> None:
    """A start would wait for it."""
    assert "migration" not in findings(**own)
    with psycopg.connect(own["DATABASE_URL"], autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (MIGRATION_LOCK,))
        found = findings(**own)
        assert found["migration"]["status"] == "warning"
        assert f"pid {other.info.backend_pid}" in found["migration"]["text"]
        assert "none runs" in found["service"]["text"]


def test_a_port_in_use_by_something_else_fails(own: dict[str, str]) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        found = findings("--port", str(sock.getsockname()[1]), **own)
    assert found["port"]["status"] == "failed"
    assert findings("--host", "203.0.113.1", **own)["port"]["status"] == "failed"


def test_the_addresses_of_a_configuration_file_are_checked(own: dict[str, str], tmp_path: Path) -> None:
    toml = tmp_path / "hypercorn.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used, free = taken.getsockname()[1], free_port()
        toml.write_text(f'bind = ["127.0.0.1:{free}", "127.0.0.1:{used}"]\n')
        found = findings("--config", str(toml), port=None, **own)
        assert found["port"]["status"] == "failed"
        assert f"127.0.0.1:{used}" in found["port"]["text"]
        # An option replaces them, as for `serve`.
        assert findings("--config", str(toml), **own)["port"]["status"] == "ok"
        metrics = findings(**own, PULSE_METRICS_BIND=f"127.0.0.1:{used}")["metrics"]
        assert metrics["status"] == "failed"
        assert f"127.0.0.1:{used}" in metrics["text"]
        assert "PULSE_METRICS_BIND" in metrics["mend"], "no option of `serve` moves it"
    toml.write_text(f'bind = ["127.0.0.1:{free}", "unix:{tmp_path}/pulse", "fd://3"]\n')
    found = findings("--config", str(toml), port=None, **own, PULSE_METRICS_BIND=f"127.0.0.1:{used}")
    assert found["port"]["text"] == f"127.0.0.1:{free}, unix:{tmp_path}/pulse is free"
    assert found["metrics"]["status"] == "ok"
    toml.write_text(f'bind = "unix:{tmp_path}/nowhere/pulse"\n')
    assert findings("--config", str(toml), port=None, **own)["port"]["status"] == "failed"


def test_metrics_that_nobody_can_read_are_named(own: dict[str, str]) -> None:
    assert "PULSE_METRICS_BIND" in findings(**own)["metrics"]["text"]
    assert "TOKEN" in findings(**own, PULSE_METRICS_TOKEN="0123456789-0123456789")["metrics"]["text"]
    assert findings(**own, PULSE_METRICS="false")["metrics"]["text"] == "off"


def test_a_redis_that_is_away_or_hangs_is_a_warning(own: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = findings(**own, PULSE_BUS_URL="redis://:hunter2@127.0.0.1:1")["bus"]
    assert found["status"] == "warning"
    assert "127.0.0.1:1" in found["text"]
    assert "hunter2" not in str(found)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = Settings.load(bus_url=f"redis://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(opening, "PROBE_TIMEOUT", 0.1)
        (found_here,) = doctor._bus(settings)
    assert "no answer" in found_here.text
    assert not list(doctor._bus(Settings.load(bus_url="postgres")))


def test_a_redis_that_answers_is_well(own: dict[str, str]) -> None:
    server = RedisServer()
    server.start()
    try:
        assert findings(**own, PULSE_BUS_URL=f"redis://{server.address}")["bus"]["status"] == "ok"
        server.ask("ACL", "SETUSER", "default", "resetchannels")
        assert findings(**own, PULSE_BUS_URL=f"redis://{server.address}")["bus"]["status"] == "warning"
    finally:
        server.remove()


def test_a_service_that_runs_on_tls_and_other_sockets_is_well(own: dict[str, str], tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    secure, plain, metrics = free_port(), free_port(), free_port()
    toml = tmp_path / "hypercorn.toml"
    toml.write_text(
        f'bind = ["127.0.0.1:{secure}", "unix:{tmp_path}/pulse"]\ninsecure_bind = "127.0.0.1:{plain}"\n'
        f'certfile = "{certificate}"\nkeyfile = "{key}"\n'
    )
    settings = {**own, "PULSE_METRICS_BIND": f"127.0.0.1:{metrics}"}
    server = Server(settings, command=[PROGRAM, "serve", "--config", str(toml)])
    try:
        deadline = time.monotonic() + 60
        while "https://" not in server.output:
            assert server.process.poll() is None, server.output
            assert time.monotonic() < deadline, server.output
            time.sleep(0.05)
        found = findings("--config", str(toml), port=None, **settings)
        assert "failed" not in statuses(found).values(), found
        where = f"127.0.0.1:{secure}, unix:{tmp_path}/pulse, 127.0.0.1:{plain}"
        assert found["port"]["text"] == f"{where}: the service answers on it"
        assert found["metrics"]["text"] == f"127.0.0.1:{metrics}: the service answers on it"
    finally:
        assert server.stop() == 0


def test_a_standby_fails(own_cluster: Cluster) -> None:
    standby = own_cluster.new_standby()
    try:
        conninfo = make_conninfo(standby.conninfo, dbname=str(conninfo_to_dict(standby.conninfo)["dbname"]))
        found = findings(DATABASE_URL=conninfo, SECRET_KEY=SECRET)
        assert found["primary"]["status"] == "failed"
    finally:
        standby.remove()


def test_keys_that_cannot_be_used_fail(own: dict[str, str]) -> None:
    found = findings(**own, ALGORITHM="EdDSA", PULSE_PUBLIC_KEY="/nowhere/key.pem", PULSE_ALLOW_ANY_AUDIENCE="true")
    assert found["keys"]["status"] == "failed"


@pytest.mark.parametrize(("free", "status"), [(100 * 2**20, "failed"), (2**30, "warning"), (2**40, "ok")])
def test_a_disk_that_fills(monkeypatch: pytest.MonkeyPatch, folder: Path, free: int, status: str) -> None:
    usage = type(shutil.disk_usage("/"))(2**40, 2**40 - free, free)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: usage)
    found = {
        finding.name: finding for finding in doctor.examine(lambda: Settings(data_dir=folder), "127.0.0.1", free_port())
    }
    assert found["disk"].status == status


def test_a_folder_of_somebody_else_fails(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    folder.mkdir()
    settings = Settings(data_dir=folder)
    me = os.geteuid()
    monkeypatch.setattr(doctor.os, "geteuid", lambda: me + 1)
    found = {finding.name: finding for finding in doctor.examine(lambda: settings, "127.0.0.1", free_port())}
    assert found["data folder"].status == "failed"
    assert str(me) in found["data folder"].text


def examined(settings: Settings) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.examine(lambda: settings, "127.0.0.1", free_port())}


@pytest.mark.parametrize(
    ("lines", "status", "part"),
    [
        ("", "ok", "HTTP/1.1"),
        ('alpn_protocols = ["h2", "http/1.1"]', "ok", "HTTP/1.1"),  # without TLS nobody negotiates
        ('certfile = "{cert}"\nkeyfile = "{key}"\nalpn_protocols = ["h2", "http/1.1"]', "failed", "HTTP/2"),
        ('certfile = "{cert}"\nkeyfile = "{key}"', "ok", "HTTP/1.1"),
        ('certfile = "{cert}"\nkeyfile = "{other}"', "failed", "cannot be used"),
        ("workers = 2", "failed", "several processes"),
        ('worker_class = "asyncio"', "failed", "Trio"),
        ("alpn_protocols = [", "failed", "TOML"),
    ],
)
def test_a_configuration_file_that_undoes_a_promise_fails(
    folder: Path, tmp_path: Path, lines: str, status: str, part: str
) -> None:
    toml = tmp_path / "hypercorn.toml"
    trio_worker = "" if "worker_class" in lines else 'worker_class = "trio"\n'
    (tmp_path / "other").mkdir()
    (cert, key), (_, other) = make_certificate(tmp_path), make_certificate(tmp_path / "other")
    if "certfile" in lines:
        lines = lines.format(cert=cert, key=key, other=other)
    toml.write_text(trio_worker + lines)
    found = examined(Settings(data_dir=folder, hypercorn_config=toml))["http"]
    assert found.status == status
    assert part in found.text


@pytest.mark.parametrize(
    ("pattern", "status"),
    [
        ("core\n", "ok"),
        ("|/usr/lib/systemd/systemd-coredump %P %u %g %s %t %c %h\n", "ok"),
        ("|/usr/share/apport/apport -p%p\n", "ok"),
        ("|/opt/collect %p\n", "warning"),
    ],
)
def test_a_handler_of_core_dumps_is_a_warning_unless_it_heeds_the_limit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Path, pattern: str, status: str
) -> None:
    path = tmp_path / "core_pattern"
    path.write_text(pattern)
    monkeypatch.setattr(doctor, "CORE_PATTERN", path)
    assert examined(Settings(data_dir=folder))["core dumps"].status == status
    monkeypatch.setattr(doctor, "CORE_PATTERN", tmp_path / "none")
    assert examined(Settings(data_dir=folder))["core dumps"].status == "ok"


def test_root_is_a_warning_unless_it_becomes_another_account(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(doctor, "is_root", lambda: True)
    assert examined(Settings(data_dir=folder))["account"].status == "warning"
    assert examined(Settings(data_dir=folder, user="nobody"))["account"].status == "ok"
    for name in ("root", "nobody-of-this-name"):
        assert examined(Settings(data_dir=folder, user=name))["account"].status == "failed"
