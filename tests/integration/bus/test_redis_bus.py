"""Bus over Redis alone: TLS, access lists, sentinels, slots that move, and servers that are none."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from uuid import uuid4

import pytest
import trio
from structlog.testing import capture_logs

from pulse_trio.bus.base import Bus
from pulse_trio.bus.numbered import NumberedBus
from pulse_trio.bus.redis import RedisTransport
from tests.support.bus import Recorder
from tests.support.bus_kinds import CHANNEL, parsed
from tests.support.redis_server import RedisCluster, RedisServer, RedisWithSentinel

LIMIT = 60  # seconds for a test
PASSWORD = "hunter2"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    yield server
    server.remove()


async def start(nursery: trio.Nursery, url: str) -> tuple[Bus, Recorder]:
    bus, recorder = NumberedBus(RedisTransport(parsed(url), CHANNEL), uuid4()), Recorder()
    await nursery.start(bus.run, recorder)
    return bus, recorder


async def reason_of_failure(url: str) -> str:
    """Starts a bus that cannot connect; returns the reason in the log, which must hide the password."""
    with capture_logs() as lines, trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            await start(nursery, url)
            nursery.cancel_scope.cancel()
    assert [line["event"] for line in lines] == ["bus disconnected"]
    assert PASSWORD not in str(lines)
    return str(lines[0]["reason"])


async def test_a_wrong_password_is_refused(redis: RedisServer) -> None:
    redis.ask("CONFIG", "SET", "requirepass", "another")
    assert await reason_of_failure(f"redis://:{PASSWORD}@{redis.address}") == "HELLO was refused: WRONGPASS"
    assert await reason_of_failure(f"redis://{redis.address}") == "HELLO was refused: NOAUTH"


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ("resetchannels +@all", "SUBSCRIBE was refused: NOPERM"),
        ("&* -@all +hello +auth +client|setname +publish", "SUBSCRIBE was refused: NOPERM"),
    ],
)
async def test_a_user_needs_the_channel_and_the_commands(redis: RedisServer, rules: str, reason: str) -> None:
    assert redis.ask("ACL", "SETUSER", "chat", "on", f">{PASSWORD}", *rules.split()) == "OK"
    assert await reason_of_failure(f"redis://chat:{PASSWORD}@{redis.address}") == reason


async def test_a_certificate_of_an_unknown_authority_is_refused() -> None:
    server = RedisServer(tls=True)
    server.start()
    try:
        assert "CERTIFICATE_VERIFY_FAILED" in await reason_of_failure(f"rediss://:{PASSWORD}@{server.address}")
        name = f"rediss://:{PASSWORD}@localhost:{server.port}?ssl_ca_certs={server.cert_file}"
        assert "CERTIFICATE_VERIFY_FAILED" in await reason_of_failure(name)  # it is one for 127.0.0.1
    finally:
        server.remove()


async def test_a_replica_is_refused(redis: RedisServer) -> None:
    replica = RedisServer(f"replicaof 127.0.0.1 {redis.port}")
    replica.start()
    try:
        assert "is a replica, not a primary" in await reason_of_failure(f"redis://{replica.address}")
    finally:
        replica.remove()


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """A server that answers everything the same; yields its port."""

    async def serve(stream: trio.SocketStream) -> None:
        async for _ in stream:
            await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, serve, [listener])
        try:
            yield listener.socket.getsockname()[1]
        finally:
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        # Redis 5, which repeats what it does not know.
        (b"-ERR unknown command `HELLO`, with args beginning with: `3` `AUTH` `hunter2`\r\n", "HELLO was refused: ERR"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "ProtocolError"),
        (b"+OK\r\n", "HELLO: unexpected reply"),
    ],
)
async def test_a_server_that_is_no_redis_of_today_is_refused(answer: bytes, reason: str) -> None:
    async with answering(answer) as port:
        assert reason in await reason_of_failure(f"redis://:{PASSWORD}@127.0.0.1:{port}")


async def test_nobody_at_the_address_is_an_outage() -> None:
    assert "127.0.0.1:1" in await reason_of_failure(f"redis://:{PASSWORD}@127.0.0.1:1")


async def wait_flowing(sender: Bus, recorder: Recorder) -> None:
    """Returns once what is published arrives."""
    before = len(recorder.items)
    while len(recorder.items) == before:
        sender.publish(b"1")
        with trio.move_on_after(0.2):
            await recorder.wait(lambda: len(recorder.items) > before)


async def test_sentinels_lead_to_the_new_primary(nursery: trio.Nursery) -> None:
    servers = RedisWithSentinel()
    try:
        servers.start()
        nobody = "127.0.0.1:1"
        url = f"redis+sentinel://{nobody},{servers.sentinel.address}/{servers.NAME}?sentinel_password=watcher"
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as inner:
                a, b = await start(inner, url), await start(inner, url)
                await wait_flowing(a[0], b[1])
                servers.primary.kill()
                for _, recorder in (a, b):
                    await recorder.wait(lambda r=recorder: r.states == [True, False, True])  # type: ignore[misc]
                await wait_flowing(a[0], b[1])
                assert servers.replica.count_clients() == 2
                inner.cancel_scope.cancel()
    finally:
        servers.remove()


async def test_a_primary_that_the_sentinels_have_replaced_is_left(nursery: trio.Nursery) -> None:
    """It lives on, but the sentinel, which has failed over, was told to leave its clients alone."""
    servers = RedisWithSentinel()
    try:
        servers.start()
        url = f"redis+sentinel://{servers.sentinel.address}/{servers.NAME}?sentinel_password=watcher"
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as inner:
                _, recorder = await start(inner, url)
                servers.sentinel.ask("SENTINEL", "REMOVE", servers.NAME)
                servers.replica.ask("REPLICAOF", "NO", "ONE")
                servers.sentinel.ask("SENTINEL", "MONITOR", servers.NAME, "127.0.0.1", str(servers.replica.port), "1")
                await recorder.wait(lambda: recorder.states == [True, False, True])
                assert (servers.primary.count_clients(), servers.replica.count_clients()) == (0, 1)
                inner.cancel_scope.cancel()
    finally:
        servers.remove()


async def test_the_channel_is_followed_when_its_slot_moves() -> None:
    cluster = RedisCluster()
    try:
        cluster.start()
        url = f"redis+cluster://127.0.0.1:1,{cluster.addresses}"
        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                a, b = await start(nursery, url), await start(nursery, url)
                await wait_flowing(a[0], b[1])
                former = cluster.owner(CHANNEL)
                assert former.count_clients() == 2
                cluster.move(CHANNEL)
                for _, recorder in (a, b):
                    await recorder.wait(lambda r=recorder: False in r.states)  # type: ignore[misc]
                await wait_flowing(a[0], b[1])
                assert (former.count_clients(), cluster.owner(CHANNEL).count_clients()) == (0, 2)
                nursery.cancel_scope.cancel()
    finally:
        cluster.remove()
