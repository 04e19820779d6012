"""Runs the PostgreSQL of all servers: the embedded one, with fsync on, in a folder of its own.

Runs in the service's environment. Prints one line of JSON when it is ready; stops when its standard input ends:

    {"pid": 1234, "host": "/tmp/…", "port": "5432", "user": "pulse", "settings": {"fsync": "on", …}}
"""

import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pulse_trio.database.embedded import EmbeddedPostgres


def main() -> None:
    """Runs the cluster."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="pulse-bench-"))
    folder.chmod(0o711)  # when root runs this, PostgreSQL has another account, which needs access
    server = EmbeddedPostgres(folder / "data", options={"max_connections": "200"})
    try:
        parts = conninfo_to_dict(server.start())
        with psycopg.connect(server.conninfo) as connection:
            names = ("server_version", "fsync", "synchronous_commit", "shared_buffers")
            found = {name: connection.execute(f"SHOW {name}").fetchone() for name in names}
        where = {name: parts[name] for name in ("host", "port", "user")}
        settings = {name: value[0] for name, value in found.items() if value}
        sys.stdout.write(json.dumps({"pid": server.pid, **where, "settings": settings}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


main()
