"""A message that the database will not take, among others that it does: it alone is refused, and the room lives."""

from collections.abc import Callable

import psycopg
import trio

from tests.support.client import Person
from tests.support.raw import connect_in_order
from tests.support.server import Server

POISON = "poison"


async def test_poison_among_others(database: str, start_server: Callable[..., Server]) -> None:
    with psycopg.connect(database, autocommit=True) as connection:  # what no check of the service knows of
        connection.execute("ALTER TABLE messages ADD CONSTRAINT edible CHECK (content <> 'poison')")
    server = start_server()
    contents = [POISON if number % 7 == 3 else f"message {number}" for number in range(50)]
    good = [content for content in contents if content != POISON]
    with trio.fail_after(60):
        alice, bob = [await Person.register(server.base_url, name) for name in ("alice", "bob")]
        conversation = await alice.create_group(bob)
        other = await alice.create_group(bob, name="Other")
        async with connect_in_order(conversation, alice, bob) as (a, b), bob.connect(other) as elsewhere:
            await elsewhere.receive_type("system")
            for number, content in enumerate(contents):  # all at once: batches with poison in them
                await a.send({"type": "message", "content": content, "client_id": f"m{number}"})
                await elsewhere.send({"type": "message", "content": f"elsewhere {number}"})
            answers = [await a.receive_type("message", "error") for _ in contents]
            refused = [frame for frame in answers if frame["type"] == "error"]
            assert {frame["code"] for frame in refused} == {"not_stored"}
            expected = [f"m{number}" for number, content in enumerate(contents) if content == POISON]
            assert [frame["client_id"] for frame in refused] == expected
            for frames in (
                [frame for frame in answers if frame["type"] == "message"],
                [await b.receive_type("message", "error") for _ in good],
            ):
                assert [(f["seq"], f["content"]) for f in frames] == list(enumerate(good, start=1))
            told = [await elsewhere.receive_type("message", "error") for _ in contents]
            assert [frame["content"] for frame in told] == [f"elsewhere {number}" for number in range(len(contents))]
            # An edit into poison is refused as well, and changes nothing.
            first = next(frame for frame in answers if frame["type"] == "message")
            await a.send({"type": "edit", "message_id": first["message_id"], "content": POISON, "client_id": "e"})
            frame = await a.receive_type("message_updated", "error")
            assert (frame["type"], frame["code"], frame["client_id"]) == ("error", "not_stored", "e")
            await a.send({"type": "message", "content": "after"})
            assert (await b.receive_type("message", "message_updated"))["seq"] == len(good) + 1
        found = await alice.history(conversation, limit=100)
        assert [message["content"] for message in reversed(found["messages"])] == [*good, "after"]
        assert (await alice.history(other))["total"] == len(contents)
    assert server.stop() == 0
    assert "Traceback" not in server.output
    assert "message 0" not in server.output
