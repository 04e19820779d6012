"""Processes of a cluster that end, or stand still, and a bus that is away."""

import signal
from collections.abc import Callable, Iterator
from typing import Any, LiteralString

import psycopg
import pytest
import trio
import trio_websocket
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.e2e.test_cluster_rooms import active, everywhere, in_order, people, until
from tests.e2e.test_features import ALL, add, post, remove
from tests.e2e.test_session import say
from tests.e2e.test_workers import lines
from tests.support.client import Api, Chat
from tests.support.cluster import Cluster
from tests.support.cluster_processes import ENGINES, Processes, at
from tests.support.raw import open_chat

OUTAGE = 30.0  # seconds


@pytest.fixture(params=ENGINES)
def pair(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Processes]:
    """Two processes of the test's own, with logs as JSON."""
    with Processes(cluster, request.param, PULSE_LOG_FORMAT="json") as made:
        yield made
        for server in made.servers:
            if server.process.poll() is None:
                assert server.stop() == 0
        assert "Traceback" not in "".join(server.output for server in made.servers)


async def test_the_users_of_a_killed_process_leave_once_within_8_seconds(pair: Processes) -> None:
    with trio.fail_after(90):
        alice, bob, carol = await people(pair, "alice", "bob", "carol")
        team = await alice.create_group(bob, carol)
        there = pair.servers[1]
        async with in_order(team, alice, carol) as (a, c), open_chat(at(there, bob), team), alice.session() as session:
            for chat in (a, c):
                assert (await chat.receive())["event"] == "joined"
            await everywhere(pair, alice, team, {alice.id, bob.id, carol.id})
            await session.send({"type": "watch", "user_ids": [bob.id]})
            assert (await until(session, type="users"))["users"][0]["is_online"]
            there.process.kill()
            with trio.fail_after(8):
                for chat in (a, c):
                    left = await chat.receive()
                    assert (left["event"], left["sender_id"]) == ("left", bob.id)
                    assert left["active_users"] == [alice.id, carol.id]
                while (await until(session, type="users"))["users"][0]["is_online"]:
                    pass
            assert await active(alice, team) == {alice.id, carol.id}
            successor = await trio.to_thread.run_sync(lambda: pair.add().wait_ready())
            async with at(successor, bob).connect(team) as b:
                assert set((await b.receive())["active_users"]) == {alice.id, bob.id, carol.id}
                for chat in (a, c):
                    assert (await chat.receive())["event"] == "joined", "`left` came once"
                await say(session, team, "the end")
                for chat in (a, c):
                    assert (await chat.receive())["type"] == "message", "`joined` came once"


async def test_a_process_that_stands_still_is_waited_out_and_sends_nothing_after(pair: Processes) -> None:
    """It has the lease for 6 seconds; what it was sent meanwhile is dropped when it goes on."""
    with trio.fail_after(120):
        alice, bob, carol = await people(pair, "alice", "bob", "carol")
        team = await alice.create_group(bob, carol)
        there = pair.servers[1]
        async with (
            bob.connect(team, features="members") as own,
            bob.session() as session,
            at(there, carol).session() as c,
            alice.session() as a,
        ):
            await say(a, team, "before")
            for chat in (own, session, c):
                await chat.receive_type("message")
            there.process.send_signal(signal.SIGSTOP)
            await say(a, team, "meanwhile")
            began = trio.current_time()
            await remove(alice, team, bob)
            took = trio.current_time() - began
            assert 6 < took < 9, took
            await say(a, team, "secret")
            there.process.send_signal(signal.SIGCONT)
            heard = [*await rest_of(own), *await rest_of(session)]
            assert "secret" not in [frame.get("content") for frame in heard]
            assert not [frame for frame in heard if frame["type"] == "message"], heard
            # Carol's session ends with the lease; she comes back and has missed nothing.
            assert not [frame for frame in await rest_of(c) if frame["type"] == "message"]
        while (await Api(there.base_url).get("/readyz")).status_code != 200:  # noqa: ASYNC110  # another process
            await trio.sleep(0.05)
        async with at(there, carol).session({team: 1}) as c:
            seen = [await c.receive_type("message") for _ in range(2)]
            assert [frame["content"] for frame in seen] == ["meanwhile", "secret"]
        answer = await bob.api.get(f"/api/chat/conversations/{team}")
        assert answer.status_code == 404


async def rest_of(chat: Chat) -> list[dict[str, Any]]:
    """Receives frames until the connection ends."""
    found: list[dict[str, Any]] = []
    with pytest.raises(Exception, match=r".*"):  # noqa: PT012
        while True:
            found.append(await chat.receive())
    return found


