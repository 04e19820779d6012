"""The session connection on the real process: all of a user's conversations on one WebSocket."""

import uuid

import psycopg
import trio

from tests.support.client import Chat, Person
from tests.support.raw import open_raw, upgrade_request
from tests.support.server import Server


async def say(chat: Chat, conversation_id: str, content: str) -> dict[str, object]:
    """Sends a message over a session; returns the frame that acknowledges it."""
    client_id = str(uuid.uuid4())
    await chat.send({"type": "message", "conversation_id": conversation_id, "content": content, "client_id": client_id})
    while True:
        frame = await chat.receive_type("message")
        if frame.get("client_id") == client_id:
            return frame


async def test_a_life_over_sessions(server: Server) -> None:
    alice = await Person.register(server.base_url, "alice")
    bob = await Person.register(server.base_url, "bob")
    async with alice.session() as a, bob.session() as b:
        team = await alice.create_group(bob)
        for chat in (a, b):
            assert (await chat.receive())["type"] == "conversation_added"
        sent = await say(a, team, "hello")
        assert (sent["seq"], sent["conversation_id"]) == (1, team)
        assert (await b.receive_type("message"))["content"] == "hello"
        await b.send({"type": "typing", "conversation_id": team})
        assert (await a.receive_type("typing"))["sender_username"] == "bob"

        message_id = sent["message_id"]
        await a.send({"type": "edit", "conversation_id": team, "message_id": message_id, "content": "hullo"})
        assert (await b.receive_type("message_updated"))["content"] == "hullo"
        await alice.api.patch(f"/api/chat/conversations/{team}", json={"name": "Crew"})
        assert (await b.receive_type("system"))["event"] == "renamed"

        removed = await alice.api.delete(f"/api/chat/conversations/{team}/members/{bob.id}")
        assert removed.status_code == 204
        await say(a, team, "without bob")
        gone = await b.receive_type("conversation_removed", "message")
        assert gone == {"type": "conversation_removed", "conversation_id": team}
        await b.send({"type": "message", "conversation_id": team, "content": "am I here?", "client_id": "c"})
        refused = await b.receive()
        assert (refused["type"], refused["code"], refused["client_id"]) == ("error", "not_a_member", "c")
        assert refused["conversation_id"] == team

        added = await alice.api.post(f"/api/chat/conversations/{team}/members", json={"user_ids": [bob.id]})
        assert added.status_code == 200
        assert (await b.receive())["type"] == "conversation_added"
        await say(a, team, "welcome back")
        assert (await b.receive_type("message"))["content"] == "welcome back"


async def test_a_session_and_a_conversations_own_connection_see_the_same(server: Server) -> None:
    alice = await Person.register(server.base_url, "alice")
    bob = await Person.register(server.base_url, "bob")
    team = await alice.create_group(bob)
    async with alice.connect(team) as a, bob.session() as b:
        joined = [await a.receive_type("system") for _ in range(2)][-1]
        assert set(joined["active_users"]) == {alice.id, bob.id}
        await a.send({"type": "message", "content": "one"})
        await say(b, team, "two")
        contents = [(await a.receive_type("message"))["content"] for _ in range(2)]
        assert sorted(contents) == ["one", "two"]


async def test_resume_of_many_conversations(server: Server) -> None:
    alice = await Person.register(server.base_url, "alice")
    bob = await Person.register(server.base_url, "bob")
    keys = [await alice.create_group(bob, name=f"{n}") for n in range(20)]
    async with alice.session() as a:
        for key in keys:
            for number in range(3):
                await say(a, key, f"{number}")
    revs = {key: place % 4 for place, key in enumerate(keys)}
    async with bob.session(revs) as b, alice.session() as a:
        await say(a, keys[0], "live")
        due = sum(3 - rev for rev in revs.values()) + 1
        frames = [await b.receive_type("message") for _ in range(due)]
        for key, rev in revs.items():
            seen = [frame["rev"] for frame in frames if frame["conversation_id"] == key]
            assert seen == list(range(rev + 1, 5 if key == keys[0] else 4))


async def test_a_user_of_a_thousand_conversations(server: Server, database: str) -> None:
    """Connecting opens nothing; a resume of all of them replays what is missing and no more."""
    alice = await Person.register(server.base_url, "alice")
    bob = await Person.register(server.base_url, "bob")
    keys = [str(uuid.uuid4()) for _ in range(1_000)]
    with psycopg.connect(database) as connection:
        connection.execute(
            "INSERT INTO conversations (id, name, is_group, owner_id, created_at, updated_at)"
            " SELECT unnest(%s::uuid[]), 'many', true, %s, now(), now()",
            (keys, alice.id),
        )
        for person in (alice, bob):
            connection.execute(
                "INSERT INTO conversation_users (conversation_id, user_id, joined_at)"
                " SELECT unnest(%s::uuid[]), %s, now()",
                (keys, person.id),
            )
    async with alice.session() as a:
        await say(a, keys[3], "three")
        await say(a, keys[999], "last")
        async with bob.session(dict.fromkeys(keys, 0)) as b:
            got = [await b.receive_type("message", "error") for _ in range(2)]
            assert sorted(frame["content"] for frame in got) == ["last", "three"]
            await say(a, keys[500], "live")
            assert (await b.receive_type("message", "error"))["content"] == "live"


async def test_what_a_session_may_not_send(server: Server) -> None:
    alice = await Person.register(server.base_url, "alice")
    team = await alice.create_group(await Person.register(server.base_url, "bob"))
    async with alice.session() as a:
        for frame in (
            {"type": "message", "content": "where?", "client_id": "c"},
            {"type": "typing"},
            {"type": "delete", "message_id": team},
        ):
            await a.send(frame)
            refused = await a.receive()
            assert (refused["code"], refused["field"]) == ("invalid_frame", "conversation_id")
            assert refused.get("client_id") == frame.get("client_id")
        await a.send({"type": "resume", "revs": {team: 0}})
        assert (await a.receive())["code"] == "cannot_resume"
        await a.send({"type": "message", "content": "", "client_id": "e", "conversation_id": team})
        refused = await a.receive()
        assert (refused["code"], refused["client_id"], refused["conversation_id"]) == ("empty_content", "e", team)
        await a.send({"type": "ping"})
        assert (await a.receive())["type"] == "pong"
    async with alice.connect(team) as own:
        await own.receive_type("system")
        await own.send({"type": "resume", "revs": {}})
        assert (await own.receive())["code"] == "invalid_frame"
        await own.send({"type": "message", "content": "x", "conversation_id": str(uuid.uuid4())})
        refused = await own.receive()
        assert (refused["code"], refused["field"]) == ("invalid_frame", "conversation_id")
        await own.send({"type": "message", "content": "here", "conversation_id": team})
        assert (await own.receive_type("message"))["content"] == "here"


async def test_a_session_that_says_nothing_hears_after_a_moment(server: Server) -> None:
    alice = await Person.register(server.base_url, "alice")
    bob = await Person.register(server.base_url, "bob")
    team = await alice.create_group(bob)
    async with bob._open("/api/chat/ws", {}) as b, alice.session() as a:
        assert (await b.receive())["type"] == "session"
        await say(a, team, "hello")
        assert (await b.receive_type("message"))["content"] == "hello"


async def test_a_session_without_a_token_is_refused(server: Server) -> None:
    with trio.fail_after(15):
        async with open_raw(server.port) as client:
            refused = await client.request(upgrade_request("/api/chat/ws"))
    assert refused.status == 401
    assert refused.json()["code"] == "not_authenticated"
