"""Access over the WebSocket, and TLS: the rows of docs/security.md that have no other place.

Routes and frames come from the code itself, so that a new one cannot be forgotten: it fails here until it is listed.
"""

import typing
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import trio
import trio_websocket
from psycopg.conninfo import make_conninfo

from pulse_trio.app import create_app
from pulse_trio.protocol import ClientFrame
from pulse_trio.settings import Settings
from pulse_trio.store.memory import MemoryStore
from tests.support.client import Api, Chat, Person
from tests.support.cluster import Cluster
from tests.support.raw import CONTINUATION, Answer, frame, open_chat, open_raw, resident_bytes, upgrade_request
from tests.support.server import SECRET, Server

CONVERSATIONS = "/api/chat/conversations"
TICKET = "/api/chat/ws-ticket"
SESSION, CONVERSATION = "/api/chat/ws", "/api/chat/ws/<conversation_id>"

# Every frame of a client: what it says, whether it is about a conversation, and what an outsider is answered.
FRAMES: dict[str, tuple[dict[str, Any], bool, str]] = {
    "message": ({"content": "intruder"}, True, "error"),
    "edit": ({"content": "intruder", "message_id": "{message}"}, True, "error"),
    "delete": ({"message_id": "{message}"}, True, "error"),
    "typing": ({}, True, "error"),
    "read": ({"seq": 1}, True, "error"),
    "ping": ({}, False, "pong"),
    "auth": ({"token": "{token}"}, False, "error"),
    "resume": ({"revs": {"{conversation}": 0}}, False, "error"),
    "watch": ({"user_ids": ["{user}"]}, False, "users"),
}


def websocket_routes() -> set[str]:
    app = create_app(Settings.load(secret_key=SECRET), MemoryStore)
    return {rule.rule for rule in app.url_map.iter_rules() if rule.websocket}


async def handshake(server: Server, path: str, *headers: tuple[str, str]) -> Answer:
    async with open_raw(server.port) as client:
        return await client.request(upgrade_request(path, headers))


@asynccontextmanager
async def session(person: Person) -> AsyncIterator[Chat]:
    """All of a person's conversations on one connection, with its first frame read."""
    url = f"{person.base_url.replace('http', 'ws', 1)}{SESSION}?token={person.token}"
    async with trio_websocket.open_websocket_url(url) as connection:
        chat = Chat(connection, "session")
        assert (await chat.receive())["type"] == "session"
        yield chat


class Team:
    """A group of alice and bob with a message each, and those who are not in it (any more)."""

    def __init__(self, people: Sequence[Person], conversation: str, messages: dict[str, str]) -> None:
        self.alice, self.bob, self.removed, self.left, self.stranger = people
        self.conversation = conversation
        self.messages = messages

    @property
    def outsiders(self) -> tuple[Person, ...]:
        return self.removed, self.left, self.stranger


async def make_team(server: Server) -> Team:
    names = ("alice", "bob", "removed", "left", "stranger")
    people = [await Person.register(server.base_url, name) for name in names]
    alice, bob, removed, left, _ = people
    conversation = await alice.create_group(bob, removed, left)
    messages: dict[str, str] = {}
    for person in (alice, removed):
        async with person.connect(conversation) as chat:
            await chat.send({"type": "message", "content": f"of {person.username}"})
            messages[person.username] = (await chat.receive_type("message"))["message_id"]
    for person, path in ((alice, removed.id), (left, "me")):
        answer = await person.api.delete(f"{CONVERSATIONS}/{conversation}/members/{path}")
        assert answer.status_code == 204
    return Team(people, conversation, messages)


def filled(value: Any, **words: str) -> Any:
    """A value with its placeholders replaced, in names too."""
    if isinstance(value, dict):
        return {filled(name, **words): filled(part, **words) for name, part in value.items()}
    if isinstance(value, list):
        return [filled(part, **words) for part in value]
    return value.format(**words) if isinstance(value, str) else value


# --- Routes ---


async def test_every_websocket_route_lets_only_its_users_in(server: Server) -> None:
    assert websocket_routes() == {SESSION, CONVERSATION}, "say here who may open a new one"
    with trio.fail_after(60):
        team = await make_team(server)
        for route in (SESSION, CONVERSATION):
            path = route.replace("<conversation_id>", team.conversation)
            for query in ("", "?token=", "?token=nonsense", "?ticket=nonsense", f"?token={team.alice.token}x"):
                answer = await handshake(server, path + query)
                assert answer.status == 401, (path, query)
                assert answer.headers["www-authenticate"] == "Bearer"
            foreign = await handshake(server, f"{path}?token={team.alice.token}", ("Origin", "https://evil.example"))
            assert (foreign.status, foreign.json()["code"]) == (403, "origin_not_allowed")
            assert (await handshake(server, f"{path}?token={team.alice.token}")).status == 101
        for outsider in team.outsiders:
            answers = [
                await handshake(server, f"{SESSION}/{wanted}?token={outsider.token}")
                for wanted in (team.conversation, str(uuid4()), "no-id")
            ]
            assert {(answer.status, answer.body) for answer in answers} == {(403, answers[0].body)}


