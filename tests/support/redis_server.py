"""Redis servers for tests: one alone, a cluster of three, and a primary with a replica and a sentinel."""

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.support.certificate import make_certificate
from tests.support.programs import require_program

PATIENCE: Final = 30.0  # seconds until a server does what it should
LAST_SLOT: Final = 16_383


def free_port() -> int:
    """Returns a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Returns once the condition is true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class RedisServer:
    """A server on a free port of 127.0.0.1, in a folder of its own. `start` runs it.

    Args:
        tls: with a certificate of its own, `cert_file`, which is its own authority.
        settings: lines of its configuration, such as `"appendonly yes"`.
        sentinel: it is a sentinel; `settings` are those of one.
    """

    def __init__(self, *settings: str, tls: bool = False, sentinel: bool = False) -> None:
        self._program = (
            require_program("redis-sentinel", "redis-sentinel")
            if sentinel
            else require_program("redis-server", "redis-server")
        )
        self._cli = require_program("redis-cli", "redis-tools")
        self.folder = Path(tempfile.mkdtemp(prefix="pulse-redis-"))
        self.port = free_port()
        lines = ["bind 127.0.0.1", f"dir {self.folder}", "logfile log", *settings]
        self._options: list[str] = []
        if tls:
            self.cert_file, key_file = make_certificate(self.folder)
            lines += ["port 0", f"tls-port {self.port}", f"tls-cert-file {self.cert_file}"]
            lines += [f"tls-key-file {key_file}", "tls-auth-clients no"]
            self._options = ["--tls", "--insecure"]
        else:
            lines.append(f"port {self.port}")
        if not sentinel:
            lines += ['save ""', "cluster-port 0"]
        self._config = self.folder / "redis.conf"
        self._config.write_text("\n".join([*lines, ""]))
        self._process: subprocess.Popen[bytes] | None = None
        self.password = ""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Starts it, unless it runs, and waits until it answers."""
        if self._process is not None:
            return
        self._process = subprocess.Popen(
            [self._program, str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(lambda: self.ask("PING") == "PONG", "Redis does not answer")

    def kill(self) -> None:
        """Kills it; `start` brings it back, without clients."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, what: signal.Signals) -> None:
        """Sends it a signal, such as SIGSTOP."""
        assert self._process is not None
        self._process.send_signal(what)

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.folder)

    def ask(self, *command: str) -> str:
        """Runs a command; returns its reply as redis-cli prints it."""
        password = ["--no-auth-warning", "-a", self.password] if self.password else []
        done = subprocess.run(
            [self._cli, "-h", "127.0.0.1", "-p", str(self.port), *self._options, *password, *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        return done.stdout.strip()

    def count_clients(self) -> int:
        """Returns how many clients of ours are connected."""
        return self.ask("CLIENT", "LIST").count("name=pulse-trio")

    def drop_clients(self) -> None:
        """Ends the connections of our clients."""
        self.ask("CLIENT", "KILL", "TYPE", "pubsub")


class RedisCluster:
    """Three primaries that share the slots."""

    def __init__(self) -> None:
        self.nodes = [RedisServer("cluster-enabled yes", "cluster-require-full-coverage no") for _ in range(3)]
        for node in self.nodes:
            config = node._config.read_text().replace("cluster-port 0", f"cluster-port {free_port()}")
            node._config.write_text(config)

    @property
    def addresses(self) -> str:
        return ",".join(node.address for node in self.nodes)

    def start(self) -> None:
        """Starts the nodes that do not run, and makes them a cluster unless they are one."""
        for node in self.nodes:
            node.start()
        first, *others = self.nodes
        if "cluster_slots_assigned:0" in first.ask("CLUSTER", "INFO"):
            size = (LAST_SLOT + 1) // len(self.nodes)
            for number, node in enumerate(self.nodes):
                end = LAST_SLOT if node is self.nodes[-1] else (number + 1) * size - 1
                assert node.ask("CLUSTER", "ADDSLOTSRANGE", str(number * size), str(end)) == "OK"
                node.ask("CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
            for node in others:
                bus_port = node._config.read_text().partition("cluster-port ")[2].split()[0]
                assert first.ask("CLUSTER", "MEET", "127.0.0.1", str(node.port), bus_port) == "OK"
        wait_until(self.is_whole, "the nodes are no cluster")

    def is_whole(self) -> bool:
        """Every node sees all slots served."""
        wanted = {"cluster_state:ok", f"cluster_slots_ok:{LAST_SLOT + 1}", f"cluster_known_nodes:{len(self.nodes)}"}
        return all(wanted <= set(node.ask("CLUSTER", "INFO").split()) for node in self.nodes)

    def owner(self, channel: str) -> RedisServer:
        """Returns the node that serves a channel."""
        slot = int(self.nodes[0].ask("CLUSTER", "KEYSLOT", channel))
        for line in self.nodes[0].ask("CLUSTER", "NODES").splitlines():
            fields = line.split()
            for part in fields[8:]:
                first, _, last = part.partition("-")
                if first.isdecimal() and int(first) <= slot <= int(last or first):
                    port = int(fields[1].partition("@")[0].rpartition(":")[2])
                    return next(node for node in self.nodes if node.port == port)
        raise AssertionError("nobody serves the slot")

    def move(self, channel: str) -> None:
        """Gives the slot of a channel to another node."""
        source = self.owner(channel)
        target = next(node for node in self.nodes if node is not source)
        slot, target_id = source.ask("CLUSTER", "KEYSLOT", channel), target.ask("CLUSTER", "MYID")
        for node in (target, source):
            assert node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id) == "OK"

    def remove(self) -> None:
        for node in self.nodes:
            node.remove()


class RedisWithSentinel:
    """A primary, its replica, and a sentinel that makes the replica the primary when the primary is gone."""

    NAME: Final = "chat"

    def __init__(self) -> None:
        self.primary = RedisServer("repl-diskless-sync-delay 0")
        self.replica = RedisServer(f"replicaof 127.0.0.1 {self.primary.port}")
        self.sentinel = RedisServer(
            f"sentinel monitor {self.NAME} 127.0.0.1 {self.primary.port} 1",
            f"sentinel down-after-milliseconds {self.NAME} 500",
            f"sentinel failover-timeout {self.NAME} 3000",
            "requirepass watcher",
            sentinel=True,
        )
        self.sentinel.password = "watcher"

    def start(self) -> None:
        for server in (self.primary, self.replica, self.sentinel):
            server.start()
        wait_until(lambda: "master_link_status:up" in self.replica.ask("INFO", "replication"), "no replica")
        wait_until(lambda: "slaves=1" in self.sentinel.ask("INFO", "sentinel"), "the sentinel knows no replica")

    def remove(self) -> None:
        for server in (self.sentinel, self.replica, self.primary):
            server.remove()
