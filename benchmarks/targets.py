"""The servers to measure: commands, environments and frames."""

import os
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import asyncpg

from benchmarks.dialects import Dialect, SocketIoDialect, XmppDialect
from benchmarks.identities import SECRET_KEY
from benchmarks.processes import Cluster, Process, free_port
from benchmarks.provision import Rooms, fill
from benchmarks.provision_xmpp import SCHEMA, fill_xmpp

ROOT = Path(__file__).parents[1]
OURS = "pulse-trio"
NODE_MODULES = Path(sys.prefix) / "node" / "node_modules"


@dataclass(frozen=True, slots=True)
class Target:
    """A server to measure.

    Attributes:
        name: its name in the tables.
        command: returns its command line for a port.
        environment: returns its environment for a port, the cluster and the name of its database.
        folder: its working directory.
        stores: has a database, and accounts and members in it; otherwise it only fans out.
        ours: is this product.
        schema: returns the tables to make before it starts, as SQL; "" if it makes them itself.
        fill: puts accounts and conversations into its tables.
        shares_users: in a room of thousands each user has many connections; otherwise each connection is a user's own.
        needs_tcp: its driver cannot use the Unix socket of PostgreSQL.
        lacking: returns a requirement that this machine does not have; None if it has all.
    """

    name: str
    command: Callable[[int], list[str]]
    environment: Callable[[int, Cluster, str], dict[str, str]]
    folder: Path = ROOT
    dialect: Dialect = field(default_factory=Dialect)
    stores: bool = True
    ours: bool = False
    schema: Callable[[], str] = lambda: ""
    fill: Callable[[asyncpg.Connection, list[Rooms]], Awaitable[None]] = fill
    shares_users: bool = True
    needs_tcp: bool = False
    lacking: Callable[[], str | None] = lambda: None


class Running:
    """A running target with a database of its own.

    Attributes:
        logs: the folder of its log.
        redis_pid: the Redis that it uses; None for none.
    """

    def __init__(self, target: Target, cluster: Cluster, logs: Path, cores: set[int]) -> None:
        self.target = target
        self._cores = cores
        self.cluster = cluster
        self.logs = logs
        self.redis_pid: int | None = None
        self.database = "bench_" + "".join(char if char.isalnum() else "_" for char in target.name)
        self._log = logs / f"{self.database}.log"
        self._process: Process | None = None
        self._scratch = ""

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    def variant(self, target: Target, redis_pid: int | None = None) -> "Running":
        """Returns another target that is to run in the same places."""
        other = Running(target, self.cluster, self.logs, self._cores)
        other.redis_pid = redis_pid
        return other

    async def start(self, rooms: list[Rooms]) -> None:
        """Creates the database, starts the server, which creates its schema, and fills the tables."""
        if self.target.stores:
            admin = await asyncpg.connect(**self._where("postgres"))
            await admin.execute(f'DROP DATABASE IF EXISTS "{self.database}" WITH (FORCE)')
            await admin.execute(f'CREATE DATABASE "{self.database}"')
            await admin.close()
            if schema := self.target.schema():
                await self.run(schema)
        await self.launch()
        if self.target.stores:
            connection = await asyncpg.connect(**self._where(self.database), timeout=600)
            await self.target.fill(connection, rooms)
            await connection.close()

    async def launch(self) -> None:
        """Starts the server's process, with a folder of its own for temporary files."""
        port = free_port()
        self._scratch = tempfile.mkdtemp(prefix="pulse-bench-")
        environment = {"TMPDIR": self._scratch, **self.target.environment(port, self.cluster, self.database)}
        command = self.target.command(port)
        self._process = Process(command, environment, port, self.target.folder, self._log, self._cores)
        await self._process.ready()

    async def run(self, sql: str) -> None:
        """Runs statements in its database."""
        connection = await asyncpg.connect(**self._where(self.database))
        await connection.execute(sql)
        await connection.close()

    def _where(self, database: str) -> dict[str, str]:
        return {
            "host": self.cluster.host,
            "port": self.cluster.port,
            "user": self.cluster.user,
            "database": database,
        }

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()
            self._removed()

    def kill(self) -> None:
        """Kills it with SIGKILL."""
        self.process.kill()
        self._removed()

    def _removed(self) -> None:
        self._process = None
        shutil.rmtree(self._scratch, ignore_errors=True)


def node_lacks(*packages: str) -> Callable[[], str | None]:
    def lacking() -> str | None:
        if shutil.which("node") is None:
            return "Node.js"
        found = all((NODE_MODULES / name).is_dir() for name in packages)
        return None if found else "packages of Node.js (npm)"

    return lacking