# --- Frames ---


def test_every_frame_is_tried_here() -> None:
    tags = {frame.__struct_config__.tag for frame in typing.get_args(ClientFrame)}
    assert tags == FRAMES.keys(), "say here what a new frame is about"


async def test_on_a_session_an_outsider_can_do_nothing_to_a_conversation(server: Server) -> None:
    with trio.fail_after(120):
        team = await make_team(server)
        before = await team.alice.history(team.conversation)
        async with team.bob.connect(team.conversation) as witness:
            assert (await witness.receive())["event"] == "joined"
            for outsider in team.outsiders:
                async with session(outsider) as chat:
                    await chat.send({"type": "ping"})  # it starts the session
                    assert await chat.receive() == {"type": "pong"}
                    for kind, (fields, is_about_one, answered) in FRAMES.items():
                        for message in (*team.messages.values(), str(uuid4())):
                            told = []
                            for wanted in (team.conversation, str(uuid4())):
                                words = {"message": message, "conversation": wanted, "token": team.alice.token}
                                words["user"] = team.alice.id
                                frame = {"type": kind, **filled(fields, **words)}
                                if is_about_one:
                                    frame["conversation_id"] = wanted
                                await chat.send(frame)
                                answer = await chat.receive()
                                if "conversation_id" in answer:
                                    assert answer.pop("conversation_id") == wanted
                                assert answer.get("users", []) == [], "nobody shares a conversation with an outsider"
                                told.append(answer)
                            assert told[0] == told[1], (kind, "it tells one that exists from one that does not")
                            assert told[0]["type"] == answered, kind
                    await chat.send({"type": "ping"})
                    assert await chat.receive() == {"type": "pong"}
            # Nobody in it noticed anything, and nothing was done.
            await witness.send({"type": "message", "content": "the next"})
            heard = await witness.receive()
            assert (heard["type"], heard["content"]) == ("message", "the next")
        after = await team.alice.history(team.conversation)
        assert after["messages"][1:] == before["messages"]


async def test_an_outsider_who_resumes_gets_nothing_of_a_conversation(server: Server) -> None:
    with trio.fail_after(60):
        team = await make_team(server)
        for outsider in team.outsiders:
            unknown = str(uuid4())
            async with session(outsider) as chat:
                await chat.send({"type": "resume", "revs": {team.conversation: 0, unknown: 0}})
                heard = [await chat.receive() for _ in range(2)]
                await chat.send({"type": "ping"})
                assert await chat.receive() == {"type": "pong"}
            assert {frame["type"] for frame in heard} == {"conversation_removed"}
            assert {frame["conversation_id"] for frame in heard} == {team.conversation, unknown}


async def test_a_message_is_reached_through_its_own_conversation_only(server: Server) -> None:
    """Also by its sender, who is in both, and over every way there is."""
    with trio.fail_after(60):
        team = await make_team(server)
        alice = team.alice
        own = await alice.create_group(name="Own")
        theirs = team.messages["alice"]
        errors = []
        for message in (theirs, str(uuid4())):
            for connect in (alice.connect(own), session(alice)):
                async with connect as chat:
                    for kind in ("edit", "delete"):
                        fields = filled(FRAMES[kind][0], message=message)
                        await chat.send({"type": kind, **fields, "conversation_id": own})
                        error = await chat.receive_type("error")
                        errors.append((error["code"], error["content"]))
            path = f"{CONVERSATIONS}/{own}/messages/{message}"
            for answer in (await alice.api.patch(path, json={"content": "x"}), await alice.api.delete(path)):
                assert (answer.status_code, answer.json()["code"]) == (404, "no_such_message")
        assert len(set(errors)) == 1
        assert errors[0][0] == "no_such_message"
        found = (await alice.history(team.conversation))["messages"]
        assert [(m["content"], m["is_edited"]) for m in found] == [("of removed", False), ("of alice", False)]


async def test_a_connection_to_one_conversation_reaches_no_other(server: Server) -> None:
    """Although its user is in both."""
    with trio.fail_after(60):
        team = await make_team(server)
        own = await team.alice.create_group(name="Own")
        before = await team.alice.history(team.conversation)
        async with team.alice.connect(own) as chat:
            assert (await chat.receive())["event"] == "joined"
            for kind, (fields, is_about_one, _) in FRAMES.items():
                if is_about_one:
                    fields = filled(fields, message=team.messages["alice"])
                    await chat.send({"type": kind, **fields, "conversation_id": team.conversation})
                    error = await chat.receive()
                    assert (error["type"], error["code"]) == ("error", "invalid_frame"), kind
        assert await team.alice.history(team.conversation) == before