def ask(conninfo: str, statement: LiteralString, *values: object) -> None:
    """Runs a statement on the cluster of a database, not in that."""
    with psycopg.connect(make_conninfo(conninfo, dbname="pulse"), autocommit=True) as connection:
        connection.execute(statement, values)


def begin_outage(pair: Processes) -> Callable[[], None]:
    """Ends the bus; returns the function that brings it back, empty."""
    if pair.redis is not None:
        pair.redis.kill()
        return pair.redis.start
    name = conninfo_to_dict(pair.conninfo)["dbname"]
    # No new connection: the bus has none, and the pool keeps those that it has.
    ask(pair.conninfo, "UPDATE pg_database SET datallowconn = false WHERE datname = %s", name)
    ask(
        pair.conninfo,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = %s AND (query LIKE 'LISTEN %%' OR query LIKE 'SELECT pg_notify%%')",
        name,
    )
    return lambda: ask(pair.conninfo, "UPDATE pg_database SET datallowconn = true WHERE datname = %s", name)


class Reader:
    """Keeps all changes that a connection receives, by conversation, until the service closes it."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._news = trio.Event()
        self.revs: dict[str, list[int]] = {}
        self.others: list[dict[str, Any]] = []

    async def run(self) -> None:
        while True:
            try:
                frame = await self._chat.receive(OUTAGE + 60)
            except trio_websocket.ConnectionClosed:
                return
            if "rev" in frame:
                self.revs.setdefault(frame["conversation_id"], []).append(frame["rev"])
            else:
                self.others.append(frame)
            self._news.set()
            self._news = trio.Event()

    async def wait(self, condition: Callable[["Reader"], bool]) -> None:
        while not condition(self):
            await self._news.wait()


async def test_messages_of_a_bus_outage_are_stored_and_arrive_in_order(pair: Processes) -> None:
    with trio.fail_after(180):
        alice, bob = await people(pair, "alice", "bob")
        (dora,) = await people(pair, "dora")
        team, quiet = await alice.create_group(bob), await alice.create_group(bob)
        async with (
            alice.connect(team, features=ALL) as own_here,
            bob.connect(team, features=ALL) as own_there,
            alice.session(features=ALL) as here,
            bob.session(features=ALL) as there,
            trio.open_nursery() as nursery,
        ):
            readers = [Reader(chat) for chat in (own_here, own_there, here, there)]
            for reader in readers:
                nursery.start_soon(reader.run)
            await post(alice, team, "before")
            for reader in readers:
                await reader.wait(lambda reader: reader.revs.get(team) == [1])
            end_outage = await trio.to_thread.run_sync(begin_outage, pair)
            over_at = trio.current_time() + OUTAGE
            for server in pair.servers:
                while not lines(server, "bus disconnected"):  # noqa: ASYNC110  # another process
                    await trio.sleep(0.05)
            revs = {team: 1, quiet: 0}
            while trio.current_time() < over_at:
                for person, local in ((alice, readers[::2]), (bob, readers[1::2])):
                    for conversation in revs:
                        with trio.fail_after(2):
                            revs[conversation] = (await post(person, conversation, "outage"))["rev"]
                    for reader in local:
                        with trio.fail_after(2):
                            await reader.wait(lambda reader: reader.revs[team][-1] == revs[team])
                for server in pair.servers:
                    answer = await Api(server.base_url).get("/readyz")
                    assert answer.status_code == 200, answer.text
                await trio.sleep(0.5)
            await add(alice, team, dora)
            new = await alice.create_group(bob, name="new")
            revs[team], revs[quiet] = revs[team] + 1, (await post(alice, quiet, "last"))["rev"]
            await trio.to_thread.run_sync(end_outage)
            with trio.fail_after(10):
                for reader in readers:
                    await reader.wait(lambda reader: reader.revs[team] == list(range(1, revs[team] + 1)))
                for reader in readers[2:]:
                    await reader.wait(lambda reader: reader.revs[quiet] == list(range(1, revs[quiet] + 1)))
                await readers[3].wait(lambda reader: new in [frame.get("conversation_id") for frame in reader.others])
            await post(alice, new, "after")
            await readers[3].wait(lambda reader: new in reader.revs)
            began = trio.current_time()
            await remove(alice, new, bob)
            assert trio.current_time() - began < 1, "confirmed over the bus"
            await everywhere(pair, alice, team, {alice.id, bob.id})
            nursery.cancel_scope.cancel()
        for server in pair.servers:
            assert len(lines(server, "bus disconnected")) == 1
            assert len(lines(server, "bus connected")) == 2
