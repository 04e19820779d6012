"""Edits, deletions and resuming, on the real process: whoever comes back ends with what the others have."""

from collections.abc import Callable

import psycopg
import trio

from tests.support.client import Chat, Person
from tests.support.server import Server


async def two_in_a_group(server: Server) -> tuple[Person, Person, str]:
    alice = await Person.register(server.base_url, "alice")
    bob = await Person.register(server.base_url, "bob")
    return alice, bob, await alice.create_group(bob)


async def say(chat: Chat, content: str) -> dict[str, object]:
    """Sends a message; returns the frame that acknowledges it."""
    await chat.send({"type": "message", "content": content})
    while True:
        frame = await chat.receive_type("message")
        if frame["content"] == content:
            return frame


async def test_an_edit_and_a_deletion_reach_everybody_in_order(server: Server) -> None:
    alice, bob, conversation = await two_in_a_group(server)
    async with alice.connect(conversation) as a, bob.connect(conversation) as b:
        first = await say(a, "fisrt")
        second = await say(a, "second")
        await a.send({"type": "edit", "message_id": first["message_id"], "content": "first"})
        await a.send({"type": "delete", "message_id": second["message_id"]})
        for chat in (a, b):
            updated = await chat.receive_type("message_updated")
            assert (updated["content"], updated["is_edited"], updated["seq"], updated["rev"]) == ("first", True, 1, 3)
            deleted = await chat.receive_type("message_deleted")
            assert (deleted["message_id"], deleted["seq"], deleted["rev"]) == (second["message_id"], 2, 4)
            assert "content" not in deleted
    history = await bob.history(conversation)
    assert [(m["seq"], m["content"], m["is_edited"], m["is_deleted"]) for m in history["messages"]] == [
        (2, "", False, True),
        (1, "first", True, False),
    ]


async def test_who_may_edit_and_delete(server: Server) -> None:
    alice, bob, conversation = await two_in_a_group(server)
    stranger = await Person.register(server.base_url, "stranger")
    path = f"/api/chat/conversations/{conversation}/messages"
    async with bob.connect(conversation) as b:
        message = await say(b, "bob's")
        await b.send({"type": "edit", "message_id": conversation, "content": "x", "client_id": "e1"})
        refused = await b.receive_type("error")
        assert (refused["code"], refused["client_id"]) == ("no_such_message", "e1")
    url = f"{path}/{message['message_id']}"
    assert (await alice.api.patch(url, json={"content": "alice's"})).status_code == 403
    assert (await stranger.api.patch(url, json={"content": "mine"})).json()["code"] == "not_found"
    assert (await bob.api.patch(url, json={"content": "  "})).json()["code"] == "empty_content"
    edited = await bob.api.patch(url, json={"content": "edited"})
    assert (edited.status_code, edited.json()["content"], edited.json()["rev"]) == (200, "edited", 2)
    assert (await alice.api.delete(url)).status_code == 204, "alice owns the group"
    assert (await bob.api.delete(url)).json()["code"] == "no_such_message"
    assert (await bob.api.patch(url, json={"content": "back"})).json()["code"] == "no_such_message"


async def test_resume_gives_exactly_what_was_missed_then_live(start_server: Callable[..., Server]) -> None:
    server = start_server()
    alice, bob, conversation = await two_in_a_group(server)
    async with alice.connect(conversation) as a:
        async with bob.connect(conversation) as b:
            await b.receive_type("system")  # he is in the room: the handshake is answered before
            seen = [await say(a, f"seen {n}") for n in range(3)]
            assert [(await b.receive_type("message"))["rev"] for _ in seen] == [1, 2, 3]
        missed = [await say(a, f"missed {n}") for n in range(300)]
        await a.send({"type": "edit", "message_id": seen[0]["message_id"], "content": "seen, edited"})
        await a.send({"type": "delete", "message_id": missed[0]["message_id"]})
        assert (await a.receive_type("message_deleted"))["rev"] == 305
        async with bob.connect(conversation, after=3) as b:
            joined = await b.receive()
            assert (joined["event"], joined["last_rev"], joined["last_seq"]) == ("joined", 305, 303)
            replayed = [await b.receive() for _ in range(301)]
            assert [frame["rev"] for frame in replayed] == [*range(5, 306)]
            assert [frame["type"] for frame in replayed] == ["message"] * 299 + ["message_updated", "message_deleted"]
            await say(a, "live")
            live = await b.receive()
            assert (live["content"], live["rev"]) == ("live", 306)
    epoch = joined["epoch"]
    assert server.stop() == 0
    again = start_server()
    bob_again = Person(again.base_url, "bob", bob.id, bob.token)
    async with bob_again.connect(conversation, after=305, epoch=epoch) as b:
        assert (await b.receive())["last_rev"] == 306
        assert (await b.receive())["content"] == "live"


async def test_resume_while_messages_pour_in_has_no_gap_and_no_repeat(server: Server) -> None:
    alice, bob, conversation = await two_in_a_group(server)
    total = 400
    async with alice.connect(conversation) as a, trio.open_nursery() as nursery:

        async def pour() -> None:
            for number in range(total):
                await a.send({"type": "message", "content": str(number)})

        async def drain() -> None:
            while (await a.receive_type("message"))["rev"] < total:
                pass

        nursery.start_soon(pour)
        nursery.start_soon(drain)
        cursor = 0
        while cursor < total:  # hangs up and resumes again and again
            async with bob.connect(conversation, after=cursor) as b:
                for _ in range(37):
                    frame = await b.receive_type("message")
                    assert frame["rev"] == cursor + 1
                    assert frame["content"] == str(cursor)
                    cursor = frame["rev"]
                    if cursor == total:
                        break


async def test_a_point_that_cannot_be_resumed_at_is_refused(start_server: Callable[..., Server], database: str) -> None:
    server = start_server()
    alice, _bob, conversation = await two_in_a_group(server)
    async with alice.connect(conversation) as a:
        epoch = (await a.receive())["epoch"]
        await say(a, "one")
    async with alice.connect(conversation, after=2) as a:
        assert (await a.receive())["code"] == "cannot_resume"
        assert await a.wait_closed() == 4409
    async with alice.connect(conversation, after=1, epoch=f"not {epoch}") as a:
        assert (await a.receive())["code"] == "cannot_resume"
        assert await a.wait_closed() == 4409
    for bad in ("-1", "x", "1.5", "9" * 19, ""):
        refused = await alice.api.get(f"/api/chat/ws/{conversation}?token={alice.token}&after={bad}", headers=HANDSHAKE)
        assert (refused.status_code, refused.json()["field"]) == (422, "after"), bad

    # The database is elsewhere now, as after a restored backup: what clients know may be more than it does.
    assert server.stop() == 0
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE history SET server = 'another'")
    restored = start_server()
    alice = Person(restored.base_url, "alice", alice.id, alice.token)
    async with alice.connect(conversation, after=1, epoch=epoch) as a:
        assert (await a.receive())["code"] == "cannot_resume"
        assert await a.wait_closed() == 4409
    async with alice.connect(conversation, after=0) as a:
        assert (await a.receive())["epoch"] != epoch


HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
