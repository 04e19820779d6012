"""A person-sized walk through the product, and the specification's own client programs, on the real process."""

from collections.abc import Callable

import trio

from tests.support.client import Person
from tests.support.server import Server


async def test_two_people_chat_and_read_it_after_a_restart(start_server: Callable[..., Server]) -> None:
    first = start_server()
    with trio.fail_after(60):
        alice = await Person.register(first.base_url, "alice")
        bob = await Person.register(first.base_url, "bob")
        found = await alice.api.get("/api/users", params={"query": "BO"})
        assert [user["id"] for user in found.json()["users"]] == [bob.id]
        conversation = await alice.create_group(bob)

        async with alice.connect(conversation) as a:
            joined = await a.receive()
            assert joined["event"] == "joined"
            assert joined["active_users"] == [alice.id]
            async with bob.connect(conversation) as b:
                assert (await a.receive())["content"] == "User bob joined the conversation"
                assert (await b.receive())["active_users"] == [alice.id, bob.id]
                await a.send({"type": "message", "content": "Hello, Bob!", "client_id": "a1"})
                for chat in (a, b):
                    message = await chat.receive()
                    assert message["content"] == "Hello, Bob!"
                    assert (message["seq"], message["rev"], message["client_id"]) == (1, 1, "a1")
                await b.send({"type": "typing"})
                assert (await a.receive())["type"] == "typing"
                await b.send({"type": "message", "content": "Hello, Alice! \N{WAVING HAND SIGN}"})
                assert (await a.receive())["sender_username"] == "bob"
            left = await a.receive()
            assert left["event"] == "left"
            assert left["active_users"] == [alice.id]
        before = await alice.history(conversation)
        assert [m["content"] for m in before["messages"]] == ["Hello, Alice! \N{WAVING HAND SIGN}", "Hello, Bob!"]

    assert first.stop() == 0
    second = start_server()
    with trio.fail_after(60):
        alice_again = Person(second.base_url, "alice", alice.id, alice.token)
        assert await alice_again.history(conversation) == before
