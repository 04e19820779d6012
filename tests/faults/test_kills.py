"""Either side is killed under load, and answers of the database are lost: nothing lost, nothing doubled, no hole."""

import signal
from collections.abc import Callable

import psycopg
import pytest
import trio

from tests.faults.talkers import talking
from tests.support.client import Person
from tests.support.cluster import Cluster
from tests.support.proxy import open_proxy
from tests.support.server import Server

Start = Callable[..., Server]
LONG = 30  # seconds for which PostgreSQL is away, three times as long as a message may wait to be stored


@pytest.mark.process_end
async def test_the_service_is_killed_again_and_again(start_server: Start) -> None:
    with trio.fail_after(90):
        server = start_server()
        async with talking(server.base_url) as group:
            for _ in range(5):
                await group.more(40)
                server.process.kill()
                await trio.to_thread.run_sync(server.wait)
                server = await trio.to_thread.run_sync(start_server)
                group.base_url = server.base_url
            await group.more(40)
        assert all(talker.connections >= 6 for talker in group.talkers)


@pytest.mark.process_end
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGQUIT], ids=["killed", "immediate"])
async def test_postgres_is_ended_under_load(own_cluster: Cluster, start_server: Start, how: signal.Signals) -> None:
    with trio.fail_after(90):
        server = start_server(DATABASE_URL=own_cluster.new_database())
        async with talking(server.base_url) as group:
            for _ in range(2):
                await group.more(40)
                own_cluster.kill(how)
                own_cluster.start()  # on this thread, which lives on: PostgreSQL follows the thread that started it
            await group.more(40)
        assert [talker.connections for talker in group.talkers] == [1, 1, 1], "clients stay connected"
    assert server.stop() == 0
    assert "Traceback" not in server.output


async def test_postgres_is_away_for_long(own_cluster: Cluster, start_server: Start) -> None:
    with trio.fail_after(120):
        server = start_server(DATABASE_URL=own_cluster.new_database())
        async with talking(server.base_url) as group:
            await group.more(40)
            own_cluster.kill()
            await trio.sleep(LONG)
            own_cluster.start()
            await group.more(40)
        assert [talker.connections for talker in group.talkers] == [1, 1, 1], "clients stay connected"
        assert all(talker.refused["not_stored"] for talker in group.talkers), "senders were told meanwhile"
    assert server.stop() == 0
    assert "Traceback" not in server.output


async def test_a_client_id_is_kept_for_as_long_as_its_message(start_server: Start) -> None:
    """Also from one process to the next: killed ones."""
    with trio.fail_after(60):
        server = start_server()
        alice = await Person.register(server.base_url, "alice")
        conversation = await alice.create_group()
        message = {"type": "message", "content": "once", "client_id": "c1"}
        told = []
        for change in ({"type": "edit", "content": "once, edited"}, {"type": "delete"}, None):
            alice.base_url = alice.api.base_url = server.base_url
            async with alice.connect(conversation) as chat:
                await chat.receive_type("system")
                await chat.send(message)
                told.append(await chat.receive())
                if change is not None:
                    await chat.send({**change, "message_id": told[0]["message_id"]})
                    await chat.receive_type("message_updated", "message_deleted")
            server.process.kill()
            await trio.to_thread.run_sync(server.wait)
            server = await trio.to_thread.run_sync(start_server)
        assert [(frame["type"], frame["seq"], frame["rev"], frame.get("content")) for frame in told] == [
            ("message", 1, 1, "once"),
            ("message_updated", 1, 2, "once, edited"),
            ("message_deleted", 1, 3, None),
        ]
        assert len({frame["message_id"] for frame in told}) == 1
        alice.api.base_url = server.base_url
        assert (await alice.history(conversation))["total"] == 1


async def test_the_answer_to_a_commit_is_lost(database: str, start_server: Start) -> None:
    with trio.fail_after(60):
        async with open_proxy(database) as proxy:
            server = await trio.to_thread.run_sync(lambda: start_server(DATABASE_URL=proxy.conninfo))
            alice = await Person.register(server.base_url, "alice")
            conversation = await alice.create_group()
            async with alice.connect(conversation) as chat:
                await chat.receive_type("system")
                for number in range(1, 6):
                    proxy.lose_answers = 1
                    await chat.send({"type": "message", "content": f"message {number}"})  # no client_id, that helps
                    await proxy.wait_lost(number)
                    with psycopg.connect(database) as connection:
                        row = connection.execute("SELECT count(*) FROM messages").fetchone()
                    assert row == (number,), "it was committed, and the service does not know"
                    frame = await chat.receive_type("message", "error")
                    assert (frame["content"], frame["seq"], frame["rev"]) == (f"message {number}", number, number)
            assert (await alice.history(conversation))["total"] == 5
            assert await trio.to_thread.run_sync(server.stop) == 0


async def test_answers_are_lost_under_load(database: str, start_server: Start) -> None:
    with trio.fail_after(60):
        async with open_proxy(database) as proxy:
            server = await trio.to_thread.run_sync(lambda: start_server(DATABASE_URL=proxy.conninfo))
            async with talking(server.base_url) as group:
                for number in range(1, 21):
                    await group.more(3)
                    proxy.lose_answers += 1
                    await proxy.wait_lost(number)
                await group.more(10)
            assert [talker.connections for talker in group.talkers] == [1, 1, 1]
            assert await trio.to_thread.run_sync(server.stop) == 0
