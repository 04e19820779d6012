"""The embedded PostgreSQL with real servers: starts, kills, restarts, and protection from other accounts."""

import contextlib
import fcntl
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from types import FrameType

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from pulse_trio.database import embedded
from pulse_trio.database.cluster import make_base, postgres_account
from pulse_trio.database.embedded import (
    EmbeddedError,
    EmbeddedPostgres,
    default_data_dir,
    find_binaries,
    reason_of_end,
    running_conninfo,
)
from tests.support.cluster import traversable_folder

REPOSITORY = Path(__file__).parents[3]
PACKAGES = str(Path(psycopg.__file__).parents[1])
TEST_SECONDS = 90  # a test that hangs fails
IS_ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not IS_ROOT, reason="only root can run programs as other users")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="no death signal, no /proc")

START = """
import sys
from pathlib import Path
from pulse_trio.database import embedded
server = embedded.EmbeddedPostgres(Path(sys.argv[1]))
try:
    conninfo = server.start()
except embedded.EmbeddedError as error:
    sys.exit(str(error))
print(server.pid, conninfo, sep="\\n", flush=True)
"""
WAIT = "sys.stdin.read()\n"  # until it is killed or the test ends
SHOW_DEFAULT = """
import sys
from pulse_trio.database import embedded
try:
    print(embedded.default_data_dir())
except embedded.EmbeddedError as error:
    sys.exit(str(error))
"""
_scripts: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _limited() -> Iterator[None]:
    def expired(number: int, frame: FrameType | None) -> None:
        pytest.fail(
            f"the test took more than {TEST_SECONDS} seconds"
        )  # not an Exception, so that no handler catches it

    before = signal.signal(signal.SIGALRM, expired)
    signal.alarm(TEST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _no_script_stays(folder: Path) -> Iterator[None]:
    yield
    while _scripts:
        process = _scripts.pop()
        if process.returncode is None:
            close(process)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that root's PostgreSQL account can enter, unlike pytest's tmp_path."""
    made = traversable_folder()
    yield made
    wait_unused(made)
    shutil.rmtree(made)


@pytest.fixture
def base(folder: Path) -> Path:
    return folder / "data folder"


@pytest.fixture
def server(base: Path) -> Iterator[EmbeddedPostgres]:
    """A server that is not started yet, and always stopped."""
    made = EmbeddedPostgres(base)
    yield made
    made.stop()


def script_environment(**settings: str) -> dict[str, str]:
    return {
        "PYTHONPATH": os.pathsep.join((str(REPOSITORY), PACKAGES)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": os.environ["PATH"],
        **settings,
    }


def interpreter_for_others() -> str:
    """Finds a Python of this version that other users can run; ours may be in root's closed home."""
    system = f"/usr/bin/python3.{sys.version_info.minor}"
    for path in (sys.executable, system):
        command = [path, "-c", "import pulse_trio.database.embedded"]
        with contextlib.suppress(OSError):
            tried = subprocess.run(
                command, env=script_environment(), cwd="/", capture_output=True, user="nobody", check=False
            )
            if tried.returncode == 0:
                return path
    pytest.skip(f"other users can run neither {sys.executable} nor {system} with the packages of this checkout")


def script(
    base: Path, text: str = START + WAIT, user: str | int | None = None, **settings: str
) -> subprocess.Popen[str]:
    """Starts a process that runs `text` on the data folder, optionally as another user."""
    groups: dict[str, object] = {} if user is None else {"group": 65534, "extra_groups": []}
    process: subprocess.Popen[str] = subprocess.Popen(
        [sys.executable if user is None else interpreter_for_others(), "-c", text, str(base)],
        env=script_environment(**settings),
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        user=user,
        **groups,  # type: ignore[call-overload]
    )
    _scripts.append(process)
    return process


def started(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Reads pid and connection string of the server that a script has started."""
    assert process.stdout is not None
    return int(process.stdout.readline()), process.stdout.readline().strip()


def refused(process: subprocess.Popen[str]) -> str:
    """Returns the one error line with which a script ends."""
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.count("\n") == 1, errors
    return errors


def close(process: subprocess.Popen[str], how: signal.Signals = signal.SIGKILL) -> None:
    process.send_signal(how)
    process.communicate(timeout=20)


def is_running(pid: int) -> bool:
    """Checks that a process is alive; a zombie is not (a container's first process may not reap)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_ended(pid: int, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while is_running(pid):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.02)


def wait_unused(folder: Path) -> None:
    """Waits until no process of the folder's cluster is alive: the last one releases its lock."""
    for path in folder.rglob("lock"):
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)


def rows(conninfo: str) -> list[int]:
    with psycopg.connect(conninfo) as connection:
        return [number for (number,) in connection.execute("SELECT number FROM kept ORDER BY number")]


def keep(conninfo: str, *numbers: int) -> None:
    with psycopg.connect(conninfo) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (number int)")
        for number in numbers:
            connection.execute("INSERT INTO kept VALUES (%s)", [number])


def refusal(server: EmbeddedPostgres) -> str:
    """Starts a server that must fail; returns its one-line error, and checks that nothing keeps running."""
    with pytest.raises(EmbeddedError) as caught:
        server.start()
    assert "\n" not in str(caught.value)
    assert server.pid is None
    return str(caught.value)


def modes(folder: Path) -> dict[Path, tuple[int, int]]:
    found = {path: path.stat() for path in (folder, *folder.parents)}
    return {path: (status.st_mode, status.st_uid) for path, status in found.items()}


def test_second_start_keeps_rows(base: Path) -> None:
    with EmbeddedPostgres(base) as server:
        assert conninfo_to_dict(server.conninfo)["dbname"] == "pulse"
        assert server.poll() is None
        keep(server.conninfo, 1, 2)
    with EmbeddedPostgres(base) as server:
        assert rows(server.conninfo) == [1, 2]


@pytest.mark.parametrize(
    "name", ["n" * 150, "a space, a comma, 100%s and 'single' and \"double\" quotes", "%d \"'", "b\\s", "ä€"]
)
def test_any_data_folder_path_works(folder: Path, name: str) -> None:
    with EmbeddedPostgres(folder / name) as server:
        keep(server.conninfo, 1)
        socket = Path(str(conninfo_to_dict(server.conninfo)["host"]))
        assert socket.stat().st_mode & 0o777 == 0o700
    if socket.parent != folder / name:
        assert not socket.exists()


def test_environment_for_other_servers_is_ignored(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "6000")
    monkeypatch.setenv("PGHOST", "db.example")
    monkeypatch.setenv("PGDATABASE", "other")
    with EmbeddedPostgres(base) as server:
        keep(server.conninfo, 1)


def test_stop_does_not_wait_for_clients(base: Path, server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.start()) as connection:
        connection.execute("SELECT 1")  # in a transaction
        pid = server.pid
        server.stop()
        connection.close()
    assert pid is not None
    assert not is_running(pid)
    assert server.pid is None
    log = (base / "postgres.log").read_text()
    assert "received fast shutdown request" in log
    assert "database system is shut down" in log
    assert "immediate shutdown" not in log, "the first signal must be enough"
    server.stop()  # a second stop does nothing


def test_stop_kills_an_unresponsive_server(server: EmbeddedPostgres) -> None:
    server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    server.stop(timeout=0.5)
    assert not is_running(pid)
    with server:  # waits for the end of its other processes
        keep(server.conninfo, 1)


def test_running_conninfo_exists_while_the_server_runs(base: Path, server: EmbeddedPostgres) -> None:
    assert running_conninfo(base) is None
    server.start()
    assert running_conninfo(base) == server.conninfo
    assert (base / "conninfo").stat().st_mode & 0o777 == 0o600
    server.stop()
    assert running_conninfo(base) is None


@on_linux
def test_running_conninfo_of_a_killed_owner_is_none(base: Path) -> None:
    owner = script(base)
    pid, conninfo = started(owner)
    assert running_conninfo(base) == conninfo
    close(owner)
    wait_ended(pid)
    assert (base / "conninfo").exists(), "this test needs what a killed owner leaves"
    assert running_conninfo(base) is None


@on_linux
def test_killed_owner_leaves_no_orphan(base: Path) -> None:
    owner = script(base)
    pid, _ = started(owner)
    close(owner)
    wait_ended(pid)
    with EmbeddedPostgres(base) as server:
        keep(server.conninfo, 1)


@on_linux
def test_start_right_after_the_owner_was_killed(base: Path) -> None:
    owner = script(base)
    pid, _ = started(owner)
    close(owner)
    with EmbeddedPostgres(base) as server:
        assert not is_running(pid)
        keep(server.conninfo, 1)


@on_linux
def test_orphan_is_stopped_without_a_death_signal(base: Path) -> None:
    owner = script(base, START.replace("server =", "embedded._LIBC = None; server =") + WAIT)
    pid, conninfo = started(owner)
    close(owner)
    keep(conninfo)  # an orphan without a stop signal
    with EmbeddedPostgres(base) as server:
        assert not is_running(pid)
        keep(server.conninfo, 1)


def test_killed_server_recovers_every_acknowledged_row(server: EmbeddedPostgres) -> None:
    keep(server.start())
    acknowledged: list[int] = []
    enough = threading.Event()

    def write() -> None:
        connection = psycopg.connect(server.conninfo, autocommit=True)
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                connection.execute("INSERT INTO kept VALUES (%s)", [len(acknowledged)])
                acknowledged.append(len(acknowledged))
                if len(acknowledged) == 200:
                    enough.set()
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    assert enough.wait(60)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    writer.join(30)
    wait_ended(server.pid)  # its processes, and so the writer's connection, end before it
    assert server.poll() == -signal.SIGKILL
    server.stop()
    with server:
        assert rows(server.conninfo)[: len(acknowledged)] == acknowledged


def test_stale_pid_files_that_name_another_process(base: Path) -> None:
    with EmbeddedPostgres(base) as server:
        keep(server.conninfo, 1)
        paths = (base / "data" / "postmaster.pid", base / "s" / ".s.PGSQL.5432.lock")
        texts = [path.read_text() for path in paths]
        old = str(server.pid)
    owner = (base / "data").stat()
    other = subprocess.Popen(["sleep", "60"], user=owner.st_uid if IS_ROOT else None)
    try:
        for path, text in zip(paths, texts, strict=True):
            path.write_text(text.replace(old, str(other.pid), 1))
            os.chown(path, owner.st_uid, owner.st_gid)
        with EmbeddedPostgres(base) as server:
            assert rows(server.conninfo) == [1]
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_second_start_fails_at_once(base: Path) -> None:
    with EmbeddedPostgres(base) as server:
        began = time.monotonic()
        assert f"in use by another pulse-trio process (pid {os.getpid()})" in refusal(EmbeddedPostgres(base))
        assert time.monotonic() - began < embedded.LOCK_WAIT / 2, "it must not wait for the other to end"
        assert f"(pid {os.getpid()})" in refused(script(base, START))
        keep(server.conninfo, 1)  # the first server still works


def test_one_of_two_concurrent_first_starts_runs(base: Path) -> None:
    both = [script(base), script(base)]
    names = {}
    for process in both:
        assert process.stdout is not None
        names[process] = process.stdout.readline().strip()  # a pid, or the end of the output
    (winner,) = (process for process in both if names[process])
    (loser,) = (process for process in both if process is not winner)
    assert "in use by another pulse-trio process (pid " in refused(loser)
    assert winner.stdout is not None
    conninfo = winner.stdout.readline().strip()
    keep(conninfo, 1)
    assert rows(conninfo) == [1]


def test_concurrent_creation_of_the_data_folder_succeeds(base: Path) -> None:
    account = postgres_account()
    with ThreadPoolExecutor(2) as pool:
        for number in range(300):
            at_once = Barrier(2)

            def make(folder: Path, at_once: Barrier = at_once) -> None:
                at_once.wait(30)
                make_base(folder, account)

            folder = base / str(number) / "a" / "b" / "c"
            for made in [pool.submit(make, folder) for _ in range(2)]:
                made.result(30)
            assert folder.is_dir()


def test_leftover_of_an_initdb_is_removed(base: Path) -> None:
    leftover = base / "init-abcd1234" / "base"
    base.mkdir(mode=0o711)
    base.chmod(0o711)
    leftover.mkdir(parents=True)
    (leftover / "1").write_text("half a cluster")
    with EmbeddedPostgres(base) as server:
        keep(server.conninfo, 1)
    assert not list(base.glob("init-*"))


@on_linux
def test_start_after_a_kill_during_initdb(base: Path) -> None:
    owner = script(base)
    deadline = time.monotonic() + 30
    while not list(base.glob("init-*/base")):  # initdb is running
        assert time.monotonic() < deadline
        time.sleep(0.005)
    close(owner)
    assert not (base / "data").exists()
    with EmbeddedPostgres(base) as server:
        keep(server.conninfo, 1)
    assert not list(base.glob("init-*"))


def test_other_version_is_rejected(base: Path) -> None:
    with EmbeddedPostgres(base):
        pass
    (base / "data" / "PG_VERSION").write_text("15\n")
    message = refusal(EmbeddedPostgres(base))
    assert "PostgreSQL 15" in message
    assert "dump" in message
    (base / "data" / "PG_VERSION").write_bytes(b"\xff\xfe\n18\n")
    assert str(base / "data") in refusal(EmbeddedPostgres(base))


def test_a_failed_start_reports_the_servers_reason(base: Path) -> None:
    assert "no_such_setting" in refusal(EmbeddedPostgres(base, options={"no_such_setting": "1"}))


def test_a_file_as_data_folder_is_rejected(base: Path) -> None:
    base.write_text("")
    assert str(base) in refusal(EmbeddedPostgres(base))
    assert str(base) in refusal(EmbeddedPostgres(base / "below"))


def test_missing_programs_are_reported(folder: Path) -> None:
    with pytest.raises(EmbeddedError, match="PULSE_POSTGRES_BIN"):
        find_binaries(folder)


def test_permissions_of_other_folders_are_unchanged(folder: Path) -> None:
    parent = folder / "parent"
    parent.mkdir(mode=0o711)
    before = modes(parent)
    with EmbeddedPostgres(parent / "base"):
        assert modes(parent) == before
        assert (parent / "base").stat().st_mode & 0o777 == (0o711 if IS_ROOT else 0o700)
        assert (parent / "base" / "data").stat().st_mode & 0o777 == 0o700
        assert (parent / "base" / "postgres.log").stat().st_mode & 0o777 == 0o600


@as_root
def test_closed_parent_is_named_and_stays_closed(folder: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    assert f"{closed} is closed to it" in refusal(EmbeddedPostgres(closed / "base"))
    assert closed.stat().st_mode & 0o777 == 0o700
    assert list(closed.iterdir()) == []
    (folder / "link").symlink_to(closed)
    assert f"{closed} is closed to it" in refusal(EmbeddedPostgres(folder / "link" / "base"))
    assert list(closed.iterdir()) == []


def test_new_folders_are_usable_whatever_the_umask(folder: Path) -> None:
    before = os.umask(0o077)
    try:
        with EmbeddedPostgres(folder / "new" / "newer" / "base") as server:
            keep(server.conninfo, 1)
    finally:
        os.umask(before)


def test_links_in_the_cluster_are_not_followed(folder: Path, base: Path) -> None:
    # Root writes into a folder of PostgreSQL's account, which must not redirect the write.
    with EmbeddedPostgres(base):
        pass
    precious = folder / "precious"
    precious.write_text("precious")
    precious.chmod(0o644)
    before = precious.stat()
    for name in ("pg_hba.new", "pg_ident.new", "pg_hba.conf", "pg_ident.conf"):
        (base / "data" / name).unlink(missing_ok=True)
        (base / "data" / name).symlink_to(precious)
    with EmbeddedPostgres(base) as server:
        keep(server.conninfo, 1)
    after = precious.stat()
    assert precious.read_text() == "precious"
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)


@as_root
@on_linux
def test_root_signals_only_processes_of_the_account(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The pid file belongs to PostgreSQL's account, which must not choose the process that root signals.
    monkeypatch.setattr(embedded, "ORPHAN_PATIENCE", 0.0)
    monkeypatch.setattr(embedded, "LOCK_WAIT", 2.0)
    owner = script(base, START.replace("server =", "embedded._LIBC = None; server =") + WAIT)
    pid, _ = started(owner)
    close(owner)
    pid_file = base / "data" / "postmaster.pid"
    text = pid_file.read_text()
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            pid_file.write_text(text.replace(str(pid), str(other.pid), 1))
            assert "does not stop" in refusal(EmbeddedPostgres(base))
            assert other.poll() is None
        finally:
            other.kill()
            os.kill(pid, signal.SIGINT)
            wait_ended(pid)


@as_root
def test_roots_default_folder_is_reachable_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/data/of/root")
    assert default_data_dir() == Path("/var/lib/pulse-trio")


@pytest.mark.parametrize(
    ("settings", "parent"),
    [
        ({"XDG_DATA_HOME": "/my data", "HOME": "/my home"}, "/my data"),
        ({"XDG_DATA_HOME": "relative", "HOME": "/my home"}, "/my home/.local/share"),
        ({"XDG_DATA_HOME": "", "HOME": "/my home"}, "/my home/.local/share"),
        ({"HOME": "/my home"}, "/my home/.local/share"),
        ({"HOME": "relative"}, "~/.local/share"),
        ({"HOME": ""}, "~/.local/share"),
        ({}, "~/.local/share"),
    ],
)
def test_default_folder_of_an_ordinary_user(folder: Path, settings: dict[str, str], parent: str) -> None:
    user = "nobody" if IS_ROOT else None
    home = pwd.getpwnam("nobody").pw_dir if IS_ROOT else pwd.getpwuid(os.geteuid()).pw_dir
    shown, errors = script(folder, SHOW_DEFAULT, user, **settings).communicate(timeout=60)
    assert errors == ""
    assert shown.strip() == parent.replace("~", home) + "/pulse-trio"


@as_root
def test_unreachable_programs_are_copied(folder: Path, base: Path) -> None:
    closed = folder / "closed"
    closed.mkdir(mode=0o700)
    package = find_binaries().parents[1]
    for part in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(part, closed / part.name, symlinks=True)
    for _ in range(2):  # the second start uses the copy
        with EmbeddedPostgres(base, binaries=closed / package.name / "pginstall" / "bin") as server:
            keep(server.conninfo, 1)
    assert closed.stat().st_mode & 0o777 == 0o700
    assert len(list((base / "runtime").iterdir())) == 1


@as_root
@pytest.mark.parametrize("name", ["short", "l" * 150])
def test_other_users_cannot_connect(folder: Path, name: str) -> None:
    with EmbeddedPostgres(folder / name) as server:
        socket = Path(str(conninfo_to_dict(server.conninfo)["host"]))
        assert "Permission denied" in connect_as("daemon", server.conninfo)
        # Even if the folder and the socket were open: PostgreSQL asks the kernel for the peer's account.
        socket.chmod(0o755)
        (socket / ".s.PGSQL.5432").chmod(0o777)
        assert "Peer authentication failed" in connect_as("daemon", server.conninfo)


def connect_as(user: str, conninfo: str) -> str:
    """Tries to connect as another user; returns the error."""
    attempt = script(Path(conninfo), "import psycopg, sys; psycopg.connect(sys.argv[1])", user)
    _, errors = attempt.communicate(timeout=20)
    assert attempt.returncode != 0
    return errors


@as_root
def test_an_ordinary_user_can_run_it(folder: Path) -> None:
    shutil.chown(folder, "nobody")
    for _ in range(2):
        process = script(folder / "base", START + "server.stop()\n", "nobody")
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
    assert (folder / "base").stat().st_mode & 0o777 == 0o700


def test_folder_without_write_permission_is_rejected(folder: Path) -> None:
    folder.chmod(0o555)
    base = folder / "base"
    message = refused(script(base, START, "nobody")) if IS_ROOT else refusal(EmbeddedPostgres(base))
    folder.chmod(0o711)
    assert f"{base} cannot be written: Permission denied" in message


@as_root
def test_ordinary_user_cannot_use_a_folder_of_root(base: Path) -> None:
    with EmbeddedPostgres(base):
        pass
    assert "belongs to user id 0" in refused(script(base, START, "nobody"))


@as_root
def test_user_without_account_name_is_reported(folder: Path) -> None:
    assert "54321 has no account name" in refused(script(folder / "base", START, 54321))
    for text in (SHOW_DEFAULT, "from pulse_trio.cli import main; main(['migrate'])"):
        assert "54321 has no account name" in refused(script(folder / "base", text, 54321))


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("", "it logged no reason"),
        ("LOG:  starting\nFATAL:  the database system is starting up\n", "it logged no reason"),
        (
            (
                "FATAL:  could not write to file: No space left on device\n"
                "FATAL:  the database system is not yet accepting connections\n"
                "LOG:  shutting down\n"
            ),
            "FATAL:  could not write to file: No space left on device",
        ),
        ("FATAL:  one\nPANIC:  two\nLOG:  three\n", "PANIC:  two"),
    ],
)
def test_the_reason_of_the_end_is_found_in_the_log(log: str, reason: str) -> None:
    assert reason_of_end(log) == reason
