"""Cables of one process of a cluster are cut, without FIN or RST: the one to Redis, the one to PostgreSQL."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.e2e.test_cluster_outages import Reader
from tests.e2e.test_features import ALL, post, remove
from tests.e2e.test_workers import lines
from tests.faults.test_stalls import IMPATIENT
from tests.support.client import Api, Person
from tests.support.cluster import Cluster
from tests.support.cluster_processes import at
from tests.support.netns import Cable, namespace
from tests.support.redis_server import RedisServer
from tests.support.server import PROGRAM, Server


@dataclass
class Machines:
    """A process beside the database and Redis, and one on a machine of its own.

    Attributes:
        near, far: the processes.
        bus, database: the cables of the far one.
    """

    near: Server
    far: Server
    bus: Cable
    database: Cable


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Two machines; both processes end in order, and without a fault inside."""
    with ExitStack() as stack:
        elsewhere = stack.enter_context(namespace())
        people, bus, database = [elsewhere.cable() for _ in range(3)]
        cluster = Cluster(listen_addresses=database.outside)
        cluster.start()
        stack.callback(cluster.remove)
        cluster.let_in(f"host all pulse {database.inside}/32 trust")
        redis = RedisServer(f"bind 127.0.0.1 {bus.outside}", "protected-mode no")
        redis.start()
        stack.callback(redis.remove)
        conninfo = cluster.new_database()
        settings = {"PULSE_CLUSTER": "true", "PULSE_LOG_FORMAT": "json", **IMPATIENT}
        near = {"DATABASE_URL": conninfo, "PULSE_BUS_URL": f"redis://{redis.address}", **settings}
        url = make_conninfo(
            cluster.conninfo,
            dbname=conninfo_to_dict(conninfo)["dbname"],
            host=database.outside,
            keepalives_idle=1,
            keepalives_count=2,
            tcp_user_timeout=2_000,
        )
        far = {"DATABASE_URL": url, "PULSE_BUS_URL": f"redis://{bus.outside}:{redis.port}", **settings}
        command = elsewhere.command(PROGRAM, "serve", "--host", people.inside, "--port", "0")
        servers = [stack.enter_context(ended(Server(near))), stack.enter_context(ended(Server(far, command=command)))]
        for server in servers:
            server.wait_ready()
        servers[1].base_url = f"http://{people.inside}:{servers[1].port}"
        yield Machines(servers[0], servers[1], bus, database)


@contextmanager
def ended(server: Server) -> Iterator[Server]:
    """Ends a process after the block."""
    try:
        yield server
    finally:
        status = server.stop()
    assert status == 0
    assert "Traceback" not in server.output


async def three(machines: Machines) -> tuple[Person, Person, Person, str]:
    """Alice, on the near machine, and Bob and Carol, on the far one, in a conversation."""
    alice, bob, carol = [await Person.register(machines.near.base_url, name) for name in ("alice", "bob", "carol")]
    team = await alice.create_group(bob, carol)
    return alice, at(machines.far, bob), at(machines.far, carol), team


async def test_a_process_that_is_cut_off_from_the_bus_catches_up_and_is_waited_out(machines: Machines) -> None:
    with trio.fail_after(120):
        alice, bob, carol, team = await three(machines)
        async with (
            alice.session(features=ALL) as a,
            bob.connect(team, features=ALL) as b,
            carol.session(features=ALL) as c,
            trio.open_nursery() as nursery,
        ):
            near, far, far_session = readers = [Reader(chat) for chat in (a, b, c)]
            for reader in readers:
                nursery.start_soon(reader.run)
            await post(alice, team, "before")
            for reader in readers:
                await reader.wait(lambda reader: reader.revs.get(team) == [1])
            machines.bus.cut()
            for number in range(10):
                await post(alice, team, f"near {number}")
                await post(carol, team, f"far {number}")
            # The far process has committed after each of the others, and so has read them.
            for reader in (far, far_session):
                await reader.wait(lambda reader: reader.revs[team] == list(range(1, 22)))
            while not lines(machines.far, "bus disconnected"):  # noqa: ASYNC110  # another process
                await trio.sleep(0.05)
            assert (await Api(machines.far.base_url).get("/readyz")).status_code == 200
            await post(alice, team, "unheard")
            machines.bus.mend()
            for reader in readers:
                with trio.fail_after(20):
                    await reader.wait(lambda reader: reader.revs[team] == list(range(1, 23)))
            began = trio.current_time()
            await remove(alice, team, carol)
            assert trio.current_time() - began < 7, "confirmed over the bus; none is answered in the first term"
            machines.bus.cut()
            began = trio.current_time()
            await remove(alice, team, bob)
            assert 1 < trio.current_time() - began < 9, "fenced, and waited for"
            await post(alice, team, "secret")
            await near.wait(lambda reader: reader.revs[team][-1] == 25)
            nursery.cancel_scope.cancel()
        assert far.revs[team][-1] <= 24
        assert far_session.revs[team][-1] <= 23
        machines.bus.mend()


async def test_a_process_that_is_cut_off_from_the_database_is_silent_and_catches_up(machines: Machines) -> None:
    """The bus brings it everything; after the term of its lease it may not deliver that."""
    with trio.fail_after(120):
        alice, bob, carol, team = await three(machines)
        async with (
            alice.session(features=ALL) as a,
            bob.connect(team, features=ALL) as b,
            carol.session(features=ALL) as c,
            trio.open_nursery() as nursery,
        ):
            near, far, far_session = readers = [Reader(chat) for chat in (a, b, c)]
            for reader in readers:
                nursery.start_soon(reader.run)
            await post(alice, team, "before")
            for reader in readers:
                await reader.wait(lambda reader: reader.revs.get(team) == [1])
            machines.database.cut()
            cut_at = trio.current_time()
            await post(alice, team, "heard over the bus")
            for reader in readers:
                await reader.wait(lambda reader: reader.revs[team] == [1, 2])
            await remove(alice, team, carol)
            assert trio.current_time() - cut_at < 8, "confirmed over the bus; none is answered in the first term"
            await trio.sleep(max(0, cut_at + 8 - trio.current_time()))  # its lease has ended
            await post(alice, team, "not yet")
            await near.wait(lambda reader: reader.revs[team] == [1, 2, 3, 4])
            await trio.sleep(1)
            assert 4 not in far.revs[team]
            while (await Api(machines.far.base_url).get("/readyz")).status_code != 503:  # noqa: ASYNC110
                await trio.sleep(0.05)
            machines.database.mend()
            with trio.fail_after(20):
                await far.wait(lambda reader: reader.revs[team] == [1, 2, 3, 4])
            assert 4 not in far_session.revs[team]
            while (await Api(machines.far.base_url).get("/readyz")).status_code != 200:  # noqa: ASYNC110
                await trio.sleep(0.05)
            await post(bob, team, "back")
            for reader in (near, far):
                await reader.wait(lambda reader: reader.revs[team] == [1, 2, 3, 4, 5])
            nursery.cancel_scope.cancel()