def _ejabberd_lacks() -> str | None:
    if shutil.which("ejabberdctl", path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None or not SCHEMA.exists():
        return "ejabberdctl (Debian: apt-get install ejabberd)"
    if not list(Path("/usr/lib").glob("erlang/lib/p1_pgsql-*")):
        return "ejabberd's driver for PostgreSQL (Debian: apt-get install erlang-p1-pgsql)"
    return None


def ours(python: Path, tree: Path, name: str = OURS, *, before: str = "") -> Target:
    """Returns our server from a source tree, started as by an operator, without rate and connection limits.

    Args:
        python: its Python.
        tree: its source tree.
        name: its name in the tables.
        before: statements of Python to run before it starts.
    """

    def environment(port: int, cluster: Cluster, database: str) -> dict[str, str]:
        return {
            "PYTHONPATH": str(tree),
            "DATABASE_URL": f"host={cluster.host} port={cluster.port} user={cluster.user} dbname={database}",
            "SECRET_KEY": SECRET_KEY,
            "PULSE_FRAMES_PER_SECOND": "0",
            "PULSE_BYTES_PER_SECOND": "0",
            "PULSE_CONNECTIONS_PER_USER": "0",
            "PULSE_CONNECTIONS_PER_ADDRESS": "0",
            "PULSE_REQUESTS_PER_SECOND": "0",
            "PULSE_PIECES_PER_SECOND": "0",
            "PULSE_EDITS_PER_SECOND": "0",
            "PULSE_GROUP_CHANGES_PER_SECOND": "0",
            "PULSE_MAX_CONNECTIONS": "100000",  # 0 would not raise the limit on open files
        }

    program = f"{before}from pulse_trio.cli import main; main()"
    command = [str(python), "-c", program, "serve", "--port"]
    filled = partial(fill, ours=True)
    return Target(name, lambda port: [*command, str(port)], environment, tree, ours=True, fill=filled)


def _uvicorn(app: str, *more: str) -> Callable[[int], list[str]]:
    program = str(Path(sys.executable).with_name("uvicorn"))
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"]
    return lambda port: [program, app, "--port", str(port), *options, *more]


def _fastapi_environment(port: int, cluster: Cluster, database: str) -> dict[str, str]:
    url = f"postgresql+asyncpg://{cluster.user}@/{database}?host={cluster.host}&port={cluster.port}"
    return {"SECRET_KEY": SECRET_KEY, "SQLALCHEMY_URL": url}


def _node_environment(port: int, cluster: Cluster, database: str) -> dict[str, str]:
    return {
        "SECRET_KEY": SECRET_KEY,
        "PORT": str(port),
        "PGHOST": cluster.host,
        "PGPORT": cluster.port,
        "PGUSER": cluster.user,
        "PGDATABASE": database,
        "NODE_PATH": str(NODE_MODULES),
        "NODE_ENV": "production",
    }


def _ejabberd_environment(port: int, cluster: Cluster, database: str) -> dict[str, str]:
    return {
        "PORT": str(port),
        "PGHOST": cluster.address,
        "PGPORT": cluster.port,
        "PGUSER": cluster.user,
        "PGDATABASE": database,
    }


_NODE_SCHEMA = """
    CREATE TABLE users (id uuid PRIMARY KEY, username text NOT NULL UNIQUE);
    CREATE TABLE conversations (id uuid PRIMARY KEY, name text, description text,
        is_group boolean NOT NULL, created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL);
    CREATE TABLE conversation_users (conversation_id uuid REFERENCES conversations,
        user_id uuid REFERENCES users, PRIMARY KEY (conversation_id, user_id));
    CREATE INDEX ON conversation_users (user_id);
    CREATE TABLE messages (id uuid PRIMARY KEY, conversation_id uuid NOT NULL REFERENCES conversations,
        sender_id uuid NOT NULL REFERENCES users, content text NOT NULL, is_edited boolean NOT NULL,
        created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL);
    CREATE INDEX ON messages (conversation_id, created_at);
"""

FASTAPI = "fastapi"
WEBSOCKETS = "websockets"
PYTHON_SOCKETIO = "python-socketio"
CHANNELS = "channels"
NODE = "node-ws"
SOCKETIO = "socket.io"
EJABBERD = "ejabberd"
WS = "websockets-sansio"  # the fastest of uvicorn's three: 9.5 µs a delivery here; wsproto 11.7, websockets 13.1

PEERS = {
    FASTAPI: Target(FASTAPI, _uvicorn("benchmarks.peers.fastapi_app:app", "--ws", WS), _fastapi_environment),
    WEBSOCKETS: Target(
        WEBSOCKETS,
        lambda port: [sys.executable, "-m", "benchmarks.peers.websockets_app"],
        lambda port, cluster, database: {"PORT": str(port)},
        stores=False,
    ),
    PYTHON_SOCKETIO: Target(
        PYTHON_SOCKETIO,
        _uvicorn("benchmarks.peers.socketio_app:app", "--ws", WS),
        lambda port, cluster, database: {},
        dialect=SocketIoDialect(),
        stores=False,
    ),
    CHANNELS: Target(
        CHANNELS,
        _uvicorn("benchmarks.peers.channels_app:app", "--ws", WS),
        lambda port, cluster, database: {},
        stores=False,
    ),
    NODE: Target(
        NODE,
        lambda port: ["node", "benchmarks/peers/node/server.js"],
        _node_environment,
        schema=lambda: _NODE_SCHEMA,
        lacking=node_lacks("ws", "pg"),
    ),
    SOCKETIO: Target(
        SOCKETIO,
        lambda port: ["node", "benchmarks/peers/node/socketio.js"],
        _node_environment,
        dialect=SocketIoDialect(),
        schema=lambda: _NODE_SCHEMA,
        lacking=node_lacks("socket.io", "pg"),
    ),
    EJABBERD: Target(
        EJABBERD,
        lambda port: [sys.executable, "-m", "benchmarks.peers.ejabberd"],
        _ejabberd_environment,
        dialect=XmppDialect(),
        schema=lambda: SCHEMA.read_text(),
        fill=fill_xmpp,
        shares_users=False,  # it looks through all connections of a user for each frame
        needs_tcp=True,
        lacking=_ejabberd_lacks,
    ),
}
QUICK_PEERS = (FASTAPI, WEBSOCKETS, NODE, SOCKETIO)  # the others take more time than all of these
