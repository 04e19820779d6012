"""TLS by Hypercorn's own settings (`certfile`, `keyfile`), on the real process."""

import re
import ssl
import struct
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio
import trio_websocket

from tests.support.certificate import make_certificate
from tests.support.client import Chat, Person
from tests.support.raw import RawClient, frame, open_raw, upgrade_request
from tests.support.server import SECRET, Server

ROOT = Path(__file__).resolve().parents[2]
HYPERCORN = str(Path(sys.executable).with_name("hypercorn"))
ALERT, HANDSHAKE = 21, 22  # kinds of a TLS record

Start = Callable[..., Server]


class TlsServer(Server):
    """Hypercorn with TLS; it says https."""

    def _read(self, stream: Any) -> None:
        with stream:
            for line in stream:
                self._lines.append(line)
                found = re.search(r"https://127\.0\.0\.1:(\d+)", line)
                if found and not self._ready.is_set():
                    self.port = int(found[1])
                    self.base_url = f"https://127.0.0.1:{self.port}"
                    self._ready.set()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key."""
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def start_tls(database: str, tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[Start]:
    """Starts the service by Hypercorn's command, on the product's own file with a certificate in it."""
    servers: list[Server] = []

    def start(ssl_handshake_timeout: float = 10, alpn_protocols: str | None = None, **settings: str) -> Server:
        lines = (ROOT / "hypercorn.toml").read_text().splitlines()
        config = tmp_path / "hypercorn.toml"
        cert_file, key_file = certificate
        added = [
            'bind = ["127.0.0.1:0"]',
            f'certfile = "{cert_file}"',
            f'keyfile = "{key_file}"',
            f"ssl_handshake_timeout = {ssl_handshake_timeout}",
        ]
        if alpn_protocols is not None:
            added.append(f"alpn_protocols = {alpn_protocols}")
        taken = {line.partition("=")[0].strip() for line in added}
        config.write_text("\n".join([*added, *(line for line in lines if line.partition("=")[0].strip() not in taken)]))
        command = [HYPERCORN, "--config", str(config), "pulse_trio.asgi:app"]
        server = TlsServer({"DATABASE_URL": database, **settings}, command=command, cwd=ROOT)
        servers.append(server)
        return server.wait_ready()

    yield start
    for server in servers:
        server.stop()


async def test_http_2_is_off_whatever_the_configuration_says(
    start_tls: Start, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    """Its streams would be counted by no limit of connections or requests."""
    server = start_tls(alpn_protocols='["h2", "http/1.1"]', PULSE_LOG_FORMAT="json")
    with trio.fail_after(60):
        for offered in (["h2", "http/1.1"], ["h2"], ["http/1.1"]):
            context = client_context(certificate)
            context.set_alpn_protocols(offered)
            stream = await trio.open_ssl_over_tcp_stream("127.0.0.1", server.port, ssl_context=context)
            await stream.do_handshake()
            assert stream.selected_alpn_protocol() in {"http/1.1", None}, offered
            answer = await RawClient(stream).request(  # type: ignore[arg-type]  # it does the same
                b"GET /healthz HTTP/1.1\r\nHost: chat.example\r\n\r\n"
            )
            assert answer.json() == {"status": "ok"}
            await trio.aclose_forcefully(stream)
    assert "HTTP/2 and HTTP/3 are off" in server.output


def client_context(certificate: tuple[Path, Path], version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A client that believes the server's certificate only, and speaks one version if one is given."""
    context = ssl.create_default_context(cafile=certificate[0])
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


@asynccontextmanager
async def open_wss(
    server: Server, context: ssl.SSLContext, conversation: str, token: str, *, receive_buffer: int | None = None
) -> AsyncIterator[RawClient]:
    """A WebSocket over TLS, with the first frame (`joined`) read."""
    async with open_raw(server.port, receive_buffer=receive_buffer) as plain:
        stream = trio.SSLStream(plain.stream, context, server_hostname="127.0.0.1")
        client = RawClient(stream)  # type: ignore[arg-type]  # it needs of a stream what this one has, too
        answer = await client.request(upgrade_request(f"/api/chat/ws/{conversation}?token={token}"))
        assert answer.status == 101, answer
        assert (await client.read_json())["event"] == "joined"
        yield client


