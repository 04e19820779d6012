"""Servers as several processes, and the Redis that connects some of them."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.processes import Cluster, Process, free_port
from benchmarks.targets import FASTAPI, SOCKETIO, Running, Target, node_lacks

PROCESSES = 2
REDIS = "redis-server"


@dataclass(frozen=True, slots=True)
class Redis:
    """The Redis of all servers of a scenario. It stores nothing."""

    pid: int
    port: int

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"


@asynccontextmanager
async def started_redis(logs: Path, cores: set[int]) -> AsyncIterator[Redis | None]:
    """Runs a Redis on `cores` for the block, with its log in the folder `logs`; None if Redis is not installed."""
    if shutil.which(REDIS) is None:
        yield None
        return
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="pulse-bench-") as folder:
        command = [REDIS, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
        process = Process(command, {}, port, Path(folder), logs / "redis.log", cores)
        try:
            await process.ready(b"PING\r\n")
            yield Redis(process.pid, port)
        finally:
            process.stop()


def variants(servers: Sequence[Running], redis: Redis | None) -> tuple[list[Running], list[str]]:
    """Returns these servers as several processes each, and a reason for each one that is left out.

    A variant's name is that of the server, a slash, and its engine.
    """
    found, left_out = [], []
    for server in servers:
        if server.target.ours:
            found.append(server.variant(on_postgres(server.target)))
        if server.target.name not in _WITH_REDIS and not server.target.ours:
            continue
        name = f"{server.target.name}/redis"
        if redis is None:
            left_out.append(f"{name}: {REDIS} not found (Debian: apt-get install redis-server)")
            continue
        target = _WITH_REDIS.get(server.target.name, _ours_on_redis)(replace(server.target, name=name), redis.url)
        if (lacking := target.lacking()) is not None:
            left_out.append(f"{name}: {lacking} not found")
        else:
            found.append(server.variant(target, redis.pid))
    return found, left_out


def on_postgres(target: Target) -> Target:
    """Returns our server as several processes with the bus on PostgreSQL."""
    target = replace(target, name=f"{target.name}/postgres", command=_more(target, "--workers", str(PROCESSES)))
    return _with(target, lambda database: {"PULSE_BUS_URL": "postgres"})


def _ours_on_redis(target: Target, url: str) -> Target:
    target = replace(target, command=_more(target, "--workers", str(PROCESSES)))
    return _with(target, lambda database: {"PULSE_BUS_URL": f"{url}?channel={database}"})


def _fastapi(target: Target, url: str) -> Target:
    target = replace(target, command=_more(target, "--workers", str(PROCESSES)))
    return _with(target, lambda database: {"REDIS_URL": url})


def _socketio(target: Target, url: str) -> Target:
    target = replace(
        target,
        command=lambda port: ["node", "benchmarks/peers/node/socketio_cluster.js"],
        lacking=node_lacks("socket.io", "pg", "@socket.io/redis-adapter", "redis"),
    )
    return _with(target, lambda database: {"REDIS_URL": url, "PROCESSES": str(PROCESSES)})


_WITH_REDIS: dict[str, Callable[[Target, str], Target]] = {FASTAPI: _fastapi, SOCKETIO: _socketio}


def _more(target: Target, *options: str) -> Callable[[int], list[str]]:
    return lambda port: [*target.command(port), *options]


def _with(target: Target, more: Callable[[str], dict[str, str]]) -> Target:
    """Adds to a target's environment what `more` returns for its database."""

    def environment(port: int, cluster: Cluster, database: str) -> dict[str, str]:
        return {**target.environment(port, cluster, database), **more(database)}

    return replace(target, environment=environment)
