"""Clients that mean harm, on the real process: each is cut at its bound, and everybody else goes on."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from uuid import UUID, uuid4

import pytest
import trio

from tests.support.client import Api, Chat, Person
from tests.support.cluster import Cluster
from tests.support.raw import (
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawClient,
    cpu_seconds,
    frame,
    open_chat,
    open_raw,
    resident_bytes,
    upgrade_request,
)
from tests.support.server import Server

Start = Callable[..., Server]
GET_ME = b"GET /api/auth/me HTTP/1.1\r\nHost: chat.example\r\n\r\n"
MEMORY = 12 * 2**20  # bytes that floods may cost the process, with room for what the allocator keeps


async def pair(server: Server) -> tuple[Person, Person, str, str]:
    """Two people; a conversation of both, and one of the second alone."""
    alice = await Person.register(server.base_url, "alice")
    bob = await Person.register(server.base_url, "bob")
    return alice, bob, await alice.create_group(bob), await bob.create_group(name="Elsewhere")


async def talk(chat: Chat, count: int) -> None:
    """One message after the other comes back."""
    for number in range(count):
        await chat.send({"type": "message", "content": f"message {number}"})
        while (await chat.receive_type("message"))["content"] != f"message {number}":
            pass


async def pour(client: RawClient, data: bytes, *, task_status: trio.TaskStatus[None]) -> None:
    """Sends the same over and over, for as long as the server takes it."""
    task_status.started()
    while await client.send_some(data):
        await trio.lowlevel.checkpoint()


# --- Frames that are no message ---

FLOODS = {
    "pings": (b"", frame(b"", PING) * 1_000),
    "pings with content": (b"", frame(b"x" * 125, PING) * 500),
    "pongs": (b"", frame(b"", PONG) * 1_000),
    "empty pieces": (frame(b"", TEXT, fin=False), frame(b"", CONTINUATION, fin=False) * 1_000),
    "small pieces": (frame(b"x", TEXT, fin=False), frame(b"x", CONTINUATION, fin=False) * 1_000),
    "pings in a message": (frame(b"x", TEXT, fin=False), frame(b"", PING) * 1_000),
}


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_of_frames_that_are_no_message_is_closed(start_server: Start, kind: str) -> None:
    server = start_server(PULSE_PIECES_PER_SECOND="100", PULSE_PIECES_BURST="3000")
    begin, more = FLOODS[kind]
    with trio.fail_after(60):
        alice, bob, conversation, elsewhere = await pair(server)
        async with bob.connect(elsewhere) as other:
            await talk(other, 3)
            used = cpu_seconds(server.process.pid)
            before = 0
            for _ in range(4):
                async with open_chat(alice, conversation) as flooder, trio.open_nursery() as nursery:
                    await flooder.send_some(begin)
                    await nursery.start(lambda task_status, f=flooder: pour(f, more, task_status=task_status))
                    assert await flooder.read_close() == 4429
                    await flooder.wait_gone()
                await talk(other, 3)
                before = before or resident_bytes(server.process.pid)  # what the first costs is not given back
            assert cpu_seconds(server.process.pid) - used < 20
            assert resident_bytes(server.process.pid) - before < MEMORY
    assert "Traceback" not in server.output


@pytest.mark.parametrize("data", [frame(b"x" * 10_000), frame(b"") * 100], ids=["one frame", "nothing but headers"])
async def test_bytes_that_come_one_by_one_count_also_where_no_frame_ends(start_server: Start, data: bytes) -> None:
    server = start_server(PULSE_PIECES_PER_SECOND="1", PULSE_PIECES_BURST="100")
    with trio.fail_after(60):
        alice, _, conversation, _ = await pair(server)
        async with open_chat(alice, conversation) as client, trio.open_nursery() as nursery:
            client.stream.setsockopt(6, 1, 1)  # TCP_NODELAY: a packet for each byte

            async def drip() -> None:
                for start in range(len(data)):
                    if not await client.send_some(data[start : start + 1]):
                        return
                    await trio.sleep(0.001)  # so that the server reads in between

            nursery.start_soon(drip)
            assert await client.read_close() == 4429
            nursery.cancel_scope.cancel()


async def test_pings_and_pieces_within_the_bounds_are_welcome(start_server: Start) -> None:
    server = start_server(PULSE_PIECES_PER_SECOND="1", PULSE_PIECES_BURST="300")
    with trio.fail_after(60):
        alice, _, conversation, _ = await pair(server)
        async with open_chat(alice, conversation) as client:
            for number in range(100):
                await client.send(frame(b"%d" % number, PING))
                while True:
                    opcode, payload = await client.read_frame()
                    if opcode == PONG:
                        break
                assert payload == b"%d" % number
            pieces = [b'{"type": "message", ', *[b" "] * 50, b'"content": "in pieces"}']
            await client.send(frame(pieces[0], fin=False))
            for piece in pieces[1:-1]:
                await client.send(frame(piece, CONTINUATION, fin=False))
            await client.send(frame(pieces[-1], CONTINUATION))
            assert (await client.read_json_type("message"))["content"] == "in pieces"
            # Whole messages do not count among them.
            for _ in range(400):
                await client.send(frame({"type": "typing"}))
            await client.send(frame({"type": "ping"}))
            assert (await client.read_json_type("pong", "error"))["type"] == "pong"


# --- Messages without end ---


@pytest.mark.parametrize(
    "start",
    [
        frame(b"", TEXT, fin=False),
        frame(b'{"type": ', TEXT, fin=False),
        frame(b"x" * 100, announced=60_000),
        frame(b"x" * 100)[:1],
        frame(b"x" * 200)[:3],
        frame(b"x" * 100, PING)[:50],
    ],
    ids=["empty piece", "piece", "half a frame", "one byte", "half a header", "half a ping"],
)
async def test_a_message_that_does_not_come_to_its_end_is_not_waited_for(start_server: Start, start: bytes) -> None:
    server = start_server(PULSE_MESSAGE_TIMEOUT="1")
    with trio.fail_after(60):
        alice, bob, conversation, _ = await pair(server)
        async with bob.connect(conversation) as idle, open_chat(alice, conversation) as client:
            await client.send(start)
            with trio.fail_after(10):
                assert await client.read_close() == 1008
                await client.wait_gone()
            await talk(idle, 1)  # who says nothing, and has nothing half said, stays


async def test_a_message_that_comes_drop_by_drop_is_not_waited_for(start_server: Start) -> None:
    server = start_server(PULSE_MESSAGE_TIMEOUT="2")
    with trio.fail_after(60):
        alice, _, conversation, _ = await pair(server)
        drops = {
            "bytes": (frame(b"", announced=60_000), b"x"),
            "empty pieces": (frame(b"", fin=False), frame(b"", CONTINUATION, fin=False)),
            "pings between": (frame(b"", fin=False), frame(b"", PING)),
        }
        for begin, drop in drops.values():
            async with open_chat(alice, conversation) as client, trio.open_nursery() as nursery:
                await client.send(begin)

                async def drip(client: RawClient = client, drop: bytes = drop) -> None:
                    while await client.send_some(drop):  # noqa: ASYNC110  # the pauses are the client's way
                        await trio.sleep(0.2)

                nursery.start_soon(drip)
                with trio.fail_after(10):
                    assert await client.read_close() == 1008
                nursery.cancel_scope.cancel()


async def test_each_message_has_its_own_time(start_server: Start) -> None:
    server = start_server(PULSE_MESSAGE_TIMEOUT="1")
    with trio.fail_after(60):
        alice, _, conversation, _ = await pair(server)
        async with open_chat(alice, conversation) as client:
            for _ in range(6):  # longer than one may take
                await client.send(frame('{"type": ', fin=False))
                await trio.sleep(0.4)
                await client.send(frame('"ping"}', CONTINUATION))
                assert await client.read_json() == {"type": "pong"}
            await client.send(frame('{"type": ', fin=False))
            for _ in range(6):  # the end of one and the beginning of the next come together
                await trio.sleep(0.4)
                await client.send(frame('"ping"}', CONTINUATION) + frame('{"type": ', fin=False))
                assert await client.read_json() == {"type": "pong"}
            await client.send(frame('"ping"}', CONTINUATION) + frame({"type": "ping"})[:3])
            for _ in range(6):
                assert await client.read_json() == {"type": "pong"}
                await trio.sleep(0.4)
                await client.send(frame({"type": "ping"})[3:] + frame({"type": "ping"})[:3])


# --- Connections and requests of an address ---


async def refused(server: Server, request: bytes = GET_ME) -> tuple[int, str]:
    """Returns the answer to a new connection."""
    async with open_raw(server.port) as client:
        await client.send_some(request)
        answer = await client.read_answer()
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.headers["content-type"] == "application/json"
        assert set(answer.json()) == {"code", "message"}
        await client.wait_gone()
        return answer.status, str(answer.json()["code"])


@asynccontextmanager
async def connections(server: Server, count: int) -> AsyncIterator[list[RawClient]]:
    """So many connections that have got through to the server."""
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_raw(server.port)) for _ in range(count)]
        for client in clients:
            assert (await client.request(GET_ME)).status == 401
        yield clients


async def wait_served(server: Server) -> None:
    """Returns when the server takes new connections again."""
    while True:
        async with open_raw(server.port) as client:
            await client.send_some(GET_ME)
            if (await client.read_answer()).status == 401:
                return


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("PULSE_CONNECTIONS_PER_ADDRESS", (429, "too_many_connections")),
        ("PULSE_MAX_CONNECTIONS", (503, "unavailable")),
    ],
)
async def test_connections_are_limited(start_server: Start, setting: str, told: tuple[int, str]) -> None:
    server = start_server(**{setting: "5"})
    with trio.fail_after(60):
        async with connections(server, 5) as open_ones:
            assert await refused(server) == told
            assert await refused(server, upgrade_request("/api/chat/ws")) == told
            async with open_raw(server.port) as silent:  # told without having asked
                assert (await silent.read_answer()).status == told[0]
                await silent.wait_gone()
            assert (await open_ones[0].request(GET_ME)).status == 401, "who is in is served"
        await wait_served(server)
    assert "connection rejected" in server.output
    assert "Traceback" not in server.output


async def test_a_flood_of_connections_leaves_those_that_are_there_alone(start_server: Start) -> None:
    server = start_server(PULSE_CONNECTIONS_PER_ADDRESS="20", PULSE_REQUESTS_PER_SECOND="0")
    with trio.fail_after(90):
        alice, bob, conversation, _ = await pair(server)
        async with alice.connect(conversation) as a, bob.connect(conversation) as b:
            before = resident_bytes(server.process.pid)

            async def flood() -> None:
                for _ in range(150):
                    async with open_raw(server.port) as client:
                        await client.send_some(b"GET / HTTP/1.1\r\n")

            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(flood)
                await talk(a, 20)
            await talk(b, 3)
            assert resident_bytes(server.process.pid) - before < MEMORY
    assert "Traceback" not in server.output


async def test_requests_of_an_address_are_limited(start_server: Start) -> None:
    server = start_server(PULSE_REQUESTS_PER_SECOND="1", PULSE_REQUESTS_BURST="20")
    with trio.fail_after(60):
        alice, bob, conversation, _ = await pair(server)  # six requests
        async with alice.connect(conversation) as a, bob.connect(conversation) as b:
            async with open_raw(server.port) as client:
                for _ in range(100):
                    answer = await client.request(GET_ME)
                    if answer.status != 401:
                        break
                assert (answer.status, answer.json()["code"]) == (429, "rate_limited")
                assert 1 <= int(answer.headers["retry-after"]) <= 2
                await client.wait_gone()
            with trio.fail_after(10):
                while (await Api(server.base_url).get("/api/auth/me")).status_code == 401:
                    pass
            await talk(a, 3)  # who is connected is served
            await talk(b, 3)
            with trio.fail_after(10):
                while (await Api(server.base_url).get("/api/auth/me")).status_code == 429:  # noqa: ASYNC110
                    await trio.sleep(0.2)


async def test_behind_a_proxy_every_client_has_its_own_limits(start_server: Start) -> None:
    server = start_server(
        PULSE_TRUSTED_PROXIES="1",
        PULSE_CONNECTIONS_PER_ADDRESS="2",
        PULSE_REQUESTS_PER_SECOND="1",
        PULSE_REQUESTS_BURST="8",
    )
    with trio.fail_after(60):
        api = [Api(server.base_url, {"X-Forwarded-For": f"203.0.113.{number}"}) for number in range(3)]
        body = {"username": "alice", "password": "correct horse battery staple"}
        assert (await api[0].post("/api/auth/register", json=body)).status_code == 201
        token = (await api[0].post("/api/auth/login", json=body)).json()["access_token"]

        async def open_session(stack: AsyncExitStack, address: str) -> int:
            client = await stack.enter_async_context(open_raw(server.port))
            headers = [("X-Forwarded-For", f"6.6.6.6, {address}"), ("Authorization", f"Bearer {token}")]
            answer = await client.request(upgrade_request("/api/chat/ws", headers))
            if answer.status == 429:
                assert answer.json()["code"] == "too_many_connections"
            return answer.status

        async with AsyncExitStack() as stack:
            statuses = [await open_session(stack, "198.51.100.1") for _ in range(3)]
            assert statuses == [101, 101, 429]
            assert await open_session(stack, "198.51.100.2") == 101
        found = [(await api[1].get("/api/auth/me")).status_code for _ in range(20)]
        assert set(found) == {401, 429}
        assert (await api[2].get("/api/auth/me")).status_code == 401


# --- Changes over REST ---


async def test_messages_edits_and_deletions_of_a_user_over_rest_are_limited(start_server: Start) -> None:
    server = start_server(PULSE_EDITS_PER_SECOND="1", PULSE_EDITS_BURST="4")
    with trio.fail_after(60):
        alice, bob, conversation, _ = await pair(server)
        async with bob.connect(conversation) as b, alice.connect(conversation) as a:
            await b.send({"type": "message", "content": "of bob"})
            await a.send({"type": "message", "content": "first"})
            # Which of the two comes first is nobody's to say.
            found = {frame["content"]: frame for frame in [await a.receive_type("message") for _ in range(2)]}
            message, of_bob = found["first"], found["of bob"]
            path = f"/api/chat/conversations/{conversation}/messages"
            mine = f"{path}/{message['message_id']}"
            for number in range(20):
                answer = await alice.api.patch(mine, json={"content": f"edit {number}"})
                if answer.status_code != 200:
                    break
            assert number >= 4
            for refused in (answer, await alice.api.delete(mine)):
                assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
                assert 1 <= int(refused.headers["Retry-After"]) <= 2
                assert set(refused.json()) == {"code", "message"}
            assert (await bob.api.patch(f"{path}/{of_bob['message_id']}", json={"content": "b"})).status_code == 200
            contents = [each["content"] for each in (await bob.history(conversation))["messages"]]
            assert f"edit {number - 1}" in contents, "what was refused was not done"
            # New messages are counted for themselves.
            said = 0
            while (answer := await alice.api.post(path, json={"content": f"said {said}"})).status_code == 201:
                said += 1
            assert 4 <= said < 20
            assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
            contents = [each["content"] for each in (await bob.history(conversation))["messages"]]
            assert contents[0] == f"said {said - 1}", "what was refused was not stored"


async def test_changes_of_conversations_by_a_user_are_limited(start_server: Start) -> None:
    server = start_server(PULSE_GROUP_CHANGES_PER_SECOND="1", PULSE_GROUP_CHANGES_BURST="4")
    with trio.fail_after(60):
        alice, bob, conversation, elsewhere = await pair(server)
        path = "/api/chat/conversations"
        made = 0
        while (answer := await alice.api.post(path, json={"is_group": True})).status_code == 201:
            made += 1
        assert made >= 2
        others = [
            await alice.api.post(f"{path}/{conversation}/members", json={"user_ids": [bob.id]}),
            await alice.api.delete(f"{path}/{conversation}/members/me"),
            await alice.api.patch(f"{path}/{conversation}", json={"name": "x"}),
        ]
        for found in (answer, *others):
            assert (found.status_code, found.json()["code"]) == (429, "rate_limited")
            assert 1 <= int(found.headers["Retry-After"]) <= 2
            assert set(found.json()) == {"code", "message"}
        assert (await alice.api.get(path)).json()["total"] == made + 1
        assert (await bob.api.patch(f"{path}/{elsewhere}", json={"name": "x"})).status_code == 200


# --- Requests that two servers may read differently, and headers without end ---

BROKEN = {
    "a length beside chunks": b"POST /api/auth/login HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /api/auth/login HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a folded line": b"GET /api/auth/me HTTP/1.1\r\nHost: a\r\nX-A: b\r\n c\r\n\r\n",
    "a line folded with a tab": b"GET /api/auth/me HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\tContent-Length: 9\r\n\r\n",
    "NUL in a header": b"GET /api/auth/me HTTP/1.1\r\nHost: a\r\nX-A: a\x00b\r\n\r\n",
    "101 headers": b"GET /api/auth/me HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 100 + b"\r\n",
    "a header of 40 kB": b"GET /api/auth/me HTTP/1.1\r\nHost: a\r\nX-A: " + b"x" * 41_000 + b"\r\n\r\n",
    "headers of 40 kB": b"GET /api/auth/me HTTP/1.1\r\nHost: a\r\n"
    + b"".join(b"X-%d: %s\r\n" % (n, b"x" * 820) for n in range(50))
    + b"\r\n",
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_broken_request_is_refused_and_its_connection_closed(shared_server: Server, kind: str) -> None:
    with trio.fail_after(30):
        async with open_raw(shared_server.port) as client:
            await client.send_some(BROKEN[kind] + GET_ME)
            assert (await client.read_answer()).status in {400, 431}
            with pytest.raises(EOFError):
                await client.read_answer()
        async with open_raw(shared_server.port) as client:
            many = b"".join(b"X-%d: y\r\n" % n for n in range(99))
            ordinary = b"GET /api/auth/me HTTP/1.1\r\nHost: a\r\n" + many + b"\r\n"
            assert (await client.request(ordinary)).status == 401
    assert "Traceback" not in shared_server.output


# --- Connections that begin and never end, while others come in ---

STARTS = {
    "nothing": (b"", b""),
    "header": (b"GET /api/auth/me HTTP/1.1\r\nX-Slow: ", b"x"),
    "headers": (b"GET /api/auth/me HTTP/1.1\r\n", b"X: y\r\n"),
    "handshake": (upgrade_request("/api/chat/ws").removesuffix(b"\r\n"), b"X: y\r\n"),
    "body": (
        b"POST /api/auth/login HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n",
        b" ",
    ),
}


@pytest.mark.parametrize("kind", STARTS)
async def test_who_begins_and_never_ends_is_cut_and_others_come_in_meanwhile(
    start_slow_server: Start, kind: str
) -> None:
    server = start_slow_server()
    begin, drop = STARTS[kind]
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        conversation = await alice.create_group()
        cut = 0

        async def dawdle(*, task_status: trio.TaskStatus[None]) -> None:
            nonlocal cut
            async with open_raw(server.port) as client, trio.open_nursery() as nursery:
                await client.send_some(begin)

                async def drip() -> None:
                    while await client.send_some(drop):  # noqa: ASYNC110  # the pauses are the client's way
                        await trio.sleep(0.2)

                if drop:
                    nursery.start_soon(drip)
                task_status.started()
                with trio.fail_after(15):
                    await client.wait_gone()
                cut += 1
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                await nursery.start(dawdle)
            async with alice.connect(conversation) as chat:
                await talk(chat, 5)
        assert cut == 50
    assert "Traceback" not in server.output


@pytest.fixture
def start_slow_server(tmp_path: Path, database: str) -> Iterator[Start]:
    """Starts servers that wait two seconds for the head of a request, and for its body."""
    servers: list[Server] = []
    root = Path(__file__).resolve().parents[2]

    def start() -> Server:
        lines = (root / "hypercorn.toml").read_text().splitlines()
        kept = [line for line in lines if not line.startswith(("bind", "keep_alive_timeout"))]
        config = tmp_path / "hypercorn.toml"
        config.write_text("\n".join(['bind = ["127.0.0.1:0"]', "keep_alive_timeout = 2", *kept]))
        program = "from hypercorn.__main__ import main; main()"
        command = [sys.executable, "-c", program, "--config", str(config), "pulse_trio.asgi:app"]
        server = Server({"DATABASE_URL": database, "PULSE_BODY_TIMEOUT": "2"}, command=command, cwd=root)
        servers.append(server)
        return server.wait_ready()

    yield start
    for server in servers:
        server.stop()


# --- A flood of one user, a database that stands still ---


@pytest.mark.parametrize("receive_buffer", [None, 4_096])
async def test_a_flooder_that_reads_only_after_its_flood_learns_the_reason(
    server: Server, receive_buffer: int | None
) -> None:
    """The close frame leaves before the connection ends, and what the client goes on sending does not undo it."""
    strangers = [str(UUID(int=number)) for number in range(500)]
    data = frame({"type": "watch", "user_ids": strangers})
    with trio.fail_after(60):
        flooder = await Person.register(server.base_url, f"u{uuid4().hex[:10]}")
        async with open_raw(server.port, receive_buffer=receive_buffer) as client:
            assert (await client.request(upgrade_request(f"/api/chat/ws?token={flooder.token}"))).status == 101
            while await client.send_some(data):  # until the server has had enough
                pass
            assert await client.read_close() == 4429


async def test_other_rooms_are_served_while_one_user_floods_over_and_over(server: Server) -> None:
    with trio.fail_after(90):
        alice, bob, conversation, elsewhere = await pair(server)
        closed = []

        async def flood() -> None:
            junk = b"".join(frame({"type": "message", "content": f"junk {number}"}) for number in range(200))
            while True:
                async with open_chat(alice, conversation) as flooder, trio.open_nursery() as nursery:
                    await nursery.start(lambda task_status, f=flooder: pour(f, junk, task_status=task_status))
                    closed.append(await flooder.read_close())
                    nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(flood)
            async with bob.connect(elsewhere) as other:
                while len(closed) < 3:
                    await talk(other, 5)
                await talk(other, 5)
            nursery.cancel_scope.cancel()
        assert set(closed) == {4429}
        history = await bob.history(elsewhere, limit=200)
        assert history["total"] >= 10
    assert "Traceback" not in server.output


@contextmanager
def frozen(cluster: Cluster) -> Iterator[None]:
    """None of PostgreSQL's processes runs."""
    pid = cluster.server.pid
    assert pid is not None
    stopped = [pid]
    os.kill(pid, signal.SIGSTOP)  # first: from then on there are no new ones
    try:
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            os.kill(child, signal.SIGSTOP)
            stopped.append(child)
        yield
    finally:
        for each in reversed(stopped):
            os.kill(each, signal.SIGCONT)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds PostgreSQL's processes in /proc")
async def test_pings_are_answered_while_forty_messages_wait_for_the_database(
    own_cluster: Cluster, start_server: Start
) -> None:
    server = start_server(DATABASE_URL=own_cluster.new_database())
    with trio.fail_after(60):
        alice, _, conversation, _ = await pair(server)
        async with open_chat(alice, conversation) as client:
            with frozen(own_cluster):
                for number in range(40):
                    await client.send(frame({"type": "message", "content": f"{number}", "client_id": f"c-{number}"}))
                await client.send(frame({"type": "ping"}) + frame(b"here?", PING))
                with trio.fail_after(5):  # before any message is given up, after 10 seconds
                    found = sorted([await client.read_frame(), await client.read_frame()])
                assert found == [(TEXT, b'{"type":"pong"}'), (PONG, b"here?")]
            stored = [(await client.read_json_type("message"))["content"] for _ in range(40)]
            assert stored == [f"{number}" for number in range(40)]
