"""Faults of Hypercorn's Trio worker on the real process: each test fails without its remedy in edge/server."""

import json
import signal
import socket
import struct
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

from pulse_trio.ids import IdSource
from tests.support.client import Api, Person
from tests.support.crashing import BREAK_ROOM, BREAK_SERVICE, DEAF_PATH, FAULT_PATH, FLOOD_PATH
from tests.support.figures import figures
from tests.support.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    GOOD_KEY,
    PING,
    TEXT,
    RawClient,
    close_frame,
    connect_in_order,
    cpu_seconds,
    frame,
    open_chat,
    open_raw,
    upgrade_request,
)
from tests.support.server import SECRET, Server

ROOT = Path(__file__).resolve().parents[2]
HYPERCORN = str(Path(sys.executable).with_name("hypercorn"))
UNLIMITED = {"PULSE_FRAMES_PER_SECOND": "0", "PULSE_BYTES_PER_SECOND": "0"}  # for clients that send megabytes


@pytest.fixture
def start_hypercorn(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts `hypercorn --config` on the app that fails on demand; further settings are Hypercorn's."""
    servers: list[Server] = []

    def start(**changes: float) -> Server:
        lines = []
        for line in (ROOT / "hypercorn.toml").read_text().splitlines():
            name = line.partition("=")[0].strip()
            if name not in {*changes, "bind"}:
                lines.append(line)
        lines += [f"{name} = {value}" for name, value in changes.items()]
        config = tmp_path / "hypercorn.toml"
        config.write_text("\n".join(['bind = ["127.0.0.1:0"]', *lines]))
        command = [HYPERCORN, "--config", str(config), "tests.support.crashing:make_app()"]
        server = Server({"SECRET_KEY": SECRET}, command=command, cwd=ROOT)
        servers.append(server)
        return server.wait_ready()

    yield start
    for server in servers:
        server.stop()


async def _alone(server: Server) -> tuple[Person, str]:
    alice = await Person.register(server.base_url, "alice")
    return alice, await alice.create_group()


async def _pair(server: Server) -> tuple[Person, Person, str]:
    alice = await Person.register(server.base_url, "alice")
    bob = await Person.register(server.base_url, "bob")
    return alice, bob, await alice.create_group(bob)


async def _check_serves(person: Person, conversation_id: str) -> None:
    async with person.connect(conversation_id) as chat:
        await chat.send({"type": "message", "content": "still here"})
        assert (await chat.receive_type("message"))["content"] == "still here"


def _sockets(pid: int) -> int:
    """Counts a process's sockets, but for those to its database, which it opens when it needs them."""
    own = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            name = link.readlink().name
        except FileNotFoundError:
            continue  # closed in between
        if name.startswith("socket:"):
            own.add(name.removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    found = [(row[1].rpartition(":")[2], row[3] == "0A", row[9]) for row in rows if row[9] in own]
    served = {port for port, is_listening, _ in found if is_listening}
    database = {inode for port, _, inode in found if port not in served}
    local = {line.split()[6] for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]}
    return len(own - database - local)


async def _wait_sockets(pid: int, most: int) -> None:
    """Returns when a process has no more sockets than these."""
    while _sockets(pid) > most:  # noqa: ASYNC110  # nobody tells of another process's descriptors
        await trio.sleep(0.05)


# --- bytes where none should be ---


@pytest.mark.parametrize("extra", [b"x", b"\x00", frame({"type": "ping"}), b"GET / HTTP/1.1\r\n\r\n", b"x" * 50_000])
async def test_bytes_behind_an_upgrade_request_end_that_connection_only(server: Server, extra: bytes) -> None:
    with trio.fail_after(120):
        alice, conversation = await _alone(server)
        path = f"/api/chat/ws/{conversation}"
        paths = [path, f"{path}?token={alice.token}", f"{path}?token=bad", "/no/such/path", "/", "/docs", "/%ff"]
        requests = [upgrade_request(target) for target in paths]
        requests += [upgrade_request(path, key="bad"), upgrade_request(path, version="8")]
        async with alice.connect(conversation) as bystander:
            await bystander.receive()
            for _ in range(3):
                for request in requests:
                    async with open_raw(server.port) as client:
                        await client.send_some(request + extra)
                        await client.wait_gone()
                    async with open_raw(server.port) as client:  # the same, a moment later
                        await client.send_some(request)
                        await trio.lowlevel.checkpoint()
                        await client.send_some(extra)
                        await client.send_some(close_frame())
                        await client.wait_gone()
            assert server.process.poll() is None
            await bystander.send({"type": "ping"})
            while (answer := await bystander.receive())["type"] == "system":
                pass
            assert answer == {"type": "pong"}
        await _check_serves(alice, conversation)
    assert "connection failed" not in server.output
    assert "Traceback" not in server.output


async def test_early_bytes_are_answered_with_400(server: Server) -> None:
    with trio.fail_after(60):
        alice, conversation = await _alone(server)
        # A session is accepted in the first turn of its handler, once its user is known.
        for path in (f"/api/chat/ws/{conversation}", "/api/chat/ws", "/api/chat/ws"):
            async with open_raw(server.port) as client:
                answer = await client.request(upgrade_request(f"{path}?token={alice.token}") + b"x")
                assert (answer.status, answer.json()["code"]) == (400, "bad_request")
                assert "before the handshake was answered" in answer.json()["message"], "the handshake itself was right"
                await client.wait_gone()


async def test_early_bytes_that_meet_the_answer_get_a_whole_one(server: Server) -> None:
    """The application may accept while the refusal is being written; its rest must still follow."""
    with trio.fail_after(120):
        alice, conversation = await _alone(server)
        request = upgrade_request(f"/api/chat/ws/{conversation}?token={alice.token}")
        statuses = set()
        for number in range(60):
            async with open_raw(server.port) as client:
                await client.send(request)
                for _ in range(number):
                    await trio.lowlevel.checkpoint()
                await client.send_some(frame({"type": "ping"}))
                answer = await client.read_answer()
                statuses.add(answer.status)
                if answer.status == 400:
                    assert answer.json()["code"] == "bad_request"
                    await client.wait_gone()
        assert statuses <= {101, 400}
    assert "connection failed" not in server.output


async def test_a_refused_handshake_ends_the_connection(server: Server) -> None:
    with trio.fail_after(60):
        alice, conversation = await _alone(server)
        path = f"/api/chat/ws/{conversation}"
        requests = [
            upgrade_request(path),
            upgrade_request(f"{path}?token={alice.token}", key="bad"),
            upgrade_request(f"{path}?token={alice.token}", version="12"),
            upgrade_request("/no/such/path"),
        ]
        for request in requests:
            async with open_raw(server.port) as client:
                answer = await client.request(request)
                assert answer.status >= 400
                with trio.fail_after(10):
                    await client.wait_gone()


async def test_noise_instead_of_http_ends_that_connection_only(server: Server) -> None:
    noise = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),  # a TLS greeting
        b"\x00" * 1_000,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n: no name\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n folded\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",  # no Host, no key
    ]
    with trio.fail_after(60):
        alice, conversation = await _alone(server)
        for data in noise:
            async with open_raw(server.port) as client:
                await client.send_some(data)
                with trio.move_on_after(1):  # what is still waited for is another test's matter
                    await client.wait_gone()
            assert server.process.poll() is None
        await _check_serves(alice, conversation)
    assert "Traceback" not in server.output


