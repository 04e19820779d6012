"""One round: clients over several workers, an owner who removes and adds them, and faults of every process."""

import json
import os
import random
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.cluster_chaos.client import ALL, ChaosClient, ask
from tests.cluster_chaos.oracle import Records, Truth, judge_stored, judge_view, read_truths
from tests.support.client import Person
from tests.support.cluster import Cluster
from tests.support.figures import figures
from tests.support.redis_server import RedisServer
from tests.support.server import Server

ACTS: Final = {"kill": 3, "stop": 3, "bus": 2, "roll": 0.3}
MAX_STOP: Final = 10.0  # seconds
MAX_BUS_OUTAGE: Final = 8.0  # seconds
SETTLE: Final = 60.0  # seconds in which all must have caught up when it is calm
UNLIMITED: Final = {
    f"PULSE_{name}": "0"
    for name in (
        "GROUP_CHANGES_PER_SECOND",
        "REQUESTS_PER_SECOND",
        "REGISTRATIONS_PER_ADDRESS",
        "LOGIN_FAILURES_PER_ADDRESS",
        "PASSWORD_ATTEMPTS_PER_ADDRESS",
        "EDITS_PER_SECOND",
    )
}


@dataclass(frozen=True)
class Size:
    """The size of a round.

    Attributes:
        seconds: of its rough part.
        clients, users, rooms, workers: how many.
        acts: those of `ACTS` that happen.
    """

    seconds: float
    clients: int
    users: int
    rooms: int
    workers: int = 4
    acts: tuple[str, ...] = tuple(ACTS)


