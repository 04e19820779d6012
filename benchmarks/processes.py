"""Starts servers as processes on free ports, measures them through /proc, stops them."""

import asyncio
import contextlib
import json
import os
import random
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
    """Returns a process and its descendants."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents[int(entry)] = stat_fields(Path("/proc", entry, "stat").read_text())[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
    return tree(parents, root)


def cpu_seconds(root: int) -> float:
    """Returns the CPU time of a process and its descendants, including ended ones, in seconds."""
    ticks = 0
    for pid in family(root):
        try:
            ticks += stat_fields(Path(f"/proc/{pid}/stat").read_text())[1]
        except (FileNotFoundError, ProcessLookupError):
            continue
    return ticks / TICKS


def resident_bytes(root: int) -> int:
    """Returns the resident memory of a process and its descendants, in bytes."""
    return sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in family(root)) * PAGE


def free_port() -> int:
    """Returns a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def share_cores() -> set[int]:
    """Pins the load generator, this process, to the last core; returns the other cores for the servers.

    Otherwise the kernel puts a server and its readers on one core, where each waits for the other. A single core is
    shared.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return set(cores)
    os.sched_setaffinity(0, {cores[-1]})
    return set(cores[:-1])


class Process:
    """A server process with its output in a file, on `cores`."""

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

    async def ready(self, request: bytes = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") -> None:
        """Waits until it answers a request.

        Raises:
            RuntimeError: it ended, or does not answer in time.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"a server ended:\n{self.log.read_text()}")
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(request)
                answer = await reader.read(1)  # some servers bind the port before they can answer
                writer.close()
            except OSError:
                answer = b""
            if answer:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"a server does not answer:\n{self.log.read_text()}")
            await asyncio.sleep(0.05)

    def kill(self) -> None:
        """Kills it and its descendants at once, with SIGKILL."""
        for pid in family(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """Stops it with SIGTERM; kills it if it does not end in 20 seconds."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True, slots=True)
class Cluster:
    """The PostgreSQL of all servers, each of which has a database of its own."""

    process: "subprocess.Popen[str]"
    pid: int
    host: str
    port: str
    user: str
    settings: dict[str, str]
    address: str

    @classmethod
    def start(cls, python: Path, tree: Path, *, with_tcp: bool = False) -> Self:
        """Starts it in the service's environment.

        Args:
            python: the service's Python.
            tree: the service's source tree.
            with_tcp: it listens on TCP too, at `address`; otherwise on its Unix socket only.
        """
        address = f"127.{random.randrange(1, 255)}.{random.randrange(1, 255)}.{random.randrange(1, 255)}"
        process = subprocess.Popen(
            [str(python), "benchmarks/cluster.py", *([address] if with_tcp else [])],
            cwd=Path(__file__).parents[1],
            env={**os.environ, "PYTHONPATH": str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C goes to the benchmark, which stops the servers first
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("PostgreSQL could not be started")
        return cls(process, **json.loads(line), address=address)

    def stop(self) -> None:
        """Stops it and removes its data."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


@dataclass(frozen=True, slots=True)
class Usage:
    """The cost of a phase: CPU seconds of server, PostgreSQL, Redis and load generator, and wall-clock seconds.

    `redis` is None for a server that uses no Redis.
    """

    server: float
    postgres: float
    redis: float | None
    generator: float
    wall: float


class Meter:
    """Measures a phase of a server. `redis_pid`: None for a server that uses no Redis."""

    def __init__(self, server_pid: int, postgres_pid: int, redis_pid: int | None = None) -> None:
        self._pids = (server_pid, postgres_pid, redis_pid)
        self._start = self._read()

    def _read(self) -> tuple[float, float, float, float, float]:
        server, postgres, redis = (0.0 if pid is None else cpu_seconds(pid) for pid in self._pids)
        return server, postgres, redis, time.process_time(), time.perf_counter()

    def stop(self) -> Usage:
        """Returns the usage since the meter was created."""
        server, postgres, redis, generator, wall = (
            after - before for after, before in zip(self._read(), self._start, strict=True)
        )
        return Usage(server, postgres, None if self._pids[2] is None else redis, generator, wall)


def machine() -> dict[str, Any]:
    """Describes the machine of the measurements."""
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
