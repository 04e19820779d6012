"""Spreads connections over the processes of a server.

The kernel knows which process a connection is on: the row of the server's end in /proc/net/tcp has the inode of its
socket, and the process that accepted it has that inode among its open files. So it is the same for every server, and
none has to say it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.processes import START_TIMEOUT, family

if TYPE_CHECKING:  # what they import is not installed where this is tested
    from benchmarks.client import Client, Tally
    from benchmarks.stage import Stage

WAVE = 32  # connections opened at once, before their processes are looked up
MAX_WAVES = 200
ESTABLISHED = "01"


@dataclass(frozen=True, slots=True)
class Seat:
    """A connection that is wanted: its conversation and user, and the number of its process, from 0.

    `tally` counts its deliveries; None: the stage's.
    """

    room: int
    user: int
    process: int
    tally: Tally | None = None


class NotSpread(Exception):
    """The connections could not be spread over the processes as wanted."""


def accepted_inodes(text: str, port: int) -> dict[int, int]:
    """Returns the inodes of a server's established connections, by the ports of their clients.

    Args:
        text: /proc/net/tcp (proc_net_tcp(5)).
        port: the server's.
    """
    found = {}
    for line in text.splitlines()[1:]:
        fields = line.split()
        local, remote, state = fields[1:4]
        if state == ESTABLISHED and int(local.rpartition(":")[2], 16) == port:
            found[int(remote.rpartition(":")[2], 16)] = int(fields[9])
    return found


def socket_owners(pids: Sequence[int]) -> dict[int, int]:
    """Returns the process of each open socket, by the inode of the socket."""
    found = {}
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                link = os.readlink(entry)
            except FileNotFoundError:
                continue  # closed meanwhile
            if link.startswith("socket:["):
                found[int(link[len("socket:[") : -1])] = pid
    return found


def missing_seats(seats: Sequence[Seat], found: Sequence[int], pids: Sequence[int]) -> list[int]:
    """Returns the indexes of the seats whose connection is on another process than wanted.

    Args:
        seats: what is wanted.
        found: the process that each connection is on.
        pids: the processes by their numbers.
    """
    return [index for index, seat in enumerate(seats) if found[index] != pids[seat.process]]


class Placement:
    """Opens connections to the processes of one server.

    Args:
        stage: the running server.
        count: the number of its processes that serve.

    Attributes:
        pids: those processes by their numbers, once `wait_processes` has returned.
    """

    def __init__(self, stage: Stage, count: int) -> None:
        self._stage = stage
        self._count = count
        self.pids: list[int] = []

    async def wait_processes(self, room: int, user: int) -> None:
        """Connects until each process has served a connection.

        Raises:
            NotSpread: not all processes have in time.
        """
        deadline = time.monotonic() + START_TIMEOUT
        seen: set[int] = set()
        while len(seen) < self._count:
            if time.monotonic() > deadline:
                raise NotSpread(f"{self._stage.name}: {len(seen)} of {self._count} processes accept connections")
            clients = await asyncio.gather(*(self._stage.connect(room, user) for _ in range(4 * self._count)))
            seen |= set(self._owners(clients))
            for client in clients:
                await client.close()
        self.pids = sorted(seen)

    async def connect(self, seats: Sequence[Seat]) -> list[Client]:
        """Opens the connections, each on its process; returns them in this order, and adds them to the stage.

        Those that reach another process stay open until all are there, so that a server that prefers its least loaded
        process comes to the wanted one.

        Raises:
            NotSpread: it does not succeed in `MAX_WAVES`.
        """
        placed: dict[int, Client] = {}
        surplus: list[Client] = []
        for _ in range(MAX_WAVES):
            wanted = [index for index in range(len(seats)) if index not in placed][:WAVE]
            if not wanted:
                break
            chosen = [seats[index] for index in wanted]
            clients = await asyncio.gather(*(self._stage.connect(s.room, s.user, tally=s.tally) for s in chosen))
            missing = set(missing_seats(chosen, self._owners(clients), self.pids))
            for number, client in enumerate(clients):
                if number in missing:
                    surplus.append(client)
                else:
                    placed[wanted[number]] = client
        await asyncio.gather(*(client.close() for client in surplus))
        found = [placed[index] for index in sorted(placed)]
        self._stage.clients += found
        if len(found) < len(seats):
            raise NotSpread(f"{self._stage.name}: {len(found)} of {len(seats)} connections reached their process")
        return found

    def _owners(self, clients: Sequence[Client]) -> list[int]:
        """Returns the process that each connection is on."""
        process = self._stage.running.process
        inodes = accepted_inodes(Path("/proc/net/tcp").read_text(), process.port)
        owners = socket_owners(family(process.pid))
        ports = [client.transport.underlying_transport.get_extra_info("sockname")[1] for client in clients]
        return [owners[inodes[port]] for port in ports]
