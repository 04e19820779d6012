"""Runs the PostgreSQL of all servers: the embedded one, with fsync on, in a folder of its own.

Runs in the service's environment. Prints one line of JSON when it is ready; stops when its standard input ends:

    {"pid": 1234, "host": "/tmp/…", "port": "5432", "user": "pulse", "settings": {"fsync": "on", …}}

An address as its argument is one of the loopback interface, 127.1.2.3, where it listens on TCP too: for a server whose
driver has no Unix sockets. An address of its own collides with no other PostgreSQL, whatever the port.
"""

import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from pulse_trio.database.embedded import EmbeddedPostgres


def main() -> None:
    """Runs the cluster."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    folder = Path(tempfile.mkdtemp(prefix="pulse-bench-"))
    folder.chmod(0o711)  # when root runs this, PostgreSQL has another account, which needs access
    options = {"max_connections": "300"}  # for all servers of a scenario at once
    address = sys.argv[1] if len(sys.argv) > 1 else None
    if address is not None:
        options["listen_addresses"] = address
    server = EmbeddedPostgres(folder / "data", options=options)
    try:
        parts = conninfo_to_dict(server.start())
        user = str(parts["user"])
        with psycopg.connect(server.superuser_conninfo) as connection:
            connection.execute(sql.SQL("ALTER ROLE {} CREATEDB").format(sql.Identifier(user)))
        if address is not None:
            _admit(server, user)
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


def _admit(server: EmbeddedPostgres, user: str) -> None:
    """Admits the service's role over TCP, without a password: anybody on this machine, while the benchmark runs."""
    with psycopg.connect(server.superuser_conninfo, autocommit=True) as connection:
        found = connection.execute("SHOW hba_file").fetchone()
        assert found is not None
        with Path(found[0]).open("a") as rules:
            rules.write(f"host all {user} 127.0.0.0/8 trust\n")
        connection.execute("SELECT pg_reload_conf()")


main()
