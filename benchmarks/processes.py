"""The servers as processes: started on free ports, measured through /proc, ended."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from benchmarks.figures import stat_fields, tree

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
START_TIMEOUT = 60.0  # seconds


def family(root: int) -> list[int]:
    """A process and its descendants."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = stat_fields(Path("/proc", entry, "stat").read_text())[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
    return tree(parents, root)


def cpu_seconds(root: int) -> float:
    """CPU that a process and its descendants, also those that have ended, have used: seconds."""
    ticks = 0
    for pid in family(root):
        try:
            ticks += stat_fields(Path(f"/proc/{pid}/stat").read_text())[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return ticks / TICKS


def resident_bytes(root: int) -> int:
    """Resident memory of a process and its descendants: bytes."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in family(root)) * PAGE


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def share_cores() -> set[int]:
    """Gives the load generator, this process, the last core; returns the others, which are for the servers.

    Left to itself, the kernel runs a server and who reads from it on one core, and each waits for the other.
    With a single core there is nothing to share.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return set(cores)
    os.sched_setaffinity(0, {cores[-1]})
    return set(cores[:-1])


class Process:
    """A server in a process of its own, with its output in a file.

    `cores`: those that it may run on.
    """

    def __init__(
        self, command: list[str], environment: dict[str, str], port: int, folder: Path, log: Path, cores: set[int]
    ) -> None:
        self.port = port
        self.log = log
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PULSE_", "PG")) and name not in {"DATABASE_URL", "PYTHONDONTWRITEBYTECODE"}
        }
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env={**kept, **environment},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ready(self) -> None:
        """Returns when it answers requests.

        Raises:
            RuntimeError: it ended, or it takes too long.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"a server ended:\n{self.log.read_text()}")
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                answer = await reader.read(1)  # a port may be bound before the server can answer
                writer.close()
            except OSError:
                answer = b""
            if answer:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"a server does not answer:\n{self.log.read_text()}")
            await asyncio.sleep(0.05)

    def stop(self) -> None:
        """Ends it: first as it should end, then for good."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True, slots=True)
class Cluster:
    """The PostgreSQL that all servers share, each with a database of its own."""

    process: "subprocess.Popen[str]"
    pid: int
    host: str
    port: str
    user: str
    settings: dict[str, str]

    @classmethod
    def start(cls, python: Path, tree: Path) -> Self:
        """Starts it with the service's own environment."""
        process = subprocess.Popen(
            [str(python), "benchmarks/cluster.py"],
            cwd=Path(__file__).parents[1],
            env={**os.environ, "PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the benchmark, which stops the servers first
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("PostgreSQL could not be started")
        return cls(process, **json.loads(line))

    def stop(self) -> None:
        """Stops it and removes its data."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


@dataclass(frozen=True, slots=True)
class Usage:
    """Cost of a phase in seconds: CPU of the server, of PostgreSQL and of the load generator, and elapsed time."""

    server: float
    postgres: float
    generator: float
    wall: float


class Meter:
    """Measures a phase of a server."""

    def __init__(self, server_pid: int, postgres_pid: int) -> None:
        self._pids = (server_pid, postgres_pid)
        self._start = self._read()

    def _read(self) -> tuple[float, float, float, float]:
        server, postgres = (cpu_seconds(pid) for pid in self._pids)
        return server, postgres, time.process_time(), time.perf_counter()

    def stop(self) -> Usage:
        """Returns the use since the meter was made."""
        return Usage(*(after - before for after, before in zip(self._read(), self._start, strict=True)))


def machine() -> dict[str, Any]:
    """Describes the machine that the figures were measured on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        "unknown",
    )
    memory = os.sysconf("SC_PHYS_PAGES") * PAGE
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**30),
        "kernel": os.uname().release,
        "python": sys.version.split()[0],
        "load_average": os.getloadavg(),
    }
