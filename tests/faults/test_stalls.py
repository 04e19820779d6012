"""The database hangs, refuses or lets nobody in: senders are told in time, others notice nothing, and all heals."""

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import psycopg
import pytest
import trio
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tests.support.client import Chat, Person
from tests.support.cluster import Cluster
from tests.support.proxy import open_proxy
from tests.support.server import Server

Start = Callable[..., Server]
IMPATIENT = {"PULSE_STORE_TIMEOUT": "2", "PULSE_STATEMENT_TIMEOUT": "1"}


@asynccontextmanager
async def chatting(server: Server) -> AsyncIterator[tuple[Person, str, Chat]]:
    """Somebody in a conversation, with one message that is stored."""
    alice = await Person.register(server.base_url, "alice")
    conversation = await alice.create_group()
    async with alice.connect(conversation) as chat:
        await chat.receive_type("system")
        await say(chat, "before", 1)
        yield alice, conversation, chat


async def say(chat: Chat, content: str, seq: int) -> None:
    """A message is stored in its place."""
    await chat.send({"type": "message", "content": content, "client_id": content})
    frame = await chat.receive_type("message", "error")
    assert (frame["type"], frame.get("content"), frame.get("seq")) == ("message", content, seq), frame


async def is_refused(alice: Person, chat: Chat) -> None:
    """With a database that is of no use: the connection lives, a message is refused, and so is REST."""
    await chat.send({"type": "message", "content": "during", "client_id": "during"})
    await chat.send({"type": "ping"})
    assert (await chat.receive(1.5))["type"] == "pong", "before the message is answered"
    told = await chat.receive(10)
    assert (told["type"], told["code"], told["client_id"]) == ("error", "not_stored", "during")
    answer = await alice.api.get("/api/chat/conversations")
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")


async def heals(alice: Person, conversation: str, chat: Chat) -> None:
    """The same connection goes on; the message that was refused is there once when it is sent again."""
    while True:
        await chat.send({"type": "message", "content": "during", "client_id": "during"})
        # Of a commit that was in doubt its frame may come before the answer to this.
        frame = await chat.receive_type("message", "error")
        if frame["type"] == "message":
            assert (frame["content"], frame["seq"]) == ("during", 2)
            break
        assert frame["code"] == "not_stored"
    await chat.send({"type": "message", "content": "after", "client_id": "after"})
    while (frame := await chat.receive_type("message"))["client_id"] != "after":
        assert (frame["client_id"], frame["seq"]) == ("during", 2)
    assert frame["seq"] == 3
    history = await alice.history(conversation)
    assert [(m["seq"], m["content"]) for m in history["messages"]] == [(3, "after"), (2, "during"), (1, "before")]


def processes(cluster: Cluster) -> list[int]:
    """PostgreSQL's main process and its children."""
    pid = cluster.server.pid
    assert pid is not None
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


@contextmanager
def frozen(cluster: Cluster) -> Iterator[None]:
    """None of its processes runs."""
    stopped: list[int] = []
    try:
        for pid in processes(cluster)[:1]:  # first: from then on there are no new ones
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
        for pid in processes(cluster)[1:]:
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
        yield
    finally:
        for pid in reversed(stopped):
            os.kill(pid, signal.SIGCONT)


@contextmanager
def locked(conninfo: str) -> Iterator[None]:
    """Another session holds a lock on the messages."""
    with psycopg.connect(conninfo) as connection:
        connection.execute("LOCK TABLE messages, conversations IN ACCESS EXCLUSIVE MODE")
        yield


@contextmanager
def read_only(conninfo: str) -> Iterator[None]:
    """A database that takes no changes, as it is found by sessions that begin now."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        name = sql.Identifier(str(conninfo_to_dict(conninfo)["dbname"]))
        connection.execute(sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = on").format(name))
        terminate_others(connection)
        yield
        # Sessions that began meanwhile keep what they found.
        connection.execute(sql.SQL("ALTER DATABASE {} RESET default_transaction_read_only").format(name))


def terminate_others(connection: psycopg.Connection) -> None:
    """Ends every other session of the database."""
    connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid()"
    )


def take_all(held: ExitStack, conninfo: str, database: str) -> None:
    """Opens every session that the server allows, those too that the database's own sessions leave when they end."""
    name = conninfo_to_dict(database)["dbname"]
    watch = held.enter_context(psycopg.connect(conninfo, autocommit=True))
    while True:
        others = watch.execute("SELECT FROM pg_stat_activity WHERE datname = %s", (name,)).fetchall()
        try:
            held.enter_context(psycopg.connect(conninfo))
        except psycopg.OperationalError as error:
            if "too many clients" not in str(error):
                raise
            if not others:
                return


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds PostgreSQL's processes in /proc")
async def test_postgres_stands_still(own_cluster: Cluster, start_server: Start) -> None:
    server = start_server(DATABASE_URL=own_cluster.new_database(), **IMPATIENT)
    with trio.fail_after(60):
        async with chatting(server) as (alice, conversation, chat):
            with frozen(own_cluster):
                await is_refused(alice, chat)
            await heals(alice, conversation, chat)
    assert server.stop() == 0
    assert "Traceback" not in server.output


async def test_another_session_locks_the_tables(database: str, start_server: Start) -> None:
    server = start_server(**IMPATIENT)
    with trio.fail_after(60):
        async with chatting(server) as (alice, conversation, chat):
            with locked(database):
                await is_refused(alice, chat)
            await heals(alice, conversation, chat)
    assert "Traceback" not in server.output


async def test_the_database_turns_read_only(database: str, start_server: Start) -> None:
    server = start_server(**IMPATIENT)
    with trio.fail_after(60):
        async with chatting(server) as (alice, conversation, chat):
            with read_only(database):
                await chat.send({"type": "message", "content": "during", "client_id": "during"})
                told = await chat.receive(10)
                assert (told["type"], told["code"], told["client_id"]) == ("error", "not_stored", "during")
                made = await alice.api.post("/api/chat/conversations", json={"name": "x", "is_group": True})
                assert (made.status_code, made.json()["code"]) == (503, "unavailable")
                assert (await alice.history(conversation))["total"] == 1, "it can still be read"
            await heals(alice, conversation, chat)
    assert "Traceback" not in server.output


async def test_postgres_has_no_connection_left(own_cluster: Cluster, start_server: Start) -> None:
    database = own_cluster.new_database()
    with trio.fail_after(60):
        async with open_proxy(database) as proxy:
            server = await trio.to_thread.run_sync(lambda: start_server(DATABASE_URL=proxy.conninfo, **IMPATIENT))
            async with chatting(server) as (alice, conversation, chat):
                with ExitStack() as held:
                    await proxy.cut()
                    take_all(held, own_cluster.conninfo, database)
                    proxy.mend()
                    await is_refused(alice, chat)
                await heals(alice, conversation, chat)
            assert await trio.to_thread.run_sync(server.stop) == 0
    assert "Traceback" not in server.output