@pytest.mark.process_end
async def test_a_fault_of_hypercorn_itself_ends_one_connection_only(start_hypercorn: Callable[..., Server]) -> None:
    server = start_hypercorn()
    with trio.fail_after(60):
        alice, conversation = await _alone(server)
        async with alice.connect(conversation) as bystander:
            await bystander.receive()
            for _ in range(5):
                async with open_raw(server.port) as client:
                    await client.send(f"GET {FAULT_PATH} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                    await client.wait_gone()
            await bystander.send({"type": "ping"})
            assert await bystander.receive() == {"type": "pong"}
        await _check_serves(alice, conversation)
    assert "connection failed" in server.output


async def test_http_2_over_clear_text_is_not_spoken(server: Server) -> None:
    with trio.fail_after(60):
        async with open_raw(server.port) as client:
            await client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
            answer = await client.read_answer()
            assert answer.status in {400, 505}
            await client.wait_gone()
        async with open_raw(server.port) as client:
            headers = b"Host: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
            answer = await client.request(b"GET /openapi.json HTTP/1.1\r\n" + headers + b"\r\n")
            assert answer.status == 200  # in HTTP/1.1
        assert (await Api(server.base_url).get("/openapi.json")).status_code == 200


# --- the rules of the protocol ---

BROKEN_RULES: list[tuple[str, bytes, int]] = [
    ("text that is not UTF-8", frame(b"\xff\xfe"), 1007),
    ("text cut in a character", frame("€".encode()[:2]), 1007),
    ("a surrogate in UTF-8", frame(b"\xed\xa0\x80"), 1007),
    ("bad UTF-8 in a later piece", frame(b"ok", fin=False) + frame(b"\xff", CONTINUATION), 1007),
    ("no mask", frame({"type": "ping"}, masked=False), 1002),
    ("no mask on a ping", frame(b"", PING, masked=False), 1002),
    ("reserved bit 1", frame({"type": "ping"}, reserved=4), 1002),
    ("reserved bit 2", frame({"type": "ping"}, reserved=2), 1002),
    ("reserved bit 3", frame({"type": "ping"}, reserved=1), 1002),
    ("reserved opcode", frame(b"x", 3), 1002),
    ("reserved control opcode", frame(b"x", 11), 1002),
    ("continuation of nothing", frame(b"x", CONTINUATION), 1002),
    ("text inside a text", frame(b"x", fin=False) + frame(b"y"), 1002),
    ("binary inside a text", frame(b"x", fin=False) + frame(b"y", BINARY), 1002),
    ("ping in pieces", frame(b"x", PING, fin=False), 1002),
    ("ping of 126 bytes", frame(b"x" * 126, PING), 1002),
    ("length not in its shortest form", bytes([0x81, 0x80 | 126, 0, 1]) + bytes(4) + b"x", 1002),
    ("length of more than 63 bits", bytes([0x81, 0x80 | 127]) + b"\xff" * 8 + bytes(4), 1002),
    ("close of one byte", frame(b"\x03", CLOSE), 1002),
    ("close with a code that is never sent", close_frame(1005), 1002),
    ("close with a code below all", close_frame(999), 1002),
    ("close with a code above all", close_frame(5000), 1002),
    ("close with a reason that is not UTF-8", frame(struct.pack("!H", 1000) + b"\xff", CLOSE), 1007),
]


async def test_who_breaks_the_rules_is_told_how_and_cut(server: Server) -> None:
    with trio.fail_after(120):
        alice, conversation = await _alone(server)
        for name, data, code in BROKEN_RULES:
            async with open_chat(alice, conversation) as client:
                await client.send(data)
                assert await client.read_close() == code, name
                with trio.fail_after(10):
                    await client.wait_gone()
        await _check_serves(alice, conversation)
    assert "Traceback" not in server.output


async def test_who_breaks_the_rules_and_goes_on_sending_is_still_told(server: Server) -> None:
    """Closed with bytes unread, the connection would be reset, and the close frame lost."""
    with trio.fail_after(60):
        alice, conversation = await _alone(server)
        for _ in range(5):
            async with open_chat(alice, conversation) as client:
                await client.send(frame(b"\xff") + frame(b"x" * 60_000) * 20)
                assert await client.read_close() == 1007


async def test_a_close_is_answered_with_its_code(server: Server) -> None:
    with trio.fail_after(60):
        alice, conversation = await _alone(server)
        for code in (1000, 1001, 3000, 4999):
            async with open_chat(alice, conversation) as client:
                await client.send(close_frame(code))
                assert await client.read_close() == code
                await client.wait_gone()
        async with open_chat(alice, conversation) as client:
            await client.send(frame(b"", CLOSE))
            opcode, _ = await client.read_frame()
            assert opcode == CLOSE
            await client.wait_gone()
        async with open_chat(alice, conversation) as client:  # nothing after a close counts
            await client.send(close_frame() + frame({"type": "message", "content": "after the close"}))
            assert await client.read_close() == 1000
        assert (await alice.history(conversation))["total"] == 0


async def test_compression_is_not_negotiated(server: Server) -> None:
    with trio.fail_after(60):
        alice, conversation = await _alone(server)
        offers = ["permessage-deflate", "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame"]
        for offer in offers:
            async with open_raw(server.port) as client:
                path = f"/api/chat/ws/{conversation}?token={alice.token}"
                answer = await client.request(upgrade_request(path, [("Sec-WebSocket-Extensions", offer)]))
                assert answer.status == 101
                assert "sec-websocket-extensions" not in answer.headers
                await client.send(frame(b"\x00" * 100, TEXT, reserved=4))  # as a compressed message would come
                assert await client.read_close() == 1002


# --- several requests at once ---

PIPELINED = b"GET /healthz HTTP/1.1\r\nHost: chat.example\r\n\r\n"
UNWANTED_BODY = b"POST /api/auth/login HTTP/1.1\r\nHost: chat.example\r\nContent-Length: 60000\r\n\r\n" + b"x" * 60_000


async def _hang_up(client: RawClient) -> None:
    await client.stream.aclose()


async def _reset(client: RawClient) -> None:
    client.reset()


async def _end_half(client: RawClient) -> None:
    await client.stream.send_eof()
    await client.wait_gone()


@pytest.mark.parametrize("count", [2, 3, 40])
@pytest.mark.parametrize("request_bytes", [PIPELINED, UNWANTED_BODY], ids=["get", "post"])
async def test_whoever_asks_several_things_at_once_and_goes_leaves_nothing_behind(
    start_server: Callable[..., Server], request_bytes: bytes, count: int
) -> None:
    """A connection ended before the answers, between them or after them, and its place is free again."""
    server = start_server(PULSE_CONNECTIONS_PER_ADDRESS="20", PULSE_REQUESTS_PER_SECOND="0")
    with trio.fail_after(60):
        for answers in (0, 1, count // 2, count):
            for leave in (_hang_up, _reset, _end_half):
                for _ in range(4):
                    async with open_raw(server.port, address="127.0.0.2") as client:
                        with suppress(EOFError):
                            if await client.send_some(request_bytes * count):
                                for _ in range(answers):
                                    await client.read_answer()
                        with suppress(trio.BrokenResourceError):
                            await leave(client)
        # The one is this question's own. Nobody tells of another process's connections.
        while (await figures(server.base_url))("pulse_tcp_connections") > 1:  # noqa: ASYNC110
            await trio.sleep(0.05)
        async with open_raw(server.port, address="127.0.0.2") as client:
            assert (await client.request(PIPELINED)).status == 200


# --- peers that do not read, do not answer, or are gone ---


async def test_a_client_that_does_not_read_is_cut_and_nobody_else_notices(start_server: Callable[..., Server]) -> None:
    server = start_server(PULSE_WRITE_TIMEOUT="2", PULSE_OUTBOX_BYTES="262144", **UNLIMITED)
    with trio.fail_after(120):
        alice, bob, conversation = await _pair(server)
        idle = _sockets(server.process.pid)
        text = json.dumps({"type": "message", "content": "\U0001f600" * 4_000}, ensure_ascii=False)
        async with (
            connect_in_order(conversation, alice, alice) as (a, other),
            open_chat(bob, conversation, receive_buffer=4_096),
        ):
            seen = []

            async def read(*, until: int) -> None:
                while len(seen) < until:
                    seen.append((await other.receive_type("message"))["seq"])

            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: read(until=10**9))
                sent = 0
                while True:
                    await a.send(text)
                    sent += 1
                    while (answer := await a.receive())["type"] == "system" and answer["event"] == "joined":
                        pass
                    if answer["type"] == "system":
                        break
                    assert answer["seq"] == sent
                assert (answer["event"], answer["sender_id"]) == ("left", bob.id)
                nursery.cancel_scope.cancel()
            await read(until=sent)
            assert seen == list(range(1, sent + 1))
            # The two of alice are left: the connection is gone although its client never read or left.
            await _wait_sockets(server.process.pid, idle + 2)
        history = await bob.history(conversation, limit=1)
        assert history["total"] == sent
    assert server.stop() == 0


async def test_a_client_that_does_not_read_does_not_hold_up_the_end(start_server: Callable[..., Server]) -> None:
    server = start_server(PULSE_WRITE_TIMEOUT="300", PULSE_OUTBOX_BYTES="67108864", **UNLIMITED)
    with trio.fail_after(120):
        alice, bob, conversation = await _pair(server)
        text = json.dumps({"type": "message", "content": "\U0001f600" * 4_000}, ensure_ascii=False)
        async with (
            open_chat(alice, conversation) as a,
            open_chat(bob, conversation, receive_buffer=4_096),
        ):
            for _ in range(1_000):  # 16 MB: more than any socket holds
                await a.send(frame(text))
                await a.read_json_type("message")
            server.process.send_signal(signal.SIGTERM)
            assert await a.read_close() == 1012
            with trio.fail_after(12):
                assert await trio.to_thread.run_sync(server.wait) == 0
    assert "slow reader disconnected" in server.output  # and not first when all is torn down
    assert "Traceback" not in server.output


async def test_those_who_vanish_leave_nothing_behind(server: Server) -> None:
    with trio.fail_after(120):
        alice, conversation = await _alone(server)
        path = f"/api/chat/ws/{conversation}?token={alice.token}"
        await _check_serves(alice, conversation)
        before = _sockets(server.process.pid)
        message = frame({"type": "message", "content": "x"})
        for number in range(60):
            async with open_raw(server.port) as client:
                await client.send(upgrade_request(path))
                if number % 4:
                    assert (await client.read_answer()).status == 101
                if number % 4 == 2:
                    await client.send_some(message * 60)
                if number % 4 == 3:
                    await client.send_some(message[:5])
                client.reset()
        with trio.fail_after(12):  # and not only with the next ping, after 20 seconds
            await _wait_sockets(server.process.pid, before)
        used = cpu_seconds(server.process.pid)
        await _check_serves(alice, conversation)
        assert cpu_seconds(server.process.pid) - used < 5
        async with alice.connect(conversation) as chat:
            assert (await chat.receive())["active_users"] == [alice.id]
    assert "Traceback" not in server.output


async def test_a_connection_that_was_closed_goes_although_its_client_keeps_sending(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, conversation = await _pair(server)
        before = _sockets(server.process.pid)
        async with open_chat(bob, conversation) as b:
            removed = await alice.api.delete(f"/api/chat/conversations/{conversation}/members/{bob.id}")
            assert removed.status_code == 204
            while await b.send_some(frame({"type": "message", "content": "x"}) * 100):
                await trio.lowlevel.checkpoint()
            await _wait_sockets(server.process.pid, before)
        assert (await alice.history(conversation))["total"] == 0


async def test_a_loop_of_sends_to_a_gone_client_does_not_freeze_the_server(
    start_hypercorn: Callable[..., Server],
) -> None:
    server = start_hypercorn()
    with trio.fail_after(60):
        for _ in range(3):
            async with open_raw(server.port) as client:
                assert (await client.request(upgrade_request(FLOOD_PATH))).status == 101
                opcode, _ = await client.read_frame()
                assert opcode in {TEXT, PING}
                client.reset()
        alice, conversation = await _alone(server)
        await _check_serves(alice, conversation)


async def test_a_handler_that_has_ended_is_not_waited_for(start_hypercorn: Callable[..., Server]) -> None:
    server = start_hypercorn()
    with trio.fail_after(60):
        async with open_raw(server.port) as client:
            assert (await client.request(upgrade_request(DEAF_PATH))).status == 101
            await client.send_some(frame(b"x") * 5_000)
            with trio.fail_after(10):
                await client.wait_gone()


async def test_a_silent_client_is_dropped_and_one_that_answers_stays(start_hypercorn: Callable[..., Server]) -> None:
    server = start_hypercorn(websocket_ping_interval=0.5, read_timeout=2)
    with trio.fail_after(60):
        alice, bob, conversation = await _pair(server)
        async with alice.connect(conversation) as a:  # its library answers pings
            await a.receive()
            async with open_chat(bob, conversation) as silent:
                assert (await a.receive())["event"] == "joined"
                left = await a.receive()
                assert (left["event"], left["sender_id"]) == ("left", bob.id)
                await silent.wait_gone()
            await a.send({"type": "ping"})
            assert await a.receive() == {"type": "pong"}


async def test_a_request_that_does_not_come_to_its_end_is_cut(start_hypercorn: Callable[..., Server]) -> None:
    server = start_hypercorn(keep_alive_timeout=1)
    with trio.fail_after(30):
        for start in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: "):
            async with open_raw(server.port) as client:
                if start:
                    await client.send(start)
                await client.wait_gone()


# --- the end of a room, of the service, of the process ---


@pytest.mark.process_end
async def test_a_room_that_fails_closes_its_members_and_a_new_one_opens(start_hypercorn: Callable[..., Server]) -> None:
    server = start_hypercorn()
    with trio.fail_after(60):
        alice, bob, conversation = await _pair(server)
        other = await alice.create_group(name="Other")
        async with (
            open_chat(alice, conversation) as a,
            open_chat(bob, conversation) as b,
            alice.connect(other) as elsewhere,
        ):
            await a.send(frame({"type": "message", "content": "before"}))
            await a.read_json_type("message")
            await a.send(frame({"type": "message", "content": BREAK_ROOM}))
            for client in (a, b):
                assert await client.read_close() == 1011
                await client.wait_gone()
            await elsewhere.send({"type": "message", "content": "elsewhere all is well"})
            await elsewhere.receive_type("message")
        async with alice.connect(conversation) as a:
            joined = await a.receive()
            assert (joined["last_seq"], joined["active_users"]) == (1, [alice.id])
            await a.send({"type": "message", "content": "after"})
            assert (await a.receive())["seq"] == 2
    assert "a fault that was planted" in server.output
    assert BREAK_ROOM not in server.output


@pytest.mark.process_end
@pytest.mark.parametrize("workers", [0, 1])
async def test_a_service_that_fails_ends_the_process(start_hypercorn: Callable[..., Server], workers: int) -> None:
    server = start_hypercorn(workers=workers)
    with trio.fail_after(60):
        alice, conversation = await _alone(server)
        async with open_chat(alice, conversation) as a:
            await a.send(frame({"type": "message", "content": BREAK_SERVICE}))
            assert await a.read_close() == 1011
            await a.wait_gone()
        code = await trio.to_thread.run_sync(server.wait)
    if workers == 0:  # a parent process of Hypercorn 0.18 forgets the exit code of its worker
        assert code != 0
    assert "a fault that was planted in a part of the service" in server.output


async def _end_with_messages_under_way(server: Server, how: signal.Signals) -> tuple[Person, str, list[dict[str, Any]]]:
    alice, bob, conversation = await _pair(server)
    async with open_chat(alice, conversation) as a, open_chat(bob, conversation) as b:
        for number in range(20):
            await a.send(frame({"type": "message", "content": f"message {number}", "client_id": f"c{number}"}))
        acknowledged = [await a.read_json_type("message")]
        server.process.send_signal(how)
        while True:
            opcode, payload = await a.read_frame()
            if opcode == CLOSE:
                assert int.from_bytes(payload[:2], "big") == 1012
                break
            if json.loads(payload)["type"] == "message":
                acknowledged.append(json.loads(payload))
        assert await b.read_close() == 1012
        await a.wait_gone()
        await b.wait_gone()
    assert await trio.to_thread.run_sync(server.wait) == 0
    return alice, conversation, acknowledged


@pytest.mark.process_end
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_the_server_ends_with_1012_and_loses_no_acknowledged_message(
    start_server: Callable[..., Server], how: signal.Signals
) -> None:
    with trio.fail_after(60):
        alice, conversation, acknowledged = await _end_with_messages_under_way(start_server(), how)
        again = start_server()
        found = await Person(again.base_url, "alice", alice.id, alice.token).history(conversation, limit=200)
        contents = [message["content"] for message in reversed(found["messages"])]
        assert contents == [f"message {number}" for number in range(len(contents))]
        assert [message["content"] for message in acknowledged] == contents[: len(acknowledged)]


@pytest.mark.process_end
@pytest.mark.parametrize("workers", [0, 1])
async def test_the_end_of_hypercorn_itself_is_told_with_1012_too(
    start_hypercorn: Callable[..., Server], workers: int
) -> None:
    with trio.fail_after(60):
        await _end_with_messages_under_way(start_hypercorn(workers=workers), signal.SIGTERM)


async def test_the_end_is_told_once_to_each_of_many_rooms(server: Server) -> None:
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        rooms = [await alice.create_group(name=f"Room {number}") for number in range(10)]
        codes = []

        async def stay(room: str, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            async with open_chat(alice, room) as client:
                task_status.started()
                codes.append(await client.read_close())
                await client.wait_gone()

        async with trio.open_nursery() as nursery:
            for room in rooms:
                await nursery.start(stay, room)
            server.process.send_signal(signal.SIGTERM)
        assert codes == [1012] * 10
        assert await trio.to_thread.run_sync(server.wait) == 0


async def test_a_port_with_no_tricks_is_what_the_remedies_leave(server: Server) -> None:
    """The remedies change nothing for ordinary clients: requests on one connection, one after the other."""
    with trio.fail_after(60):
        async with open_raw(server.port) as client:
            for _ in range(5):
                answer = await client.request(b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n")
                assert (answer.status, answer.json()["openapi"][:3]) == (200, "3.1")
            upgrade = upgrade_request(f"/api/chat/ws/{IdSource()()}", key=GOOD_KEY)
            assert (await client.request(upgrade)).status == 401
            await client.wait_gone()
        with socket.create_connection(("127.0.0.1", server.port)):
            pass
        assert (await Api(server.base_url).get("/openapi.json")).status_code == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n", 404),
        (b"POST /api/chat/conversations HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{", 401),
        (b"POST /api/auth/login HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n{", 415),
    ],
)
async def test_a_request_answered_before_its_body_ends_the_connection(server: Server, head: bytes, status: int) -> None:
    with trio.fail_after(30):
        async with open_raw(server.port) as client:
            assert (await client.request(head)).status == status
            await client.wait_gone()


def test_the_configuration_that_is_shipped_drops_who_answers_no_ping() -> None:
    """Pings alone check nothing, and a limit on silence alone cuts those who have nothing to say."""
    found = tomllib.loads((ROOT / "hypercorn.toml").read_text())
    assert 0 < 2 * found["websocket_ping_interval"] < found["read_timeout"] <= 60
    assert 0 < found["keep_alive_timeout"] < found["read_timeout"]
