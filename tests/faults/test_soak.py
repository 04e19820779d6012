"""Thousands come, say something and go, in every way there is: afterwards the process is as it was before."""

import sys
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
import trio

from tests.faults.inspected import INSIDE_PATH
from tests.support.client import Api, Person
from tests.support.raw import close_frame, frame, open_raw, resident_bytes, upgrade_request
from tests.support.server import Server

VISITS = 4_000
AT_ONCE = 20
CONVERSATIONS = 50
GROWTH = 30 << 20  # bytes; 4,000 connections that stayed would be 140 MB

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts what a process has in /proc")


def outside(pid: int) -> dict[str, int]:
    """What a process has, as the system sees it."""
    process = Path(f"/proc/{pid}")
    return {"descriptors": len(list((process / "fd").iterdir())), "threads": len(list((process / "task").iterdir()))}


async def test_thousands_come_and_go(start_inspected: Callable[..., Server]) -> None:
    server = start_inspected(PULSE_REQUESTS_PER_SECOND="0")  # one address
    pid = server.process.pid
    with trio.fail_after(120):
        alice = await Person.register(server.base_url, "alice")
        conversations = [await alice.create_group(name=str(number)) for number in range(CONVERSATIONS)]
        visits = iter(range(VISITS))

        async def come_and_go() -> None:
            for number in visits:
                conversation = conversations[number % CONVERSATIONS]
                path = "/api/chat/ws" if number % 5 == 0 else f"/api/chat/ws/{conversation}"  # also sessions
                client_id = f"{uuid4()}"
                message = {"type": "message", "content": "hello", "client_id": client_id}
                async with open_raw(server.port) as client:
                    assert (await client.request(upgrade_request(f"{path}?token={alice.token}"))).status == 101
                    await client.send(frame({**message, "conversation_id": conversation}))
                    while (await client.read_json_type("message")).get("client_id") != client_id:
                        pass
                    if number % 3 == 0:
                        await client.send(close_frame())
                        assert await client.read_close() == 1000
                    elif number % 3 == 1:
                        client.reset()

        async def visit() -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(come_and_go)

        # What is made once is made: plans, caches, pools, threads.
        visits = iter(range(VISITS // 10))
        await visit()
        await settled(server, rooms=0)
        inside, seen, memory = await look(server), outside(pid), resident_bytes(pid)

        visits = iter(range(VISITS))
        await visit()
        await settled(server, rooms=0)
        with trio.fail_after(20):  # connections of the pool may come and go a little later
            while not is_base(await look(server), inside) or not is_base(outside(pid), seen):  # noqa: ASYNC110
                await trio.sleep(0.1)
        assert resident_bytes(pid) - memory < GROWTH
        total = 0
        for conversation in conversations:
            total += (await alice.history(conversation, limit=1))["total"]
        assert total == VISITS + VISITS // 10
    assert server.stop() == 0
    assert "Traceback" not in server.output


async def look(server: Server) -> dict[str, int]:
    """What the process has inside."""
    found: dict[str, int] = (await Api(server.base_url).get(INSIDE_PATH)).json()
    return found


async def settled(server: Server, *, rooms: int) -> None:
    """Returns when so many rooms are left."""
    with trio.fail_after(20):
        while (await look(server))["rooms"] != rooms:  # noqa: ASYNC110  # no event in another process
            await trio.sleep(0.05)


def is_base(now: dict[str, int], before: dict[str, int]) -> bool:
    """Whether there is no more of anything; the pool may have opened all its connections (10) meanwhile."""
    return all(now[name] <= before[name] + (10 if name == "descriptors" else 0) for name in before)
