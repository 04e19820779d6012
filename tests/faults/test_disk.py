"""The disk is full: nothing is acknowledged that is not stored, what is there can be read, and all heals."""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from tests.faults.test_stalls import IMPATIENT
from tests.support.client import Person
from tests.support.cluster import Cluster
from tests.support.server import PROGRAM, Server

DISK_MB = 400  # the cluster, and a copy of its programs where their account cannot reach them


@pytest.fixture
def small_disk() -> Iterator[Cluster]:
    """A cluster on a disk of its own."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("to mount a small disk needs Linux, root and `mount`")
    cluster = Cluster()
    options = f"size={DISK_MB}m,mode=0711"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "pulse-test", str(cluster.folder)], capture_output=True, check=False
    )
    if done.returncode:
        cluster.remove()
        pytest.skip(f"a disk cannot be mounted here: {done.stderr.decode().strip()}")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        subprocess.run(["umount", str(cluster.folder)], check=True)
        cluster.remove()


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


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
async def test_the_disk_of_the_logs_is_full(database: str) -> None:
    command = ["sh", "-c", 'exec "$@" 2> /dev/full', "sh", PROGRAM, "serve", "--port", "0"]
    server = Server({"DATABASE_URL": database}, command=command).wait_ready()
    try:
        with trio.fail_after(60):
            alice = await Person.register(server.base_url, "alice")
            conversation = await alice.create_group()
            async with alice.connect(conversation) as chat:
                await chat.receive()
                for seq in (1, 2, 3):
                    await chat.send({"type": "message", "content": f"message {seq}"})
                    assert (await chat.receive())["seq"] == seq
                # Something that is logged.
                assert (await alice.api.get("/no/such/thing")).status_code == 404
                async with await trio.open_tcp_stream("127.0.0.1", server.port) as noise:
                    await noise.send_all(b"GET /api/chat/ws/x HTTP/1.1\r\nUpgrade: websocket\r\n\r\nx")
                    while await noise.receive_some(1_000):
                        pass
                await chat.send({"type": "ping"})
                assert await chat.receive() == {"type": "pong"}
            assert (await alice.history(conversation))["total"] == 3
    finally:
        status = server.stop()
    assert status in {0, 120}, "Python's own code for output that it could not write"
