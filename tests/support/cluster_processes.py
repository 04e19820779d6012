"""Processes of a cluster on one database, with one of the engines of the bus."""

from typing import Final, Self

from tests.support.client import Person
from tests.support.cluster import Cluster
from tests.support.redis_server import RedisServer
from tests.support.server import Server

ENGINES: Final = ("postgres", "redis")


def at(server: Server, person: Person) -> Person:
    """The same user on another process."""
    return Person(server.base_url, person.username, person.id, person.token)


class Processes:
    """Processes on a database of their own; the database and the engine are gone after the block.

    Args:
        cluster: the PostgreSQL.
        engine: of the bus, one of `ENGINES`.
        count: of the processes.
        settings: of all processes.

    Attributes:
        conninfo: of the database.
        servers: the processes.
        redis: the server of the bus, if it is a Redis.
    """

    def __init__(self, cluster: Cluster, engine: str, count: int = 2, **settings: str) -> None:
        self._cluster = cluster
        self._count = count
        self.redis = RedisServer() if engine == "redis" else None
        self._settings = {"PULSE_CLUSTER": "true", "PULSE_LOG_LEVEL": "info", **settings}
        self.conninfo = ""
        self.servers: list[Server] = []

    def __enter__(self) -> Self:
        self.conninfo = self._cluster.new_database()
        self._settings["PULSE_BUS_URL"] = "postgres"
        if self.redis is not None:
            self.redis.start()
            self._settings["PULSE_BUS_URL"] = f"redis://{self.redis.address}"
        for _ in range(self._count):
            self.add()
        for server in self.servers:
            server.wait_ready()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            if server.process.poll() is None:
                server.process.kill()
                server.wait()
        if self.redis is not None:
            self.redis.remove()
        self._cluster.drop_database(self.conninfo)

    def add(self) -> Server:
        """Starts a further process; it need not be ready."""
        self.servers.append(Server({"DATABASE_URL": self.conninfo, **self._settings}))
        return self.servers[-1]
