"""The program with the poller and, as on a system without epoll, without it: one outcome."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from trio_websocket import ConnectionClosed

from tests.support.client import Person
from tests.support.raw import PING, PONG, frame, open_chat
from tests.support.server import Server, serve_command


@pytest.fixture(params=[True, False], ids=["poller", "own tasks"])
def both(request: pytest.FixtureRequest, database: str) -> Iterator[Server]:
    """A server whose WebSockets are read by one task or by their own; its limits are low."""
    limits = {"PULSE_FRAMES_PER_SECOND": "20", "PULSE_FRAMES_BURST": "40"}
    server = Server({"DATABASE_URL": database, **limits}, command=serve_command(is_polled=request.param))
    try:
        yield server.wait_ready()
    finally:
        server.stop()


def epolls(server: Server) -> int | None:
    """The number of epolls that the server's process has; None where the system does not say."""
    if not Path("/proc/self/fd").is_dir():
        return None
    links = []
    for path in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(path))
    return sum("[eventpoll]" in link for link in links)


async def test_messages_pings_and_floods_of_a_connection(both: Server, request: pytest.FixtureRequest) -> None:
    alice, bob = [await Person.register(both.base_url, name) for name in ("alice", "bob")]
    group = await alice.create_group(bob)
    assert epolls(both) in {None, 2 if "poller" in request.node.name.partition("[")[2] else 1}
    with trio.fail_after(60):
        async with open_chat(alice, group) as client, bob.connect(group) as other:
            await other.receive_type("system")  # from here on messages come
            text = frame({"type": "message", "content": "one"})
            await client.send(text[:7])
            await client.send(text[7:] + frame("", PONG) + frame(b"there?", PING))
            answers = [await client.read_frame(), await client.read_frame(), await client.read_frame()]
            assert (PONG, b"there?") in answers
            await client.send(b"".join(frame({"type": "message", "content": f"m{n}"}) for n in range(20)))
            contents = [(await other.receive_type("message"))["content"] for _ in range(21)]
            assert contents == ["one", *(f"m{n}" for n in range(20))]
            await client.send_some(b"".join(frame({"type": "message", "content": "flood"}) for _ in range(200)))
            assert await client.read_close() == 4429
    found = (await bob.history(group))["messages"]
    assert 21 <= len(found) <= 21 + 45


async def test_what_a_session_sent_before_a_stop_is_stored(both: Server, start_server: Callable[..., Server]) -> None:
    """Each message that is acknowledged before the server ends is in the history, once and in order."""
    alice, bob = [await Person.register(both.base_url, name) for name in ("alice", "bob")]
    group = await alice.create_group(bob)
    acknowledged: list[str] = []
    with trio.fail_after(60):
        async with alice.session() as session:
            with suppress(ConnectionClosed):
                for number in range(30):
                    await session.send({"type": "message", "conversation_id": group, "content": f"m{number}"})
                    if number == 15:
                        acknowledged.append((await session.receive_type("message"))["content"])
                        both.process.send_signal(signal.SIGTERM)
                while True:
                    acknowledged.append((await session.receive_type("message"))["content"])
    assert both.wait() == 0
    bob.api.base_url = start_server().base_url
    stored = [message["content"] for message in (await bob.history(group))["messages"]]
    assert sorted(stored, key=lambda content: int(content[1:])) == stored[::-1] == [f"m{n}" for n in range(len(stored))]
    assert acknowledged == [f"m{number}" for number in range(len(acknowledged))]
    assert 1 <= len(acknowledged) <= len(stored)