async def test_what_a_request_says_of_the_servers_fields_is_not_believed(server: Server) -> None:
    spoofed = {
        "id": str(uuid4()),
        "sender_id": str(uuid4()),
        "created_at": "1999-01-01T00:00:00Z",
        "updated_at": "1999-01-01T00:00:00Z",
        "is_edited": False,
        "is_deleted": True,
        "seq": 1_000,
        "rev": 1_000,
        "total_messages": 1_000,
        "epoch": "mine",
    }
    with trio.fail_after(60):
        team = await make_team(server)
        alice, bob = team.alice, team.bob
        body = {**spoofed, "owner_id": bob.id, "users": [], "is_group": True, "participant_ids": [bob.id]}
        made = (await alice.api.post(CONVERSATIONS, json=body)).json()
        assert made["id"] != spoofed["id"]
        assert made["owner_id"] == alice.id
        assert (made["total_messages"], made["last_seq"], made["last_rev"]) == (0, 0, 0)
        assert made["epoch"] != "mine"
        assert {user["id"] for user in made["users"]} == {alice.id, bob.id}
        assert not made["created_at"].startswith("1999")

        path = f"{CONVERSATIONS}/{team.conversation}/messages/{team.messages['alice']}"
        changed = (await alice.api.patch(path, json={**spoofed, "content": "changed"})).json()
        assert (changed["id"], changed["sender_id"]) == (team.messages["alice"], alice.id)
        assert (changed["seq"], changed["is_edited"], changed["is_deleted"]) == (1, True, False)
        assert changed["rev"] < 1_000
        assert not changed["updated_at"].startswith("1999")

        registered = await Api(server.base_url).post(
            "/api/auth/register",
            json={
                **spoofed,
                "username": "mallory",
                "password": "a long password",
                "password_hash": "x",
                "subject": "y",
            },
        )
        assert registered.status_code == 201
        assert registered.json()["id"] != spoofed["id"]


# --- Pieces without content ---


async def test_a_hundred_thousand_empty_pieces_cost_no_memory_and_hold_nobody_up(
    start_server: Callable[..., Server],
) -> None:
    server = start_server(PULSE_PIECES_PER_SECOND="0")  # else it is closed long before
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        bob = await Person.register(server.base_url, "bob")
        conversation = await alice.create_group(bob)
        async with bob.connect(conversation) as other, open_chat(alice, conversation) as client:
            await other.receive_type("system")
            before = resident_bytes(server.process.pid)
            await client.send(frame('{"type": "message", ', fin=False))
            for _ in range(100):
                await client.send(frame(b"", CONTINUATION, fin=False) * 1_000)
                await other.send({"type": "ping"})
                await other.receive_type("pong")
            await client.send(frame('"content": "whole"}', CONTINUATION))
            assert (await client.read_json_type("message"))["content"] == "whole"
            assert resident_bytes(server.process.pid) - before < 5 * 2**20


# --- The database's encoding ---


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_a_database_that_cannot_hold_every_text_is_refused(cluster: Cluster, encoding: str) -> None:
    name = f"test_{encoding.lower()}"
    with psycopg.connect(cluster.conninfo, autocommit=True) as connection:
        connection.execute(
            f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE_PROVIDER libc LOCALE 'C' TEMPLATE template0"
        )
    database = make_conninfo(cluster.conninfo, dbname=name)
    reason = f"the database has the encoding {encoding}; create one with ENCODING 'UTF8'"
    try:
        server = Server({"DATABASE_URL": database, "PULSE_LOG_FORMAT": "console"})
        assert server.wait() == 1
        assert server.output == f"pulse-trio: {reason}\n"
    finally:
        cluster.drop_database(database)


# --- Numbers ---


@pytest.mark.parametrize("rev", [-1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**100, 1.5, "1", None, True])
async def test_a_session_resumes_at_a_number_that_can_be_one_only(server: Server, rev: object) -> None:
    with trio.fail_after(60):
        alice = await Person.register(server.base_url, "alice")
        conversation = await alice.create_group()
        async with session(alice) as chat:
            await chat.send({"type": "resume", "revs": {conversation: rev}})
            error = await chat.receive()
            assert (error["type"], error["code"] in {"invalid_frame", "invalid_json", "cannot_resume"}) == (
                "error",
                True,
            ), error
            # And live it goes on.
            await chat.send({"type": "message", "conversation_id": conversation, "content": "still here"})
            assert (await chat.receive_type("message"))["content"] == "still here"
