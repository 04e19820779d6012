"""A cable is cut, without FIN or RST: dead clients are dropped, a database that cannot be reached comes back."""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from psycopg.conninfo import make_conninfo
from wsproto.utilities import LocalProtocolError

from pulse_trio.exception_groups import flatten_group
from tests.faults.test_stalls import IMPATIENT, chatting, heals, is_refused
from tests.support.client import Chat, Person
from tests.support.cluster import Cluster
from tests.support.netns import Namespace, namespace
from tests.support.raw import RawClient, connect_in_order, upgrade_request
from tests.support.server import PROGRAM, Server

ROOT = Path(__file__).resolve().parents[2]
HYPERCORN = str(Path(sys.executable).with_name("hypercorn"))
PING, READ_TIMEOUT = 0.5, 2.0  # seconds


@pytest.fixture
def elsewhere() -> Iterator[Namespace]:
    """Another machine, as far as TCP can tell."""
    with namespace() as made:
        yield made


@pytest.fixture
def pinging(database: str, tmp_path: Path) -> Iterator[Server]:
    """A server on all addresses that notices soon who is gone."""
    changes = {"websocket_ping_interval": PING, "read_timeout": READ_TIMEOUT}
    lines = (ROOT / "hypercorn.toml").read_text().splitlines()
    lines = [line for line in lines if line.partition("=")[0].strip() not in {*changes, "bind"}]
    lines += [f"{name} = {value}" for name, value in changes.items()]
    config = tmp_path / "hypercorn.toml"
    config.write_text("\n".join(['bind = ["0.0.0.0:0"]', *lines]))
    command = [HYPERCORN, "--config", str(config), "pulse_trio.asgi:app"]
    server = Server({"DATABASE_URL": database}, command=command, cwd=ROOT)
    try:
        yield server.wait_ready()
    finally:
        server.stop()


@asynccontextmanager
async def connected(conversation: str, *people: Person) -> AsyncIterator[list[Chat]]:
    """As `connect_in_order`, where the server pings often."""
    try:
        async with connect_in_order(conversation, *people) as chats:
            yield chats
    except* LocalProtocolError as group:  # trio-websocket answers a ping that comes while it is closing
        if not all("LOCAL_CLOSING" in str(error) for error in flatten_group(group)):
            raise


async def test_a_client_whose_cable_is_cut_is_dropped_and_missed_once(elsewhere: Namespace, pinging: Server) -> None:
    cable = elsewhere.cable()
    with trio.fail_after(60):
        alice, bob, carol = [await Person.register(pinging.base_url, name) for name in ("alice", "bob", "carol")]
        conversation = await alice.create_group(bob, carol)
        async with connected(conversation, alice, carol) as (a, c):
            sock = await trio.to_thread.run_sync(elsewhere.connected_socket, cable.outside, pinging.port)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
            try:
                gone = RawClient(stream)
                path = f"/api/chat/ws/{conversation}?token={bob.token}"
                assert (await gone.request(upgrade_request(path))).status == 101
                for chat in (a, c):
                    assert (await chat.receive())["event"] == "joined"
                cable.cut()
                # Carol, too, reads all the time: her library answers no ping while a frame waits for her.
                async with trio.open_nursery() as nursery:
                    seen: list[dict[str, Any]] = []
                    nursery.start_soon(read_until_pong, c, seen)
                    with trio.fail_after(PING + READ_TIMEOUT + 5):
                        said = await say_until_left(a, bob)
                    await c.send({"type": "ping"})
                    await a.send({"type": "ping"})
                    assert await a.receive() == {"type": "pong"}, "nothing is told twice"
            finally:
                await trio.aclose_forcefully(stream)
            lefts = [frame for frame in seen if frame["type"] == "system"]
            assert [(frame["event"], frame["sender_id"]) for frame in lefts] == [("left", bob.id)]
            assert [frame["seq"] for frame in seen if frame["type"] == "message"] == list(range(1, said + 1))
    assert "Traceback" not in pinging.output


async def read_until_pong(chat: Chat, seen: list[dict[str, Any]]) -> None:
    """Keeps what comes before a `pong`."""
    while (frame := await chat.receive())["type"] != "pong":
        seen.append(frame)


async def say_until_left(chat: Chat, other: Person) -> int:
    """Says one thing after the other, until the other has left; returns how many."""
    said = 0
    while True:
        await chat.send({"type": "message", "content": f"message {said + 1}"})
        said += 1
        has_left = False
        while (frame := await chat.receive(3))["type"] == "system":
            assert (frame["event"], frame["sender_id"]) == ("left", other.id)
            has_left = True
        assert (frame["type"], frame["seq"]) == ("message", said)
        if has_left:
            return said
        await trio.sleep(0.05)  # a conversation, not a flood


async def test_the_database_cannot_be_reached_and_then_can(elsewhere: Namespace) -> None:
    people, database = elsewhere.cable(), elsewhere.cable()
    cluster = Cluster(listen_addresses=database.outside)
    cluster.start()
    try:
        cluster.let_in(f"host all pulse {database.inside}/32 trust")
        # The service notices soon; the server does not, and still holds the lock of a session that has gone.
        url = make_conninfo(
            cluster.conninfo, host=database.outside, keepalives_idle=1, keepalives_count=2, tcp_user_timeout=2_000
        )
        command = elsewhere.command(PROGRAM, "serve", "--host", people.inside, "--port", "0")
        server = Server({"DATABASE_URL": url, **IMPATIENT}, command=command)
        try:
            server.wait_ready()
            server.base_url = f"http://{people.inside}:{server.port}"
            with trio.fail_after(60):
                async with chatting(server) as (alice, conversation, chat):
                    database.cut()
                    await is_refused(alice, chat)
                    while "service lock connection lost" not in server.output:  # noqa: ASYNC110  # no event in another process
                        await trio.sleep(0.05)
                    database.mend()
                    await heals(alice, conversation, chat)
                    await lock_is_held(cluster)
        finally:
            status = server.stop()
        assert status == 0
        assert "Traceback" not in server.output
    finally:
        cluster.remove()


async def lock_is_held(cluster: Cluster) -> None:
    """Returns when the service has its lock again."""
    while not cluster.execute("SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted"):  # noqa: ASYNC110
        await trio.sleep(0.05)
