"""/healthz and /readyz: what whoever restarts the service, and whoever sends it clients, is told."""

import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import trio

from tests.support.client import Api, Person
from tests.support.cluster import Cluster
from tests.support.raw import RawClient, open_raw
from tests.support.server import Server

Start = Callable[..., Server]


def get(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode()


async def ready(server: Server) -> tuple[int, dict[str, Any]]:
    answer = await Api(server.base_url).get("/readyz")
    return answer.status_code, answer.json()


async def test_a_service_that_runs_is_alive_and_ready(server: Server) -> None:
    with trio.fail_after(60):
        for path in ("/healthz", "/readyz"):
            answer = await Api(server.base_url).get(path)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
            assert answer.headers["Cache-Control"] == "no-store"
            assert (await Api(server.base_url).request("HEAD", path)).status_code == 200


async def test_without_its_database_it_lives_and_is_not_ready(start_server: Start, own_cluster: Cluster) -> None:
    server = start_server(DATABASE_URL=own_cluster.new_database())
    api = Api(server.base_url)
    with trio.fail_after(60):
        assert (await ready(server))[0] == 200
        own_cluster.kill()
        status, body = await ready(server)
        while status == 200:  # what was known a moment ago is still told
            status, body = await ready(server)
        assert (status, body["code"], body["failing"]) == (503, "unavailable", ["database"])
        assert "database" in body["message"]
        assert (await api.get("/healthz")).status_code == 200
        own_cluster.start()
        while (await ready(server))[0] != 200:
            await trio.lowlevel.checkpoint()


async def test_a_database_that_hangs_is_told_in_time_and_asked_once(start_server: Start, own_cluster: Cluster) -> None:
    server = start_server(DATABASE_URL=own_cluster.new_database(), PULSE_POOL_MAX="4")
    with trio.fail_after(60):
        assert (await ready(server))[0] == 200
        backends = own_cluster.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname LIKE 'test%' AND backend_type = 'client backend'"
        )
        for (pid,) in backends:
            os.kill(pid, signal.SIGSTOP)
        try:
            statuses: list[int] = []

            async def ask() -> None:
                statuses.append((await ready(server))[0])

            while (await ready(server))[0] == 200:
                pass
            began = trio.current_time()
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(ask)
            assert statuses == [503] * 50
            assert trio.current_time() - began < 8
        finally:
            for (pid,) in backends:
                os.kill(pid, signal.SIGCONT)
        while (await ready(server))[0] != 200:
            await trio.lowlevel.checkpoint()


async def test_a_stopping_service_is_not_ready_and_serves_during_its_delay(start_server: Start) -> None:
    server = start_server(PULSE_STOP_DELAY="4")
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        group = await alice.create_group()
        async with alice.connect(group) as chat:
            await chat.receive_type("system")
            assert (await ready(server))[0] == 200
            server.process.send_signal(signal.SIGTERM)
            status, body = await ready(server)
            while status == 200:  # the signal is on its way
                status, body = await ready(server)
            assert (status, body["failing"]) == (503, ["stopping"])
            assert (await Api(server.base_url).get("/healthz")).status_code == 200
            await chat.send({"type": "message", "content": "still served"})
            assert (await chat.receive_type("message"))["content"] == "still served"
            async with alice.connect(group) as late:
                await late.receive_type("system")
            assert await chat.wait_closed() == 1012
    assert server.wait() == 0


async def test_a_full_service_is_alive_and_not_ready(start_server: Start) -> None:
    """An orchestrator restarts a process whose liveness probe fails; this one must pass."""
    server = start_server(PULSE_MAX_CONNECTIONS="3")
    with trio.fail_after(60):
        async with AsyncExitStack() as stack:
            held: list[RawClient] = []
            for _ in range(3):
                held.append(await stack.enter_async_context(open_raw(server.port)))
                assert (await held[-1].request(get("/healthz"))).status == 200
            for path, status in (("/readyz", 503), ("/healthz", 200), ("/healthzz", 503), ("/metrics", 503)):
                async with open_raw(server.port) as client:
                    answer = await client.request(get(path))
                    assert answer.status == status, path
                    await client.wait_gone()
            async with open_raw(server.port) as silent:  # is told without having asked
                assert (await silent.read_answer()).status == 503


async def test_who_asks_too_much_is_told_that_it_lives_and_nothing_else(start_server: Start) -> None:
    server = start_server(PULSE_REQUESTS_PER_SECOND="1", PULSE_REQUESTS_BURST="5")
    with trio.fail_after(60):
        async with open_raw(server.port) as client:
            for _ in range(5):
                assert (await client.request(get("/healthz"))).status == 200
            answer = await client.request(get("/healthz"))
            assert (answer.status, answer.json()) == (200, {"status": "ok"})
            assert answer.headers["connection"] == "close"
            await client.wait_gone()
        for path, status in (("/readyz", 429), ("/healthz", 200), ("/api/auth/me", 429)):
            async with open_raw(server.port) as client:
                assert (await client.request(get(path))).status == status, path
