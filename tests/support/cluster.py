"""PostgreSQL clusters for tests, run by the product's own supervisor."""

import itertools
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pulse_trio.store.embedded import EmbeddedPostgres
from pulse_trio.store.schema import migrate

_numbers = itertools.count(1)


def traversable_folder() -> Path:
    """A temporary folder that other accounts can pass through, as root's PostgreSQL account must."""
    folder = Path(tempfile.mkdtemp(prefix="pulse-test-"))
    folder.chmod(0o711)
    return folder


class Cluster:
    """A cluster to start, kill and start again. fsync is off: no test here cuts the power."""

    def __init__(self) -> None:
        self.folder = traversable_folder()
        self.server = EmbeddedPostgres(self.folder / "data", options={"fsync": "off", "max_connections": "100"})
        self._template: str | None = None

    @property
    def conninfo(self) -> str:
        """Its empty database `pulse`."""
        return self.server.conninfo

    @property
    def socket_folder(self) -> str:
        """Where its socket is."""
        return str(conninfo_to_dict(self.conninfo)["host"])

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.stop()

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Ends the server with a signal, and waits until it has ended. `start` brings it back."""
        pid = self.server.pid
        assert pid is not None
        os.kill(pid, how)
        deadline = time.monotonic() + 30
        while self.server.poll() is None:
            assert time.monotonic() < deadline, "PostgreSQL did not end"
            time.sleep(0.01)
        self.server.stop()

    def remove(self) -> None:
        self.server.stop()
        shutil.rmtree(self.folder)

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

    def drop_database(self, conninfo: str) -> None:
        """Throws a database of `new_database` away, whoever is connected to it."""
        name = conninfo_to_dict(conninfo)["dbname"]
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