class Round:
    """A round.

    Args:
        seed: determines the plan.
        cluster: has the database.
        engine: of the bus, `postgres` or `redis`.
        size: how much of everything.
    """

    def __init__(self, seed: int, cluster: Cluster, engine: str, size: Size) -> None:
        self.records = Records()
        self._seed = seed
        self._size = size
        self._cluster = cluster
        self._rand = random.Random(f"{seed}/round")
        self._redis = RedisServer() if engine == "redis" else None
        self._stopped: set[int] = set()
        self._server: Server
        self._conninfo = ""

    def play(self) -> Records:
        """Plays it; returns what was seen."""
        self._conninfo = self._cluster.new_database()
        settings = {"DATABASE_URL": self._conninfo, "PULSE_BUS_URL": "postgres", **UNLIMITED}
        if self._redis is not None:
            self._redis.start()
            settings["PULSE_BUS_URL"] = f"redis://{self._redis.address}"
        settings |= {"PULSE_LOG_FORMAT": "json", "PULSE_LOG_LEVEL": "info", "PULSE_ROOM_LINGER": "2"}
        settings["PULSE_RESUME_WAIT"] = "60"  # a client that is slower, or whose worker is stopped, loads all anew
        self._server = Server(settings, "--workers", str(self._size.workers))
        try:
            self._server.wait_ready()
            trio.run(self._run)
            if self._server.stop() != 0:
                self.records.fail("the service ends in order", self._server.output[-2000:])
            if "Traceback" in self._server.output:
                at = self._server.output.index("Traceback")
                self.records.fail("the service has no fault inside", self._server.output[max(0, at - 500) : at + 4000])
        except Exception:
            self.records.fail("no fault inside", traceback.format_exc())
        finally:
            for pid in self._stopped:
                os.kill(pid, signal.SIGCONT)
            if self._server.process.poll() is None:
                self._server.process.kill()
                self._server.wait()
            if self._redis is not None:
                self._redis.remove()
            self._cluster.drop_database(self._conninfo)
        return self.records

    @property
    def output(self) -> str:
        """The log of all workers."""
        return self._server.output

    def _workers(self) -> dict[int, int]:
        """The process of each slot that has started and has not ended."""
        found: dict[int, int] = {}
        for line in self._server.output.splitlines():
            if '"worker started"' in line or '"worker ended"' in line:
                entry = json.loads(line)
                if entry["event"] == "worker started":
                    found[entry["pid"]] = entry["worker"]
                else:
                    found.pop(entry["pid"], None)
        return {slot: pid for pid, slot in found.items()}

    def _ready_count(self) -> int:
        return self._server.output.count('"worker ready"')

    async def _run(self) -> None:
        url = self._server.base_url
        owner = await Person.register(url, f"owner{self._seed}")
        people: list[Person] = []

        async def register(number: int) -> None:
            people.append(await Person.register(url, f"user{self._seed}x{number}"))

        for at in range(0, self._size.users, 8):
            async with trio.open_nursery() as nursery:
                for number in range(at, min(at + 8, self._size.users)):
                    nursery.start_soon(register, number)
        rooms: dict[str, list[Person]] = {}
        for number in range(self._size.rooms):
            some = self._rand.sample(people, k=min(len(people), max(2, self._size.clients // self._size.rooms)))
            rooms[await owner.create_group(*some, name=f"room {number}")] = some
        clients = self._make_clients(rooms, people)
        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(client.run)
            await self._until("all connect", lambda: all(client.is_connected for client in clients))
            with trio.move_on_after(self._size.seconds):
                async with trio.open_nursery() as rough:
                    rough.start_soon(self._break)
                    for key, members in rooms.items():
                        rough.start_soon(self._manage, owner, key, members)
            await self._settle(owner, rooms, clients)
            nursery.cancel_scope.cancel()
        await self._check_leaks()

    def _make_clients(self, rooms: dict[str, list[Person]], people: Sequence[Person]) -> list[ChaosClient]:
        clients = []
        of_person = {person.id: [key for key, some in rooms.items() if person in some] for person in people}
        active = [person for person in people if of_person[person.id]]
        for number in range(self._size.clients):
            rand = random.Random(f"{self._seed}/{number}")
            person = rand.choice(active)
            is_session = number % 2 == 0
            keys = of_person[person.id] if is_session else [rand.choice(of_person[person.id])]
            features = rand.choice([None, "", "members,conversation", ALL])
            if features == "":  # then `prev_rev` is that of messages
                features = None
            client = ChaosClient(person, keys, self.records, rand, is_session=is_session, features=features)
            if is_session and rand.random() < 0.3:
                client.watched = {other.id: False for key in keys for other in rooms[key][:5]}
            clients.append(client)
        return clients

    # --- the rough part ---

    async def _break(self) -> None:
        """Breaks something every few seconds; each of the acts but a rolling restart soon."""
        first = [act for act in self._size.acts if act != "roll"]
        self._rand.shuffle(first)
        first.sort(key=lambda act: act == "bus")  # it takes longest
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self._rand.uniform(1.0, 5.0))
                (act,) = self._rand.choices(self._size.acts, [ACTS[act] for act in self._size.acts])
                if first:
                    act = first.pop(0)
                self.records.counters[f"act {act}"] += 1
                workers = [pid for pid in self._workers().values() if pid not in self._stopped]
                if act == "bus":
                    await self._break_bus()
                elif act == "roll":
                    self._server.process.send_signal(signal.SIGHUP)
                elif len(workers) > 1:
                    pid = self._rand.choice(workers)
                    if act == "kill":
                        os.kill(pid, signal.SIGKILL)
                    else:
                        nursery.start_soon(self._stop_worker, pid)

    async def _stop_worker(self, pid: int) -> None:
        try:
            os.kill(pid, signal.SIGSTOP)
            self._stopped.add(pid)
            await trio.sleep(self._rand.uniform(0.5, MAX_STOP))
        finally:
            self._stopped.discard(pid)
            if pid in self._workers().values():  # else it was killed as one that shows no sign of life
                os.kill(pid, signal.SIGCONT)

    async def _break_bus(self) -> None:
        with trio.CancelScope(shield=True):  # half-way there is no bus
            if self._redis is not None:
                self._redis.kill()
                await trio.sleep(self._rand.uniform(0, MAX_BUS_OUTAGE))
                await trio.to_thread.run_sync(self._redis.start)
            else:
                await trio.to_thread.run_sync(self._allow_connections, False)
                await trio.sleep(self._rand.uniform(0, MAX_BUS_OUTAGE))
                await trio.to_thread.run_sync(self._allow_connections, True)

    def _allow_connections(self, is_allowed: bool) -> None:  # called by run_sync
        """Refuses new connections of the database, and ends those of the bus; or takes them again."""
        name = conninfo_to_dict(self._conninfo)["dbname"]
        with psycopg.connect(make_conninfo(self._conninfo, dbname="pulse"), autocommit=True) as connection:
            connection.execute("UPDATE pg_database SET datallowconn = %s WHERE datname = %s", (is_allowed, name))
            if not is_allowed:
                connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = %s AND (query LIKE 'LISTEN %%' OR query LIKE 'SELECT pg_notify%%')",
                    (name,),
                )

    async def _manage(self, owner: Person, key: str, members: Sequence[Person]) -> None:
        """Removes and adds users, and renames the group."""
        path = f"/api/chat/conversations/{key}"
        while True:
            await trio.sleep(self._rand.uniform(1.0, 10.0))
            if self._rand.random() < 0.2:
                await ask(owner, "PATCH", path, json={"name": f"room {self._rand.random()}"})
                continue
            person = self._rand.choice(members)
            began = trio.current_time()
            answer = await ask(owner, "DELETE", f"{path}/members/{person.id}")
            if answer is not None and answer.status_code == 204:
                self.records.counters["removed"] += 1
                took = trio.current_time() - began
                self.records.counters["removals that took 1 s or more"] += took >= 1
                found = await ask(owner, "GET", path)
                if found is not None and found.status_code == 200:
                    self.records.removed[person.id, key] = found.json()["last_rev"]
                await ask(owner, "POST", f"{path}/messages", json={"content": f"without {person.username}"})
                await trio.sleep(self._rand.choice([0.0, 2.0]))
                self.records.removed.pop((person.id, key), None)
            await self._ask_until(owner, "POST", f"{path}/members", json={"user_ids": [person.id]})

    async def _ask_until(self, person: Person, method: str, path: str, **options: Any) -> httpx2.Response:
        """Makes a request until it is answered by more than a refusal for now."""
        while True:
            answer = await ask(person, method, path, **options)
            if answer is not None and answer.status_code not in {429, 503}:
                return answer
            await trio.sleep(0.5)

    # --- the end ---

    async def _until(self, promise: str, condition: Callable[[], bool], detail: Callable[[], object] = str) -> None:
        with trio.move_on_after(SETTLE) as scope:
            while not condition():  # noqa: ASYNC110  # of many clients, and judged as a whole
                await trio.sleep(0.1)
        if scope.cancelled_caught:
            self.records.fail(promise, detail())

    async def _settle(self, owner: Person, rooms: dict[str, list[Person]], clients: Sequence[ChaosClient]) -> None:
        """Waits until all has arrived, and judges."""
        for client in clients:
            client.is_ending = True
        self.records.removed.clear()
        with trio.fail_after(SETTLE):
            while len(self._workers()) < self._size.workers:  # noqa: ASYNC110  # other processes
                await trio.sleep(0.1)
        for key, members in rooms.items():
            body = {"user_ids": [person.id for person in members]}
            await self._ask_until(owner, "POST", f"/api/chat/conversations/{key}/members", json=body)
        await self._until("all come back", lambda: all(client.is_connected for client in clients))
        pending = [client for client in clients if client.pending]
        await self._until(
            "every send is answered",
            lambda: not any(client.pending for client in clients),
            lambda: [(client.name, client.pending[:3]) for client in pending if client.pending],
        )
        truths = await self._truths()
        await self._until_caught_up("a live connection gets everything", truths, clients)
        await self._check_presence(owner, rooms, clients)
        for client in clients:
            client.reconnect()
            client.is_connected = False
        await self._until("all come back", lambda: all(client.is_connected for client in clients))
        await self._until_caught_up("a resumed connection gets everything", truths, clients, is_resumed=True)
        judge_stored(self.records, truths)
        for client in clients:
            for key, view in client.views.items():
                who = f"{client.name} in {key}"
                judge_view(self.records, who, view, truths[key], has_features=client.has_features)
        self.records.counters["stored"] = sum(len(truth.messages) for truth in truths.values())

    async def _truths(self) -> dict[str, Truth]:
        """Reads the truth when nobody changes it any more."""
        before: dict[str, Truth] = {}
        while True:
            now = await trio.to_thread.run_sync(read_truths, self._conninfo)
            if now == before:
                return now
            before = now
            await trio.sleep(2)

    async def _until_caught_up(
        self, promise: str, truths: dict[str, Truth], clients: Sequence[ChaosClient], *, is_resumed: bool = False
    ) -> None:
        def behind() -> list[object]:
            return [
                (client.name, key, view.rev, truths[key].rev_of(has_features=client.has_features))
                for client in clients
                for key, view in client.views.items()
                if (view.is_complete or is_resumed) and view.rev != truths[key].rev_of(has_features=client.has_features)
            ]

        await self._until(promise, lambda: not behind(), lambda: (len(behind()), behind()[:4]))

    async def _check_presence(
        self, owner: Person, rooms: dict[str, list[Person]], clients: Sequence[ChaosClient]
    ) -> None:
        """All workers, rooms and watches show the users who are connected."""
        online = {client.person.id for client in clients}
        for key in rooms:
            expected = {client.person.id for client in clients if key in client.views or client.is_session}
            expected &= {person.id for person in rooms[key]}
            own = [client for client in clients if not client.is_session and key in client.views]
            shown: list[set[str]] = []
            with trio.move_on_after(SETTLE / 2) as scope:
                while True:
                    path = f"/api/chat/conversations/{key}/active"
                    answers = [await self._ask_until(owner, "GET", path) for _ in range(2 * self._size.workers)]
                    shown = [set(answer.json()["active_users"]) for answer in answers]
                    shown += [client.views[key].active or set() for client in own]
                    if all(each == expected for each in shown):
                        break
                    await trio.sleep(0.5)
            if scope.cancelled_caught:
                count = 2 * self._size.workers
                wrong = [(len(each - expected), len(expected - each)) for each in shown]
                self.records.fail("presence converges", (key, "rest", wrong[:count], "own", wrong[count:]))
        await self._until(
            "watches converge",
            lambda: all(is_online == (user in online) for c in clients for user, is_online in c.watched.items()),
            lambda: [c.name for c in clients if any(now != (user in online) for user, now in c.watched.items())],
        )

    async def _check_leaks(self) -> None:
        """Without clients nothing stays in memory."""
        names = ("pulse_rooms", "pulse_websockets")
        left: object = None
        with trio.move_on_after(SETTLE):
            while True:
                found = await figures(self._server.base_url)
                left = [(name, labels, value) for name in names for labels, value in found.series(name) if value]
                if not left:
                    return
                await trio.sleep(0.5)
        self.records.fail("nothing stays in memory", left)
