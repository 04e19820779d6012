"""TCP through small proxies: name resolution, TLS, several hosts."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pulse_trio.trio_psycopg import TrioConnection
from tests.support.cluster import Cluster


async def pump(source: Any, target: Any, done: trio.CancelScope) -> None:
    try:
        async for data in source:
            await target.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    done.cancel()


async def proxy(cluster: Cluster, tls: ssl.SSLContext | None, client: trio.SocketStream) -> None:
    stream: Any = client
    if tls is not None:
        await client.receive_some(8)  # SSLRequest
        await client.send_all(b"S")
        stream = trio.SSLStream(client, tls, server_side=True, https_compatible=True)
        try:
            await stream.do_handshake()
        except trio.BrokenResourceError:
            return
    upstream = await trio.open_unix_socket(f"{cluster.socket_folder}/.s.PGSQL.5432")
    async with upstream, trio.open_nursery() as nursery:
        nursery.start_soon(pump, stream, upstream, nursery.cancel_scope)
        nursery.start_soon(pump, upstream, stream, nursery.cancel_scope)


async def serve(nursery: trio.Nursery, cluster: Cluster, tls: ssl.SSLContext | None = None) -> int:
    listeners = await nursery.start(partial(trio.serve_tcp, partial(proxy, cluster, tls), 0, host="127.0.0.1"))
    return int(listeners[0].socket.getsockname()[1])


def certificate(folder: Path, name: str) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    cert = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + cert.public_bytes(serialization.Encoding.PEM)
    )
    return path


class Resolver(trio.abc.HostnameResolver):
    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:
        assert ipaddress.ip_address("127.0.0.1")
        await trio.sleep(0.2)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
async def slow_names() -> Any:
    trio.socket.set_custom_hostname_resolver(Resolver())
    yield
    trio.socket.set_custom_hostname_resolver(None)


async def test_slow_name_does_not_block(cluster: Cluster, slow_names: None) -> None:
    ticks = 0
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await trio.sleep(0.01)
                    ticks += 1

            port = await serve(nursery, cluster)
            nursery.start_soon(tick)
            async with await TrioConnection.connect(f"host=db.test port={port} user=pulse dbname=postgres"):
                assert ticks >= 5
            nursery.cancel_scope.cancel()


async def test_tls_verify_full(cluster: Cluster, slow_names: None, tmp_path: Path) -> None:
    good, other = certificate(tmp_path, "db.test"), certificate(tmp_path, "other.test")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(good)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            port = await serve(nursery, cluster, context)
            base = f"host=db.test port={port} user=pulse dbname=postgres sslmode=verify-full"
            async with await TrioConnection.connect(f"{base} sslrootcert={good}") as conn:
                assert conn.pgconn.ssl_in_use
                assert await (await conn.execute("select 1")).fetchone() == (1,)
            with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
                await TrioConnection.connect(f"{base} sslrootcert={other}")
            nursery.cancel_scope.cancel()


async def test_second_host_when_first_is_dead(cluster: Cluster) -> None:
    with trio.fail_after(30):
        async with await TrioConnection.connect(
            f"host=/nonexistent,{cluster.socket_folder} user=pulse dbname=postgres"
        ) as conn:
            assert await (await conn.execute("select 1")).fetchone() == (1,)
