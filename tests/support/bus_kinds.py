"""The engines of the bus under contract."""

import os
import random
import signal
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final
from uuid import UUID

import trio
from psycopg.conninfo import conninfo_to_dict

from pulse_trio.bus.base import Bus
from pulse_trio.bus.numbered import NumberedBus
from pulse_trio.bus.postgres import PostgresTransport
from pulse_trio.bus.redis import RedisTransport
from pulse_trio.bus_url import RedisUrl, parse_bus_url
from tests.support.bus import MemoryEngine, MemoryTransport
from tests.support.cluster import Cluster
from tests.support.redis_server import RedisCluster, RedisServer

CHANNEL: Final = "pulse_trio.bus.test"
PASSWORD: Final = "hunter2-of-the-bus"


class BusKind(ABC):
    """An engine, and what may happen to it. Methods may block for a moment: nothing else of a test runs meanwhile."""

    @abstractmethod
    def new_bus(self, publisher: UUID) -> Bus:
        """Makes a bus that does not run yet."""

    @abstractmethod
    def count_connections(self) -> int:
        """Returns how many connections of buses the engine has."""

    @abstractmethod
    def drop_connections(self) -> None:
        """Ends the connections of all buses; the engine takes new ones."""

    @abstractmethod
    def kill(self) -> None:
        """Ends the engine."""

    @abstractmethod
    def start(self) -> None:
        """Starts the engine, unless it runs, with nothing of the time before."""

    @abstractmethod
    def stop(self) -> None:
        """Makes it stand still: it neither answers nor ends connections."""

    @abstractmethod
    def resume(self) -> None:
        """Makes it go on."""

    @abstractmethod
    def refuse(self) -> None:
        """Makes it refuse new connections as those of a wrong user."""

    @abstractmethod
    def admit(self) -> None:
        """Makes it take connections again."""

    @abstractmethod
    def remove(self) -> None:
        """Ends it for good."""


class MemoryKind(BusKind):
    """The engine in memory, without faults."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._engine = MemoryEngine(nursery)

    def new_bus(self, publisher: UUID) -> Bus:
        return NumberedBus(MemoryTransport(self._engine, 7_999, 16), publisher, random.Random(1))

    def count_connections(self) -> int:
        return len(self._engine.links)

    def drop_connections(self) -> None:
        self._engine.drop_connections()

    def kill(self) -> None:
        self._engine.refusal = "down"
        self._engine.drop_connections()

    def start(self) -> None:
        self._engine.refusal = ""

    def stop(self) -> None:
        self._engine.stop()

    def resume(self) -> None:
        self._engine.resume()

    def refuse(self) -> None:
        self._engine.refusal = "WRONGPASS"

    def admit(self) -> None:
        self._engine.refusal = ""

    def remove(self) -> None:
        self.kill()


class PostgresKind(BusKind):
    """A database of a cluster that tests may kill."""

    def __init__(self) -> None:
        self._cluster = Cluster()
        self._cluster.start()
        self.conninfo = self._cluster.new_database(migrated=False)
        self._name = conninfo_to_dict(self.conninfo)["dbname"]
        self._is_running = True

    def new_bus(self, publisher: UUID) -> Bus:
        return NumberedBus(PostgresTransport(self.conninfo), publisher)

    def count_connections(self) -> int:
        return int(
            self._cluster.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pulse-trio'")[0][0]
        )

    def drop_connections(self) -> None:
        self._cluster.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'pulse-trio'"
        )

    def kill(self) -> None:
        self._cluster.kill()
        self._is_running = False

    def start(self) -> None:
        if not self._is_running:
            self._cluster.start()
            self._is_running = True

    def stop(self) -> None:
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def refuse(self) -> None:
        self._allow("false")

    def admit(self) -> None:
        self._allow("true")

    def remove(self) -> None:
        self._cluster.remove()

    def _allow(self, value: str) -> None:
        self._cluster.execute(f'ALTER DATABASE "{self._name}" ALLOW_CONNECTIONS {value}')  # type: ignore[arg-type]

    def _signal(self, what: signal.Signals) -> None:
        pid = self._cluster.server.pid
        assert pid is not None
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *map(int, children)):
            os.kill(each, what)


class RedisKind(BusKind):
    """A Redis with a user of its access list, over plain TCP or TLS."""

    def __init__(self, *, tls: bool = False) -> None:
        rules = "resetchannels &pulse_trio.bus* -@all +hello +auth +client|setname +publish +subscribe"
        self.server = RedisServer(f"user chat on >{PASSWORD} {rules}", tls=tls)
        self.server.start()
        scheme, options = ("rediss", f"?ssl_ca_certs={self.server.cert_file}") if tls else ("redis", "")
        self.url = f"{scheme}://chat:{PASSWORD}@{self.server.address}{options}"

    def new_bus(self, publisher: UUID) -> Bus:
        return NumberedBus(RedisTransport(parsed(self.url), CHANNEL), publisher)

    def count_connections(self) -> int:
        return self.server.count_clients()

    def drop_connections(self) -> None:
        self.server.drop_clients()

    def kill(self) -> None:
        self.server.kill()

    def start(self) -> None:
        self.server.start()

    def stop(self) -> None:
        self.server.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.server.signal(signal.SIGCONT)

    def refuse(self) -> None:
        self.server.ask("ACL", "SETUSER", "chat", "resetpass", ">another")

    def admit(self) -> None:
        self.server.ask("ACL", "SETUSER", "chat", "resetpass", f">{PASSWORD}")

    def remove(self) -> None:
        self.server.remove()


class RedisClusterKind(BusKind):
    """A Redis Cluster; what happens, happens to the node of the channel."""

    def __init__(self) -> None:
        self.cluster = RedisCluster()
        self.cluster.start()

    @property
    def _owner(self) -> RedisServer:
        return self._found or self.cluster.owner(CHANNEL)

    _found: RedisServer | None = None  # while it cannot be asked for

    def new_bus(self, publisher: UUID) -> Bus:
        return NumberedBus(RedisTransport(parsed(f"redis+cluster://{self.cluster.addresses}"), CHANNEL), publisher)

    def count_connections(self) -> int:
        return sum(node.count_clients() for node in self.cluster.nodes)

    def drop_connections(self) -> None:
        self._owner.drop_clients()

    def kill(self) -> None:
        self._owner.kill()

    def start(self) -> None:
        self.cluster.start()

    def stop(self) -> None:
        self._found = self._owner
        self._found.signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._found is not None
        self._found.signal(signal.SIGCONT)
        self._found = None

    def refuse(self) -> None:
        self._found = self._owner
        self._found.ask("CONFIG", "SET", "requirepass", "another")
        self._found.password = "another"

    def admit(self) -> None:
        assert self._found is not None
        self._found.ask("CONFIG", "SET", "requirepass", "")
        self._found.password = ""
        self._found = None

    def remove(self) -> None:
        self.cluster.remove()


def parsed(text: str) -> RedisUrl:
    """Parses the URL of a Redis."""
    url = parse_bus_url(text)
    assert isinstance(url, RedisUrl)
    return url
