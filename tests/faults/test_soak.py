"""Thousands come and go in every way there is: afterwards the process has what it had before."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from tests.faults.inspected import INSIDE_PATH
from tests.support.client import Api, Person
from tests.support.raw import close_frame, frame, open_raw, resident_bytes, upgrade_request
from tests.support.server import Server

VISITS = 2_400
WARM_UP = 400  # what is made once is made in them: plans, caches, pools, threads
AT_ONCE = 16
CONVERSATIONS = 20
GROWTH = 16 << 20  # bytes; so many connections that stayed would be 80 MB
OBJECTS = VISITS // 8  # of Python's that may be more: one for each visit of one way would be a leak
POOL = {"PULSE_POOL_MIN": "4", "PULSE_POOL_MAX": "4"}  # so that its descriptors do not come and go
UNLIMITED = {"PULSE_REQUESTS_PER_SECOND": "0"}  # all come from one address
PATIENCE = 60  # seconds; what is in use a last time is given back within some ten
EXACT = ("rooms", "tasks", "sessions", "room objects", "connection objects", "descriptors", "threads")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts what a process has in /proc")


class Visitor:
    """Somebody who comes, says something, and goes; each visit in another way."""

    def __init__(self, server: Server, person: Person, conversations: list[str]) -> None:
        self.messages = 0
        self._port = server.port
        self._person = person
        self._conversations = conversations

    async def visit(self, number: int) -> None:
        conversation = self._conversations[number % len(self._conversations)]
        path = "/api/chat/ws" if number % 3 == 0 else f"/api/chat/ws/{conversation}"  # both kinds
        handshake = upgrade_request(f"{path}?token={self._person.token}")
        async with open_raw(self._port) as client:
            match number % 8:
                case 0:  # half a handshake
                    await client.send(handshake[:40])
                case 1:  # refused
                    assert (await client.request(upgrade_request(path))).status == 401
                case 2:  # gone before an answer
                    await client.send(handshake)
                    client.reset()
                case way:
                    assert (await client.request(handshake)).status == 101
                    client_id = str(uuid4())
                    message = {"type": "message", "content": "hello", "client_id": client_id}
                    await client.send(frame({**message, "conversation_id": conversation}))
                    while (await client.read_json_type("message")).get("client_id") != client_id:
                        pass
                    self.messages += 1
                    if way < 5:
                        await client.send(close_frame())
                        assert await client.read_close() == 1000
                    elif way == 5:
                        client.reset()
                    # The others just go.

    async def visit_often(self, numbers: range) -> None:
        """So many visits, some of them at the same time."""
        left = iter(numbers)

        async def visit_on(left: Iterator[int]) -> None:
            for number in left:
                await self.visit(number)

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(visit_on, left)


async def look(server: Server) -> dict[str, int]:
    """Counts what the process holds, inside and as the system sees it."""
    inside: dict[str, int] = (await Api(server.base_url).get(INSIDE_PATH)).json()
    process = Path(f"/proc/{server.process.pid}")
    return {
        **inside,
        "descriptors": len(list((process / "fd").iterdir())),
        "threads": len(list((process / "task").iterdir())),
    }


async def settled(server: Server, most: dict[str, int]) -> dict[str, int]:
    """Returns the counts once everybody has left and they are steady, or at the end of a long wait."""
    last, alike = await look(server), 0
    with trio.move_on_after(PATIENCE):
        while alike < 3 or any(last[name] > count for name, count in most.items()):
            await trio.sleep(0.1)
            now = await look(server)
            alike = alike + 1 if all(now[name] == last[name] for name in EXACT) else 0
            last = now
    return last


async def test_thousands_come_and_go(start_inspected: Callable[..., Server]) -> None:
    server = start_inspected(**POOL, **UNLIMITED)
    with trio.fail_after(240):  # on an idle machine a tenth of it
        alice = await Person.register(server.base_url, "alice")
        conversations = [await alice.create_group(name=str(number)) for number in range(CONVERSATIONS)]
        visitor = Visitor(server, alice, conversations)
        await visitor.visit_often(range(WARM_UP))
        before = await settled(server, {"rooms": 0, "sessions": 0, "connection objects": 0})
        memory = resident_bytes(server.process.pid)

        await visitor.visit_often(range(VISITS))
        after = await settled(server, {name: before[name] for name in EXACT})
        assert {name: after[name] for name in EXACT if after[name] > before[name]} == {}, before
        assert after["objects"] - before["objects"] < OBJECTS
        assert resident_bytes(server.process.pid) - memory < GROWTH
        total = 0
        for conversation in conversations:
            total += (await alice.history(conversation, limit=1))["total"]
        assert total == visitor.messages == (VISITS + WARM_UP) * 5 // 8
    assert server.stop() == 0
    assert "Traceback" not in server.output
