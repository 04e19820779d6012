"""PgBouncer in front of a test's cluster, on a Unix socket, run by an ordinary account."""

import os
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pulse_trio.database.cluster import postgres_account
from tests.support.cluster import traversable_folder
from tests.support.programs import require_program

PORT = 6432  # only a part of the socket's name


class PgBouncer:
    """A pooler that runs in a `with` block.

    Args:
        conninfo: a database of a cluster whose socket the account may use that runs PostgreSQL.
        mode: its `pool_mode`.
        settings: its other settings.
    """

    def __init__(self, conninfo: str, mode: str, **settings: str) -> None:
        program = require_program("pgbouncer", "pgbouncer")
        params = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
        self.folder = traversable_folder()
        self.conninfo = make_conninfo(conninfo, host=str(self.folder), port=str(PORT))
        self._account: dict[str, Any] = {**postgres_account().popen_options(), "cwd": "/"}
        settings = {
            "listen_addr": "",
            "listen_port": str(PORT),
            "unix_socket_dir": str(self.folder),
            "auth_type": "any",
            "pool_mode": mode,
            **settings,
        }
        target = f"host={params['host']} port={params['port']} user={params['user']}"
        lines = ["[databases]", f"* = {target}", "[pgbouncer]", *(f"{name} = {v}" for name, v in settings.items())]
        self._path = self.folder / "pgbouncer.ini"
        self._path.write_text("\n".join([*lines, ""]))
        self._path.chmod(0o644)
        if "user" in self._account:
            os.chown(self.folder, self._account["user"], self._account["group"])
        self._command = [program, str(self._path)]
        self._log: Path = self.folder / "log"

    def restart(self, mode: str) -> None:
        """Ends it, and starts it again in another mode."""
        self._end()
        self._path.write_text(re.sub(r"pool_mode = \w+", f"pool_mode = {mode}", self._path.read_text()))
        self.__enter__()

    def __enter__(self) -> Self:
        self._file = self._log.open("w")
        self._process = subprocess.Popen(self._command, stdout=self._file, stderr=self._file, **self._account)
        deadline = time.monotonic() + 20
        while True:
            try:
                with psycopg.connect(self.conninfo, autocommit=True):
                    return self
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    raise
                time.sleep(0.02)

    def __exit__(self, *_: object) -> None:
        self._end()
        shutil.rmtree(self.folder)

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._file.close()
        (self.folder / f".s.PGSQL.{PORT}").unlink(missing_ok=True)
