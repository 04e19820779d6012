"""`pulse_trio.client` against the real service, in memory: killed, restarted, cut off, its store failing."""

import random
from collections.abc import Sequence

import httpx2
import pytest
import trio
import trio.testing

from pulse_trio.client import (
    Address,
    Backoff,
    Client,
    ClientError,
    Message,
    MessageDeleted,
    MessageEdited,
    Network,
    NotStored,
    Room,
    open_client,
)
from pulse_trio.protocol import Encoded
from pulse_trio.rooms.subscription import Subscription
from pulse_trio.store.base import User
from tests.simulation.plan import Plan
from tests.simulation.streams import End
from tests.simulation.world import World, deterministic, quietly_closed

SEEDS = range(12)
MESSAGES = 30  # of each user
TIME = 600.0  # virtual seconds


class MemoryTransport(httpx2.AsyncBaseTransport):
    """Requests over a stream of the world, one each."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        body = request.content
        head = [f"{request.method} {request.url.raw_path.decode()} HTTP/1.1".encode(), b"Connection: close"]
        head += [name + b": " + value for name, value in request.headers.raw if name.lower() != b"connection"]
        stream: End | None = None
        try:
            _, stream = self._world.connect()
            await stream.send_all(b"\r\n".join(head) + b"\r\n\r\n" + body)
            answer = bytearray()
            while piece := await stream.receive_some():
                answer += piece
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise httpx2.ConnectError("cut") from None
        finally:
            if stream is not None:
                await quietly_closed(stream)
        start, end, content = bytes(answer).partition(b"\r\n\r\n")
        lines = start.split(b"\r\n")
        headers = [tuple(line.split(b": ", 1)) for line in lines[1:]]
        length = dict(headers).get(b"content-length", b"0")
        if not end or len(content) < int(length):
            raise httpx2.ReadError("cut")
        return httpx2.Response(int(lines[0].split()[1]), headers=headers, content=content)


class WorldNetwork(Network):
    """The service of the simulated world."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self.numbers: list[int] = []

    def http_transport(self, _address: Address) -> httpx2.AsyncBaseTransport:
        return MemoryTransport(self._world)

    async def open_stream(self, _address: Address) -> trio.abc.Stream:
        await trio.lowlevel.checkpoint()
        number, stream = self._world.connect()
        self.numbers.append(number)
        return stream


class Person:
    """A user that sends and receives, and keeps what came."""

    def __init__(self, world: World, user: User) -> None:
        self.user = user
        self.stored: dict[str, Message] = {}
        self.said = 0
        self.seen: dict[int, Message] = {}
        self.revs: list[int] = []
        self.new: list[int] = []  # seqs of messages that came as new
        self.gaps = 0
        self.network = WorldNetwork(world)
        self._world = world
        self._rand = world.rand(f"person {user.username}")

    async def run(self) -> None:
        backoff = Backoff(attempts=None, most=3.0, rand=self._world.rand(f"backoff {self.user.username}"))
        token, _ = self._world.token(self.user)
        while True:
            try:
                async with (
                    open_client(
                        "http://chat.example",
                        token=token,
                        network=self.network,
                        backoff=backoff,
                        clock=self._world.clock,
                    ) as client,
                    client.join(self._world.conversations[0], after=0, max_events=4) as room,
                    trio.open_nursery() as nursery,
                ):
                    nursery.start_soon(self._listen, room)
                    await self._talk(client, room)
                    self.gaps += room.gaps
            except ClientError:
                # Only the requests before the room is open: the client does not promise to repeat these.
                assert not self.revs
                await trio.sleep(1)
            else:
                return

    async def _talk(self, client: Client, room: Room) -> None:
        rand = self._rand
        while self.said < MESSAGES:
            self.said += 1
            text = f"{self.user.username} {self.said} {'x' * rand.choice((0, 10, 3_000))}"
            client_id = f"{self.user.username}-{self.said}"
            while client_id not in self.stored:
                try:
                    self.stored[client_id] = await room.send(text, client_id=client_id)
                except NotStored:
                    await trio.sleep(1)
            if rand.random() < 0.2:
                mine = rand.choice(list(self.stored.values()))
                try:
                    if rand.random() < 0.7:
                        await client.edit(mine, f"edited {self.said}")
                    else:
                        await client.delete(mine)
                except ClientError:
                    pass  # deleted already, not stored, or no answer
            await trio.sleep(rand.expovariate(2.0))

    async def _listen(self, room: Room) -> None:
        async for event in room:
            if self._rand.random() < 0.02:
                await trio.sleep(self._rand.uniform(0, 20))
            match event:
                case Message() as message:
                    self.new.append(message.seq)
                case MessageEdited(message) | MessageDeleted(message):
                    pass
                case _:
                    continue
            self.revs.append(message.rev)
            self.seen[message.seq] = message


