"""The disk is full: nothing is acknowledged that is not stored, what is there can be read, and all heals."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import psycopg
import pytest
import trio
from psycopg.conninfo import make_conninfo

from pulse_trio.database.service_role import SUPERUSER
from tests.faults.talkers import talking
from tests.faults.test_stalls import IMPATIENT, chatting, heals, is_refused, locked
from tests.support.client import Api, Person
from tests.support.cluster import Cluster, traversable_folder
from tests.support.server import PROGRAM, Server

DISK_MB = 400  # the cluster, and a copy of its programs where their account cannot reach them
WAL_DISK_MB = 64  # of segments of 16 MB


@contextmanager
def disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """An empty folder becomes a disk of this size."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("to mount a small disk needs Linux, root and `mount`")
    options = f"size={megabytes}m,mode=0711"
    command = ["mount", "-t", "tmpfs", "-o", options, "pulse-test", str(folder)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"a disk cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def small_disk() -> Iterator[Cluster]:
    """A cluster on a disk of its own."""
    cluster = Cluster()
    try:
        with disk(cluster.folder, DISK_MB):
            try:
                cluster.start()
                yield cluster
            finally:
                cluster.stop()
    finally:
        cluster.remove()


@pytest.fixture
def small_wal() -> Iterator[tuple[Cluster, Path]]:
    """A cluster whose write-ahead log is on a disk of its own, and that disk."""
    cluster = Cluster(min_wal_size="32MB", max_wal_size="32MB")
    folder = cluster.folder / "disk"
    folder.mkdir()
    try:
        with disk(folder, WAL_DISK_MB):
            cluster.start()  # makes the files
            cluster.stop()
            wal = cluster.folder / "data" / "data" / "pg_wal"
            owner = wal.stat()
            shutil.copytree(wal, folder / "wal")
            shutil.rmtree(wal)
            wal.symlink_to(folder / "wal")
            for path in (folder / "wal", *(folder / "wal").rglob("*")):
                os.chown(path, owner.st_uid, owner.st_gid)
            try:
                cluster.start()
                yield cluster, folder
            finally:
                cluster.stop()
    finally:
        cluster.remove()


@pytest.fixture
def small_folder() -> Iterator[Path]:
    """A folder on a disk of its own."""
    folder = traversable_folder()
    try:
        with disk(folder, DISK_MB):
            yield folder
    finally:
        folder.rmdir()


def fill(ballast: Path) -> None:
    """Leaves nothing of the disk."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(65_536))
        except OSError:
            pass
        try:
            while True:
                file.write(bytes(512))
        except OSError:
            pass


async def test_the_disk_of_the_database_is_full(small_disk: Cluster, start_server: Callable[..., Server]) -> None:
    server = start_server(DATABASE_URL=small_disk.new_database(), **IMPATIENT)
    ballast = small_disk.folder / "ballast"
    with trio.fail_after(90):
        alice = await Person.register(server.base_url, "alice")
        conversation = await alice.create_group()
        acknowledged: dict[str, int] = {}
        async with alice.connect(conversation) as chat:
            await chat.receive()

            async def say(number: int) -> str:
                """Sends a message that does not compress; the kind of answer that its `client_id` gets."""
                await chat.send({"type": "message", "content": contents[number], "client_id": f"m{number}"})
                while (frame := await chat.receive_type("message", "error")).get("client_id") != f"m{number}":
                    pass  # one that was in doubt, and was stored
                if frame["type"] == "message":
                    assert acknowledged.setdefault(f"m{number}", frame["seq"]) == frame["seq"]
                else:
                    assert frame["code"] == "not_stored"
                return str(frame["type"])

            contents = [secrets.token_hex(2_000) for _ in range(500)]
            assert await say(0) == "message"
            fill(ballast)
            number = 1
            while await say(number) == "message":
                number += 1
            read = await alice.history(conversation)
            assert read["total"] == len(acknowledged), "what is there can be read"
            ballast.unlink()
            while await say(number) == "error":
                pass
            assert await say(number + 1) == "message"
        stored = {}
        while page := (await alice.history(conversation, limit=100, after_seq=len(stored)))["messages"]:
            stored.update({message["seq"]: message["content"] for message in page})
        assert sorted(stored) == list(range(1, number + 3))
        for client_id, seq in acknowledged.items():
            assert stored[seq] == contents[int(client_id[1:])]
        assert len(acknowledged) == len(stored)
    assert server.stop() == 0
    assert "Traceback" not in server.output


def crash_for_want_of_wal(conninfo: str) -> None:
    """On a full disk PostgreSQL does not live without the next segment of its log; nor does it start again."""
    with pytest.raises(psycopg.OperationalError):  # noqa: PT012
        while True:
            with psycopg.connect(conninfo, autocommit=True) as connection:
                connection.execute("SELECT pg_switch_wal()")
                connection.execute("SELECT pg_logical_emit_message(false, 'x', 'x')")


async def test_the_disk_of_the_write_ahead_log_is_full(
    small_wal: tuple[Cluster, Path], start_server: Callable[..., Server]
) -> None:
    cluster, folder = small_wal
    server = start_server(DATABASE_URL=cluster.new_database(), **IMPATIENT)
    with trio.fail_after(60):
        async with talking(server.base_url) as group:
            await group.more(20)
            fill(folder / "ballast")
            await trio.to_thread.run_sync(crash_for_want_of_wal, cluster.conninfo)
            while cluster.server.poll() is None:  # noqa: ASYNC110  # no event in another process
                await trio.sleep(0.02)
            while not all(talker.refused for talker in group.talkers):  # noqa: ASYNC110
                await trio.sleep(0.02)
            (folder / "ballast").unlink()
            cluster.stop()
            await trio.to_thread.run_sync(cluster.start)
            await group.more(20)
        assert all(talker.connections == 1 for talker in group.talkers), "nobody was cut off"
    assert server.stop() == 0
    assert "Traceback" not in server.output


@pytest.mark.process_end
async def test_the_disk_of_the_embedded_database_is_full(
    small_folder: Path, start_server: Callable[..., Server]
) -> None:
    settings = {"PULSE_DATA_DIR": str(small_folder / "data"), **IMPATIENT}
    ballast = small_folder / "ballast"
    with trio.fail_after(90):
        server = await trio.to_thread.run_sync(lambda: start_server(**settings))
        alice = await Person.register(server.base_url, "alice")
        conversation = await alice.create_group()
        async with alice.connect(conversation) as chat:
            await chat.receive()
            for seq in (1, 2, 3):
                await chat.send({"type": "message", "content": f"message {seq}"})
                assert (await chat.receive())["seq"] == seq
            fill(ballast)
            conninfo = (small_folder / "data" / "conninfo").read_text().strip()
            crash_for_want_of_wal(make_conninfo(conninfo, user=SUPERUSER))
            assert await chat.wait_closed() in {1011, 1012}
        assert await trio.to_thread.run_sync(server.wait) != 0
        last = server.output.splitlines()[-1]
        assert "service stops" in last, server.output
        assert "No space left on device" in last
        assert "free some space" in last
        unlucky = Server(settings)
        assert await trio.to_thread.run_sync(unlucky.wait) == 1
        assert unlucky.output.count("\n") == 1, unlucky.output
        assert "No space left on device" in unlucky.output
        ballast.unlink()
        again = await trio.to_thread.run_sync(lambda: start_server(**settings))
        found = await Person(again.base_url, "alice", alice.id, alice.token).history(conversation)
        assert [message["content"] for message in found["messages"]] == ["message 3", "message 2", "message 1"]
        assert await trio.to_thread.run_sync(again.stop) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("streams", ["> /dev/full", "> /dev/full 2> /dev/full"])
async def test_the_disk_of_the_logs_is_full(database: str, streams: str) -> None:
    with socket.socket() as probe:  # its output cannot tell
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["sh", "-c", f'exec env -u PYTHONUNBUFFERED "$@" {streams}', "sh", PROGRAM, "serve", "--port", str(port)]
    server = Server({"DATABASE_URL": database, **IMPATIENT}, command=command)
    server.base_url, server.port = f"http://127.0.0.1:{port}", port
    try:
        with trio.fail_after(60):
            await listens(server)
            async with chatting(server) as (alice, conversation, chat):
                with locked(database):
                    await is_refused(alice, chat)
                await heals(alice, conversation, chat)
    finally:
        status = server.stop()
    if "2>" in streams:
        assert status in {0, 120}, "Python's own code for errors that it could not write"
    else:
        assert "messages not stored yet" in server.output, "something was logged"
        assert status == 0


async def listens(server: Server) -> None:
    """Returns when a server answers that cannot say so."""
    while True:
        try:
            await Api(server.base_url).get("/api/auth/me")
        except httpx2.ConnectError:
            pass
        else:
            return
        assert server.process.poll() is None, f"the server ended:\n{server.output}"
        await trio.sleep(0.05)
