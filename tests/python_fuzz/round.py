"""One round: bots on bad networks, an owner who removes and adds them, a service that is killed."""

import itertools
import random
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import httpx2
import msgspec
import trio
from trio.testing import MockClock

from pulse_trio.client import Conversation, Message, User
from pulse_trio.client.wakeup import Wakeup
from tests.python_fuzz.bot import Bot
from tests.python_fuzz.oracle import Records, Revised, Truth, judge
from tests.support.bad_network import BadNetwork, open_bad_network
from tests.support.client import PASSWORD, Api, Person
from tests.support.server import Server

SPEED: Final = 5.0
"""Seconds of the clients and of the networks in one of the machine: a timeout of 30 s is over in 6."""
ACTS: Final = {"remove": 4, "rename": 2, "delete": 3, "cut": 4, "calm": 2}
"""Acts of the owner and faults of whole networks, with their weights; a round has each at least once."""
MAX_PROGRESS: Final = 20  # acknowledgements between two acts
MAX_PAUSE: Final = 20.0  # seconds of Trio's clock between two acts, if there are fewer
BOTS: Final = 3
GROUPS: Final = 2
SETTLE: Final = 900.0  # seconds of Trio's clock in which all must have caught up, on a good network

LIMITS: Final[dict[str, list[str]]] = {
    # A client that was told to slow down sends 20 frames a second of its own clock.
    "PULSE_FRAMES_PER_SECOND": ["100", str(int(30 * SPEED))],
    "PULSE_FRAMES_BURST": ["1000", "20"],
    "PULSE_EDITS_BURST": ["200", "5"],
    "PULSE_PENDING_MESSAGES": ["64", "1", "4"],
    "PULSE_INBOX_MESSAGES": ["1024", "2"],
    "PULSE_BATCH_MESSAGES": ["256", "1", "3"],
    "PULSE_OUTBOX_BYTES": ["1048576", "65536"],
    "PULSE_PRESENCE_LIST_MAX": ["100", "1"],
    "PULSE_CONNECTIONS_PER_USER": ["100", "8"],
    "PULSE_MAX_CONTENT_CHARS": ["4000", "2000"],
    "PULSE_ROOM_LINGER": ["60", "0"],
    "PULSE_WRITE_TIMEOUT": ["10", "1"],
}
"""Values of settings from which a round draws; the first is the default."""


@dataclass
class Result:
    """The result of a round."""

    seed: int
    violations: list[str]
    counters: Counter[str]


class Owner:
    """The owner of the groups, on a good network; asks again while the service is away."""

    def __init__(self, person: Person) -> None:
        self._person = person

    async def ask(self, method: str, path: str, **options: Any) -> httpx2.Response:
        """Makes a request until it is answered by more than a refusal for now."""
        while True:
            try:
                answer = await self._person.api.request(method, path, **options)
                if answer.status_code == 401:
                    await self._sign_in()
                elif answer.status_code not in {429, 503}:
                    return answer
            except httpx2.HTTPError:
                pass
            await trio.sleep(1)

    async def _sign_in(self) -> None:
        body = {"username": self._person.username, "password": PASSWORD}
        answer = await Api(self._person.api.base_url).post("/api/auth/login", json=body)
        if answer.status_code == 200:
            self._person.api.headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}

    async def truth(self, group: Conversation) -> Truth:
        """Reads all of a conversation; nobody may change it meanwhile."""
        path = f"/api/chat/conversations/{group.id}"
        messages: list[Message] = []
        while page := (await self.ask("GET", f"{path}/messages?limit=200&after_seq={len(messages)}")).json()[
            "messages"
        ]:
            messages += msgspec.convert(list(reversed(page)), list[Message])
        members = (await self.ask("GET", f"{path}/members?limit=200")).json()["members"]
        now = msgspec.convert((await self.ask("GET", path)).json(), Conversation)
        return Truth(
            group.id,
            now.last_rev,
            now.name,
            now.description,
            messages,
            frozenset(msgspec.convert(members, list[User])),
            frozenset(user.id for user in group.users),
        )