async def simulate(seed: int, found: list[Person]) -> None:
    world = World(seed, Plan(processes=1), random.Random(seed).choice((0.0, 0.02, 0.1)))
    rand = world.rand("chaos")
    with deterministic(world), trio.fail_after(TIME):
        await world.populate(4, 1)
        people = [Person(world, user) for user in world.users[:3]]
        found += people
        async with trio.open_nursery() as nursery:
            await nursery.start(world.run_service)
            for person in people:
                nursery.start_soon(person.run)
            for _ in range(12):
                await trio.sleep(rand.uniform(0.5, 4))
                person = rand.choice(people)
                if rand.random() < 0.3:
                    world.stop(kill=rand.random() < 0.6)
                elif person.network.numbers:
                    (world.cut if rand.random() < 0.8 else world.vanish)(person.network.numbers[-1])
            world.calm_down()
            await until_well(world, people)
            nursery.cancel_scope.cancel()
        rows = sorted(world.data._conversations[world.conversations[0]].messages, key=lambda row: row.seq)
    assert len(rows) == 3 * MESSAGES, "nothing lost, nothing doubled"
    assert {row.client_id for row in rows} == {client_id for person in people for client_id in person.stored}
    for person in people:
        assert person.revs == sorted(set(person.revs)), "in the order of rev, each once"
        assert len(person.new) == len(set(person.new)), "no message is new twice"
        assert sorted(person.seen) == [row.seq for row in rows], "every message"
        for row in rows:
            seen = person.seen[row.seq]
            assert (seen.id, seen.rev, seen.content) == (row.id, row.rev, row.content), "as it now is"
        for client_id, message in person.stored.items():
            assert rows[message.seq - 1].client_id == client_id


async def until_well(world: World, people: list[Person]) -> None:
    def is_well() -> bool:
        return all(
            len(person.stored) == MESSAGES and person.revs and person.revs[-1] == world.last_rev(world.conversations[0])
            for person in people
        )

    while not is_well():  # noqa: ASYNC110  # the virtual clock jumps
        await trio.sleep(0.5)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_client_delivers_everything_once(seed: int) -> None:
    simulate_with(seed, [])


def test_a_frame_lost_on_a_live_connection_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    people: list[Person] = []
    rand = random.Random(5)
    lost = 0
    deliver = Subscription.deliver_change

    def forgetful(self: Subscription, rev: int, frame: Encoded) -> None:
        nonlocal lost
        frame = Encoded(frame.data[:-1] + b',"prev_rev":%d}' % (rev - 1), frame.kind)  # all revs are of messages
        # Not near the end: only a later frame shows that one is missing.
        if self.is_live and rev > self.cursor and rand.random() < 0.05 and people and people[0].said < MESSAGES // 2:
            self.cursor = rev
            lost += 1
        else:
            deliver(self, rev, frame)

    def one_by_one(self: Subscription, revs: Sequence[int], frames: Sequence[Encoded], _wire: bytes) -> None:
        for rev, frame in zip(revs, frames, strict=True):
            forgetful(self, rev, frame)

    monkeypatch.setattr(Subscription, "deliver_change", forgetful)
    monkeypatch.setattr(Subscription, "deliver_changes", one_by_one)
    gaps = 0
    for seed in range(3):
        people.clear()
        simulate_with(seed, people)
        gaps += sum(person.gaps for person in people)
    assert lost > 0
    assert gaps > 0


def simulate_with(seed: int, people: list[Person]) -> None:
    """Runs one seed; `people` are the users that sent."""
    core = trio._core._run
    before = core._ALLOW_DETERMINISTIC_SCHEDULING, core._r.getstate()
    core._ALLOW_DETERMINISTIC_SCHEDULING = True
    core._r.seed(seed)
    try:
        trio.run(simulate, seed, people, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        core._ALLOW_DETERMINISTIC_SCHEDULING = before[0]
        core._r.setstate(before[1])
