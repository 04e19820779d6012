"""Descriptors and threads run out: who is there is served, nothing spins, and newcomers are let in again."""

import json
import resource
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

import httpx2
import pytest
import trio

from pulse_trio.edge.log_samples import LOG_INTERVAL
from tests.support.client import PASSWORD, Api, Chat, Person
from tests.support.raw import cpu_seconds
from tests.support.server import Server

DESCRIPTORS = 64
FEW = 256
CLIENTS = 400
# The bounds that keep a server from ever coming to this.
UNGUARDED = {"PULSE_MAX_CONNECTIONS": "0", "PULSE_CONNECTIONS_PER_ADDRESS": "0", "PULSE_REQUESTS_PER_SECOND": "0"}
NO_LOGIN_LIMITS = {
    "PULSE_LOGIN_FAILURES_PER_ADDRESS": "0",
    "PULSE_LOGIN_FAILURES_PER_ACCOUNT": "0",
    "PULSE_PASSWORD_ATTEMPTS_PER_ADDRESS": "0",
}
WHILE = 2.0  # seconds for which a server without descriptors is watched

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads processor times in /proc")


async def say(chat: Chat, seq: int) -> None:
    """A message is stored."""
    await chat.send({"type": "message", "content": f"message {seq}"})
    frame = await chat.receive_type("message", "error")
    assert (frame["type"], frame.get("seq")) == ("message", seq), frame


async def test_descriptors_run_out(database: str) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))

    began = trio.current_time()
    server = Server({"DATABASE_URL": database, **UNGUARDED}, preexec_fn=few).wait_ready()
    try:
        with trio.fail_after(60):
            alice = await Person.register(server.base_url, "alice")
            conversation = await alice.create_group()
            async with alice.connect(conversation) as chat:
                await chat.receive()
                await say(chat, 1)
                async with AsyncExitStack() as stack:
                    for _ in range(2 * DESCRIPTORS):  # the kernel takes them; the server cannot
                        stream = await trio.open_tcp_stream("127.0.0.1", server.port)
                        stack.push_async_callback(trio.aclose_forcefully, stream)
                    while "Too many open files" not in server.output:  # noqa: ASYNC110  # no event in another process
                        await trio.sleep(0.02)
                    used = cpu_seconds(server.process.pid)
                    seq = 1
                    with trio.move_on_after(WHILE) as scope:
                        while True:
                            await trio.sleep(0.1)
                            with trio.CancelScope(shield=True), trio.fail_after(5):
                                seq += 1
                                await say(chat, seq)
                    assert scope.cancelled_caught
                    assert cpu_seconds(server.process.pid) - used < WHILE / 2, "it spins"
                with trio.fail_after(15):
                    assert (await alice.history(conversation))["total"] == seq
                async with alice.connect(conversation) as late:
                    assert (await late.receive())["last_seq"] == seq
        assert server.stop() == 0
        assert server.output.count("Too many open files") <= 1 + (trio.current_time() - began) / LOG_INTERVAL
        assert "Traceback" not in server.output
    finally:
        server.stop()


async def test_few_descriptors_are_named_at_the_start_and_clients_rejected(database: str) -> None:
    """As after `ulimit -n 256`, with all other settings as they are."""

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, FEW))

    server = Server({"DATABASE_URL": database}, preexec_fn=few).wait_ready()
    try:
        (line,) = [line for line in server.output.splitlines() if "few open files" in line]
        told = json.loads(line)
        assert (told["allowed"], told["level"]) == (FEW, "warning")
        assert "ulimit -Hn" in told["advice"]
        rejected: list[bytes] = []
        done = trio.Event()

        async def knock(stream: trio.SocketStream) -> None:
            """Begins a request, and waits for a rejection."""
            async with stream:
                answer = b""  # a connection may be closed without one
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(b"GET /api/auth/me HTTP/1.1\r\n")
                    answer = bytes(await stream.receive_some(65_536))
                rejected.append(answer)
            if len(rejected) == CLIENTS - (told["connections"] - 1):
                done.set()

        with trio.fail_after(60):
            alice = await Person.register(server.base_url, "alice")
            conversation = await alice.create_group()
            async with alice.connect(conversation) as chat, trio.open_nursery() as nursery:
                await chat.receive()
                await say(chat, 1)
                for _ in range(CLIENTS):
                    nursery.start_soon(knock, await trio.open_tcp_stream("127.0.0.1", server.port))
                await done.wait()
                await say(chat, 2)
                nursery.cancel_scope.cancel()
            answered = [answer for answer in rejected if answer]
            assert len(answered) > 10
            assert all(answer.startswith(b"HTTP/1.1 503 ") for answer in answered)
            while True:
                with suppress(httpx2.TransportError):
                    if (await alice.api.get("/api/auth/me")).status_code == 200:
                        break
        assert server.stop() == 0
        assert "Too many open files" not in server.output
        assert "Traceback" not in server.output
    finally:
        server.stop()


async def test_messages_flow_while_all_threads_hash_passwords(start_server: Callable[..., Server]) -> None:
    server = start_server(PULSE_PASSWORD_HASH_PARALLEL="64", **NO_LOGIN_LIMITS)
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        conversation = await alice.create_group()
        waiting = 50

        async def log_in() -> None:
            nonlocal waiting
            body = {"username": "alice", "password": PASSWORD}
            answer = await Api(server.base_url).post("/api/auth/login", json=body)
            assert answer.status_code == 200
            waiting -= 1

        async with alice.connect(conversation) as chat:
            await chat.receive()
            seq = during = 0
            async with trio.open_nursery() as nursery:
                for _ in range(waiting):
                    nursery.start_soon(log_in)
                while waiting:
                    seq += 1
                    during += 1
                    await say(chat, seq)
            assert during >= 5, "messages were answered while logins waited"
            await say(chat, seq + 1)
    assert server.stop() == 0
    assert "Traceback" not in server.output