class Round:
    """A round.

    Args:
        seed: determines settings, fates and plans.
        start: starts the service with these settings.
        acts: number of ACTS, besides one kill of the service.
    """

    def __init__(self, seed: int, start: Callable[..., Server], acts: int) -> None:
        self.records = Records()
        self.counters: Counter[str] = Counter()
        self._seed = seed
        self._rand = random.Random(f"{seed}/round")
        self._start = start
        more = self._rand.choices(list(ACTS), list(ACTS.values()), k=max(0, acts - len(ACTS)))
        self._acts = ["kill", *ACTS, *more]
        self._rand.shuffle(self._acts)
        self._settings = {name: self._rand.choice(values) for name, values in LIMITS.items()}
        self._settings["ACCESS_TOKEN_EXPIRE_MINUTES"] = "1"
        self._server: Server
        self._networks: list[BadNetwork] = []
        self._wakeup = Wakeup()

    async def run(self, clock: MockClock) -> list[str]:
        """Plays it; returns the violations."""
        await self._start_server()
        async with AsyncExitStack() as stack:
            calm = await self._network(stack)
            calm.calm()
            people = [await Person.register(calm.url, f"{name}{self._seed}") for name in ("owner", "ann", "ben", "cem")]
            owner = Owner(people[0])
            groups = [await self._create(owner, people[1:]) for _ in range(GROUPS)]
            bots = []
            for person in people[1:]:
                network = await self._network(stack)
                rand = random.Random(f"{self._seed}/{person.username}")
                bots.append(Bot(network.url, person.username, groups, self.records, rand, self._wakeup))
            clock.rate = SPEED
            async with trio.open_nursery() as nursery:
                for bot in bots:
                    nursery.start_soon(bot.run)
                for act in self._acts:
                    await self._wait_progress(bots)
                    await self._do(act, owner, self._rand.choice(groups), self._rand.choice(people[1:]))
                violations = await self._settle(owner, groups, bots, people[1:])
                nursery.cancel_scope.cancel()
            for bot in bots:
                self.counters += bot.counters
            for network in self._networks:
                self.counters += network.seen
        if "Traceback" in self._server.output:
            violations.append(f"the service has no fault inside: {self._server.output[-4000:]}")
        return violations

    async def _create(self, owner: Owner, people: Iterable[Person]) -> Conversation:
        body = {"name": "Team", "is_group": True, "participant_ids": [person.id for person in people]}
        answer = await owner.ask("POST", "/api/chat/conversations", json=body)
        assert answer.status_code == 201, answer.text
        return msgspec.convert(answer.json(), Conversation)

    async def _network(self, stack: AsyncExitStack) -> BadNetwork:
        opened = open_bad_network(lambda: self._server.port, self._seed * 10 + len(self._networks))
        network = await stack.enter_async_context(opened)
        self._networks.append(network)
        return network

    # --- the service and the owner ---

    async def _start_server(self) -> None:
        self._server = await trio.to_thread.run_sync(lambda: self._start(**self._settings))

    async def _kill(self) -> None:
        with trio.CancelScope(shield=True):  # half-way there is no service
            self._server.process.kill()
            await trio.to_thread.run_sync(self._server.wait)
            await self._start_server()

    async def _wait_progress(self, bots: list[Bot]) -> None:
        """Waits for acknowledgements, so that a slow machine plays a round in more time and not a smaller one."""
        goal = self._acknowledged(bots) + self._rand.randrange(MAX_PROGRESS)
        with trio.move_on_after(MAX_PAUSE):
            await self._wakeup.wait_until(lambda: self._acknowledged(bots) >= goal)

    @staticmethod
    def _acknowledged(bots: list[Bot]) -> int:
        return sum(bot.counters["acknowledged"] for bot in bots)

    async def _do(self, act: str, owner: Owner, group: Conversation, person: Person) -> None:
        self.counters[f"act {act}"] += 1
        path = f"/api/chat/conversations/{group.id}"
        match act:
            case "kill":
                await self._kill()
            case "remove":
                await owner.ask("DELETE", f"{path}/members/{person.id}")
                await trio.sleep(self._rand.choice([0, 10]) * self._rand.random())
                await owner.ask("POST", f"{path}/members", json={"user_ids": [person.id]})
            case "rename":
                await owner.ask("PATCH", path, json={"name": f"Team {self._rand.randrange(1000)}"})
            case "delete":
                await self._delete(owner, group)
            case "cut":
                self._rand.choice(self._networks).cut()
            case "calm":
                network = self._rand.choice(self._networks[1:])
                network.calm()
                await trio.sleep(20 * self._rand.random())
                network.rough()

    async def _delete(self, owner: Owner, group: Conversation) -> None:
        """Deletes a message that a bot has shown."""
        shown = {m.id for view in self.records.views if view.group == group.id for m in view.messages.values()}
        if shown:
            revised = Revised(self._rand.choice(sorted(shown)), None)
            self.records.revised.append(revised)
            answer = await owner.ask("DELETE", f"/api/chat/conversations/{group.id}/messages/{revised.message}")
            revised.is_done = answer.status_code == 204

    # --- the end ---

    async def _settle(
        self, owner: Owner, groups: list[Conversation], bots: list[Bot], people: list[Person]
    ) -> list[str]:
        """Makes the networks good, waits until all has arrived, and judges."""
        for bot in bots:
            bot.is_ending = True
        for network in self._networks:
            network.calm()
        with trio.move_on_after(SETTLE) as scope:
            for group in groups:
                body = {"user_ids": [person.id for person in people]}
                await owner.ask("POST", f"/api/chat/conversations/{group.id}/members", json=body)
            await self._wakeup.wait_until(lambda: all(bot.is_idle for bot in bots))
        if scope.cancelled_caught:
            return [*self.records.violations, f"every send ends: {[bot.username for bot in bots if not bot.is_idle]}"]
        truths = [await owner.truth(group) for group in groups]
        with trio.move_on_after(SETTLE):
            for truth, bot in itertools.product(truths, bots):
                view, last_rev = bot.views[truth.group], truth.last_rev
                await self._wakeup.wait_until(lambda view=view, last_rev=last_rev: view.rev >= last_rev)
        self.counters["stored"] = sum(len(truth.messages) for truth in truths)
        violations = judge(self.records, truths)
        for truth in truths:
            violations += await self._check_presence(owner, truth, bots)
            violations += await self._check_reading(owner, truth, bots)
            violations += await self._check_removal(owner, truth, bots)
        return violations

    async def _check_presence(self, owner: Owner, truth: Truth, bots: list[Bot]) -> list[str]:
        """Rooms show the users that the service shows, which are those with an open room."""
        path = f"/api/chat/conversations/{truth.group}/active"
        expected = {self._user_id(truth, bot) for bot in bots}
        shown: dict[str, object] = {}
        with trio.move_on_after(SETTLE):
            while True:
                told = {UUID(key) for key in (await owner.ask("GET", path)).json()["active_users"]}
                rooms = {bot.username: bot.rooms.get(truth.group) for bot in bots}
                shown = {name: None if room is None else set(room.active_users) for name, room in rooms.items()}
                if told == expected and all(users == expected for users in shown.values()):
                    return []
                await trio.sleep(1)
        return [f"rooms show who is there: {told} and {shown}, not {expected}"]

    async def _check_reading(self, owner: Owner, truth: Truth, bots: list[Bot]) -> list[str]:
        """A read position that a room marks is stored, whatever was marked and lost before."""
        last = len(truth.messages)
        positions: dict[str, int] = {}
        with trio.move_on_after(SETTLE):
            for bot in bots:
                if last and truth.group in bot.rooms:
                    bot.rooms[truth.group].mark_read(last)
            while True:
                answer = await owner.ask("GET", f"/api/chat/conversations/{truth.group}/read")
                positions = {entry["user_id"]: entry["seq"] for entry in answer.json()["positions"]}
                if all(positions[str(self._user_id(truth, bot))] == last for bot in bots):
                    return []
                await trio.sleep(1)
        return [f"a read position is stored: {positions}, not {last}"]

    async def _check_removal(self, owner: Owner, truth: Truth, bots: list[Bot]) -> list[str]:
        """A bot that is removed gets NotAMember from its room, and the others see it."""
        bot, *others = bots
        removed = self._user_id(truth, bot)
        before = bot.counters["room: NotAMember"]
        with trio.move_on_after(SETTLE):
            await owner.ask("DELETE", f"/api/chat/conversations/{truth.group}/members/{removed}")
            await self._wakeup.wait_until(lambda: bot.counters["room: NotAMember"] > before)
            views = [other.views[truth.group] for other in others]
            await self._wakeup.wait_until(lambda: not any(view.is_member(removed) for view in views))
            return []
        return [f"a removal is told: {removed} in {truth.group}"]

    @staticmethod
    def _user_id(truth: Truth, bot: Bot) -> UUID:
        return next(user.id for user in truth.members if user.username == bot.username)


def fuzz(start: Callable[..., Server], seed: int, acts: int) -> Result:
    """Plays a round.

    Args:
        start: starts the service with these settings, on a database that has no round of this seed.
        seed: determines settings, fates and plans.
        acts: length of the rough part; 20 take half a minute.
    """
    clock = MockClock(rate=1.0)
    played = Round(seed, start, acts)
    try:
        violations = trio.run(played.run, clock, clock=clock)
    except Exception:
        violations = [*played.records.violations, f"no fault inside: {traceback.format_exc()}"]
    return Result(seed, violations, played.counters)
