"""deploy/nginx, deploy/caddy and deploy/haproxy: the real proxies on our files, before a real server."""

import contextlib
import json
import os
import resource
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio_websocket

from tests.support.client import Api, Person
from tests.support.programs import require_program
from tests.support.proxies import Caddy, Haproxy, Nginx, Proxy
from tests.support.raw import PING, PONG, Answer, RawClient, frame, open_raw, upgrade_request
from tests.support.server import Server

HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend site
    bind 127.0.0.1:{port}
    http-request deny if {{ path /api/auth/login }}
    default_backend service
backend service
    server one 127.0.0.1:{upstream}
"""


class PlainHaproxy(Proxy):
    """HAProxy as most begin with it: it adds no header; and it denies one path, spelt in one way."""

    def command(self) -> list[str]:
        program = require_program("haproxy", "haproxy")
        (self.folder / "haproxy.cfg").write_text(HAPROXY.format(port=self.port, upstream=self.upstreams[0]))
        return [program, "-f", str(self.folder / "haproxy.cfg")]


@pytest.fixture(params=[Nginx, Caddy, Haproxy], ids=["nginx", "caddy", "haproxy"])
def start_proxy(request: pytest.FixtureRequest, folder: Path) -> Iterator[Callable[[int], Proxy]]:
    proxies: list[Proxy] = []

    def start(upstream: int) -> Proxy:
        proxies.append(request.param(folder, upstream))
        proxies[-1].start()
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.stop()


@asynccontextmanager
async def open_from(address: str, port: int) -> AsyncIterator[RawClient]:
    """A TLS connection from an address of this machine's own."""
    stream = await trio.open_tcp_stream("127.0.0.1", port, local_address=address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's certificates, which take long to load
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    secure = trio.SSLStream(stream, context, server_hostname="127.0.0.1", https_compatible=True)
    try:
        yield RawClient(secure)  # type: ignore[arg-type]  # it does the same
    finally:
        await trio.aclose_forcefully(secure)


async def guess(address: str, port: int, *headers: str) -> Answer:
    """A login with a wrong password, from that address."""
    body = json.dumps({"username": f"u{time.monotonic_ns()}", "password": "a guess"})
    lines = ["POST /api/auth/login HTTP/1.1", f"Host: 127.0.0.1:{port}", "Content-Type: application/json", *headers]
    async with open_from(address, port) as client:
        return await client.request("\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode())


async def test_rest_and_a_chat_go_through(
    start_server: Callable[..., Server], start_proxy: Callable[[int], Proxy]
) -> None:
    server = start_server(PULSE_TRUSTED_PROXIES="1", PULSE_LOG_FORMAT="json")
    proxy = start_proxy(server.port)
    with trio.fail_after(60):
        alice = await Person.register(proxy.base_url, "alice")
        bob = await Person.register(proxy.base_url, "bob")
        group = await alice.create_group(bob)
        async with alice.connect(group) as one, bob.connect(group) as two, bob.session() as three:
            text = "\U0001f600" * 4_000
            for number in range(20):
                await one.send({"type": "message", "content": f"{number} {text}"[:4_000]})
            for chat in (one, two, three):
                for number in range(20):
                    assert (await chat.receive_type("message"))["content"].startswith(f"{number} ")
            await two.send({"type": "typing"})
            assert (await one.receive_type("typing"))["sender_id"] == bob.id
        assert (await bob.history(group))["total"] == 20
        own = await alice.api.get("/api/auth/me")
        assert own.status_code == 200
        assert own.headers["Strict-Transport-Security"].startswith("max-age=")
        assert len(own.headers["X-Request-ID"]) >= 16
        large = await alice.api.post("/api/chat/conversations", content=b"x" * 100_000)
        assert large.status_code in {413, 415}
        for path in ("/metrics", "/metrics?x=1", "/metrics/", "/%6detrics"):
            metrics = await Api(proxy.base_url).get(path)
            assert metrics.status_code == 404, path
            assert "pulse_" not in metrics.text
        assert (await Api(proxy.base_url).get("/readyz")).status_code == 200


async def test_900_websockets_go_through(
    start_server: Callable[..., Server], start_proxy: Callable[[int], Proxy]
) -> None:
    """As many as one address may have. On Debian's own nginx.conf a fifth of them would be cut."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = start_server(PULSE_TRUSTED_PROXIES="1", PULSE_CONNECTIONS_PER_USER="0")
    proxy = start_proxy(server.port)
    with trio.fail_after(240):
        alice = await Person.register(proxy.base_url, "alice")
        host = ("Host", f"127.0.0.1:{proxy.port}")
        opened: list[int] = []
        turns = trio.CapacityLimiter(10)  # handshakes at a time: nginx gives each a minute

        async def stay(nursery: trio.Nursery) -> None:
            async with contextlib.AsyncExitStack() as stack:
                async with turns:
                    client = await stack.enter_async_context(open_from("127.0.0.1", proxy.port))
                    answer = await client.request(upgrade_request(f"/api/chat/ws?token={alice.token}", [host]))
                    assert answer.status == 101, answer
                    assert (await client.read_json())["type"] == "session"
                opened.append(answer.status)
                if len(opened) == 900:
                    nursery.cancel_scope.cancel()
                while True:  # the service pings, and drops who does not answer
                    opcode, payload = await client.read_frame()
                    if opcode == PING:
                        await client.send(frame(payload, opcode=PONG))

        try:
            async with trio.open_nursery() as nursery:
                for _ in range(900):
                    nursery.start_soon(stay, nursery)
        finally:
            others = [line for line in proxy.said.splitlines() if '" 101 ' not in line]
            print(f"{len(opened)} were open; the proxy's log ends with:", *others[-20:], sep="\n")
        assert len(opened) == 900


async def test_a_handshake_of_another_origin_is_refused_and_of_the_own_taken(
    start_server: Callable[..., Server], start_proxy: Callable[[int], Proxy]
) -> None:
    server = start_server(PULSE_TRUSTED_PROXIES="1")
    proxy = start_proxy(server.port)
    with trio.fail_after(60):
        alice = await Person.register(proxy.base_url, "alice")
        path = f"/api/chat/ws?token={alice.token}"
        host = ("Host", f"127.0.0.1:{proxy.port}")
        for origin, status in ((proxy.base_url, 101), ("https://evil.example", 403)):
            async with open_from("127.0.0.1", proxy.port) as client:
                answer = await client.request(upgrade_request(path, [host, ("Origin", origin)]))
                assert answer.status == status, answer
                if status == 101:
                    assert (await client.read_json())["type"] == "session"


async def test_the_service_sees_each_clients_own_address(
    start_server: Callable[..., Server], start_proxy: Callable[[int], Proxy]
) -> None:
    server = start_server(PULSE_TRUSTED_PROXIES="1", PULSE_LOGIN_FAILURES_PER_ADDRESS="3")
    proxy = start_proxy(server.port)
    with trio.fail_after(60):
        # Whatever the client claims of itself: the proxy knows better.
        claims = [[f"X-Forwarded-For: 192.0.2.{number}"] for number in range(4)]
        statuses = [(await guess("127.0.0.2", proxy.port, *claim)).status for claim in claims]
        assert statuses == [401, 401, 401, 429]
        assert (await guess("127.0.0.3", proxy.port)).status == 401
        assert (await guess("127.0.0.2", proxy.port)).status == 429


async def test_a_restart_of_the_proxy_loses_nothing(
    start_server: Callable[..., Server], start_proxy: Callable[[int], Proxy]
) -> None:
    server = start_server(PULSE_TRUSTED_PROXIES="1")
    proxy = start_proxy(server.port)
    with trio.fail_after(90):
        alice = await Person.register(proxy.base_url, "alice")
        group = await alice.create_group()
        behind = Person(server.base_url, "alice", alice.id, alice.token)
        async with alice.connect(group) as chat:
            await chat.send({"type": "message", "content": "before"})
            seen = await chat.receive_type("message")
            await trio.to_thread.run_sync(proxy.stop)
            with pytest.raises(trio_websocket.ConnectionClosed):  # noqa: PT012
                while True:
                    await chat.receive()
        async with behind.connect(group) as chat:
            await chat.send({"type": "message", "content": "meanwhile"})
            await chat.receive_type("message")
        await trio.to_thread.run_sync(proxy.start)
        async with alice.connect(group, after=seen["rev"]) as chat:
            assert (await chat.receive_type("message"))["content"] == "meanwhile"


async def test_no_token_is_in_the_logs_of_the_proxy(
    start_server: Callable[..., Server], start_proxy: Callable[[int], Proxy]
) -> None:
    server = start_server(PULSE_TRUSTED_PROXIES="1")
    proxy = start_proxy(server.port)
    with trio.fail_after(60):
        alice = await Person.register(proxy.base_url, "alice")
        host = ("Host", f"127.0.0.1:{proxy.port}")
        handshakes = [
            upgrade_request(f"/api/chat/ws?token={alice.token}", [host]),
            upgrade_request("/api/chat/ws", [host, ("Sec-WebSocket-Protocol", f"pulse.v1, bearer.{alice.token}")]),
            upgrade_request("/api/chat/ws", [host, ("Authorization", f"Bearer {alice.token}")]),
            upgrade_request("/api/chat/ws?ticket=the-ticket-of-the-test", [host]),
        ]
        for is_there in (True, False):
            if not is_there:  # what fails is logged in other words
                assert await trio.to_thread.run_sync(server.stop) == 0
            for data in handshakes:
                async with open_from("127.0.0.1", proxy.port) as client:
                    status = (await client.request(data)).status
                    assert status in ({101, 401} if is_there else {502, 503}), status
    proxy.stop()
    assert "/api/chat/ws" in proxy.said, "it does log: or this shows nothing"
    for secret in (alice.token, alice.token.rpartition(".")[2], "the-ticket-of-the-test"):
        assert secret not in proxy.said


async def test_a_rule_of_haproxy_for_an_address_cannot_be_passed_by(
    start_server: Callable[..., Server], folder: Path
) -> None:
    server = start_server()
    proxy = PlainHaproxy(folder, server.port)
    proxy.start()
    try:
        with trio.fail_after(60):
            for path in ("/api/auth/login", "http://chat.example/api/auth/login"):
                assert (await plain(proxy.port, path)).status == 403, "the rule"
            for path in (
                *("//api/auth/login", "///api/auth/login", "/api/auth/login/", "/api%2Fauth%2Flogin"),
                *("/%61pi/auth/login", "/api/./auth/login", "http://chat.example//api/auth/login"),
            ):
                assert (await plain(proxy.port, path)).status == 404, path
    finally:
        proxy.stop()


@pytest.mark.parametrize("settings", [{}, {"PULSE_METRICS_BIND": "127.0.0.1:0"}], ids=["default", "own address"])
async def test_metrics_are_not_read_through_haproxy_under_a_chosen_host(
    start_server: Callable[..., Server], folder: Path, settings: dict[str, str]
) -> None:
    server = start_server(PULSE_METRICS="true", **settings)
    proxy = PlainHaproxy(folder, server.port)
    proxy.start()
    try:
        with trio.fail_after(60):
            for host in ("127.0.0.1", f"127.0.0.1:{server.port}", "localhost", "chat.example"):
                assert (await plain(proxy.port, "/metrics", host=host, method="GET")).status == 404
    finally:
        proxy.stop()


async def plain(port: int, path: str, *, host: str = "chat.example", method: str = "POST") -> Answer:
    """A request without TLS, with the path as it is."""
    async with open_raw(port) as client:
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        return await client.request(f"{head}\r\n{{}}".encode())


async def test_nginx_may_name_the_port_in_host(start_server: Callable[..., Server], folder: Path) -> None:
    """As `proxy_set_header Host $host:$server_port` does; the browser's `Origin` names no default port."""
    server = start_server()
    proxy = NginxNamingThePort(folder, server.port)
    proxy.start()
    try:
        with trio.fail_after(60):
            for origin, status in (("http://chat.example", 401), ("http://chat.example:8443", 403)):
                async with open_raw(proxy.port) as client:
                    request = upgrade_request("/api/chat/ws", [("Host", "chat.example"), ("Origin", origin)])
                    assert (await client.request(request)).status == status, origin
    finally:
        proxy.stop()


class NginxNamingThePort(Proxy):
    """It writes port 80 into `Host`, whatever port it listens on: the tests may not have that one."""

    logs = ("said", "error.log")

    def command(self) -> list[str]:
        program = require_program("nginx", "nginx-light")
        folders = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(
            f"daemon off;\npid {self.folder}/pid;\n"
            + ("user root;\n" if os.geteuid() == 0 else "")
            + f"error_log {self.folder}/error.log crit;\nevents {{}}\n"
            f"http {{\n{folders}access_log off;\nserver {{ listen 127.0.0.1:{self.port}; location / {{\n"
            f"proxy_pass http://127.0.0.1:{self.upstreams[0]}; proxy_http_version 1.1;\n"
            "proxy_set_header Host $host:80; proxy_set_header Upgrade $http_upgrade;\n"
            'proxy_set_header Connection "upgrade"; } } }\n'
        )
        command = [program, "-e", str(self.folder / "error.log"), "-p", str(self.folder)]
        return [*command, "-c", str(self.folder / "nginx.conf")]
