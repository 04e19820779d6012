"""Presence and last-seen times, on the real process."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import trio

from tests.support.client import Chat, Person
from tests.support.raw import open_chat
from tests.support.server import Server

CONVERSATIONS = "/api/chat/conversations"


async def register(server: Server, *names: str) -> list[Person]:
    return [await Person.register(server.base_url, name) for name in names]


async def users(chat: Chat) -> dict[str, Any]:
    """The next `users` frame: whether each is online."""
    return {user["user_id"]: user["is_online"] for user in (await chat.receive_type("users"))["users"]}


async def presence(person: Person, of: Person | str) -> dict[str, Any]:
    user_id = of if isinstance(of, str) else of.id
    answer = await person.api.get(f"/api/chat/users/{user_id}/presence")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_session_is_told_of_those_it_shares_a_conversation_with(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, carol, stranger = await register(server, "alice", "bob", "carol", "stranger")
        team = await alice.create_group(bob, carol)
        async with alice.session() as a, stranger.session():
            await a.send({"type": "watch", "user_ids": [bob.id, carol.id, stranger.id, str(uuid4()), alice.id]})
            told = (await a.receive_type("users"))["users"]
            assert [(user["user_id"], user["is_online"]) for user in told] == [
                (bob.id, False),
                (carol.id, False),
                (alice.id, True),
            ]
            assert told[0]["last_seen_at"] is None
            async with bob.connect(team):
                assert await users(a) == {bob.id: True}
                async with bob.session():  # a second one, of the other kind
                    pass
                async with carol.session():
                    assert await users(a) == {carol.id: True}
                assert await users(a) == {carol.id: False}
            before = datetime.now(UTC)
            left = (await a.receive_type("users"))["users"][0]
            assert (left["user_id"], left["is_online"]) == (bob.id, False)
            seen = datetime.fromisoformat(left["last_seen_at"])
            assert abs((seen - before).total_seconds()) < 5
            assert await presence(alice, bob) == left
            assert await presence(carol, alice) == await presence(alice, "me")
            assert (await presence(alice, "me"))["is_online"]


async def test_another_list_takes_the_place_of_the_one_before(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, carol = await register(server, "alice", "bob", "carol")
        team = await alice.create_group(bob, carol)
        async with alice.session() as a:
            await a.send({"type": "watch", "user_ids": [bob.id]})
            assert await users(a) == {bob.id: False}
            await a.send({"type": "watch", "user_ids": [carol.id]})
            assert await users(a) == {carol.id: False}
            async with bob.connect(team), carol.connect(team):
                assert await users(a) == {carol.id: True}
            assert await users(a) == {carol.id: False}
            await a.send({"type": "watch", "user_ids": []})
            assert await users(a) == {}


async def test_who_shares_no_conversation_any_more_is_not_told_of(server: Server) -> None:
    with trio.fail_after(60):
        alice, bob, carol = await register(server, "alice", "bob", "carol")
        team = await alice.create_group(bob, carol)
        other = await alice.create_group(carol, name="Other")
        async with alice.session() as a, bob.session() as b:
            await a.send({"type": "watch", "user_ids": [bob.id, carol.id]})
            assert await users(a) == {bob.id: True, carol.id: False}
            await b.send({"type": "watch", "user_ids": [alice.id, carol.id]})
            assert await users(b) == {alice.id: True, carol.id: False}
            for leaver in (bob, carol):
                assert (await leaver.api.delete(f"{CONVERSATIONS}/{team}/members/me")).status_code == 204
            assert await users(a) == {carol.id: False}, "they share another: looked up anew"
            async with carol.connect(other):
                assert await users(a) == {carol.id: True}
                await b.send({"type": "ping"})
                heard = [await b.receive()]
                while heard[-1]["type"] != "pong":
                    heard.append(await b.receive())
                assert "users" not in {frame["type"] for frame in heard}
            for person, who in ((alice, bob), (bob, alice), (bob, carol)):
                answer = await person.api.get(f"/api/chat/users/{who.id}/presence")
                assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_strangers_and_ids_of_nobody_get_one_answer(server: Server) -> None:
    with trio.fail_after(60):
        alice, stranger = await register(server, "alice", "stranger")
        async with alice.session():
            answers = [
                await stranger.api.get(f"/api/chat/users/{who}/presence") for who in (alice.id, str(uuid4()), "no-id")
            ]
            assert {(answer.status_code, answer.content) for answer in answers} == {(404, answers[0].content)}


@pytest.mark.parametrize("user_ids", [None, "x", {}, [1], ["x"], [None], [["a"]], "absent"])
async def test_a_list_that_is_none_is_refused(server: Server, user_ids: object) -> None:
    with trio.fail_after(60):
        (alice,) = await register(server, "alice")
        async with alice.session() as a:
            await a.send({"type": "watch"} if user_ids == "absent" else {"type": "watch", "user_ids": user_ids})
            error = await a.receive()
            assert (error["type"], error["code"], error["field"]) == ("error", "invalid_frame", "user_ids")


async def test_too_many_are_refused_and_the_list_stays(start_server: Callable[..., Server]) -> None:
    server = start_server(PULSE_WATCHED_USERS="2")
    with trio.fail_after(60):
        alice, bob = await register(server, "alice", "bob")
        await alice.create_group(bob)
        async with alice.session() as a:
            await a.send({"type": "watch", "user_ids": [bob.id, bob.id, bob.id.upper(), alice.id]})
            assert await users(a) == {bob.id: False, alice.id: True}
            await a.send({"type": "watch", "user_ids": [bob.id, alice.id, str(uuid4())]})
            error = await a.receive()
            assert (error["code"], error["field"]) == ("invalid_frame", "user_ids")
            assert "2" in error["content"]
            async with bob.session():
                assert await users(a) == {bob.id: True}


async def test_a_conversations_own_connection_cannot_watch(server: Server) -> None:
    with trio.fail_after(60):
        (alice,) = await register(server, "alice")
        async with alice.connect(await alice.create_group()) as chat:
            await chat.send({"type": "watch", "user_ids": [alice.id]})
            error = await chat.receive_type("error")
            assert (error["code"], error["field"]) == ("invalid_frame", "type")


async def test_when_somebody_was_here_outlives_a_stop_and_a_crash(
    start_server: Callable[..., Server], database: str
) -> None:
    server = start_server()
    with trio.fail_after(90):
        alice, bob, carol = await register(server, "alice", "bob", "carol")
        team = await alice.create_group(bob, carol)
        assert (await presence(alice, bob))["last_seen_at"] is None
        started = datetime.now(UTC)
        async with bob.connect(team):
            await trio.to_thread.run_sync(server.stop)
        server = start_server()
        alice.api.base_url = carol.base_url = server.base_url
        found = await presence(alice, bob)
        assert not found["is_online"]
        assert 0 <= (datetime.fromisoformat(found["last_seen_at"]) - started).total_seconds() < 60
        # A crash: they were last seen when they came, as soon as that is written.
        async with open_chat(carol, team):
            with psycopg.connect(database, autocommit=True) as rows:
                query = "SELECT FROM users WHERE username = 'carol' AND last_seen_at IS NOT NULL"
                while rows.execute(query).fetchone() is None:  # noqa: ASYNC110  # nobody tells us
                    await trio.sleep(0.05)
            came = await presence(alice, carol)
            server.process.kill()
        server = start_server()
        alice.api.base_url = server.base_url
        assert await presence(alice, carol) == {**came, "is_online": False}


async def test_requests_for_presence_of_a_user_are_limited(start_server: Callable[..., Server]) -> None:
    server = start_server(PULSE_PRESENCE_PER_SECOND="1", PULSE_PRESENCE_BURST="4")
    with trio.fail_after(60):
        alice, bob = await register(server, "alice", "bob")
        for number in range(20):
            # Whether there is such a user is looked up only within the limit.
            answer = await alice.api.get(f"/api/chat/users/{'me' if number % 2 else uuid4()}/presence")
            if answer.status_code == 429:
                break
        assert number >= 4
        assert answer.json()["code"] == "rate_limited"
        assert 1 <= int(answer.headers["Retry-After"]) <= 2
        assert (await bob.api.get("/api/chat/users/me/presence")).status_code == 200
