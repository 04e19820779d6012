"""The process that a connection is on: read wrongly, what is called crossing would stay within one."""

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from benchmarks import placement
from benchmarks.placement import NotSpread, Placement, Seat, accepted_inodes, missing_seats, socket_owners

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1 0 100 0 0 10 0
   1: 0100007F:1F90 0100007F:C001 01 00000000:00000000 02:000A5E26 00000000     0        0 101 2 0 20 4 30 10 -1
   2: 0100007F:C001 0100007F:1F90 01 00000000:00000000 02:000A5E26 00000000     0        0 102 2 0 20 4 30 10 -1
   3: 0100007F:1F90 0100007F:C002 06 00000000:00000000 03:000A5E26 00000000     0        0 0 3 0
   4: 0100007F:1F91 0100007F:C003 01 00000000:00000000 02:000A5E26 00000000     0        0 103 2 0 20 4 30 10 -1
   5: 0100007F:1F90 0100007F:C004 01 00000000:00000000 02:000A5E26 00000000     0        0 104 2 0 20 4 30 10 -1
"""


class TestKernel:
    def test_names_the_server_s_ends_of_open_connections(self) -> None:
        assert accepted_inodes(TCP, 0x1F90) == {0xC001: 101, 0xC004: 104}

    @pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="there is no /proc here")
    def test_a_connection_is_found_at_the_process_that_accepted_it(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port)) as client:
                accepted, _ = listener.accept()
                with accepted:
                    inode = accepted_inodes(Path("/proc/net/tcp").read_text(), port)[client.getsockname()[1]]
                    assert socket_owners([os.getpid()])[inode] == os.getpid()
                    assert inode == os.fstat(accepted.fileno()).st_ino

    def test_seats_of_another_process_are_missing(self) -> None:
        seats = [Seat(1, 0, 0), Seat(1, 1, 1), Seat(1, 2, 0)]
        assert missing_seats(seats, [70, 80, 70], [70, 80]) == []
        assert missing_seats(seats, [80, 80, 80], [70, 80]) == [0, 2]


class Connection:
    def __init__(self, room: int, user: int, pid: int) -> None:
        self.place, self.pid, self.is_open = (room, user), pid, True

    async def close(self) -> None:
        self.is_open = False


class LeastLoaded:
    """A stage whose server gives a connection to its process with the fewest, as ours does."""

    name = "server"

    def __init__(self, *pids: int) -> None:
        self.pids = pids
        self.clients: list[Connection] = []
        self.made: list[Connection] = []

    def least_loaded(self) -> int:
        return min(self.pids, key=lambda pid: sum(one.is_open for one in self.made if one.pid == pid))

    async def connect(self, room: int, user: int, tally: Any = None) -> Connection:
        self.made.append(Connection(room, user, self.least_loaded()))
        return self.made[-1]


class Placed(Placement):
    def _owners(self, clients: Any) -> list[int]:
        return [client.pid for client in clients]


class TestPlacement:
    def placed(self, stage: Any, seats: list[Seat]) -> list[Any]:
        async def run() -> list[Any]:
            opened = Placed(stage, 2)
            await opened.wait_processes(1, 0)
            assert opened.pids == [70, 80]
            return await opened.connect(seats)

        return asyncio.run(run())

    def test_all_of_a_room_on_one_process_in_the_order_asked_for(self) -> None:
        stage = LeastLoaded(80, 70)
        found = self.placed(stage, [Seat(1, user, 0) for user in range(50)])
        assert [client.place for client in found] == [(1, user) for user in range(50)]
        assert {client.pid for client in found} == {70}
        assert stage.clients == found
        assert [one for one in stage.made if one.is_open and one not in found] == []

    def test_members_of_a_room_on_alternating_processes(self) -> None:
        stage = LeastLoaded(70, 80)
        found = self.placed(stage, [Seat(1, user, user % 2) for user in range(50)])
        assert [client.pid for client in found] == [70, 80] * 25

    def test_a_server_that_never_comes_to_a_process_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(placement, "MAX_WAVES", 5)
        stage = LeastLoaded(70, 80)

        async def run() -> None:
            opened = Placed(stage, 2)  # type: ignore[arg-type]
            await opened.wait_processes(1, 0)
            monkeypatch.setattr(stage, "least_loaded", lambda: 80)
            await opened.connect([Seat(1, 0, 1), Seat(1, 1, 0)])

        with pytest.raises(NotSpread, match="1 of 2 connections"):
            asyncio.run(run())
        assert [one.place for one in stage.made if one.is_open] == [(1, 0)]

    def test_a_process_that_accepts_nothing_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(placement, "START_TIMEOUT", -1.0)
        with pytest.raises(NotSpread, match="0 of 2 processes"):
            self.placed(LeastLoaded(80), [])
