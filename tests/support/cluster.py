"""PostgreSQL clusters for tests, run by the product's own supervisor."""

import itertools
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pulse_trio.database.embedded import EmbeddedPostgres
from pulse_trio.database.schema import migrate

_numbers = itertools.count(1)


def traversable_folder() -> Path:
    """A temporary folder that other accounts can pass through, as root's PostgreSQL account must."""
    folder = Path(tempfile.mkdtemp(prefix="pulse-test-"))
    folder.chmod(0o711)
    return folder


def _is_running(process: Path) -> bool:
    """Returns whether a process of /proc runs; one that has ended, and waits for its parent, has no command line."""
    try:
        return bool((process / "cmdline").read_bytes())
    except OSError:
        return False


class Cluster:
    """A cluster to start, kill and start again. fsync is off: no test here cuts the power.

    Args:
        options: settings of the server besides.
    """

    def __init__(self, **options: str) -> None:
        self.folder = traversable_folder()
        settings = {"fsync": "off", "max_connections": "100", **options}
        self.server = EmbeddedPostgres(self.folder / "data", options=settings)
        self._template: str | None = None

    @property
    def conninfo(self) -> str:
        """Its empty database `pulse`, as the superuser."""
        return self.server.superuser_conninfo

    @property
    def socket_folder(self) -> str:
        """Returns the folder of its socket."""
        return str(conninfo_to_dict(self.conninfo)["host"])

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.stop()

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Ends the server with a signal, and waits until it and its sessions have ended. `start` brings it back.

        A session notices the end of the server a moment later, and until then may still answer.
        """
        pid = self.server.pid
        assert pid is not None
        sessions = [Path("/proc", child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        os.kill(pid, how)
        deadline = time.monotonic() + 30
        while self.server.poll() is None or any(map(_is_running, sessions)):
            assert time.monotonic() < deadline, "PostgreSQL did not end"
            time.sleep(0.01)
        self.server.stop()

    def remove(self) -> None:
        self.server.stop()
        shutil.rmtree(self.folder)

    def execute(self, statement: LiteralString) -> list[tuple[Any, ...]]:
        """Runs a statement outside any transaction; its rows, if it has any."""
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return [] if cursor.description is None else cursor.fetchall()

    def let_in(self, rule: str) -> None:
        """Adds a line to pg_hba.conf, until the next start."""
        with (self.folder / "data" / "data" / "pg_hba.conf").open("a") as file:
            file.write(rule + "\n")
        self.execute("SELECT pg_reload_conf()")

    def new_standby(self, **options: str) -> "Cluster":
        """A copy that follows this one, which is started again for it. `promote` makes it a primary."""
        self.stop()
        standby = Cluster(wal_retrieve_retry_interval="100ms", **options)
        folder = standby.folder / "data" / "data"
        shutil.copytree(self.folder / "data" / "data", folder)
        owner = (self.folder / "data" / "data").stat()
        (folder / "standby.signal").touch()
        with (folder / "postgresql.auto.conf").open("a") as file:
            file.write(f"primary_conninfo = 'host={self.socket_folder} port=5432 user=pulse'\n")
        for path in (folder, *folder.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)
        self.start()
        self.let_in("local replication all peer map=pulse")
        standby.start()
        return standby

    def promote(self) -> None:
        """Makes a standby a primary, on a timeline of its own."""
        assert self.execute("SELECT pg_promote()") == [(True,)]

    def new_database(self, *, migrated: bool = True) -> str:
        """A database of its own, with today's schema unless told otherwise; returns its connection string."""
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            if self._template is None and migrated:
                connection.execute("CREATE DATABASE pulse_template")
                self._template = make_conninfo(self.conninfo, dbname="pulse_template")
                migrate(self._template)
            name = f"test_{os.getpid()}_{next(_numbers)}"
            template = "pulse_template" if migrated else "template1"
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return make_conninfo(self.conninfo, dbname=name)

    def copy_database(self, conninfo: str) -> str:
        """A copy of a database to which nobody is connected; returns its connection string."""
        name = f"test_{os.getpid()}_{next(_numbers)}"
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE {name} TEMPLATE "{conninfo_to_dict(conninfo)["dbname"]}"')
        return make_conninfo(self.conninfo, dbname=name)

    def drop_database(self, conninfo: str) -> None:
        """Throws a database of `new_database` away, whoever is connected to it."""
        name = conninfo_to_dict(conninfo)["dbname"]
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
