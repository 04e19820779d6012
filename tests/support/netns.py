"""Networks of the tests' own that can be cut without a word to either side: Linux, root, and `ip` (iproute2)."""

import ctypes
import itertools
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Self

import pytest

_CLONE_NEWNET = 0x40000000
_numbers = itertools.count()


def require_netns() -> None:
    """Skips the test where there can be no network namespace."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("network namespaces need Linux and root")
    if shutil.which("ip") is None:
        pytest.skip("`ip` (iproute2) is not installed")
    name = f"pulse-try-{os.getpid()}"
    for command in (["netns", "add", name], ["link", "add", f"pt{os.getpid()}", "type", "bridge"]):
        done = subprocess.run(["ip", *command], capture_output=True, text=True, check=False)
        if done.returncode:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
            pytest.skip(f"this kernel does not let us make networks: {done.stderr.strip()}")
    _ip("link", "del", f"pt{os.getpid()}")
    _ip("netns", "del", name)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (arguments, done.stderr)


@dataclass(frozen=True)
class Cable:
    """A network of two addresses: `outside` is here, `inside` in the namespace."""

    outside: str
    inside: str
    bridge: str  # in its middle: `outside` is its own address
    port: str  # of the bridge, where `inside` comes in

    def cut(self) -> None:
        """From now on every packet is lost, both ways, and nobody says so."""
        _ip("link", "set", self.port, "nomaster")

    def mend(self) -> None:
        """Packets go through again."""
        _ip("link", "set", self.port, "master", self.bridge)


class Namespace:
    """A network namespace: another machine, as far as TCP can tell. It and its cables are gone after the block."""

    def __init__(self) -> None:
        self.name = f"pulse-test-{os.getpid()}-{next(_numbers)}"
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        _ip("netns", "add", self.name)
        self._undo.callback(_ip, "netns", "del", self.name)
        _ip("-n", self.name, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def cable(self) -> Cable:
        """A further network between here and there."""
        # 198.18.0.0/15 is for tests (RFC 2544): a /30 of it for each cable of each process.
        number = (os.getpid() * 8 + next(_numbers)) % 2**14
        base = 198 << 24 | 18 << 16 | number << 2
        outside, inside = (socket.inet_ntoa((base + host).to_bytes(4, "big")) for host in (1, 2))
        name = f"{os.getpid()}{number % 100:02}"
        bridge, port, end = f"pb{name}", f"pp{name}", f"pe{name}"
        _ip("link", "add", bridge, "type", "bridge")
        self._undo.callback(_ip, "link", "del", bridge)
        _ip("addr", "add", f"{outside}/30", "dev", bridge)
        _ip("link", "add", port, "type", "veth", "peer", "name", end, "netns", self.name)
        _ip("link", "set", port, "master", bridge)
        _ip("link", "set", port, "up")
        _ip("link", "set", bridge, "up")
        _ip("-n", self.name, "addr", "add", f"{inside}/30", "dev", end)
        _ip("-n", self.name, "link", "set", end, "up")
        return Cable(outside, inside, bridge, port)

    def command(self, *command: str) -> list[str]:
        """Returns the command that runs a program in there, as the same process."""
        return ["ip", "netns", "exec", self.name, *command]

    def connected_socket(self, address: str, port: int) -> socket.socket:
        """A TCP connection from in there."""
        made: list[socket.socket] = []

        def make() -> None:
            with open(f"/run/netns/{self.name}") as entry:
                assert ctypes.CDLL(None, use_errno=True).setns(entry.fileno(), _CLONE_NEWNET) == 0
            made.append(socket.create_connection((address, port), timeout=10))
            made[0].settimeout(None)

        thread = threading.Thread(target=make)  # of its own: only this thread goes there, and ends
        thread.start()
        thread.join()
        assert made, "no connection could be made"
        return made[0]


@contextmanager
def namespace() -> Iterator[Namespace]:
    """A namespace, or the test is skipped with the reason."""
    require_netns()
    with Namespace() as made:
        yield made
