"""Flood limits on the real process: what a flood is answered, and that others do not notice."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any
from uuid import uuid4

import httpx2
import pytest
import trio

from tests.support.client import PASSWORD, Api, Person
from tests.support.figures import figures
from tests.support.raw import RawClient, frame, open_chat, open_raw, upgrade_request
from tests.support.server import Server

REGISTER, LOGIN = "/api/auth/register", "/api/auth/login"

Start = Callable[..., Server]


async def two(server: Server) -> tuple[Person, Person, str]:
    alice = await Person.register(server.base_url, "alice")
    bob = await Person.register(server.base_url, "bob")
    return alice, bob, await alice.create_group(bob)


async def read_until_close(client: RawClient) -> tuple[list[dict[str, Any]], int]:
    """The error frames until the close frame, and its code."""
    errors = []
    while True:
        opcode, payload = await client.read_frame()
        if opcode == 8:
            return errors, int.from_bytes(payload[:2], "big")
        found: dict[str, Any] = httpx2.Response(200, content=payload).json()
        if found["type"] == "error":
            errors.append(found)


async def test_a_flood_of_frames_is_told_then_closed_and_nobody_else_notices(start_server: Start) -> None:
    server = start_server(PULSE_FRAMES_PER_SECOND="1", PULSE_FRAMES_BURST="30")
    with trio.fail_after(60):
        alice, bob, conversation = await two(server)
        async with open_chat(alice, conversation) as flooder, bob.connect(conversation) as other:
            await other.receive_type("system")
            found = []

            async def read() -> None:
                found.append(await read_until_close(flooder))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                for number in range(500):
                    sent = {"type": "message", "content": f"{number}", "client_id": f"c-{number}"}
                    if not await flooder.send_some(frame(sent)):
                        break
                await other.send({"type": "message", "content": "still here"})
                heard = [await other.receive_type("message")]
                while heard[-1]["content"] != "still here":
                    heard.append(await other.receive_type("message"))
                await other.send({"type": "ping"})
                await other.receive_type("pong")
            ((errors, code),) = found
            assert code == 4429
            assert errors
            assert {error["code"] for error in errors} == {"rate_limited"}
            assert int(errors[0]["client_id"].removeprefix("c-")) >= 30, "the frame that was refused"
            assert len(errors) <= 5, "at most one a second"
        history = (await bob.history(conversation, limit=200))["messages"]
        stored = [message["content"] for message in history if message["sender_id"] == alice.id]
        assert [str(number) for number in range(30)] == stored[::-1][:30]
        assert len(stored) <= 40
        assert errors[0]["client_id"].removeprefix("c-") not in stored, "what was refused was not stored"
        # What was not stored can be sent again, and is stored once.
        async with alice.connect(conversation) as again:
            await again.send({"type": "message", "content": "0", "client_id": "c-0"})
            await again.send({"type": "message", "content": "more", "client_id": "c-400"})
            assert [(await again.receive_type("message"))["content"] for _ in range(2)] == ["0", "more"]
        assert (await bob.history(conversation))["total"] == len(history) + 1


@pytest.mark.parametrize("kind", ["typing", "ping", "read", "watch", "nonsense"])
async def test_a_flood_of_anything_is_closed(start_server: Start, kind: str) -> None:
    server = start_server(PULSE_FRAMES_PER_SECOND="1", PULSE_FRAMES_BURST="30")
    with trio.fail_after(60):
        alice, _, conversation = await two(server)
        async with open_chat(alice, conversation) as flooder:
            await flooder.send(frame({"type": kind}) * 100)
            errors, code = await read_until_close(flooder)
            assert code == 4429
            assert "rate_limited" in {error["code"] for error in errors}


async def test_frames_about_foreign_conversations_cost_more_and_open_no_rooms(start_server: Start) -> None:
    server = start_server(PULSE_FRAMES_PER_SECOND="1", PULSE_FRAMES_BURST="100", PULSE_FOREIGN_FRAME_COST="20")
    with trio.fail_after(60):
        _, bob, conversation = await two(server)
        stranger = await Person.register(server.base_url, "stranger")
        async with bob.connect(conversation) as other, open_raw(server.port) as flooder:
            await other.receive_type("system")
            answer = await flooder.request(upgrade_request(f"/api/chat/ws?token={stranger.token}"))
            assert answer.status == 101
            assert (await flooder.read_json())["type"] == "session"
            kinds = ("message", "edit", "delete", "typing", "read")
            rest = {"content": "x", "message_id": str(uuid4()), "seq": 1}
            ids = [conversation, *(str(uuid4()) for _ in range(300))]
            for number, each in enumerate(ids):
                await flooder.send_some(frame({"type": kinds[number % 5], "conversation_id": each, **rest}))
            errors, code = await read_until_close(flooder)
            assert code == 4429
            assert [error["code"] for error in errors].count("not_a_member") == 5
            assert {error["code"] for error in errors[5:]} == {"rate_limited"}
            assert [error["conversation_id"] for error in errors[:5]] == ids[:5]
            await other.send({"type": "message", "content": "still here"})
            assert (await other.receive_type("message"))["content"] == "still here"
            assert (await figures(server.base_url))("pulse_rooms") == 1
        assert (await bob.history(conversation))["total"] == 1


async def test_a_watch_of_many_users_costs_more(start_server: Start) -> None:
    server = start_server(PULSE_FRAMES_PER_SECOND="1", PULSE_FRAMES_BURST="200", PULSE_WATCHED_USERS_PER_FRAME="10")
    with trio.fail_after(60):
        alice, _, _ = await two(server)
        async with open_raw(server.port) as flooder:
            answer = await flooder.request(upgrade_request(f"/api/chat/ws?token={alice.token}"))
            assert answer.status == 101
            watch = frame({"type": "watch", "user_ids": [str(uuid4()) for _ in range(490)]})
            await flooder.send(watch * 3 + frame({"type": "ping"}) * 40)  # 150 frames, and 40
            for _ in range(40):
                await flooder.read_json_type("pong")
            await flooder.send(watch + frame({"type": "ping"}) * 5)  # it takes what is left
            assert (await flooder.read_json_type("error", "pong"))["code"] == "rate_limited"


async def test_a_flood_of_bytes_is_told_and_closed(start_server: Start) -> None:
    server = start_server(PULSE_BYTES_PER_SECOND="1000", PULSE_BYTES_BURST="65536")
    with trio.fail_after(60):
        alice, _, conversation = await two(server)
        async with open_chat(alice, conversation) as flooder:
            junk = frame({"type": "ping", "padding": "x" * 20_000})
            await flooder.send(junk * 3)
            for _ in range(3):
                assert (await flooder.read_json())["type"] == "pong"
            await flooder.send(junk)
            assert (await flooder.read_json())["code"] == "rate_limited"
            await flooder.send(frame({"type": "ping"}))
            assert (await flooder.read_json())["type"] == "pong", "the connection goes on"
            await flooder.send(junk * 3)
            assert (await read_until_close(flooder))[1] == 4429


async def test_the_connections_of_a_user_are_limited(start_server: Start) -> None:
    server = start_server(PULSE_CONNECTIONS_PER_USER="2")
    with trio.fail_after(60):
        alice, bob, conversation = await two(server)

        async def ask(person: Person) -> tuple[int, object]:
            async with open_raw(server.port) as client:
                path = f"/api/chat/ws/{conversation}?token={person.token}"
                answer = await client.request(upgrade_request(path))
                if answer.status == 101:
                    return 101, None
                assert "retry-after" in answer.headers
                return answer.status, answer.json()["code"]

        async with bob.connect(conversation) as other:
            async with AsyncExitStack() as stack:
                for _ in range(2):
                    chat = await stack.enter_async_context(alice.connect(conversation))
                    await chat.receive_type("system")
                assert await ask(alice) == (429, "too_many_connections")
                async with bob.connect(conversation):
                    pass
                await chat.send({"type": "ping"})
                await chat.receive_type("pong")
            # A place is free again when its connection has gone, which the others are told of.
            while (await other.receive_type("system"))["event"] != "left":
                pass
            with trio.fail_after(10):
                while (await ask(alice))[0] != 101:
                    await trio.lowlevel.checkpoint()


async def attempt(server: Server, username: str, password: str, address: str | None = None) -> httpx2.Response:
    headers = {} if address is None else {"X-Forwarded-For": f"6.6.6.6, {address}"}
    body = {"username": username, "password": password}
    return await Api(server.base_url).post(LOGIN, json=body, headers=headers)


def assert_refused(answer: httpx2.Response, most_seconds: int) -> None:
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert 1 <= int(answer.headers["Retry-After"]) <= most_seconds
    assert set(answer.json()) == {"code", "message"}


async def test_guessing_at_an_account_is_stopped_and_its_user_gets_in(start_server: Start) -> None:
    server = start_server(PULSE_LOGIN_FAILURES_PER_ACCOUNT="4", PULSE_TRUSTED_PROXIES="1")
    with trio.fail_after(60):
        await two(server)
        for name in ("alice", "nobody"):
            address = f"192.0.2.{len(name)}"
            for _ in range(4):
                assert (await attempt(server, name, "a guess", address)).status_code == 401
            assert_refused(await attempt(server, name.upper(), "a guess", address), 900)
        # The right password does not help whoever guessed, and their other accounts are open.
        assert_refused(await attempt(server, "alice", PASSWORD, "192.0.2.5"), 900)
        assert (await attempt(server, "bob", PASSWORD, "192.0.2.5")).status_code == 200
        # Her user, elsewhere, gets in as often as she likes.
        for _ in range(3):
            assert (await attempt(server, "alice", PASSWORD, "198.51.100.7")).status_code == 200
        # Somebody else elsewhere has one guess.
        assert (await attempt(server, "alice", "a guess", "203.0.113.9")).status_code == 401
        assert_refused(await attempt(server, "alice", "a guess", "203.0.113.9"), 900)
        assert (await attempt(server, "alice", PASSWORD, "198.51.100.7")).status_code == 200


async def test_guessing_from_an_address_is_stopped_whatever_it_says_of_itself(start_server: Start) -> None:
    server = start_server(PULSE_LOGIN_FAILURES_PER_ADDRESS="6")
    with trio.fail_after(60):
        await two(server)
        for number in range(6):
            guess = await attempt(server, f"user{number}", "a guess", f"192.0.2.{number}")
            assert guess.status_code == 401, "no proxy is trusted: the header changes nothing"
        assert_refused(await attempt(server, "alice", "a guess", "192.0.2.99"), 600)
        assert_refused(await attempt(server, "alice", PASSWORD), 600)


async def test_a_peer_that_is_no_proxy_cannot_choose_its_address(start_server: Start) -> None:
    server = start_server(
        PULSE_LOGIN_FAILURES_PER_ADDRESS="6", PULSE_TRUSTED_PROXIES="1", PULSE_PROXY_NETWORKS="127.0.0.2, 10.0.0.0/8"
    )
    with trio.fail_after(60):
        for number in range(6):
            assert (await attempt(server, f"user{number}", "a guess", f"192.0.2.{number}")).status_code == 401
        assert_refused(await attempt(server, "user7", "a guess", "192.0.2.99"), 600)


async def test_logins_that_succeed_do_not_count(start_server: Start) -> None:
    server = start_server(PULSE_LOGIN_FAILURES_PER_ADDRESS="3", PULSE_LOGIN_FAILURES_PER_ACCOUNT="2")
    with trio.fail_after(60):
        await two(server)
        for _ in range(8):
            assert (await attempt(server, "alice", PASSWORD)).status_code == 200


async def test_registrations_from_an_address_are_limited(start_server: Start) -> None:
    server = start_server(PULSE_REGISTRATIONS_PER_ADDRESS="2")
    with trio.fail_after(60):
        alice, _, _ = await two(server)
        third = await Api(server.base_url).post(REGISTER, json={"username": "carol", "password": PASSWORD})
        assert_refused(third, 1_800)
        assert (await alice.api.get("/api/auth/me")).status_code == 200
