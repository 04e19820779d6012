"""One round: clients and other people change a few conversations while the network and the service fail."""

import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
import trio

from tests.javascript_fuzz.oracle import broken_promises, differences, truth
from tests.javascript_fuzz.program import Program, open_program
from tests.javascript_fuzz.service import Service
from tests.support.bad_network import open_bad_network
from tests.support.client import Person

CONVERSATIONS: Final = 5  # more than a session resumes
PATIENCE: Final = 90  # seconds until a client must show what the service has, once the network works
RETRY: Final = 0.1  # seconds
KILLS: Final = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)


@dataclass(frozen=True)
class Client:
    """A client program to start: its command, and the environment besides the address and the account."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


@dataclass
class Result:
    """The result of a round: what was wrong, and how often things happened."""

    seed: int
    violations: list[str]
    counters: Counter[str]


class Round:
    """A round, from one seed."""

    def __init__(self, service: Service, clients: list[Client], seed: int) -> None:
        self.counters: Counter[str] = Counter()
        self._service = service
        self._clients = clients
        self._seed = seed
        self._draw = random.Random(seed)
        self._number = 0
        self._conversations: list[str] = []
        self._messages: dict[str, list[str]] = {}  # conversation → ids of the owner's messages

    async def run(self, seconds: float) -> Result:
        """Lets things happen for so many seconds, then compares.

        Raises:
            AssertionError: a client program ended, or the service printed a traceback.
            trio.TooSlowError: a program does not answer.
        """
        violations: list[str] = []
        async with AsyncExitStack() as stack:
            owner = await self._person("owner")
            users = [await self._person(client.name) for client in self._clients]
            for number in range(CONVERSATIONS):
                self._conversations.append(await owner.create_group(*users, name=f"group {number}"))
            networks, programs = [], []
            for number, (client, user) in enumerate(zip(self._clients, users, strict=True)):
                seed = self._seed * 100 + number
                network = await stack.enter_async_context(open_bad_network(lambda: self._service.port, seed))
                account = {"PULSE_URL": network.url, "PULSE_TOKEN": user.token, "PULSE_USER_ID": user.id}
                environment = {**os.environ, **client.environment, **account, "PULSE_SEED": str(seed)}
                opening = open_program(client.name, client.command, environment)
                programs.append(await stack.enter_async_context(opening))
                networks.append(network)
            async with trio.open_nursery() as nursery:
                for program, user in zip(programs, users, strict=True):
                    await program.do("connect")
                    nursery.start_soon(self._drive, program, user)
                    nursery.start_soon(self._disturb, owner, user)
                nursery.start_soon(self._talk, owner)
                nursery.start_soon(self._kill, seconds)
                with trio.CancelScope(deadline=trio.current_time() + seconds):
                    await trio.sleep_forever()
                nursery.cancel_scope.cancel()
            for network in networks:
                network.calm()
                self.counters.update({f"connection: {kind}": count for kind, count in network.seen.items()})
            for user in users:
                for conversation in self._conversations:
                    await self._add(owner, user, conversation)
            for conversation in self._conversations:
                await self._post(owner, conversation)
            for program, user in zip(programs, users, strict=True):
                violations += [f"{program.name}: {text}" for text in await self._compare(program, user)]
        self._service.check()
        return Result(self._seed, violations, self.counters)

    async def _person(self, name: str) -> Person:
        return await Person.register(self._service.url, f"{name}_{self._seed}_{self._draw.randrange(10**6)}")

    # --- what happens ---

    async def _drive(self, program: Program, user: Person) -> None:
        """Gives commands to a program."""
        draw = random.Random(f"{self._seed} {program.name}")
        while True:
            conversation = draw.choice(self._conversations)
            what = draw.random()
            if what < 0.5:
                for _ in range(draw.choice((1, 1, 2, 8))):
                    self._number += 1
                    await program.send(conversation, f"{program.name} {self._number}")
            elif what < 0.7:
                await program.do("show", conversation=conversation)
            elif what < 0.78:
                await program.do("read", conversation=conversation, seq=draw.randrange(1, 40))
            elif what < 0.83:
                await program.do("typing", conversation=conversation)
            elif what < 0.93:
                await self._change_own(program, user, draw)
            elif what < 0.96:
                await program.do("reconnect")
            else:
                await program.do("close")
                await trio.sleep(draw.random())
                await program.do("connect")
            await trio.sleep(draw.random() * 0.4)

    async def _change_own(self, program: Program, user: Person, draw: random.Random) -> None:
        """Lets it edit or delete one of its messages: through the bad network."""
        conversation = draw.choice(self._conversations)
        answer = await self._persist(lambda: user.api.get(self._path(conversation, "messages")))
        if answer.status_code != 200:
            return
        own = [message for message in answer.json()["messages"] if message["sender_id"] == user.id]
        own = [message for message in own if not message["is_deleted"]]
        if not own:
            return
        message = draw.choice(own)
        self._number += 1
        fields = {"key": f"change {self._number}", "conversation": conversation, "message": message["id"]}
        if draw.random() < 0.7:
            await program.do("edit", content=f"{message['content'].partition('|')[0]}|{self._number}", **fields)
            return
        for sent in program.sent.values():
            if sent.content == message["content"].partition("|")[0]:
                sent.is_removed = True
        await program.do("remove", **fields)

    async def _talk(self, owner: Person) -> None:
        """Changes conversations as their owner does."""
        draw = random.Random(f"{self._seed} owner")
        while True:
            conversation = draw.choice(self._conversations)
            what = draw.random()
            messages = self._messages.get(conversation, [])
            if what < 0.6 or not messages:
                await self._post(owner, conversation)
            elif what < 0.8:
                path = self._path(conversation, "messages", draw.choice(messages))
                await self._persist(
                    lambda path=path: owner.api.patch(path, json={"content": f"edited {draw.random()}"})
                )
            elif what < 0.88:
                path = self._path(conversation, "messages", draw.choice(messages))
                await self._persist(lambda path=path: owner.api.delete(path))
            else:
                path, name = self._path(conversation), {"name": f"name {draw.random()}"}
                await self._persist(lambda path=path, name=name: owner.api.patch(path, json=name))
            await trio.sleep(draw.random() * 0.15)

    async def _disturb(self, owner: Person, user: Person) -> None:
        """Removes the user and adds them again, and reads as another device of theirs does."""
        draw = random.Random(f"{self._seed} {user.id}")
        while True:
            await trio.sleep(draw.random() * 1.5)
            conversation = draw.choice(self._conversations)
            if draw.random() < 0.5:
                path, seq = self._path(conversation, "read"), draw.randrange(1, 30)
                await self._persist(lambda path=path, seq=seq: user.api.put(path, json={"seq": seq}))
                continue
            self.counters["removals"] += 1
            path = self._path(conversation, "members", user.id)
            await self._persist(lambda path=path: owner.api.delete(path))
            await trio.sleep(draw.random() * 0.5)
            await self._add(owner, user, conversation)

    async def _kill(self, seconds: float) -> None:
        """Kills or stops the service, in most rounds."""
        draw = random.Random(f"{self._seed} kill")
        while draw.random() < 0.7:
            await trio.sleep(seconds * (0.2 + draw.random() / 2))
            await self._service.kill(draw.choice(KILLS))
            self.counters["kills"] += 1

    async def _post(self, person: Person, conversation: str) -> None:
        self._number += 1
        body = {"content": f"owner {self._number}", "client_id": f"owner-{self._number}"}
        answer = await self._persist(lambda: person.api.post(self._path(conversation, "messages"), json=body))
        assert answer.status_code in {200, 201}, answer.text
        self._messages.setdefault(conversation, []).append(answer.json()["id"])

    async def _add(self, owner: Person, user: Person, conversation: str) -> None:
        path, body = self._path(conversation, "members"), {"user_ids": [user.id]}
        answer = await self._persist(lambda: owner.api.post(path, json=body))
        assert answer.status_code == 200, answer.text

    def _path(self, conversation: str, *parts: str) -> str:
        return "/".join(["/api/chat/conversations", conversation, *parts])

    async def _persist(self, request: Callable[[], Awaitable[httpx2.Response]]) -> httpx2.Response:
        """Repeats a request while the service is down, full or limits it; each may be repeated."""
        while True:
            try:
                answer = await request()
            except httpx2.TransportError:
                pass
            else:
                if answer.status_code not in {429, 503}:
                    assert answer.status_code < 500, answer.text
                    return answer
            await trio.sleep(RETRY)

    # --- the end ---

    async def _compare(self, program: Program, user: Person) -> list[str]:
        """Waits until the program shows what the service has; returns what it does not show, or has done wrong."""
        await program.do("connect")
        await program.do("reconnect")
        found: list[str] = ["it was not asked"]
        report: dict[str, Any] = {}
        right: dict[str, Any] = {}
        with trio.move_on_after(PATIENCE):
            # Those that it shows already stay as they are: a new load would hide what they lack.
            shown = (await program.report())["histories"]
            for conversation in self._conversations:
                if conversation not in shown:
                    await program.do("show", conversation=conversation)
            while found:
                seen = program.changes
                right = await truth(user)
                report = await program.report()
                found = differences(report, right) + broken_promises(program.sent, right)
                if found and program.changes == seen + 1:  # the report itself
                    await program.wait_change(seen + 1)
        self.counters[f"{program.name}: messages"] += len(program.sent)
        self.counters[f"{program.name}: histories"] += len(report.get("histories", {}))
        self.counters.update(f"{program.name}: rejected, {sent.error}" for sent in program.sent.values() if sent.error)
        self.counters.update(f"{program.name}: request failed, {code}" for code in program.errors)
        if report.get("gaps"):
            found.append(f"{report['gaps']} changes were lost by the service")
        found += report.get("faults", [])
        if found:
            frames = "\n    ".join(await program.frames())
            found.append(f"user {user.id}, last frames:\n    {frames}")
        return found
