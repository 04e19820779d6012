"""nginx, Caddy and HAProxy before two processes of a cluster, as docs/scaling.md says, while one of them ends."""

import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_websocket

from tests.support.client import Api, Chat, Person
from tests.support.programs import require_program
from tests.support.proxies import Caddy, Haproxy, Nginx, Proxy
from tests.support.server import Server

PEOPLE = 8
UNCHECKED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
UNCHECKED.check_hostname, UNCHECKED.verify_mode = False, ssl.CERT_NONE
METRICS_TOKEN = "a-token-for-the-metrics-of-this-test"
SETTINGS = {
    "PULSE_CLUSTER": "true",
    "PULSE_TRUSTED_PROXIES": "1",
    "PULSE_METRICS_TOKEN": METRICS_TOKEN,
    "PULSE_STOP_DELAY": "3",
}


@pytest.fixture(params=[Nginx, Caddy, Haproxy], ids=["nginx", "caddy", "haproxy"])
def balance(request: pytest.FixtureRequest, folder: Path) -> Iterator[Callable[..., Proxy]]:
    """Starts the proxy before these servers."""
    require_program(request.param.__name__.lower(), request.param.__name__.lower())
    proxies: list[Proxy] = []

    def start(*servers: Server) -> Proxy:
        proxies.append(request.param(folder, *(server.port for server in servers)))
        proxies[-1].start()
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.stop()


async def connections(server: Server) -> int:
    """Returns how many WebSockets a process serves."""
    text = (await Api(server.base_url, {"Authorization": f"Bearer {METRICS_TOKEN}"}).get("/metrics")).text
    found = [line for line in text.splitlines() if line.startswith("pulse_websockets{")]
    assert found
    return sum(int(float(line.split()[-1])) for line in found)


async def test_a_chat_over_two_processes_goes_on_when_one_ends(
    database: str, start_server: Callable[..., Server], balance: Callable[..., Proxy]
) -> None:
    one, two = (start_server(DATABASE_URL=database, **SETTINGS) for _ in range(2))
    proxy = balance(one, two)
    gates = [trio.Event(), trio.Event()]  # everybody sends a message when the first one opens, and when the second does
    with trio.fail_after(120):
        people = [await Person.register(proxy.base_url, f"person{number}") for number in range(PEOPLE)]
        group = await people[0].create_group(*people[1:])
        are_open = [trio.Event() for _ in people]
        seen: list[list[dict[str, Any]]] = [[] for _ in people]
        statuses: Counter[int] = Counter()

        async def say(at: int, chat: Chat) -> None:
            for number, gate in enumerate(gates):
                await gate.wait()
                name = f"{at}-{number}"
                if name not in [frame.get("client_id") for frame in seen[at]]:
                    await chat.send({"type": "message", "content": name, "client_id": name})

        async def chat_on(at: int) -> None:
            while len(seen[at]) < PEOPLE * len(gates):
                after = seen[at][-1]["rev"] if seen[at] else 0
                try:
                    await visit(at, after)
                except* (trio_websocket.ConnectionClosed, trio_websocket.HandshakeError, OSError):
                    await trio.sleep(0.05)

        async def visit(at: int, after: int) -> None:
            stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", proxy.port, ssl_context=UNCHECKED)
            try:  # trio-websocket leaves the stream open when a handshake is refused
                async with trio.open_nursery() as nursery:
                    host, path = f"127.0.0.1:{proxy.port}", f"/api/chat/ws/{group}?after={after}"
                    token = [("Authorization", f"Bearer {people[at].token}".encode())]
                    connection = await trio_websocket.wrap_client_stream(
                        nursery, stream, host, path, extra_headers=token
                    )
                    chat = Chat(connection, "conversation")
                    are_open[at].set()
                    nursery.start_soon(say, at, chat)
                    while len(seen[at]) < PEOPLE * len(gates):
                        frame = await chat.receive_type("message")
                        if not seen[at] or frame["rev"] > seen[at][-1]["rev"]:  # else it answers a resend
                            seen[at].append(frame)
                    nursery.cancel_scope.cancel()
            finally:
                await trio.aclose_forcefully(stream)

        async def read() -> None:
            while True:
                statuses[(await people[0].api.get("/api/auth/me")).status_code] += 1
                await trio.sleep(0.02)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            async with trio.open_nursery() as chatting:
                for at in range(PEOPLE):
                    chatting.start_soon(chat_on, at)
                    await are_open[at].wait()
                # The reader's requests are connections, too.
                assert min([await connections(server) for server in (one, two)]) >= PEOPLE // 4, "the least busy one"
                gates[0].set()
                assert await trio.to_thread.run_sync(one.stop) == 0
                gates[1].set()
            nursery.cancel_scope.cancel()
        assert set(statuses) == {200}
        for frames in seen:
            assert [frame["seq"] for frame in frames] == list(range(1, PEOPLE * len(gates) + 1))
            assert [frame["message_id"] for frame in frames] == [frame["message_id"] for frame in seen[0]]
