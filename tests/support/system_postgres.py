"""A server of the system's own PostgreSQL, which is of another version than the packaged one (Debian 12: 15)."""

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from pulse_trio.database.cluster import postgres_account
from tests.support.cluster import traversable_folder


class SystemPostgres:
    """A cluster in a temporary folder, on a Unix socket, run by an ordinary account. fsync is off.

    Args:
        programs: the folder that `require_postgres` gives.
        options: settings of the server besides.
    """

    def __init__(self, programs: Path, **options: str) -> None:
        self.programs = programs
        self.major = int(programs.parent.name)
        self.folder = traversable_folder()
        self._account: dict[str, Any] = {**postgres_account().popen_options(), "cwd": "/"}
        if "user" in self._account:
            os.chown(self.folder, self._account["user"], self._account["group"])
        self._numbers = 0
        self._options = {"fsync": "off", "listen_addresses": "", "unix_socket_directories": str(self.folder), **options}
        self._log = (self.folder / "log").open("w")
        data = str(self.folder / "data")
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "pulse", "-E", "UTF8", "--locale=C", "--auth=trust", "--no-sync"],
            check=True,
            stdout=self._log,
            stderr=self._log,
            **self._account,
        )
        command = [str(programs / "postgres"), "-D", data]
        for name, value in self._options.items():
            command += ["-c", f"{name}={value}"]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, **self._account)
        self.conninfo = make_conninfo(host=str(self.folder), port="5432", user="pulse", dbname="postgres")
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.conninfo).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.02)
            else:
                break

    def new_database(self) -> str:
        """An empty database of its own; returns its connection string."""
        self._numbers += 1
        name = f"test_{self._numbers}"
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
        return make_conninfo(self.conninfo, dbname=name)

    def remove(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        shutil.rmtree(self.folder)
