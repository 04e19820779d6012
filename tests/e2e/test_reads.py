"""Read positions over a conversation's own connection, a session and REST, on the real process."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
import trio

from tests.support.client import Chat, Person
from tests.support.raw import connect_in_order
from tests.support.server import Server

CONVERSATIONS = "/api/chat/conversations"


async def make(server: Server, *names: str) -> tuple[list[Person], str]:
    people = [await Person.register(server.base_url, name) for name in names]
    return people, await people[0].create_group(*people[1:])


async def say(chat: Chat, *contents: str) -> None:
    for content in contents:
        await chat.send({"type": "message", "content": content})
        await chat.receive_type("message")


async def positions(person: Person, conversation: str) -> dict[str, int]:
    answer = await person.api.get(f"{CONVERSATIONS}/{conversation}/read")
    assert answer.status_code == 200, answer.text
    return {position["user_id"]: position["seq"] for position in answer.json()["positions"]}


async def unread(person: Person, conversation: str) -> tuple[int, int]:
    """`read_seq` and `unread_count`, which the list and the conversation say alike."""
    single: dict[str, Any] = (await person.api.get(f"{CONVERSATIONS}/{conversation}")).json()
    listed = (await person.api.get(CONVERSATIONS)).json()["conversations"]
    assert single in listed
    return single["read_seq"], single["unread_count"]


async def test_what_is_read_is_told_to_everybody_and_kept(start_server: Callable[..., Server]) -> None:
    server = start_server()
    with trio.fail_after(60):
        (alice, bob), conversation = await make(server, "alice", "bob")
        async with connect_in_order(conversation, alice, bob, bob) as (a, phone, laptop):
            await say(a, "one", "two", "three")
            assert await unread(bob, conversation) == (0, 3)
            assert await unread(alice, conversation) == (0, 3), "to send is not to read"
            await phone.send({"type": "read", "seq": 2})
            told = {
                "type": "read",
                "conversation_id": conversation,
                "positions": [{"user_id": bob.id, "seq": 2}],
            }
            for chat in (a, phone, laptop):
                assert await chat.receive_type("read") == told
            await phone.send({"type": "read", "seq": 1})
            assert await phone.receive_type("read") == told, "no more than before, and nobody else is told"
            await laptop.send({"type": "read", "seq": 3})
            for chat in (a, phone, laptop):
                assert (await chat.receive_type("read", "error"))["positions"] == [{"user_id": bob.id, "seq": 3}]
        assert await unread(bob, conversation) == (3, 0)
        assert await positions(alice, conversation) == {alice.id: 0, bob.id: 3}
        server.stop()
        again = start_server()
        for person in (alice, bob):
            person.base_url = person.api.base_url = again.base_url
        assert await unread(bob, conversation) == (3, 0)
        async with bob.connect(conversation) as chat:
            await chat.send({"type": "read", "seq": 1})
            await say(chat, "four")
        assert await positions(alice, conversation) == {alice.id: 0, bob.id: 3}


async def test_sessions_read_and_are_told_also_where_no_room_is_open(start_server: Callable[..., Server]) -> None:
    server = start_server(PULSE_ROOM_LINGER="0")
    with trio.fail_after(60):
        (alice, bob), conversation = await make(server, "alice", "bob")
        async with alice.connect(conversation) as chat:
            await say(chat, "one", "two")
        async with alice.session() as a, bob.session() as b:
            await b.send({"type": "read", "conversation_id": conversation, "seq": 2})
            for chat in (a, b):
                told = await chat.receive_type("read", "error")
                assert told["positions"] == [{"user_id": bob.id, "seq": 2}], told
        assert await positions(alice, conversation) == {alice.id: 0, bob.id: 2}


async def test_rest_does_the_same(server: Server) -> None:
    with trio.fail_after(60):
        (alice, bob), conversation = await make(server, "alice", "bob")
        path = f"{CONVERSATIONS}/{conversation}/read"
        async with alice.connect(conversation) as chat:
            await say(chat, "one", "two", "three")
            answer = await bob.api.put(path, json={"seq": 2})
            assert (answer.status_code, answer.json()) == (200, {"read_seq": 2, "unread_count": 1})
            assert (await chat.receive_type("read"))["positions"] == [{"user_id": bob.id, "seq": 2}]
        lower = await bob.api.put(path, json={"seq": 1})
        assert (lower.status_code, lower.json()) == (200, {"read_seq": 2, "unread_count": 1})
        beyond = await bob.api.put(path, json={"seq": 4})
        assert (beyond.status_code, beyond.json()["code"], beyond.json()["field"]) == (404, "no_such_message", "seq")
        for body in (
            {},
            {"seq": 0},
            {"seq": -1},
            {"seq": "1"},
            {"seq": 1.5},
            {"seq": True},
            {"seq": None},
            {"seq": 2**53},
        ):
            wrong = await bob.api.put(path, json=body)
            assert (wrong.status_code, wrong.json()["code"], wrong.json()["field"]) == (422, "invalid_field", "seq")
        assert await unread(bob, conversation) == (2, 1)


@pytest.mark.parametrize("seq", [0, -1, "1", 1.5, None, True, [1], "absent"])
async def test_a_seq_that_is_none_is_refused(server: Server, seq: object) -> None:
    with trio.fail_after(60):
        (alice,), conversation = await make(server, "alice")
        async with alice.connect(conversation) as chat:
            await say(chat, "one")
            await chat.send({"type": "read"} if seq == "absent" else {"type": "read", "seq": seq})
            error = await chat.receive_type("error")
            assert (error["code"], error["field"]) == ("invalid_frame", "seq")
        assert await unread(alice, conversation) == (0, 1)


@pytest.mark.parametrize("seq", [2, 2**31, 2**53, 2**63, 2**64])
async def test_a_seq_beyond_the_last_message_is_refused_and_spoils_nothing(server: Server, seq: int) -> None:
    with trio.fail_after(60):
        (alice,), conversation = await make(server, "alice")
        async with alice.connect(conversation) as chat, alice.session() as session:
            await say(chat, "one")
            await session.send({"type": "read", "seq": seq, "conversation_id": conversation})
            error = await session.receive_type("error")
            assert error["conversation_id"] == conversation
            await chat.send({"type": "read", "seq": 1})
            await chat.send({"type": "read", "seq": seq})
            for told in (error, await chat.receive_type("error")):
                assert (told["code"], told["field"]) == ("no_such_message", "seq")
            assert (await session.receive_type("read"))["positions"] == [{"user_id": alice.id, "seq": 1}]
        assert await unread(alice, conversation) == (1, 0)


async def test_a_removed_member_moves_no_position_and_a_new_one_has_read_all(server: Server) -> None:
    with trio.fail_after(60):
        (alice, bob), conversation = await make(server, "alice", "bob")
        async with alice.connect(conversation) as a, bob.session() as b:
            await say(a, "one", "two", "three")
            await b.send({"type": "read", "seq": 1, "conversation_id": conversation})
            await a.receive_type("read")
            members = f"{CONVERSATIONS}/{conversation}/members"
            assert (await alice.api.delete(f"{members}/{bob.id}")).status_code == 204
            await b.receive_type("conversation_removed")
            await b.send({"type": "read", "seq": 3, "conversation_id": conversation})
            assert (await b.receive_type("error"))["code"] == "not_a_member"
            assert (await bob.api.put(f"{CONVERSATIONS}/{conversation}/read", json={"seq": 3})).status_code == 404
            assert await positions(alice, conversation) == {alice.id: 0}
            await say(a, "four")
            assert (await alice.api.post(members, json={"user_ids": [bob.id]})).status_code == 200
            assert await unread(bob, conversation) == (4, 0)
            await say(a, "five")
            assert await unread(bob, conversation) == (4, 1)


async def test_a_database_that_is_locked_delays_nobody_else_and_the_reader_is_told(
    start_server: Callable[..., Server], database: str
) -> None:
    server = start_server(PULSE_STORE_TIMEOUT="2")
    with trio.fail_after(60):
        (alice, bob), conversation = await make(server, "alice", "bob")
        async with connect_in_order(conversation, alice, bob) as (a, b):
            await say(a, "one", "two")
            with psycopg.connect(database) as rival:
                rival.execute("SELECT FROM conversation_users WHERE user_id = %s FOR UPDATE", (bob.id,))
                await b.send({"type": "read", "seq": 2})
                await a.send({"type": "read", "seq": 2})
                assert (await a.receive_type("read"))["positions"] == [{"user_id": alice.id, "seq": 2}]
                await b.send({"type": "ping"})
                await b.receive_type("pong")
                error = await b.receive_type("error")
                assert (error["code"], error["field"]) == ("not_stored", "seq")
            await b.send({"type": "read", "seq": 2})
            assert (await b.receive_type("read"))["positions"] == [{"user_id": bob.id, "seq": 2}]


async def test_what_was_read_before_an_orderly_stop_is_kept(start_server: Callable[..., Server]) -> None:
    server = start_server()
    with trio.fail_after(60):
        (alice,), conversation = await make(server, "alice")
        async with alice.connect(conversation) as chat:
            await say(chat, "one")
            await chat.send({"type": "read", "seq": 1})
            await chat.send({"type": "ping"})
            await chat.receive_type("pong")
            await trio.to_thread.run_sync(server.stop)
        again = start_server()
        alice.api.base_url = again.base_url
        assert await unread(alice, conversation) == (1, 0)
