"""PostgreSQL fails over under a running service: nothing acknowledged is lost, and no client trusts what is gone."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import trio
from psycopg.conninfo import make_conninfo

from tests.faults.talkers import talking
from tests.support.client import Chat, Person
from tests.support.cluster import Cluster
from tests.support.server import Server

pytestmark = pytest.mark.process_end

Start = Callable[..., Server]
LIMIT = 90  # seconds


@contextmanager
def two_servers(**options: str) -> Iterator[tuple[Cluster, Cluster]]:
    """A primary, and a standby with these options that follows it."""
    primary = Cluster()
    primary.start()
    standby = None
    try:
        standby = primary.new_standby(**options)
        wait_streaming(primary)
        yield primary, standby
    finally:
        if standby is not None:
            standby.remove()
        primary.remove()


def wait_streaming(primary: Cluster) -> None:
    """Returns when the standby follows."""
    primary.execute(
        "DO $$ BEGIN WHILE NOT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming') LOOP "
        "PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot(); END LOOP; END $$"
    )


def wait_caught_up(primary: Cluster) -> None:
    """Returns when the standby has kept all that was written before."""
    primary.execute(
        "DO $$ DECLARE here pg_lsn := pg_current_wal_lsn(); BEGIN "
        "WHILE NOT EXISTS (SELECT FROM pg_stat_replication WHERE flush_lsn >= here) LOOP "
        "PERFORM pg_sleep(0.01); PERFORM pg_stat_clear_snapshot(); END LOOP; END $$"
    )


def both(first: Cluster, second: Cluster) -> str:
    """Returns a connection string for the primary of the two; the first one is asked first."""
    host, port = f"{first.socket_folder},{second.socket_folder}", "5432,5432"
    return make_conninfo(first.conninfo, host=host, port=port, target_session_attrs="read-write")


async def wait_written(server: Server, text: str) -> None:
    """Returns when the service has written this."""
    while text not in server.output:  # noqa: ASYNC110  # no event in another process
        await trio.sleep(0.02)


async def say(chat: Chat, content: str, seq: int) -> None:
    """A message is stored in its place."""
    await chat.send({"type": "message", "content": content, "client_id": content})
    frame = await chat.receive_type("message", "error")
    assert (frame["type"], frame.get("content"), frame.get("seq")) == ("message", content, seq), frame


async def test_a_synchronous_standby_takes_over_under_load() -> None:
    with two_servers() as (primary, standby), trio.fail_after(LIMIT):
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.execute("SELECT pg_reload_conf()")
        server = Server({"DATABASE_URL": both(primary, standby)}).wait_ready()
        try:
            async with talking(server.base_url) as group:
                await group.more(30)
                primary.kill()
                standby.promote()
                await group.more(30)
            assert [talker.connections for talker in group.talkers] == [2, 2, 2], "each was told to come back, once"
        finally:
            assert server.stop() == 0
        assert "Traceback" not in server.output


async def test_what_a_standby_never_had_is_trusted_by_nobody() -> None:
    with two_servers() as (primary, standby), trio.fail_after(LIMIT):
        server = Server({"DATABASE_URL": both(primary, standby)}).wait_ready()
        try:
            alice = await Person.register(server.base_url, "alice")
            conversation = await alice.create_group()
            async with alice.connect(conversation) as chat, alice.session() as session:
                epoch = (await chat.receive())["epoch"]
                for seq in (1, 2, 3):
                    await say(chat, f"kept {seq}", seq)
                wait_caught_up(primary)
                standby.stop()
                for seq in (4, 5, 6):
                    await say(chat, f"lost {seq}", seq)
                primary.kill()
                standby.start()
                # Not used as long as it is a standby, although its history is that of the clients.
                answer = await alice.api.get("/api/chat/conversations")
                assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
                await chat.send({"type": "message", "content": "under way", "client_id": "under way"})
                standby.promote()
                assert await chat.wait_closed() == 1012, "and not a frame of another history before it"
                assert await session.wait_closed() == 1012
            await wait_written(server, "reopening the service")
            await serves(alice)
            for after in (2, 6):  # there still is, and is not
                async with alice.connect(conversation, after=after, epoch=epoch) as chat:
                    assert (await chat.receive())["code"] == "cannot_resume"
                    assert await chat.wait_closed() == 4409
            async with alice.session({conversation: 2}, epoch=epoch) as session:
                assert (await session.receive_type("error"))["code"] == "cannot_resume"
            async with alice.connect(conversation) as chat:
                joined = await chat.receive()
                assert joined["epoch"] != epoch
                # What was under way was never acknowledged: it is stored, or not.
                assert joined["last_rev"] in {3, 4}
                await say(chat, "after", joined["last_seq"] + 1)
            history = await alice.history(conversation)
            contents = [message["content"] for message in reversed(history["messages"])]
            assert [c for c in contents if c != "under way"] == ["kept 1", "kept 2", "kept 3", "after"]
        finally:
            assert server.stop() == 0
        assert "Traceback" not in server.output


async def serves(person: Person) -> None:
    """Returns when the service answers."""
    while (await person.api.get("/api/chat/conversations")).status_code == 503:  # noqa: ASYNC110  # no event
        await trio.sleep(0.05)


async def test_a_primary_that_comes_back_after_its_successor_is_not_used() -> None:
    with two_servers() as (primary, standby), trio.fail_after(LIMIT):
        server = Server({"DATABASE_URL": both(primary, standby)}).wait_ready()
        try:
            alice = await Person.register(server.base_url, "alice")
            conversation = await alice.create_group()
            primary.kill()
            standby.promote()
            await wait_written(server, "reopening the service")
            await serves(alice)
            async with alice.connect(conversation) as chat:
                await chat.receive()
                await say(chat, "on the second", 1)
                primary.start()  # nobody told it that it is none any more
                standby.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'pulse' "
                    "AND pid <> pg_backend_pid()"
                )
                await wait_written(server, "older timeline")
                answer = await alice.api.get("/api/chat/conversations")
                assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
                primary.stop()
                await serves(alice)
                await say(chat, "still on the second", 2)  # on the same connection
        finally:
            assert server.stop() == 0
        assert "Traceback" not in server.output


@pytest.mark.parametrize("setting", ["fsync", "full_page_writes"])
async def test_a_successor_that_may_lose_commits_ends_the_service(setting: str) -> None:
    options = {"fsync": "on", "full_page_writes": "on", setting: "off"}
    with two_servers(**options) as (primary, standby), trio.fail_after(LIMIT):
        primary.stop()
        primary.server._options["fsync"] = "on"
        primary.start()
        url = both(primary, standby)
        server = Server({"DATABASE_URL": url, "PULSE_ALLOW_LOSING_COMMITS": "false"}).wait_ready()
        try:
            primary.kill()
            standby.promote()
            assert await trio.to_thread.run_sync(server.wait) == 1
        finally:
            server.stop()
        assert f"its {setting} is off" in server.output
        assert "Traceback" not in server.output


async def test_a_restart_of_the_same_server_changes_no_epoch(own_cluster: Cluster, start_server: Start) -> None:
    server = start_server(DATABASE_URL=own_cluster.conninfo)
    with trio.fail_after(LIMIT):
        alice = await Person.register(server.base_url, "alice")
        conversation = await alice.create_group()
        async with alice.connect(conversation) as chat:
            epoch = (await chat.receive())["epoch"]
            await say(chat, "before", 1)
            own_cluster.kill()
            own_cluster.start()
            await serves(alice)
            await say(chat, "after", 2)
        async with alice.connect(conversation, after=1, epoch=epoch) as chat:
            assert (await chat.receive())["epoch"] == epoch
            assert (await chat.receive())["content"] == "after"
