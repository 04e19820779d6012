"""A client that missed 100,000 messages resumes in bounded memory and delays nobody."""

import sys
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psycopg
import pytest
import trio

from tests.support.client import Person
from tests.support.raw import RawClient, frame, open_raw, resident_bytes, upgrade_request
from tests.support.server import Server

MISSED = 100_000
TEXT = "word " * 40
GROWTH = 16 << 20  # bytes that the server may need for it: a few outboxes. The frames of the suffix have 50 MB
LONG = 240  # seconds after which a test has failed; on an idle machine it takes some ten

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads memory in /proc")


@dataclass
class Group:
    """Two people and their conversation with a long history."""

    alice: Person
    bob: Person
    conversation: str
    last_rev: int = MISSED
    most_memory: int = 0
    sent: list[str] = field(default_factory=list)


def insert_history(database: str, group: Group) -> None:
    """Alice's messages, put into the database in one go: the n-th is `n word word …`."""
    with psycopg.connect(database) as connection:
        connection.execute(
            "INSERT INTO messages (id, conversation_id, sender_id, content, created_at, updated_at, seq, rev)"
            " SELECT gen_random_uuid(), %s, %s, n || ' ' || %s, now(), now(), n, n FROM generate_series(1, %s) n",
            (group.conversation, group.alice.id, TEXT, MISSED),
        )
        connection.execute(
            "UPDATE conversations SET last_seq = %s, last_rev = %s, message_rev = %s WHERE id = %s",
            (MISSED, MISSED, MISSED, group.conversation),
        )


async def a_group(server: Server, database: str) -> Group:
    alice, bob = [await Person.register(server.base_url, name) for name in ("alice", "bob")]
    group = Group(alice, bob, await alice.create_group(bob))
    insert_history(database, group)
    return group


@asynccontextmanager
async def connected(server: Server, person: Person, group: Group, *, of: str, after: int) -> AsyncIterator[RawClient]:
    """A connection of the conversation's own, or a session, that resumes there."""
    async with open_raw(server.port) as client:
        token = f"token={person.token}"
        if of == "conversation":
            path = f"/api/chat/ws/{group.conversation}?{token}&after={after}"
            assert (await client.request(upgrade_request(path))).status == 101
        else:
            assert (await client.request(upgrade_request(f"/api/chat/ws?{token}"))).status == 101
            assert (await client.read_json())["type"] == "session"
            await client.send(frame({"type": "resume", "revs": {group.conversation: after}}))
        yield client


async def pour(server: Server, group: Group, enough: trio.Event) -> None:
    """Alice writes, one message after the other, until it is enough."""
    async with connected(server, group.alice, group, of="conversation", after=group.last_rev) as chat:
        while not enough.is_set():
            client_id = str(uuid.uuid4())
            await chat.send(frame({"type": "message", "content": f"live {client_id}", "client_id": client_id}))
            while (told := await chat.read_json_type("message", "error")).get("client_id") != client_id:
                pass
            assert told["type"] == "message", told
            group.last_rev += 1
            assert told["rev"] == group.last_rev
            group.sent.append(client_id)


async def read_all(chat: RawClient, group: Group, server: Server, after: int, until: trio.Event | None) -> int:
    """Reads the suffix, each message once and in its place, and goes on until 20 were live; the rev of the last."""
    rev, live = after, 0
    while live < 20:
        told = await chat.read_json_type("message")
        rev += 1
        assert (told["rev"], told["seq"]) == (rev, rev)
        if rev <= MISSED:
            assert told["content"].startswith(f"{rev} word")
        else:
            assert told["content"].startswith("live ")
            live += rev >= group.last_rev
        if rev % 2_000 == 0:
            group.most_memory = max(group.most_memory, resident_bytes(server.process.pid))
    if until is not None:
        until.set()
    return rev


@pytest.mark.parametrize("of", ["conversation", "session"])
async def test_a_long_suffix_is_streamed_while_messages_pour_in(
    start_server: Callable[..., Server], database: str, of: str
) -> None:
    with trio.fail_after(LONG):
        server = start_server()
        group = await a_group(server, database)
        after = 3
        enough = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour, server, group, enough)
            while len(group.sent) < 50:  # what is made once is made  # noqa: ASYNC110
                await trio.sleep(0.01)
            memory = resident_bytes(server.process.pid)
            before = len(group.sent)
            async with connected(server, group.bob, group, of=of, after=after) as chat:
                await read_all(chat, group, server, after, enough)
                during = len(group.sent) - before
                assert group.most_memory - memory < GROWTH, "the suffix is not held"
                assert during > 50, "others were served meanwhile"
        assert server.stop() == 0
        assert "Traceback" not in server.output


@pytest.mark.parametrize("of", ["conversation", "session"])
async def test_a_long_resume_goes_on_after_a_restart(
    start_server: Callable[..., Server], database: str, of: str
) -> None:
    """The service is killed in the middle; the client goes on with what comes after the last that it has."""
    with trio.fail_after(LONG):
        server = start_server()
        group = await a_group(server, database)
        rev = 0
        async with connected(server, group.bob, group, of=of, after=0) as chat:
            while rev < MISSED // 2:
                rev += 1
                assert (await chat.read_json_type("message"))["rev"] == rev
            server.process.kill()
        await trio.to_thread.run_sync(server.wait)
        server = await trio.to_thread.run_sync(start_server)
        enough = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pour, server, group, enough)
            async with connected(server, group.bob, group, of=of, after=rev) as chat:
                await read_all(chat, group, server, rev, enough)


async def test_a_client_that_reads_no_more_of_a_long_suffix_costs_no_memory(
    start_server: Callable[..., Server], database: str
) -> None:
    with trio.fail_after(LONG):
        server = start_server(PULSE_WRITE_TIMEOUT="2")
        group = await a_group(server, database)
        async with connected(server, group.alice, group, of="conversation", after=MISSED) as chat:
            await chat.read_json()
            memory = resident_bytes(server.process.pid)
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(read_nothing, server, group)
                while nursery.child_tasks:
                    group.most_memory = max(group.most_memory, resident_bytes(server.process.pid))
                    await trio.sleep(0.05)
            assert group.most_memory - memory < GROWTH
            await chat.send(frame({"type": "message", "content": "still here"}))
            assert (await chat.read_json_type("message"))["seq"] == MISSED + 1


async def read_nothing(server: Server, group: Group) -> None:
    """Asks for all of it, and waits to be cut off."""
    async with connected(server, group.bob, group, of="conversation", after=0) as chat:
        await chat.read_json()
        while group.bob.id in await active_users(group):  # noqa: ASYNC110  # no event in another process
            await trio.sleep(0.2)


async def active_users(group: Group) -> list[str]:
    path = f"/api/chat/conversations/{group.conversation}/active"
    found: list[str] = (await group.alice.api.get(path)).json()["active_users"]
    return found