def token_for(person: Person, seconds: float) -> str:
    now = time.time()
    return jwt.encode({"sub": person.id, "iat": int(now), "exp": now + seconds}, SECRET, algorithm="HS256")


async def two(server: Server) -> tuple[Person, Person, str]:
    alice = await Person.register(server.base_url, "alice")
    bob = await Person.register(server.base_url, "bob")
    return alice, bob, await alice.create_group(bob)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_chat_over_tls(start_tls: Start, certificate: tuple[Path, Path], version: ssl.TLSVersion) -> None:
    server = start_tls()
    with trio.fail_after(60):
        alice, bob, conversation = await two(server)
        url = f"wss://127.0.0.1:{server.port}/api/chat/ws/{conversation}?token="
        context = client_context(certificate, version)
        async with (
            trio_websocket.open_websocket_url(url + alice.token, ssl_context=context) as a,
            trio_websocket.open_websocket_url(url + bob.token, ssl_context=context) as b,
        ):
            text = "over TLS: häagen \N{PILE OF POO} " + "x" * 3_900
            await Chat(a).send({"type": "message", "content": text})
            for connection in (a, b):
                assert (await Chat(connection).receive_type("message"))["content"] == text
        # A browser's page of this very service.
        origin = [("Origin", f"https://127.0.0.1:{server.port}")]
        async with trio_websocket.open_websocket_url(
            url + alice.token, ssl_context=context, extra_headers=[(k, v.encode()) for k, v in origin]
        ) as a:
            assert (await Chat(a).receive())["last_seq"] == 1


async def test_every_end_of_a_connection_over_tls_has_its_code(
    start_tls: Start, certificate: tuple[Path, Path]
) -> None:
    server = start_tls()
    context = client_context(certificate)
    with trio.fail_after(60):
        alice, bob, conversation = await two(server)

        async with open_wss(server, context, conversation, alice.token) as client:  # the client's own
            await client.send(frame(struct.pack("!H", 1000), 8))
            assert await client.read_close() == 1000
            await client.wait_gone()
        async with open_wss(server, context, conversation, alice.token) as client:  # too much at once
            await client.send_some(frame("x" * 70_000))
            assert await client.read_close() == 1009
            await client.wait_gone()
        async with open_wss(server, context, conversation, alice.token) as client:  # no UTF-8
            await client.send(frame(b"\xff\xfe"))
            assert await client.read_close() == 1007
            await client.wait_gone()
        async with open_wss(server, context, conversation, token_for(alice, 2)) as client:  # the token's end
            assert await client.read_close() == 4401
            await client.wait_gone()
        async with open_wss(server, context, conversation, bob.token) as client:  # removal
            gone = await alice.api.delete(f"/api/chat/conversations/{conversation}/members/{bob.id}")
            assert gone.status_code == 204
            assert await client.read_close() == 4403
            await client.wait_gone()
        async with open_wss(server, context, conversation, alice.token) as client:  # the server's end
            server.process.terminate()
            assert await client.read_close() == 1012
            await client.wait_gone()
        assert await trio.to_thread.run_sync(server.wait) == 0
    assert "Traceback" not in server.output


