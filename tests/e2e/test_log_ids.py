"""Ids that tie lines of the log to the request and the connection that they are about."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import trio

from tests.support.client import Api, Person
from tests.support.figures import figures
from tests.support.raw import open_raw, upgrade_request
from tests.support.server import Server

Start = Callable[..., Server]

UNLIMITED = {"PULSE_FRAMES_PER_SECOND": "0", "PULSE_BYTES_PER_SECOND": "0"}


def lines(server: Server) -> list[dict[str, Any]]:
    """The log, from JSON."""
    return [json.loads(line) for line in server.output.splitlines() if line.startswith("{")]


def request(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *headers, "", ""]).encode()


@pytest.mark.parametrize("given", ["abc-123", "0b7a3e6c-6a53-4d9f-8d5e-0f2a6c1e9b77", "x", "A_b.9" * 12])
async def test_a_good_id_comes_back_on_every_kind_of_answer(server: Server, given: str) -> None:
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        group = await alice.create_group()
        headers = {"X-Request-ID": given}
        for path in ("/api/auth/me", "/healthz", "/readyz", "/metrics", "/docs", "/nothing", "/api/users?limit=x"):
            answer = await alice.api.get(path, headers=headers)
            assert answer.headers["X-Request-ID"] == given, path
        nobody = await Api(server.base_url).get("/api/auth/me", headers=headers)
        assert (nobody.status_code, nobody.headers["X-Request-ID"]) == (401, given)
        for path, status in ((f"/api/chat/ws/{group}?token={alice.token}", 101), (f"/api/chat/ws/{group}", 401)):
            async with open_raw(server.port) as client:
                handshake = await client.request(upgrade_request(path, [("X-Request-ID", given)]))
                assert (handshake.status, handshake.headers["x-request-id"]) == (status, given)


@pytest.mark.parametrize(
    "given",
    [
        [],
        [""],
        ["two words"],
        ["x" * 65],
        ["semi;colon"],
        ['quote"'],
        ["\xe9t\xe9"],
        ["one", "two"],
        ["{{7*7}}"],
    ],
    ids=str,
)
async def test_any_other_is_replaced(shared_server: Server, given: list[str]) -> None:
    with trio.fail_after(60):
        made = set()
        for _ in range(2):
            async with open_raw(shared_server.port) as client:
                data = request("/api/auth/me", *(f"X-Request-ID: {one}" for one in given))
                await client.send(data.decode().encode("latin-1"))
                answer = await client.read_answer()
                assert answer.status == 401
                made.add(answer.headers["x-request-id"])
        assert len(made) == 2
        assert all(len(one) == 32 and int(one, 16) >= 0 for one in made)
    assert not given or given[0] in {"", "one"} or given[0] not in shared_server.output


async def test_lines_of_a_request_carry_its_id_and_those_of_the_next_one_another(
    start_server: Start, database: str
) -> None:
    server = start_server(PULSE_LOG_FORMAT="json")
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        group = await alice.create_group()
        async with alice.connect(group) as chat:
            await chat.send({"type": "message", "content": "there"})
            await chat.receive_type("message")
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("ALTER TABLE messages RENAME TO elsewhere")
        async with open_raw(server.port) as client:
            for request_id in ("first", "second"):
                # Lines of one kind come once a second, so the second request is repeated until it has one.
                while f'"{request_id}"' not in server.output:
                    path = f"/api/chat/conversations/{group}/messages"
                    headers = (f"Authorization: Bearer {alice.token}", f"X-Request-ID: {request_id}")
                    answer = await client.request(request(path, *headers))
                    assert (answer.status, answer.headers["x-request-id"]) == (503, request_id)
    assert server.stop() == 0
    failed = [line for line in lines(server) if line["event"] == "the store failed"]
    failed = [line for line in failed if "request_id" in line]  # without the gathered ones
    assert [line["request_id"] for line in failed] == ["first", "second"]
    assert len({line["connection_id"] for line in failed}) == 1, "they came on one connection"
    assert failed[0]["connection_id"]


async def test_lines_of_a_websocket_carry_its_handshakes_id_those_of_a_room_none(
    start_server: Start, database: str
) -> None:
    server = start_server(
        PULSE_LOG_FORMAT="json",
        PULSE_WRITE_TIMEOUT="1",
        PULSE_OUTBOX_BYTES="262144",
        PULSE_STORE_TIMEOUT="1",
        **UNLIMITED,
    )
    with trio.fail_after(90):
        alice = await Person.register(server.base_url, "alice")
        bob = await Person.register(server.base_url, "bob")
        group = await alice.create_group(bob)
        text = json.dumps({"type": "message", "content": "\U0001f600" * 4_000}, ensure_ascii=False)
        async with open_raw(server.port, receive_buffer=4_096) as deaf:
            path = f"/api/chat/ws/{group}?token={bob.token}"
            await deaf.request(upgrade_request(path, [("X-Request-ID", "the-deaf-one")]))
            async with alice.connect(group) as chat:
                await chat.receive_type("system")
                while True:
                    await chat.send(text)
                    seen = await chat.receive_type("message", "system")
                    if seen.get("event") == "left":
                        break
        now = await figures(server.base_url)
        assert now("pulse_stalled_clients_total") + now("pulse_closes_total", code="4408") >= 1
        # A room that cannot store says so in lines of its own.
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute("ALTER TABLE messages RENAME TO elsewhere")
        async with alice.connect(group) as chat:
            await chat.send({"type": "message", "content": "lost", "client_id": "c-1"})
            assert (await chat.receive_type("error"))["code"] == "not_stored"
    assert server.stop() == 0
    (cut,) = [line for line in lines(server) if line["event"] == "slow reader disconnected"]
    assert cut["request_id"] == "the-deaf-one"
    assert cut["connection_id"]
    delayed = [line for line in lines(server) if line["event"] == "messages not stored yet"]
    assert delayed
    assert not any({"request_id", "connection_id"} & line.keys() for line in delayed)