def client_hello(version: int) -> bytes:
    """A ClientHello for this version at most; the same for all but for the number."""

    def extension(number: int, body: bytes) -> bytes:
        return struct.pack("!HH", number, len(body)) + body

    extensions = (
        extension(10, b"\x00\x04\x00\x1d\x00\x17")  # groups: x25519, secp256r1
        + extension(11, b"\x01\x00")  # points: uncompressed
        + extension(13, b"\x00\x06\x08\x04\x04\x01\x02\x01")  # signatures: RSA with SHA-256, also SHA-1 for the old
    )
    # ECDHE-RSA-AES128: GCM with SHA-256 for TLS 1.2, CBC with SHA-1 for the older ones.
    suites = b"\xc0\x2f\xc0\x13\x00\x2f"
    body = struct.pack("!H", version) + bytes(32) + b"\x00" + struct.pack("!H", len(suites)) + suites + b"\x01\x00"
    body += struct.pack("!H", len(extensions)) + extensions
    message = b"\x01" + len(body).to_bytes(3, "big") + body
    return struct.pack("!BHH", HANDSHAKE, min(version, 0x0301), len(message)) + message


async def test_versions_before_1_2_are_refused(start_tls: Start) -> None:
    server = start_tls()

    async def say_hello(version: int) -> int | None:
        """Returns the answer; None if the connection ends without one."""
        async with open_raw(server.port) as client:
            await client.send(client_hello(version))
            try:
                return (await client.read_exactly(1))[0]
            except EOFError:
                return None

    with trio.fail_after(30):
        assert await say_hello(0x0303) == HANDSHAKE, "or the refusals below would show nothing"
        for version in (0x0302, 0x0301, 0x0300):
            assert await say_hello(version) in {ALERT, None}
        assert await say_hello(0x0303) == HANDSHAKE


async def test_plain_http_is_not_spoken_on_a_port_with_tls(start_tls: Start) -> None:
    server = start_tls()
    with trio.fail_after(60):
        alice, _, conversation = await two(server)
        for request in (
            upgrade_request(f"/api/chat/ws/{conversation}?token={alice.token}"),
            b"GET /api/auth/me HTTP/1.1\r\nHost: a\r\n\r\n",
            b"\x00" * 500,
            b"\x16\x03\x01\xff\xff" + b"\x01" * 20_000,
        ):
            async with open_raw(server.port) as client:
                await client.send_some(request)
                answer = b""
                try:
                    while True:
                        answer += await client.read_exactly(1)
                except EOFError:
                    pass
                assert b"HTTP" not in answer
        assert (await alice.api.get("/api/auth/me")).status_code == 200
    assert server.stop() == 0
    assert alice.token not in server.output


async def test_a_handshake_of_tls_that_does_not_go_on_is_cut(start_tls: Start) -> None:
    server = start_tls(ssl_handshake_timeout=1)
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        async with open_raw(server.port) as silent, open_raw(server.port) as half, open_raw(server.port) as reset:
            await half.send(client_hello(0x0303)[:40])
            await reset.send(client_hello(0x0303)[:60])
            reset.reset()
            # Meanwhile others are served.
            assert (await alice.api.get("/api/auth/me")).status_code == 200
            await silent.wait_gone()
            await half.wait_gone()
        assert (await alice.api.get("/api/auth/me")).status_code == 200
    assert server.stop() == 0


async def test_a_client_that_does_not_read_over_tls_is_cut_and_nobody_else_notices(
    start_tls: Start, certificate: tuple[Path, Path]
) -> None:
    server = start_tls(
        PULSE_WRITE_TIMEOUT="1",
        PULSE_OUTBOX_BYTES="65536",
        PULSE_FRAMES_PER_SECOND="0",
        PULSE_BYTES_PER_SECOND="0",
    )
    context = client_context(certificate)
    with trio.fail_after(90):
        alice, bob, conversation = await two(server)
        async with (
            open_wss(server, context, conversation, alice.token) as talker,
            open_wss(server, context, conversation, bob.token, receive_buffer=4_096),
        ):
            number, is_gone = 0, False
            while not is_gone:  # what TCP holds is the kernel's to say
                number += 1
                await talker.send(frame({"type": "message", "content": f"{number} " + "x" * 3_900}))
                while True:
                    heard = await talker.read_json()
                    is_gone |= heard.get("event") == "left"
                    if heard["type"] == "message":
                        break
                assert heard["seq"] == number
                assert number < 20_000
        assert server.stop() == 0
    assert "Traceback" not in server.output
